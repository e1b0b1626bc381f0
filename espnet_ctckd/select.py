"""Selectors of the frames that the student learns from.

A selector maps the teacher's posteriors to weights (B, T) in [0, 1]. It depends only
on the teacher and the epoch. Padding is passed as blank with probability 1, and the
objective sets its weights to 0. Blank frames are defined by `FramePosteriors.nonblank`,
after the prior is removed where one is configured.
"""

from typing import Dict

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_ctckd.choices import Choice, InputError
from espnet_ctckd.posteriors import FramePosteriors

_HILMES = (
    "Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based "
    "Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503"
)


def select_all(teacher: FramePosteriors, epoch: int = 1) -> Tensor:
    """Select all frames.

    Args:
        teacher: log_probs (B, T, K).
        epoch: unused.

    Returns:
        Weights (B, T).
    """
    return torch.ones_like(teacher.log_probs[..., 0])


def blank_elimination(teacher: FramePosteriors, epoch: int = 1) -> Tensor:
    """Select the non-blank frames.

    Args:
        teacher: log_probs (B, T, K).
        epoch: unused.

    Returns:
        Weights (B, T).

    References:
        Hilmes, Rossenbach, Schlüter (2025), https://arxiv.org/abs/2506.01503
    """
    return teacher.nonblank().to(teacher.log_probs.dtype)


def window(
    teacher: FramePosteriors,
    epoch: int = 1,
    *,
    before: int,
    after: int,
    grow_every: int = 0,
) -> Tensor:
    """Select the non-blank frames and some frames before and after each.

    Args:
        teacher: log_probs (B, T, K).
        epoch: epoch of the training, from 1.
        before: number of frames before a non-blank frame.
        after: number of frames after a non-blank frame.
        grow_every: number of epochs k, or 0 for a fixed window. Both numbers are
            multiplied by floor(epoch / k): the window opens at epoch k and grows.

    Returns:
        Weights (B, T).

    Raises:
        InputError: an option is not a whole number of at least 0.

    Examples:
        >>> one_hot = F.one_hot(torch.tensor([[0, 0, 1, 0, 0]]), 2)
        >>> teacher = FramePosteriors(one_hot.float(), torch.tensor([5]), blank=0)
        >>> window(teacher, before=1, after=2).tolist()
        [[0.0, 1.0, 1.0, 1.0, 1.0]]

    References:
        Hilmes, Rossenbach, Schlüter (2025), https://arxiv.org/abs/2506.01503
    """
    _check_counts("window", before=before, after=after, grow_every=grow_every)
    return _dilate(teacher, before, after, epoch, grow_every)


def symmetric(
    teacher: FramePosteriors, epoch: int = 1, *, n: int, grow_every: int = 0
) -> Tensor:
    """Select the non-blank frames and n neighbours on either side of each.

    Args:
        teacher: log_probs (B, T, K).
        epoch: epoch of the training, from 1.
        n: number of frames on either side; 0 is `blank_elimination`.
        grow_every: see `window`.

    Returns:
        Weights (B, T).

    Raises:
        InputError: an option is not a whole number of at least 0.

    References:
        Hilmes, Rossenbach, Schlüter (2025), https://arxiv.org/abs/2506.01503
    """
    _check_counts("symmetric", n=n, grow_every=grow_every)
    return _dilate(teacher, n, n, epoch, grow_every)


def _check_counts(name: str, **options: int) -> None:
    for key, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(
                f"selector {name!r} got {key} = {value!r}; give a whole {key} >= 0"
            )


def _dilate(
    teacher: FramePosteriors, before: int, after: int, epoch: int, grow_every: int
) -> Tensor:
    times = epoch // grow_every if grow_every else 1
    spikes = blank_elimination(teacher)  # (B, T)
    before, after = (min(n * times, spikes.size(1)) for n in (before, after))
    if before + after == 0:
        return spikes
    spikes = F.pad(spikes, (after, before))  # (B, after + T + before)
    return F.max_pool1d(spikes, kernel_size=before + after + 1, stride=1)  # (B, T)


