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
