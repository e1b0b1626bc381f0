"""Frame losses, without reduction.

A frame loss maps the student's logits (B, T, V) and the teacher's posteriors
(B, T, K) to values (B, T). Both are float32 or float64. With a top-K teacher, losses
are computed over the K kept tokens and one class for all others, in both teacher and
student; for K = V this is the dense loss.
"""

import math
from typing import Any, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors


def kl(logits: Tensor, teacher: FramePosteriors, *, temperature: float) -> Tensor:
    """Compute tau² KL(teacher ‖ student), both softened by the temperature tau.

    KL is sum_c p_c log(p_c / q_c). When a top-K teacher is softened, its tail mass is
    assumed to be spread evenly over the other tokens.

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
    log_p, log_q = _soften("kl", logits, teacher, temperature)
    p = log_p.exp()
    # In place, which saves one (B, T, V) tensor of peak memory.
    values: Tensor = torch.linalg.vecdot(p, log_p.sub_(log_q))
    return values * temperature**2


def reverse_kl(
    logits: Tensor, teacher: FramePosteriors, *, temperature: float
) -> Tensor:
    """Compute tau² KL(student ‖ teacher), both softened by the temperature tau.

    KL is sum_c q_c log(q_c / p_c): mode-seeking, with a penalty for tokens that the
    teacher considers impossible, bounded by `LOG_ZERO`.

    Args:
        logits: the student's (B, T, V).
        teacher: log_probs (B, T, K).
        temperature: tau > 0.

    Returns:
        (B, T), in nats times tau².

    Raises:
        InputError: the temperature is not above 0.

    References:
        Gu, Dong, Wei, Huang, MiniLLM: Knowledge Distillation of Large Language
        Models (2023), https://arxiv.org/abs/2306.08543
    """
    log_p, log_q = _soften("reverse_kl", logits, teacher, temperature)
    if teacher.ids is not None:
        # The kept tokens of a confident teacher sum to 1 up to rounding, so the tail
        # mass is clamped to the rounding error.
        floor = math.log(torch.finfo(log_p.dtype).eps)
        log_p = torch.cat([log_p[..., :-1], log_p[..., -1:].clamp(min=floor)], -1)
    return _kl(log_q, log_p) * temperature**2


def cross_entropy(
    logits: Tensor, teacher: FramePosteriors, *, temperature: float
) -> Tensor:
    """Compute tau² times the cross entropy of teacher and student, softened by tau.

    The cross entropy -sum_c p_c log q_c is KL plus the teacher's entropy, so its
    gradient equals that of `kl`.

    Args:
        logits: the student's (B, T, V).
        teacher: log_probs (B, T, K).
        temperature: tau > 0.

    Returns:
        (B, T), in nats times tau².

    Raises:
        InputError: the temperature is not above 0.

    References:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015),
        https://arxiv.org/abs/1503.02531
    """
    log_p, log_q = _soften("cross_entropy", logits, teacher, temperature)
    return -(log_p.exp() * log_q).sum(-1) * temperature**2


def l2(logits: Tensor, teacher: FramePosteriors) -> Tensor:
    """Compute the squared Euclidean distance of the posteriors, sum_c (p_c - q_c)².

    Args:
        logits: the student's (B, T, V).
        teacher: log_probs (B, T, K).

    Returns:
        (B, T).

    References:
        Yoon, Lee, Kim, Cho, Kim, TutorNet: Towards Flexible Knowledge Distillation
        for End-to-End Speech Recognition (2020),
        https://arxiv.org/abs/2008.00671
    """
    log_p, log_q = _soften("l2", logits, teacher, 1.0)
    return (log_p.exp() - log_q.exp()).square().sum(-1)


def blank_factorized_kl(
    logits: Tensor,
    teacher: FramePosteriors,
    *,
    blank_weight: float = 1.0,
    nonblank_weight: float = 1.0,
    nonblank_frames_only: bool = False,
) -> Tensor:
    """Compute KL factorized into blank against non-blank, and among non-blank tokens.

    The loss is a KL(p(blank) ‖ q(blank)) + b (1 - p(blank)) KL(p(. | not blank) ‖
    q(. | not blank)), where the first KL has two classes; for a = b = 1 it equals
    `kl`.

    Args:
        logits: the student's (B, T, V).
        teacher: log_probs (B, T, K).
        blank_weight: a.
        nonblank_weight: b.
        nonblank_frames_only: omit the second term on the teacher's blank frames.

    Returns:
        (B, T), in nats.

    Raises:
        InputError: a weight is not a number of at least 0.

    References:
        Tian, Li, Lyv et al., Factorized and Progressive Knowledge Distillation for
        CTC-based ASR Models (2024), https://doi.org/10.1016/j.specom.2024.103071
    """
    name = "blank_factorized_kl"
    _check_weights(name, blank_weight=blank_weight, nonblank_weight=nonblank_weight)
    log_p, log_q = _soften(name, logits, teacher, 1.0)
    of_blank, conditional = _split(log_p, log_q, _is_token(teacher, teacher.blank))
    if nonblank_frames_only:
        conditional = conditional * (teacher.argmax() != teacher.blank)
    return blank_weight * of_blank + nonblank_weight * conditional


def decoupled(
    logits: Tensor,
    teacher: FramePosteriors,
    *,
    temperature: float,
    target_weight: float = 1.0,
    nontarget_weight: float = 8.0,
) -> Tensor:
    """Compute KL decoupled into the teacher's best token, and the other tokens.

    The loss is tau² (a KL(p(best) ‖ q(best)) + b KL(p(. | not best) ‖ q(. | not
    best))): unlike in `kl`, the second term does not shrink when the teacher is
    confident of its best token.

    Args:
        logits: the student's (B, T, V).
        teacher: log_probs (B, T, K).
        temperature: tau > 0.
        target_weight: a.
        nontarget_weight: b.

    Returns:
        (B, T), in nats times tau².

    Raises:
        InputError: the temperature is not above 0, or a weight below 0.

    References:
        Zhao, Cui, Song, Qiu, Liang, Decoupled Knowledge Distillation (2022),
        https://arxiv.org/abs/2203.08679
    """
    name = "decoupled"
    _check_weights(name, target_weight=target_weight, nontarget_weight=nontarget_weight)
    log_p, log_q = _soften(name, logits, teacher, temperature)
    best = teacher.log_probs.argmax(-1, keepdim=True)  # (B, T, 1)
    target = torch.zeros_like(log_p, dtype=torch.bool).scatter(-1, best, True)
    of_target, others = _split(log_p, log_q, target, decoupled=True)
    return temperature**2 * (target_weight * of_target + nontarget_weight * others)


def guided_ctc(
    logits: Tensor, teacher: FramePosteriors, *, log: bool = False
) -> Tensor:
    """Return the negative student probability of the teacher's best token.

    With the selector ``blank_elimination`` and the reduction ``utt_sum`` this is the
    guiding term of guided CTC training; its value is at most 0.

    Args:
        logits: the student's (B, T, V).
        teacher: log_probs (B, T, K).
        log: use the log-probability, in nats.

    Returns:
        (B, T).

    Raises:
        InputError: ``log`` is not true or false.

    References:
        Kurata, Audhkhasi, Guiding CTC Posterior Spike Timings for Improved
        Posterior Fusion and Knowledge Distillation (2019),
        https://arxiv.org/abs/1904.08311
    """
    if not isinstance(log, bool):
        raise InputError(f"loss 'guided_ctc' got log = {log!r}; give true or false")
    best = teacher.argmax().unsqueeze(-1)  # (B, T, 1)
    log_q = logits.gather(-1, best).squeeze(-1) - logits.logsumexp(-1)  # (B, T)
    return -log_q if log else -log_q.exp()


def _check_weights(name: str, **weights: Any) -> None:
    for key, value in weights.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"loss {name!r} got {key} = {value!r}; give a number")
        if not 0.0 <= value < math.inf:
            raise InputError(f"loss {name!r} got {key} = {value}; give one >= 0")


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    values: Tensor = torch.linalg.vecdot(log_p.exp(), log_p - log_q)
    return values


def _split(
    log_p: Tensor, log_q: Tensor, one: Tensor, decoupled: bool = False
) -> Tuple[Tensor, Tensor]:
    """Return KL of one token against the others, and KL among the others (B, T each).

    The latter is weighted by the teacher's mass of the others, unless decoupled.
    """
    log_p1, log_q1 = (_pick(x, one) for x in (log_p, log_q))  # (B, T)
    p_others, q_others = (x.masked_fill(one, LOG_ZERO) for x in (log_p, log_q))
    log_p0, log_q0 = p_others.logsumexp(-1), q_others.logsumexp(-1)  # (B, T)
    binary = log_p1.exp() * (log_p1 - log_q1) + log_p0.exp() * (log_p0 - log_q0)
    p_others = (p_others - log_p0.unsqueeze(-1)).masked_fill(one, LOG_ZERO)
    q_others = (q_others - log_q0.unsqueeze(-1)).masked_fill(one, LOG_ZERO)
    among = _kl(p_others, q_others)  # (B, T)
    return binary, among if decoupled else log_p0.exp() * among


def _pick(x: Tensor, one: Tensor) -> Tensor:
    return x.masked_fill(~one, 0.0).sum(-1)


def _is_token(teacher: FramePosteriors, token: int) -> Tensor:
    """Return the mask of a token, (B, T, V) or (B, T, K + 1) with top K, bool."""
    if teacher.ids is None:
        one = torch.zeros_like(teacher.log_probs, dtype=torch.bool)
        one[..., token] = True
        return one
    return torch.nn.functional.pad(teacher.ids == token, (0, 1))


def _soften(
    name: str, logits: Tensor, teacher: FramePosteriors, temperature: float
) -> Tuple[Tensor, Tensor]:
    """Return log-probabilities of teacher and student, softened, over the same classes.

    The shapes are (B, T, V) with a dense teacher and (B, T, K + 1) with a top-K
    teacher; the last class is then the tail.
    """
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise InputError(
            f"loss {name!r} got temperature = {temperature!r}; give a number"
        )
    if not temperature > 0 or math.isinf(temperature):
        raise InputError(
            f"loss {name!r} got temperature = {temperature}; give a finite one above 0"
        )
    if teacher.ids is None:
        log_p = (teacher.log_probs / temperature).log_softmax(-1)  # (B, T, V)
        return log_p, (logits / temperature).log_softmax(-1)
    log_tail = teacher.log_rest().unsqueeze(-1)  # (B, T, 1)
    if temperature != 1.0:
        # (V - K) tokens of mass r / (V - K), each to the power of 1 / tau.
        others = max(logits.size(-1) - teacher.log_probs.size(-1), 1)
        log_tail = log_tail / temperature + (1 - 1 / temperature) * math.log(others)
    log_p = torch.cat([teacher.log_probs / temperature, log_tail], -1)
    if temperature != 1.0:
        log_p = log_p.log_softmax(-1)
    scores: Tensor = _TopKAndTail.apply(  # type: ignore[no-untyped-call]
        logits, teacher.ids, temperature
    )
    return log_p, scores.log_softmax(-1)


class _TopKAndTail(torch.autograd.Function):
    """Softened logits of the top K tokens, and the logsumexp of all others.

    Forward and backward take one pass over the tokens each.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        """Map logits (B, T, V) and ids (B, T, K) to (B, T, K + 1)."""
        kept = logits.gather(-1, ids)  # (B, T, K)
        others = logits.scatter(-1, ids, -math.inf)  # (B, T, V)
        top = others.amax(-1, keepdim=True).clamp(min=LOG_ZERO)  # (B, T, 1)
        torch.add(-top / temperature, others, alpha=1 / temperature, out=others).exp_()
        total = others.sum(-1, keepdim=True)  # (B, T, 1)
        ctx.save_for_backward(others, total, ids)
        ctx.temperature = temperature
        rest = (total.log() + top / temperature).clamp(min=LOG_ZERO)
        return torch.cat([kept / temperature, rest], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None, None]:
        """Map the gradient (B, T, K + 1) to the gradient of the logits (B, T, V)."""
        others, total, ids = ctx.saved_tensors
        gradient = gradient / ctx.temperature
        nothing = total == 0
        factor = gradient[..., -1:] / total.masked_fill(nothing, 1.0)
        of_logits = others * factor.masked_fill(nothing, 0.0)
        return of_logits.scatter_(-1, ids, gradient[..., :-1].contiguous()), None, None
