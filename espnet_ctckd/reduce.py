"""How are the frames averaged?

A reduction maps the weights of the selected frames to the factors (B, T) by which
their losses are added up. It divides by counts of the whole batch, over all processes
of a distributed training, so that many processes compute what one would.
"""

from dataclasses import dataclass
from typing import Dict, Optional

import torch
from torch import Tensor

from espnet_ctckd.choices import Choice, InputError

_HILMES = (
    "Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based "
    "Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503"
)


@dataclass(frozen=True)
class Totals:
    """Counts of a batch over all processes, each () and in float64.

    Attributes:
        utterances: B.
        frames: valid frames.
        selected: weight of the selected frames.
        nonblank: weight of those among them that are not blank.
        labels: labels; 0 where there are no transcripts.
        share: utterances, as a multiple of those of this process. ESPnet's trainer
            averages the losses of the processes with their utterances as weights;
            a loss times this becomes the sum over the processes.
    """

    utterances: Tensor
    frames: Tensor
    selected: Tensor
    nonblank: Tensor
    labels: Tensor
    share: Tensor


def count(
    weights: Tensor,
    nonblank: Tensor,
    lengths: Tensor,
    labels: Optional[Tensor],
    everywhere: bool = True,
) -> Totals:
    """Count a batch.

    Args:
        weights: of the frames (B, T), 0 in padding.
        nonblank: whether the teacher's frames are not blank (B, T).
        lengths: valid frames (B,).
        labels: labels of each utterance (B,), or None.
        everywhere: in all processes of a distributed training; else in this one.

    Returns:
        The counts.
    """
    utterances = float(lengths.numel())
    mine = torch.stack(
        [
            weights.new_tensor(utterances).double(),
            lengths.sum().double(),
            weights.sum().double(),
            (weights * nonblank).sum().double(),
            lengths.new_zeros(()).double() if labels is None else labels.sum().double(),
        ]
    )
    everyone = sum_over_processes(mine.detach()) if everywhere else mine
    share = everyone[0] / utterances
    return Totals(*everyone.unbind(), share)  # type: ignore[call-arg]


def sum_over_processes(x: Tensor) -> Tensor:
    """Add up over the processes of a distributed training, if this is one.

    Args:
        x: without gradient; any shape, the same in all processes.

    Returns:
        The same shape.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        x = x.clone()
        torch.distributed.all_reduce(x)
    return x


def utt_sum(weights: Tensor, nonblank: Tensor, totals: Totals) -> Tensor:
    """Sum over the selected frames of an utterance, mean over utterances.

    The paper's equation, and commensurate with ESPnet's CTC loss, which is the sum
    over an utterance, averaged over the batch.

    Args:
        weights: (B, T), 0 in padding.
        nonblank: (B, T), not read.
        totals: counts of the batch.

    Returns:
        Factors (B, T).
    """
    return weights / totals.utterances


def selected_mean(weights: Tensor, nonblank: Tensor, totals: Totals) -> Tensor:
    """Mean over the selected frames of the batch, as in the authors' code.

    Args:
        weights: (B, T), 0 in padding.
        nonblank: (B, T), not read.
        totals: counts of the batch.

    Returns:
        Factors (B, T).
    """
    return weights / totals.selected


def frame_mean(weights: Tensor, nonblank: Tensor, totals: Totals) -> Tensor:
    """Sum over the selected frames, divided by all valid frames of the batch.

    Args:
        weights: (B, T), 0 in padding.
        nonblank: (B, T), not read.
        totals: counts of the batch.

    Returns:
        Factors (B, T).
    """
    return weights / totals.frames


def authors_full(weights: Tensor, nonblank: Tensor, totals: Totals) -> Tensor:
    """Sum over the selected frames, divided by utterances and by labels.

    The authors' code averages so where it learns from all frames, and as
    `selected_mean` where it selects: at one lambda these are not one weight.

    Args:
        weights: (B, T), 0 in padding.
        nonblank: (B, T), not read.
        totals: counts of the batch, with labels.

    Returns:
        Factors (B, T).
    """
    return weights / (totals.utterances * totals.labels.clamp(min=1))


def blank_mix(
    weights: Tensor, nonblank: Tensor, totals: Totals, *, nonblank_share: float
) -> Tensor:
    """Mean over the non-blank and mean over the blank selected frames, mixed.

    Args:
        weights: (B, T), 0 in padding.
        nonblank: (B, T), bool.
        totals: counts of the batch.
        nonblank_share: of the mean over non-blank frames, in [0, 1]; that over blank
            ones has the rest.

    Returns:
        Factors (B, T).

    Raises:
        InputError: the share is not in [0, 1].
    """
    share = nonblank_share
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        raise InputError(
            f"reduction 'blank_mix' got nonblank_share = {share!r}; give a number"
        )
    if not 0.0 <= share <= 1.0:
        raise InputError(
            f"reduction 'blank_mix' got nonblank_share = {share}; give one in [0, 1]"
        )
    blank = (1.0 - share) / (totals.selected - totals.nonblank)
    return weights * torch.where(nonblank, share / totals.nonblank, blank).to(weights)


REDUCTION_CHOICES: Dict[str, Choice] = {
    "utt_sum": Choice(utt_sum, _HILMES, reads_blank=False),
    "selected_mean": Choice(selected_mean, _HILMES, reads_blank=False),
    "frame_mean": Choice(frame_mean, "baseline", reads_blank=False),
    "authors_full": Choice(authors_full, _HILMES, needs=("labels",), reads_blank=False),
    "blank_mix": Choice(blank_mix, _HILMES),
}
