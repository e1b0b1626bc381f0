"""Models that say what the student should."""

from fractions import Fraction
from typing import Any, Dict, List, Mapping, Optional, Protocol

from torch import Tensor

from espnet_ctckd.choices import Choice
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.teachers.ensemble import EnsembleTeacher
from espnet_ctckd.teachers.precision import in_dtype
from espnet_ctckd.teachers.registry import SINGLE_CHOICES, open_kind


class Teacher(Protocol):
    """What every teacher offers.

    Attributes:
        token_list: V tokens in the order of its posteriors.
        blank: index of the blank among them.
        state_size: D of its hidden states, 0 where it gives none.
        rate: samples per second of the audio that it expects.
        frame_shift: samples from one frame to the next, exact.
        shortest: the fewest samples that it makes a frame of.
        longest: the most samples that it hears at once, or None.
        batching: ``single`` where each utterance is computed as if it were alone, or
            ``padded`` where its posteriors depend on what it is batched with.
        bpemodel: serialized sentencepiece model that splits text into its tokens, or
            None if these are no word pieces or no such model is known.
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
        """Posteriors (B, U, V), and states, of audio (B, S) with lengths (B,)."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Provenance, for the cache."""
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
    """Open a teacher of any kind, as `open_kind`, to compute in a type of `DTYPES`."""
    teacher = open_kind(TEACHER_CHOICES, kind, source, device, options)
    half: Teacher = in_dtype(teacher, device, dtype)
    return half
