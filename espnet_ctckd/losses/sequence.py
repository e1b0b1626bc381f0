"""Sequence-level targets and losses."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors, blank_padding


def occupancies(
    teacher: FramePosteriors, labels: Tensor, label_lengths: Tensor
) -> FramePosteriors:
    """Compute the teacher's state posteriors (gamma) given the transcript.

    The occupation probability of a token in a frame is the share of the alignments'
    probability that passes through it, as computed by the forward-backward algorithm:
    the teacher's posteriors minus the gradient of its CTC loss.

    Args:
        teacher: dense, log_probs (B, U, V).
        labels: (B, N), with arbitrary padding.
        label_lengths: (B,).

    Returns:
        log_probs (B, U, V) of the same frames. An utterance with too few frames for its
        labels keeps its posteriors.

    Raises:
        InputError: the teacher is not dense.

    References:
        Huang, You, Chen, Qian, Yu, Knowledge Distillation for Sequence Model (2018),
        https://doi.org/10.21437/Interspeech.2018-1589
    """
    if teacher.ids is not None:
        raise InputError(
            "occupancies need the posteriors of all tokens, and the cache has the top "
            f"{teacher.log_probs.size(-1)}: dump the teacher without --top_k"
        )
    teacher = blank_padding(teacher)
    # Impossible tokens would give alignments of probability 0, and then NaN.
    log_probs = teacher.log_probs.detach().double().clamp(min=LOG_ZERO).log_softmax(-1)
    log_probs.requires_grad_()
    with torch.enable_grad():
        loss = F.ctc_loss(
            log_probs.transpose(0, 1),
            torch.cat([row[:n] for row, n in zip(labels, label_lengths)]),
            teacher.lengths,
            label_lengths,
            blank=teacher.blank,
            reduction="sum",
            zero_infinity=True,
        )
    (gradient,) = torch.autograd.grad(loss, log_probs)  # (B, U, V)
    gamma = (log_probs.detach().exp() - gradient).clamp(min=0.0)
    log_gamma = gamma.log().clamp(min=LOG_ZERO).to(teacher.log_probs)
    return replace(teacher, log_probs=log_gamma, best=None)


@dataclass(frozen=True)
class Hypotheses:
    """The teacher's n-best hypotheses of a batch.

    Attributes:
        tokens: concatenated tokens of the hypotheses of each utterance (B, L).
        sizes: number of tokens of each hypothesis (B, N), negative in padding.
        weights: weight of each hypothesis (B, N), 0 in padding.
    """

    tokens: Tensor
    sizes: Tensor
    weights: Tensor


def hypotheses_loss(
    log_probs: Tensor, lengths: Tensor, hypotheses: Hypotheses, blank: int
) -> Tensor:
    """Compute the cross entropy of the student on the teacher's n-best hypotheses.

    The loss is -sum_h w_h log P(h), with P(h) from CTC, averaged over utterances. A
    hypothesis that needs more frames than the student has contributes 0.

    Args:
        log_probs: the student's log-probabilities (B, T, V).
        lengths: (B,).
        hypotheses: n-best hypotheses of the teacher.
        blank: index of the blank.

    Returns:
        The loss ().

    References:
        Takashima, Li, Kawai, An Investigation of a Knowledge Distillation Method for
        CTC Acoustic Models (2018), https://doi.org/10.1109/ICASSP.2018.8461995
    """
    sizes = hypotheses.sizes.clamp(min=0)  # (B, N)
    ends = sizes.cumsum(1)  # (B, N)
    weights = hypotheses.weights.to(log_probs)
    by_time = log_probs.transpose(0, 1)  # (T, B, V)
    places = torch.arange(hypotheses.tokens.size(1), device=ends.device)
    total = log_probs.new_zeros(log_probs.size(0))  # (B,)
    for n in range(sizes.size(1)):
        end = ends[:, n].unsqueeze(1)
        inside = (places < end) & (places >= end - sizes[:, n].unsqueeze(1))  # (B, L)
        losses = F.ctc_loss(
            by_time,
            hypotheses.tokens[inside],
            lengths,
            sizes[:, n],
            blank=blank,
            reduction="none",
            zero_infinity=True,
        )  # (B,)
        total = total + weights[:, n] * losses
    return total.mean()
