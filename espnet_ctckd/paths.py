"""The best path through frame posteriors: tokens, spikes and blank runs."""

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import List, Sequence

from torch import Tensor

from espnet_ctckd.posteriors import length_mask


def greedy(log_probs: Tensor, lengths: Tensor, blank: int) -> List[List[int]]:
    """Decode greedily: the best token per frame, repetitions merged, blanks removed.

    Args:
        log_probs: log-probabilities or logits (B, T, V); padding is not read.
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
    return collapse_path(log_probs.argmax(-1), lengths, blank)


def collapse_path(best: Tensor, lengths: Tensor, blank: int) -> List[List[int]]:
    """Merge repetitions in paths and remove blanks.

    Args:
        best: token of each frame (B, T); padding is not read.
        lengths: (B,).
        blank: index of the blank.

    Returns:
        Token ids of each utterance.
    """
    keep = (best != blank) & length_mask(lengths, best.size(1))
    keep[:, 1:] &= best[:, 1:] != best[:, :-1]
    return [row[mask].tolist() for row, mask in zip(best.cpu(), keep.cpu())]


@dataclass(frozen=True)
class Spike:
    """A maximal run of frames with one non-blank argmax.

    Attributes:
        token: index of the token.
        frame: index of the first frame of the run, from 0.
        frames: length of the run in frames.
    """

    token: int
    frame: int
    frames: int


def find_spikes(best: Sequence[int], blank: int) -> List[Spike]:
    """Find the spikes of an utterance; their tokens are its greedy transcript.

    Args:
        best: the most probable token of each valid frame (T,).
        blank: index of the blank.

    Returns:
        Spikes in temporal order.

    Examples:
        >>> [(s.token, s.frame, s.frames) for s in find_spikes([0, 2, 2, 0, 2, 1], 0)]
        [(2, 1, 2), (2, 4, 1), (1, 5, 1)]
    """
    found, frame = [], 0
    for token, run in groupby(best):
        frames = sum(1 for _ in run)
        if token != blank:
            found.append(Spike(int(token), frame, frames))
        frame += frames
    return found


def blank_runs(spikes: Sequence[Spike]) -> List[int]:
    """Return the lengths of the blank runs between spikes.

    Args:
        spikes: spikes of an utterance.

    Returns:
        Lengths in frames, in temporal order; blanks before the first spike and after
        the last are not included.

    Examples:
        >>> blank_runs(find_spikes([0, 1, 0, 0, 1, 0, 0, 0, 1, 0], 0))
        [2, 3]
    """
    gaps = [b.frame - (a.frame + a.frames) for a, b in pairwise(spikes)]
    return [gap for gap in gaps if gap > 0]
