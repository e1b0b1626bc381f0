"""A training batch of the student and its encoder output."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, List, Mapping, Optional, Tuple

import torch
from torch import Tensor

from espnet_ctckd.losses.sequence import Hypotheses
from espnet_ctckd.posteriors import FramePosteriors


@dataclass(frozen=True)
class Batch:
    """The input of the student's ``forward``.

    Attributes:
        speech: (B, S) or features (B, frames, dim).
        speech_lengths: (B,).
        text: labels (B, N).
        text_lengths: (B,).
        teacher: posteriors of the teacher.
        hypotheses: hypotheses of the teacher.
        more: other data from ESPnet's trainer, by name.
    """

    speech: Tensor
    speech_lengths: Tensor
    text: Optional[Tensor]
    text_lengths: Optional[Tensor]
    teacher: Optional[FramePosteriors]
    hypotheses: Optional[Hypotheses]
    more: Mapping[str, Any]

    def twice(self) -> "Batch":
        """Return the batch concatenated with itself."""
        return Batch(*(_twice(getattr(self, f.name)) for f in fields(self)))


def _twice(value: Any) -> Any:
    """Repeat a tensor, or all tensors of a dataclass, along the batch dimension."""
    if isinstance(value, Tensor):
        return torch.cat([value] * 2)
    if isinstance(value, Mapping):
        return {name: _twice(each) for name, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        doubled = {f.name: _twice(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **doubled)
    return value


@dataclass(frozen=True)
class EncoderOutput:
    """The student's encoder output of a batch.

    Attributes:
        states: hidden states of the last layer (B, T, dim).
        lengths: (B,).
        layers: number and hidden states (B, T, dim) of each intermediate layer.
        logits: logits of the last layer (B, T, V), if all frames are needed; otherwise
            None, and the losses compute the logits of the frames that they read.
    """

    states: Tensor
    lengths: Tensor
    layers: List[Tuple[int, Tensor]]
    logits: Optional[Tensor]

    @property
    def all_logits(self) -> Tensor:
        """The logits of the last layer (B, T, V); they must have been computed."""
        assert self.logits is not None
        return self.logits