def trim(teacher: FramePosteriors, epoch: int = 1) -> Tensor:
    """Select the frames from the first to the last non-blank frame.

    Args:
        teacher: log_probs (B, T, K).
        epoch: unused.

    Returns:
        Weights (B, T).

    References:
        Hilmes, Rossenbach, Schlüter (2025), https://arxiv.org/abs/2506.01503
    """
    spikes = blank_elimination(teacher)  # (B, T)
    started = spikes.cumsum(1) > 0
    not_ended = spikes.flip(1).cumsum(1).flip(1) > 0
    return (started & not_ended).to(spikes.dtype)


def threshold(teacher: FramePosteriors, epoch: int = 1, *, theta: float) -> Tensor:
    """Select the non-blank frames and those with 1 - p(blank) >= theta.

    Args:
        teacher: log_probs (B, T, K).
        epoch: unused.
        theta: minimum probability of the non-blank tokens, in [0, 1].

    Returns:
        Weights (B, T).

    Raises:
        InputError: theta is not in [0, 1].

    References:
        Hilmes, Rossenbach, Schlüter (2025), https://arxiv.org/abs/2506.01503
    """
    if isinstance(theta, bool) or not isinstance(theta, (int, float)):
        raise InputError(f"selector 'threshold' got theta = {theta!r}; give a number")
    if not 0.0 <= theta <= 1.0:
        raise InputError(
            f"selector 'threshold' got theta = {theta}; give one in [0, 1]"
        )
    unsure = -torch.expm1(teacher.log_blank()) >= theta  # (B, T)
    return (teacher.nonblank() | unsure).to(teacher.log_probs.dtype)


def random(
    teacher: FramePosteriors, epoch: int = 1, *, ratio: float, seed: int = 0
) -> Tensor:
    """Select the non-blank frames and random blank frames, redrawn in each epoch.

    The draw depends only on the utterance, the epoch and the seed, not on the batch
    or the number of processes.

    Args:
        teacher: log_probs (B, T, K).
        epoch: epoch of the training, from 1.
        ratio: number of blank frames per non-blank frame, limited by the number of
            blank frames.
        seed: seed of the draw.

    Returns:
        Weights (B, T).

    Raises:
        InputError: the ratio is not a number of at least 0, or the seed not a whole
            number.

    References:
        Hilmes, Rossenbach, Schlüter (2025), https://arxiv.org/abs/2506.01503
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)):
        raise InputError(f"selector 'random' got ratio = {ratio!r}; give a number")
    if not 0.0 <= ratio < float("inf"):
        raise InputError(f"selector 'random' got ratio = {ratio}; give one >= 0")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"selector 'random' got seed = {seed!r}; give a whole number")
    spikes = teacher.nonblank()  # (B, T)
    log_blank = teacher.log_blank()  # (B, T)
    blanks = teacher.valid() & ~spikes
    place = torch.arange(spikes.size(1), device=spikes.device)  # (T,)
    bits = log_blank.float().contiguous().view(torch.int32).long()
    utterance = _scramble(bits + _scramble(place)).masked_fill(~teacher.valid(), 0)
    draw = (_ODD * epoch + seed) % 2**63
    key = utterance.sum(1, keepdim=True) + draw  # (B, 1)
    scores = _scramble(key + _scramble(place + 1))  # (B, T)
    scores = scores.masked_fill(~blanks, torch.iinfo(torch.int64).max)
    rank = scores.argsort(dim=1, stable=True).argsort(1)  # (B, T)
    drawn = (ratio * spikes.sum(1, keepdim=True).double()).round()  # (B, 1)
    chosen: Tensor = spikes | (blanks & (rank < drawn))
    return chosen.to(teacher.log_probs.dtype)


_ODD = 0x1E3779B97F4A7C15


def _scramble(x: Tensor) -> Tensor:
    """Hash integers evenly over int64: the finaliser of splitmix64."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


SELECTOR_CHOICES: Dict[str, Choice] = {
    "all": Choice(select_all, "baseline", reads_blank=False),
    "blank_elimination": Choice(blank_elimination, _HILMES),
    "symmetric": Choice(symmetric, _HILMES, varies="grow_every"),
    "window": Choice(window, _HILMES, varies="grow_every"),
    "trim": Choice(trim, _HILMES),
    "threshold": Choice(threshold, _HILMES),
    "random": Choice(random, _HILMES, varies=True),
}
