"""What the teacher says of whole utterances."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors, blank_padding


def occupancies(
    teacher: FramePosteriors, labels: Tensor, label_lengths: Tensor
) -> FramePosteriors:
    """The teacher's posteriors of each frame, given the transcript.

    How much of the probability of all alignments of the labels goes through each token
    at each frame: what the forward-backward algorithm gives, and what is left when the
    gradient of the teacher's CTC loss is taken from its posteriors.

    Args:
        teacher: dense, log_probs (B, U, V).
        labels: (B, N), padded with anything.
        label_lengths: (B,).

    Returns:
        log_probs (B, U, V) of the same frames. An utterance with too few frames for its
        labels keeps the posteriors.

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
    # Impossible tokens would make alignments of probability 0, and of them NaN.
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
    said = (log_probs.detach().exp() - gradient).clamp(min=0.0)
    said = said.log().clamp(min=LOG_ZERO).to(teacher.log_probs)
    return replace(teacher, log_probs=said, best=None)


@dataclass(frozen=True)
class Hypotheses:
    """What the teacher takes the utterances of a batch to say.

    Attributes:
        tokens: of the hypotheses of each utterance, end to end (B, L).
        sizes: tokens of each hypothesis (B, N), negative where there is none.
        weights: of each hypothesis (B, N), 0 where there is none.
    """

    tokens: Tensor
    sizes: Tensor
    weights: Tensor


def hypotheses_loss(
    log_probs: Tensor, lengths: Tensor, hypotheses: Hypotheses, blank: int
) -> Tensor:
    """Cross-entropy of the student's sequences to the teacher's best ones.

    -sum_h w_h log P(h), where CTC gives P(h), the mean of the utterances. A hypothesis
    that does not fit into the student's frames counts 0.

    Args:
        log_probs: of the student (B, T, V).
        lengths: (B,).
        hypotheses: of the teacher.
        blank: index of the blank.

    Returns:
        ().

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
