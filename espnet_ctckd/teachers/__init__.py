"""Teacher models."""

from fractions import Fraction
from typing import Any, Dict, List, Mapping, Optional, Protocol

from torch import Tensor

from espnet_ctckd.choices import Choice
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.teachers.ensemble import EnsembleTeacher
from espnet_ctckd.teachers.precision import in_dtype
from espnet_ctckd.teachers.registry import SINGLE_CHOICES, open_kind


class Teacher(Protocol):
    """Interface of all teachers.

    Attributes:
        token_list: V tokens in the order of the posteriors.
        blank: index of the blank among them.
        state_size: size D of the hidden states, 0 without states.
        rate: sample rate of the input in Hz.
        frame_shift: exact frame shift in samples.
        shortest: minimum input length for one frame in samples.
        longest: maximum input length in samples, or None.
        batching: ``single`` if utterances are computed independently of the batch, or
            ``padded`` if posteriors depend on the batch.
        bpemodel: serialized sentencepiece model that splits text into the tokens, or
            None if the tokens are not word pieces or the model is unknown.
    """

    token_list: List[str]
    blank: int
    state_size: int
    rate: int
    frame_shift: Fraction
    shortest: int
    longest: Optional[int]
    batching: str
    bpemodel: Optional[bytes]

    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Compute posteriors (B, U, V), and states, of audio (B, S) of lengths (B,)."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Return the provenance, for the cache."""
        ...


TEACHER_CHOICES: Dict[str, Choice] = {
    **SINGLE_CHOICES,
    "ensemble": Choice(
        EnsembleTeacher,
        "Kurata, Audhkhasi, Guiding CTC Posterior Spike Timings for Improved Posterior "
        "Fusion and Knowledge Distillation (2019), https://arxiv.org/abs/1904.08311",
    ),
}


def open_teacher(
    kind: object,
    source: Optional[str],
    device: str,
    options: Mapping[str, Any],
    dtype: object = "float32",
) -> Teacher:
    """Open a teacher of any kind, see `open_kind`, that computes in a given type."""
    teacher = open_kind(TEACHER_CHOICES, kind, source, device, options)
    converted: Teacher = in_dtype(teacher, device, dtype)
    return converted
