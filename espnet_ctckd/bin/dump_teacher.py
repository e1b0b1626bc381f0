"""Dump the frame posteriors of a teacher into a cache.

Give the same command again to go on after it was stopped. To share the work, start
it N times with --job 1 to N and --num_jobs N, on as many machines as see the folder;
the last to end finishes the cache. The result is the same, bit for bit.

Audio that cannot be used, or is too short or too long for the teacher, is refused; with
--max_bad_share it is left out and listed in <output_dir>/unheard.
"""

import shutil
from pathlib import Path
from typing import Optional, Sequence

import yaml

from espnet_ctckd.align import describe_match, map_tokens
from espnet_ctckd.bin import (
    add_compute,
    add_max_bad_share,
    device,
    parser,
    positive,
    run,
)
from espnet_ctckd.bin.copy_tokens import add_teacher, teacher_of
from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.plan import Plan, Unheard, make_plan
from espnet_ctckd.cache.reader import UNHEARD
from espnet_ctckd.cache.writer import dump, forecast
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import limit_bad, read_token_list, write_scp
from espnet_ctckd.teachers import Teacher
from espnet_ctckd.teachers.half import DTYPES

# Utterances that the size of a cache is forecast from.
_FORECAST = 8


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Dump the teacher."""
    p = parser(__doc__)
    add_teacher(p)
    p.add_argument("--wav_scp", required=True, help="Kaldi's list of audio files")
    p.add_argument("--output_dir", required=True, help="folder of the cache")
    p.add_argument(
        "--token_list",
        help="of the student: say how the teacher's tokens match it before anything is "
        "dumped, and refuse those that do not",
    )
    p.add_argument(
        "--top_k", type=int, default=0, help="keep at most K tokens a frame; 0: all"
    )
    p.add_argument(
        "--step", type=float, default=0.25, help="of --top_k: nats of a level"
    )
    p.add_argument(
        "--worth",
        type=float,
        default=2e-4,
        help="of --top_k: nats that a token must be worth to be kept",
    )
    p.add_argument(
        "--selector",
        help="of --top_k: keep only frames that this selector takes, for students that "
        "learn from these (kd.selector)",
    )
    p.add_argument(
        "--selector_conf", default="{}", help="options of it (YAML), as {n: 1}"
    )
    p.add_argument(
        "--states", action="store_true", help="keep the hidden states, for kd.feature"
    )
    p.add_argument(
        "--dtype",
        default="float32",
        choices=DTYPES,
        help="the teacher computes in it",
    )
    p.add_argument("--job", type=positive, default=1, help="which job this is")
    p.add_argument("--num_jobs", type=positive, default=1, help="of how many")
    add_compute(p)
    add_max_bad_share(p, 0.0)
    args = p.parse_args(cmd)
    if not 1 <= args.job <= args.num_jobs:
        raise InputError(f"--job is {args.job}; give one from 1 to {args.num_jobs}")
    teacher = teacher_of(args, device(args), args.dtype)
    if args.states and not teacher.state_size:
        raise InputError(f"a teacher of the type {args.teacher_type} has no states")
    if args.token_list:
        _say_match(teacher, args.teacher or args.teacher_model, args.token_list)
    codec = Codec(
        len(teacher.token_list),
        args.top_k or None,
        step=args.step,
        worth=args.worth,
        states=teacher.state_size if args.states else 0,
        selector=args.selector,
        selector_conf=yaml.safe_load(args.selector_conf) or {},
    )
    unheard = None
    if args.max_bad_share:
        unheard = Unheard(args.max_bad_share, args.wav_scp)
    plan = make_plan(
        args.wav_scp,
        teacher.rate,
        teacher.shortest,
        args.batch_seconds,
        teacher.longest,
        unheard,
    )
    if not plan.utterances:
        raise InputError(f"{args.wav_scp} has no audio that the teacher can hear")
    if args.job == 1:
        if unheard is not None:
            _list_unheard(unheard, Path(args.output_dir))
        _say_size(teacher, plan, codec, Path(args.output_dir))
    finished = dump(
        teacher,
        plan,
        codec,
        Path(args.output_dir),
        args.batch_seconds,
        args.job,
        args.num_jobs,
    )
    if finished:
        print(f"finished: {args.output_dir}")


def _list_unheard(unheard: Unheard, folder: Path) -> None:
    """List what is left out, or refuse the data where it is too much."""
    left_out = {**unheard.short, **unheard.bad}
    write_scp(folder / UNHEARD, left_out.items())
    for why in left_out.values():
        print(f"  left out: {why}")
    wav_scp, total = unheard.wav_scp, unheard.total
    limit_bad(left_out, total, unheard.max_bad_share, wav_scp, folder / UNHEARD)
    if len(left_out) == total:
        raise InputError(f"the teacher can use no utterance of {wav_scp}")


def _say_match(teacher: Teacher, where: str, token_list: str) -> None:
    """Show how a teacher's tokens are found among the student's."""
    tokens = read_token_list(token_list)
    index = map_tokens(teacher.token_list, teacher.blank, tokens, 0, where)
    if index is None:
        print(f"all {len(tokens)} tokens are those of {token_list}, in its order")
    else:
        print(describe_match(teacher.token_list, tokens, index))


def _say_size(teacher: Teacher, plan: Plan, codec: Codec, folder: Path) -> None:
    """Forecast the size from some utterances, and hold it against the free disk."""
    utterances = plan.utterances
    step = max(1, len(utterances) // _FORECAST)
    size = forecast(teacher, utterances[step // 2 :: step], codec)
    samples = sum(u.samples for u in utterances)
    hours = samples / plan.rate / 3600
    total = size * samples
    existing = next(f for f in (folder, *folder.resolve().parents) if f.exists())
    free = shutil.disk_usage(existing).free
    print(
        f"{len(utterances)} utterances, {hours:.2f} hours: the cache will take about "
        f"{total / 2**20:.1f} MiB ({total / hours / 1e6:.2f} MB an hour); "
        f"{free / 2**30:.1f} GiB are free"
    )
    if total > free:
        raise InputError(
            f"the cache would take {total / 2**30:.1f} GiB, and {folder} has "
            f"{free / 2**30:.1f} GiB free: choose another --output_dir, or a smaller "
            "--top_k"
        )


if __name__ == "__main__":
    run(main)
