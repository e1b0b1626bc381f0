"""What the student is given, and what it makes of it."""

import contextlib
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Iterator, List, Optional, Tuple

import torch
from torch import Tensor

from espnet_ctckd.losses.sequence import Hypotheses
from espnet_ctckd.posteriors import FramePosteriors


@dataclass(frozen=True)
class Batch:
    """What the student's ``forward`` is given."""

    speech: Tensor
    speech_lengths: Tensor
    text: Optional[Tensor]
    text_lengths: Optional[Tensor]
    teacher: Optional[FramePosteriors]
    hypotheses: Optional[Hypotheses]

    def twice(self) -> "Batch":
        """All utterances, and then all again."""
        return Batch(*(_twice(getattr(self, f.name)) for f in fields(self)))


def _twice(value: Any) -> Any:
    """A tensor, or all tensors of a dataclass, doubled along the batch."""
    if isinstance(value, Tensor):
        return torch.cat([value] * 2)
    if is_dataclass(value) and not isinstance(value, type):
        doubled = {f.name: _twice(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **doubled)
    return value


@dataclass(frozen=True)
class Seen:
    """What the student makes of a batch.

    Attributes:
        states: of the last layer (B, T, dim).
        lengths: (B,).
        layers: number and states of intermediate ones (B, T, dim).
        ctc: the CTC loss (), 0 where there is none.
        logits: of the last layer (B, T, V), where CTC has computed them.
    """

    states: Tensor
    lengths: Tensor
    layers: List[Tuple[int, Tensor]]
    ctc: Tensor
    logits: Optional[Tensor]


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


@contextlib.contextmanager
def first_output(module: torch.nn.Module) -> Iterator[List[Tensor]]:
    """What a module gives when it is first called inside the context."""
    found: List[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        if not found:
            found.append(output)

    hook = module.register_forward_hook(keep)
    try:
        yield found
    finally:
        hook.remove()
