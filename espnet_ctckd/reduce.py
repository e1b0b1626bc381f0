"""Reductions of the frame losses of a batch.

A reduction maps the weights of the selected frames to factors (B, T); the loss of the
batch is the sum of the frame losses times their factors. Reductions divide by counts
of the whole batch, over all processes of a distributed training, so the result does
not depend on the number of processes.
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
    """Counts of a batch over all processes, scalars () in float64.

    Attributes:
        utterances: number of utterances, B.
        frames: number of valid frames.
        selected: total weight of the selected frames.
        nonblank: total weight of the selected non-blank frames.
        labels: number of labels; 0 without transcripts.
        share: utterances of all processes divided by those of this process. ESPnet's
            trainer averages the losses of the processes with their utterances as
            weights; multiplied by this factor, the average becomes the sum.
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
    """Count utterances, frames and labels of a batch.

    Args:
        weights: weights of the frames (B, T), 0 in padding.
        nonblank: mask of the teacher's non-blank frames (B, T).
        lengths: valid frames (B,).
        labels: labels of each utterance (B,), or None.
        everywhere: sum over all processes of a distributed training.

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
    """Sum a tensor over the processes of a distributed training.

    Args:
        x: tensor without gradient, of the same shape in all processes.

    Returns:
        The sum; `x` itself outside of distributed training.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        x = x.clone()
        torch.distributed.all_reduce(x)
    return x


def utt_sum(weights: Tensor, nonblank: Tensor, totals: Totals) -> Tensor:
    """Sum over the selected frames of an utterance, mean over utterances.

    This is the paper's equation. It has the scale of ESPnet's CTC loss, which is
    summed over an utterance and averaged over the batch.

    Args:
        weights: (B, T), 0 in padding.
        nonblank: unused.
        totals: counts of the batch.

    Returns:
        Factors (B, T).
    """
    return weights / totals.utterances


def selected_mean(weights: Tensor, nonblank: Tensor, totals: Totals) -> Tensor:
    """Mean over the selected frames of the batch, as in the authors' code.

    Args:
        weights: (B, T), 0 in padding.
        nonblank: unused.
        totals: counts of the batch.

    Returns:
        Factors (B, T).
    """
    return weights / totals.selected


def frame_mean(weights: Tensor, nonblank: Tensor, totals: Totals) -> Tensor:
    """Sum over the selected frames, divided by all valid frames of the batch.

    Args:
        weights: (B, T), 0 in padding.
        nonblank: unused.
        totals: counts of the batch.

    Returns:
        Factors (B, T).
    """
    return weights / totals.frames


def authors_full(weights: Tensor, nonblank: Tensor, totals: Totals) -> Tensor:
    """Sum over the selected frames, divided by utterances and by labels.

    The authors' code uses this reduction when learning from all frames, and
    `selected_mean` when selecting frames. The same lambda therefore weighs the
    distillation loss differently in the two cases.

    Args:
        weights: (B, T), 0 in padding.
        nonblank: unused.
        totals: counts of the batch, with labels.

    Returns:
        Factors (B, T).
    """
    return weights / (totals.utterances * totals.labels.clamp(min=1))


def blank_mix(
    weights: Tensor, nonblank: Tensor, totals: Totals, *, nonblank_share: float
) -> Tensor:
    """Weighted sum of the means over non-blank and over blank selected frames.

    Args:
        weights: (B, T), 0 in padding.
        nonblank: (B, T), bool.
        totals: counts of the batch.
        nonblank_share: weight of the non-blank mean, in [0, 1]; the weight of the
            blank mean is 1 minus this.

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
