"""Distances between the hidden states of student and teacher."""

import torch.nn.functional as F
from torch import Tensor

from espnet_ctckd.posteriors import FramePosteriors


def cosine(student: Tensor, teacher: FramePosteriors) -> Tensor:
    """Compute 1 - cosine similarity of the states of each frame.

    Args:
        student: projected states (B, T, D).
        teacher: posteriors with states (B, T, D).

    Returns:
        Distances (B, T), in [0, 2].

    References:
        The warm-up of Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank
        for CTC-Based Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503
    """
    assert teacher.states is not None
    return 1.0 - F.cosine_similarity(student, teacher.states.to(student), dim=-1)


def l1(student: Tensor, teacher: FramePosteriors) -> Tensor:
    """Compute the mean absolute difference of the states of each frame.

    Args:
        student: projected states (B, T, D).
        teacher: posteriors with states (B, T, D).

    Returns:
        Distances (B, T).

    References:
        Chang, Yang, Lee, DistilHuBERT: Speech Representation Learning by Layer-wise
        Distillation of Hidden-unit BERT (2021), https://arxiv.org/abs/2110.01900
    """
    assert teacher.states is not None
    return (student - teacher.states.to(student)).abs().mean(-1)
