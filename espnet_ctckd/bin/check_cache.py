"""Hold a cache of posteriors against the audio, the transcripts and the student.

Utterances, lengths and files are compared for all; the audio itself for a sample,
or for all with --audio_sample 0. Flags of asr_train may follow, as they will for the
training of --asr_config.
"""

from dataclasses import replace
from fractions import Fraction
from typing import List, Optional, Sequence, Tuple

import torch

from espnet_ctckd.align import describe_match, match_frames
from espnet_ctckd.analysis import find_spikes
from espnet_ctckd.bin import parser, run
from espnet_ctckd.cache.check import Student, check_cache, match_student
from espnet_ctckd.cache.reader import CacheMeta
from espnet_ctckd.cache.said import Cached
from espnet_ctckd.checks import check_frames, check_labels, check_states
from espnet_ctckd.config import KDConfig
from espnet_ctckd.data import read_token_list
from espnet_ctckd.espnet_model import measure_frame_shift
from espnet_ctckd.model import ESPnetCTCKDModel
from espnet_ctckd.score import Counts, count_errors
from espnet_ctckd.task import CTCKDTask

# Utterances in which frames are joined, for a figure.
_JOINED = 50


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Check the cache."""
    p = parser(__doc__)
    p.add_argument("--cache", required=True, help="folder of the cache")
    p.add_argument("--wav_scp", required=True, help="audio of the training")
    p.add_argument("--text", help="transcripts of the training, if it has any")
    p.add_argument("--asr_config", help="training configuration of the student")
    p.add_argument("--token_list", help="token list of the student")
    p.add_argument("--token_type", default="bpe", help="of the student")
    p.add_argument("--bpemodel", help="sentencepiece model of the student")
    p.add_argument(
        "--audio_sample",
        type=int,
        default=200,
        help="utterances whose audio is compared; 0: all",
    )
    args, theirs = p.parse_known_args(cmd)
    student = config = None
    if theirs and not args.asr_config:
        p.error(f"{theirs[0]} is unknown, or is read with --asr_config only")
    if args.token_list and not args.asr_config:
        p.error("--token_list is read with --asr_config only: give both")
    if args.asr_config:
        if not args.token_list:
            p.error("--asr_config needs --token_list")
        if args.token_type == "bpe" and not args.bpemodel:
            p.error("--token_type bpe needs --bpemodel; for characters: char")
        read_token_list(args.token_list)
        flags = ["--config", args.asr_config, *theirs]
        flags += ["--token_list", args.token_list, "--token_type", args.token_type]
        flags += ["--normalize", "none"]
        flags += ["--bpemodel", args.bpemodel] if args.bpemodel else []
        student, config = build_student(flags)
    meta = check_cache(
        args.cache, args.wav_scp, args.text, student, args.audio_sample or None
    )
    if config is not None:
        check_states(meta, config)
        check_frames(meta, config)
    if student is not None:
        index = match_student(meta, student)
        if index is not None:
            print(describe_match(meta.token_list, student.token_list, index))
        if student.frame_ratio > 1:
            lost = lost_by_joining(meta, student.frame_ratio)
            print(
                f"at the student's frame rate {100 * lost:.1f} % of the teacher's "
                "tokens are lost or changed"
            )
    print(
        f"{args.cache} fits: {meta.utterances} utterances, {meta.frames} frames of "
        f"{float(meta.frame_shift / meta.rate) * 1000:g} ms, {len(meta.token_list)} "
        f"tokens, blank {meta.token_list[meta.blank]!r}"
    )


def lost_by_joining(meta: CacheMeta, ratio: Fraction) -> float:
    """Tokens that a teacher's spikes lose where frames are joined.

    Args:
        meta: what the cache says of itself.
        ratio: the teacher's frames to one of the student's.

    Returns:
        Errors of the joined posteriors' best tokens against the teacher's own, as a
        share of these, over some utterances.
    """
    cache = Cached(meta.folder)
    utterances = list(cache)
    counts = Counts()
    for utt in utterances[:: max(1, len(utterances) // _JOINED)]:
        own = cache.say(utt)
        frames = torch.tensor([-(-int(own.lengths) // ratio)])
        joined, _ = match_frames(own, frames, int(frames), ratio)
        wanted, found = (
            [str(s.token) for s in find_spikes(best[0].tolist(), meta.blank)]
            for best in (own.argmax(), replace(joined, best=None).argmax())
        )
        if wanted:
            counts += count_errors(wanted, found)
    return counts.errors / max(counts.units, 1)


def build_student(flags: List[str]) -> Tuple[Student, Optional[KDConfig]]:
    """Build the student of a training configuration, and ask it what it expects.

    Returns:
        What it expects, and how it is distilled, where it is.
    """
    args = CTCKDTask.get_parser().parse_args(flags)
    model = CTCKDTask.build_model(args).eval()
    if isinstance(model, ESPnetCTCKDModel):
        check_labels(args, model.kd_config)
    preprocess = CTCKDTask.build_preprocess_fn(args, train=False)

    def labels(text: str) -> List[int]:
        assert preprocess is not None
        return list(preprocess("", {"text": text})["text"])

    tokens = list(model.token_list)
    is_student = isinstance(model, ESPnetCTCKDModel)
    student = Student(
        token_list=tokens,
        blank=model.blank_id,
        frame_shift=measure_frame_shift(model),
        frame_ratio=model.kd_config.ratio if is_student else Fraction(1),
        needs_dense=is_student and model.kd_config.target == "occupancies",
        labels=labels,
        unknown=tokens.index("<unk>") if "<unk>" in tokens else None,
    )
    return student, model.kd_config if is_student else None


if __name__ == "__main__":
    run(main)
