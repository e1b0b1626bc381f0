"""Check a cache of posteriors against the audio, the transcripts and the student.

Names, lengths and files of all utterances are checked; the audio is compared for a
sample, or for all utterances with --audio_sample 0. Flags of asr_train may follow, the
same as for the training with --asr_config.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Optional, Sequence

from espnet_ctckd.bin.cli import add_student, count, parser, run, student_flags
from espnet_ctckd.evaluation.score import Counts, count_errors

if TYPE_CHECKING:
    from espnet_ctckd.cache.check import Student
    from espnet_ctckd.cache.reader import CacheMeta
    from espnet_ctckd.plugin.model import ESPnetCTCKDModel

# Utterances from which the loss of tokens in merged frames is estimated.
_MERGED_SAMPLE = 50


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Check the cache."""
    p = parser(__doc__)
    p.add_argument("--cache", required=True, help="folder of the cache")
    p.add_argument("--wav_scp", required=True, help="audio of the training")
    p.add_argument("--text", help="transcripts of the training, if it has any")
    add_student(p)
    p.add_argument(
        "--audio_sample",
        type=count,
        default=200,
        help="utterances whose audio is compared; 0: all",
    )
    args, theirs = p.parse_known_args(cmd)
    student, model, last_epoch = None, None, 1
    flags = student_flags(p, args, theirs)
    from espnet_ctckd.cache.check import check_cache
    from espnet_ctckd.plugin.checks import check_frames, check_states
    from espnet_ctckd.plugin.student import build_student

    if flags:
        student, model, last_epoch = build_student(flags)
    meta = check_cache(
        args.cache, args.wav_scp, args.text, student, args.audio_sample or None
    )
    if model is not None:
        check_states(meta, model.kd_config)
        check_frames(meta, model.kd_config)
    if student is not None:
        _describe(meta, student, model, last_epoch)
    print(
        f"{args.cache} fits: {meta.utterances} utterances, {meta.frames} frames of "
        f"{float(meta.frame_shift / meta.rate) * 1000:g} ms, {len(meta.token_list)} "
        f"tokens, blank {meta.token_list[meta.blank]!r}"
    )


def _describe(
    meta: CacheMeta,
    student: Student,
    model: Optional[ESPnetCTCKDModel],
    last_epoch: int,
) -> None:
    """Print what a student learns from a cache; refuse a cache without a use."""
    from espnet_ctckd.cache.check import match_student
    from espnet_ctckd.plugin.checks import check_selected
    from espnet_ctckd.plugin.preprocessor import PosteriorReader
    from espnet_ctckd.tokens import describe_match

    index = match_student(meta, student)
    if index is not None:
        print(describe_match(meta.token_list, student.token_list, index))
    if model is not None:
        model.build_objectives()
        tokens = len(student.token_list)
        reader = PosteriorReader(meta.records, index, tokens, student.blank)
        for objective in model.selecting():
            print(check_selected(meta, reader, objective, last_epoch))
    if student.frame_ratio > 1:
        lost = lost_by_joining(meta, student.frame_ratio)
        print(
            f"at the student's frame rate {100 * lost:.1f} % of the teacher's tokens "
            "are lost or changed"
        )


def lost_by_joining(meta: CacheMeta, ratio: Fraction) -> float:
    """Estimate the token errors caused by merging frames.

    Args:
        meta: metadata of the cache.
        ratio: number of teacher frames per student frame.

    Returns:
        Token error rate of the merged posteriors against the original posteriors, on a
        sample of the utterances.
    """
    import torch

    from espnet_ctckd.cache.statistics import Cached
    from espnet_ctckd.frames import match_frames
    from espnet_ctckd.paths import find_spikes

    cache = Cached(meta.folder)
    utterances = list(cache)
    counts = Counts()
    for utt in utterances[:: max(1, len(utterances) // _MERGED_SAMPLE)]:
        own = cache.say(utt)
        frames = torch.tensor([-(-int(own.lengths) // ratio)])
        merged, _ = match_frames(own, frames, int(frames), ratio)
        wanted, found = (
            [str(s.token) for s in find_spikes(best[0].tolist(), meta.blank)]
            for best in (own.argmax(), replace(merged, best=None).argmax())
        )
        if wanted:
            counts += count_errors(wanted, found)
    return counts.errors / max(counts.units, 1)


if __name__ == "__main__":
    run(main)
