"""Greedy CTC decoding of a batch."""

from typing import List

from torch import Tensor

from espnet_ctckd.posteriors import length_mask


def greedy(log_probs: Tensor, lengths: Tensor, blank: int) -> List[List[int]]:
    """The best token of each frame, repetitions merged and blanks removed.

    Args:
        log_probs: or logits (B, T, V); what stands in padding is not read.
        lengths: (B,).
        blank: index of the blank.

    Returns:
        Token ids of each utterance.

    Examples:
        >>> import torch
        >>> path = torch.tensor([[0, 1, 1, 0, 1, 2, 2]])
        >>> greedy(torch.nn.functional.one_hot(path), torch.tensor([6]), blank=0)
        [[1, 1, 2]]

    References:
        Graves et al., Connectionist Temporal Classification (2006),
        https://doi.org/10.1145/1143844.1143891
    """
    best = log_probs.argmax(-1)  # (B, T)
    keep = (best != blank) & length_mask(lengths, best.size(1))
    keep[:, 1:] &= best[:, 1:] != best[:, :-1]
    return [row[mask].tolist() for row, mask in zip(best.cpu(), keep.cpu())]
