"""A batch of the student, and its encoder output."""

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
        teacher: its posteriors.
        hypotheses: those of the teacher.
        more: what else ESPnet's trainer hands on, by name.
    """

    speech: Tensor
    speech_lengths: Tensor
    text: Optional[Tensor]
    text_lengths: Optional[Tensor]
    teacher: Optional[FramePosteriors]
    hypotheses: Optional[Hypotheses]
    more: Mapping[str, Any]

    def twice(self) -> "Batch":
        """All utterances, and then all again."""
        return Batch(*(_twice(getattr(self, f.name)) for f in fields(self)))


def _twice(value: Any) -> Any:
    """A tensor, or all tensors of a dataclass, doubled along the batch."""
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
        states: of the last layer (B, T, dim).
        lengths: (B,).
        layers: number and states of intermediate layers (B, T, dim).
        logits: of the last layer (B, T, V), where all of them are needed; otherwise
            the losses compute those of the frames that they read.
    """

    states: Tensor
    lengths: Tensor
    layers: List[Tuple[int, Tensor]]
    logits: Optional[Tensor]

    @property
    def all_logits(self) -> Tensor:
        """The logits of the last layer (B, T, V), where they are computed."""
        assert self.logits is not None
        return self.logits


class TwoViews(torch.nn.Module):
    """SpecAugment of batches that may hold each utterance twice.

    Both views are warped alike, so that their frames are of the same time; their masks
    differ (Yao et al. 2024, CR-CTC, https://arxiv.org/abs/2410.05101).

    Args:
        specaug: ESPnet's.

    Attributes:
        pairs: whether a batch holds all utterances, and then all again.
    """

    def __init__(self, specaug: Any) -> None:
        super().__init__()
        self.specaug, self.pairs = specaug, False

    def forward(
        self, feats: Tensor, lengths: Tensor
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Augment features (B, frames, dim), with lengths (B,)."""
        warp = self.specaug.time_warp
        if warp is not None:
            some = len(feats) // 2 if self.pairs else len(feats)
            warped, _ = warp(feats[:some], lengths[:some])
            feats = torch.cat([warped, warped]) if self.pairs else warped
        for mask in (self.specaug.freq_mask, self.specaug.time_mask):
            if mask is not None:
                feats, lengths = mask(feats, lengths)
        return feats, lengths
