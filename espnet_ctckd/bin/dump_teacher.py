"""Dump the frame posteriors of a teacher into a cache.

Give the same command again to go on after it was stopped. To share the work, start
it N times with --job 1 to N and --num_jobs N, on as many machines as see the folder;
the last to end finishes the cache. The result is the same, bit for bit.
"""

from pathlib import Path
from typing import Optional, Sequence

from espnet_ctckd.bin import add_compute, device, parser, positive, run
from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.writer import dump, make_plan
from espnet_ctckd.choices import InputError, look_up
from espnet_ctckd.teachers import TEACHER_CHOICES


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Dump the teacher."""
    p = parser(__doc__)
    p.add_argument(
        "--teacher_type", default="espnet", help=f"one of {', '.join(TEACHER_CHOICES)}"
    )
    p.add_argument(
        "--teacher_config",
        required=True,
        help="config.yaml of the teacher; of an ensemble, the YAML that lists them",
    )
    p.add_argument("--teacher_model", help="weights of the teacher")
    p.add_argument("--wav_scp", required=True, help="Kaldi's list of audio files")
    p.add_argument("--output_dir", required=True, help="folder of the cache")
    p.add_argument(
        "--top_k", type=int, default=0, help="keep the K best tokens a frame; 0: all"
    )
    p.add_argument(
        "--states", action="store_true", help="keep the hidden states, for kd.feature"
    )
    p.add_argument("--job", type=positive, default=1, help="which job this is")
    p.add_argument("--num_jobs", type=positive, default=1, help="of how many")
    add_compute(p)
    args = p.parse_args(cmd)
    if not 1 <= args.job <= args.num_jobs:
        raise InputError(f"--job is {args.job}; give one from 1 to {args.num_jobs}")
    choice = look_up("teacher_type", args.teacher_type, TEACHER_CHOICES)
    teacher = choice.fn(
        config_file=args.teacher_config,
        model_file=args.teacher_model,
        device=device(args),
    )
    if args.states and not teacher.state_size:
        raise InputError(f"a teacher of the type {args.teacher_type} has no states")
    codec = Codec(
        len(teacher.token_list),
        args.top_k or None,
        teacher.state_size if args.states else 0,
    )
    plan = make_plan(args.wav_scp, teacher.rate, teacher.shortest, args.batch_seconds)
    _say_size(plan, teacher, codec)
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


def _say_size(plan, teacher, codec) -> None:  # type: ignore[no-untyped-def]
    samples = sum(u.samples for u in plan.utterances)
    size = samples / float(teacher.frame_shift) * codec.columns * 4
    print(
        f"{len(plan.utterances)} utterances, {samples / plan.rate / 3600:.2f} hours: "
        f"the cache will take {size / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    run(main)
