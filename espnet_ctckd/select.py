"""Which frames does the student learn from?

A selector maps the teacher's posteriors to weights (B, T) in [0, 1]. It looks at
nothing but the teacher, and gets padding as certain blank; padding is taken out
again by the objective.
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


def select_all(teacher: FramePosteriors) -> Tensor:
    """Every frame.

    Args:
        teacher: log_probs (B, T, K).

    Returns:
        Weights (B, T).
    """
    return torch.ones_like(teacher.log_probs[..., 0])


def blank_elimination(teacher: FramePosteriors) -> Tensor:
    """The frames whose most probable token is not the blank.

    Args:
        teacher: log_probs (B, T, K).

    Returns:
        Weights (B, T).

    References:
        Hilmes, Rossenbach, Schlüter (2025), https://arxiv.org/abs/2506.01503
    """
    return teacher.nonblank().to(teacher.log_probs.dtype)


def symmetric(teacher: FramePosteriors, *, n: int) -> Tensor:
    """The non-blank frames and n neighbours on either side of each.

    Args:
        teacher: log_probs (B, T, K).
        n: neighbours on a side, in frames; 0 is `blank_elimination`.

    Returns:
        Weights (B, T).

    Raises:
        InputError: n is not a whole number of at least 0.

    References:
        Hilmes, Rossenbach, Schlüter (2025), https://arxiv.org/abs/2506.01503
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise InputError(f"selector 'symmetric' got n = {n!r}; give a whole n >= 0")
    spikes = blank_elimination(teacher)  # (B, T)
    n = min(n, spikes.size(1))
    if n == 0:
        return spikes
    return F.max_pool1d(spikes, kernel_size=2 * n + 1, stride=1, padding=n)  # (B, T)


SELECTOR_CHOICES: Dict[str, Choice] = {
    "all": Choice(select_all, "baseline"),
    "blank_elimination": Choice(blank_elimination, _HILMES),
    "symmetric": Choice(symmetric, _HILMES),
}
