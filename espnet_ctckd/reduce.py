"""How are the frames averaged?

A reduction maps frame values, weights and lengths to a numerator and a
denominator. They are kept apart because the processes of a distributed training
add up both before they divide, so that many processes compute what one would.
"""

from typing import Dict, Tuple

from torch import Tensor

from espnet_ctckd.choices import Choice

_HILMES = (
    "Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based "
    "Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503"
)


def utt_sum(values: Tensor, weights: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
    """Sum over the selected frames of an utterance, mean over utterances.

    The paper's equation, and commensurate with ESPnet's CTC loss, which is the sum
    over an utterance, averaged over the batch.

    Args:
        values: (B, T).
        weights: (B, T), 0 in padding.
        lengths: (B,).

    Returns:
        Numerator () and denominator ().
    """
    total = (values * weights).sum()
    return total, total.new_tensor(float(lengths.numel()))


def selected_mean(
    values: Tensor, weights: Tensor, lengths: Tensor
) -> Tuple[Tensor, Tensor]:
    """Mean over the selected frames of the batch, as in the authors' code.

    Args:
        values: (B, T).
        weights: (B, T), 0 in padding.
        lengths: (B,).

    Returns:
        Numerator () and denominator ().
    """
    return (values * weights).sum(), weights.sum().detach()


def frame_mean(
    values: Tensor, weights: Tensor, lengths: Tensor
) -> Tuple[Tensor, Tensor]:
    """Sum over the selected frames, divided by all valid frames of the batch.

    Args:
        values: (B, T).
        weights: (B, T), 0 in padding.
        lengths: (B,).

    Returns:
        Numerator () and denominator ().
    """
    total = (values * weights).sum()
    return total, lengths.sum().to(total.dtype)


REDUCTION_CHOICES: Dict[str, Choice] = {
    "utt_sum": Choice(utt_sum, _HILMES),
    "selected_mean": Choice(selected_mean, _HILMES),
    "frame_mean": Choice(frame_mean, "baseline"),
}
