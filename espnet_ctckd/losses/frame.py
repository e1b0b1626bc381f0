"""Losses of single frames, unreduced.

A frame loss maps the student's logits (B, T, V) and the teacher's posteriors
(B, T, K) to values (B, T) in nats. Both are float32 or float64, and padding is
certain blank in the teacher and finite in the student.
"""

import math
from typing import Tuple

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors


def kl(logits: Tensor, teacher: FramePosteriors, *, temperature: float) -> Tensor:
    """tau² KL(teacher ‖ student) with both softened by the temperature tau.

    With a top-K teacher the kept tokens are compared one by one and the rest as one
    bucket: sum_k p_k log(p_k / q_k) + r log(r / (1 - sum_k q_k)). This is the dense
    value where K = V, and never above it. Softening a top-K teacher takes the rest
    as spread evenly over the other tokens.

    Args:
        logits: the student's (B, T, V).
        teacher: log_probs (B, T, K).
        temperature: tau > 0.

    Returns:
        (B, T), in nats times tau².

    Raises:
        InputError: the temperature is not above 0.

    Examples:
        >>> student = torch.tensor([[[0.6, 0.3, 0.1]]]).log()
        >>> posteriors = torch.tensor([[[0.7, 0.2, 0.1]]]).log()
        >>> teacher = FramePosteriors(posteriors, torch.tensor([1]), blank=0)
        >>> round(kl(student, teacher, temperature=1.0).item(), 6)
        0.026812

    References:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015),
        https://arxiv.org/abs/1503.02531
    """
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise InputError(f"loss 'kl' got temperature = {temperature!r}; give a number")
    if not temperature > 0 or math.isinf(temperature):
        raise InputError(f"loss 'kl' got temperature = {temperature}; give one above 0")
    log_q = (logits / temperature).log_softmax(-1)  # (B, T, V)
    if teacher.ids is None:
        log_p = (teacher.log_probs / temperature).log_softmax(-1)  # (B, T, V)
        per_frame = (log_p.exp() * (log_p - log_q)).sum(-1)  # (B, T)
    else:
        log_p, log_r = _soften(teacher, logits.size(-1), temperature)
        # Added up, not 1 - sum_k q_k: a student too sure of the kept tokens for its
        # float type to tell that from 0 is still pulled back.
        log_rest = log_q.scatter(-1, teacher.ids, LOG_ZERO).logsumexp(-1)  # (B, T)
        log_q = log_q.gather(-1, teacher.ids)  # (B, T, K)
        per_frame = (log_p.exp() * (log_p - log_q)).sum(-1)  # (B, T)
        per_frame = per_frame + log_r.exp() * (log_r - log_rest)
    return per_frame * temperature**2


def _soften(
    teacher: FramePosteriors, tokens: int, temperature: float
) -> Tuple[Tensor, Tensor]:
    """Log-probabilities (B, T, K) and log rest (B, T) of a top-K teacher at tau."""
    log_p, log_r = teacher.log_probs, teacher.log_rest()
    if temperature == 1.0:
        return log_p, log_r
    others = max(tokens - log_p.size(-1), 1)
    # (tokens - K) tokens of mass r / (tokens - K), each to the power of 1 / tau.
    log_r = log_r / temperature + (1.0 - 1.0 / temperature) * math.log(others)
    log_p = log_p / temperature
    total = torch.logaddexp(log_p.logsumexp(-1), log_r)  # (B, T)
    return log_p - total.unsqueeze(-1), log_r - total
