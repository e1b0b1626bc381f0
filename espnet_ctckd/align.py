"""From the teacher's tokens and frames to the student's.

Both must agree: the token lists entirely, the frame counts up to the rounding at
the edges. What does not is refused; nothing is stretched or guessed.
"""

from dataclasses import replace
from typing import Sequence, Tuple

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import FramePosteriors

# Front-ends of one frame shift round differently at the edges of an utterance.
MAX_EDGE_FRAMES = 2


def check_tokens(
    teacher_tokens: Sequence[str], student_tokens: Sequence[str], where: str
) -> None:
    """Refuse a teacher whose tokens are not the student's, in the same order.

    Args:
        teacher_tokens: V tokens in the order of the posteriors.
        student_tokens: V tokens in the order of the student's outputs.
        where: file or object that the teacher's tokens come from.

    Raises:
        InputError: naming the first difference.
    """
    if list(teacher_tokens) == list(student_tokens):
        return
    both = zip(teacher_tokens, student_tokens)
    first = next(
        (i for i, (a, b) in enumerate(both) if a != b),
        min(len(teacher_tokens), len(student_tokens)),
    )
    got = _token(teacher_tokens, first)
    expected = _token(student_tokens, first)
    raise InputError(
        f"the teacher's token list ({len(teacher_tokens)} tokens, {where}) is not the "
        f"student's ({len(student_tokens)} tokens): token {first} is {got} there and "
        f"{expected} here. Train the student with the teacher's token list, or dump "
        "the posteriors of a teacher that has the student's"
    )


def _token(tokens: Sequence[str], index: int) -> str:
    return repr(tokens[index]) if index < len(tokens) else "missing"


def match_frames(
    teacher: FramePosteriors, lengths: Tensor, frames: int
) -> Tuple[FramePosteriors, Tensor, int]:
    """Cut teacher and student to the frames that both have.

    Args:
        teacher: log_probs (B, U, K).
        lengths: the student's frames of each utterance (B,).
        frames: size of the student's time axis, T.

    Returns:
        The teacher cut to T' = min(T, U) frames, the common lengths (B,), and T'.

    Raises:
        InputError: an utterance differs by more than `MAX_EDGE_FRAMES`.
    """
    difference = (teacher.lengths - lengths).abs()  # (B,)
    if difference.numel() and int(difference.max()) > MAX_EDGE_FRAMES:
        worst = int(difference.argmax())
        raise InputError(
            f"utterance {worst} of the batch has {int(teacher.lengths[worst])} frames "
            f"of the teacher and {int(lengths[worst])} of the student; at most "
            f"{MAX_EDGE_FRAMES} may differ. The cache belongs to other audio or to "
            "another frame rate: hold it against the data with "
            "`python -m espnet_ctckd.bin.check_cache`"
        )
    common = min(frames, teacher.log_probs.size(1))
    both = torch.minimum(teacher.lengths, lengths)
    ids = None if teacher.ids is None else teacher.ids[:, :common]
    cut = replace(
        teacher, log_probs=teacher.log_probs[:, :common], lengths=both, ids=ids
    )
    return cut, both, common
