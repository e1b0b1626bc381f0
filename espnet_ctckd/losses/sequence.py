"""What the teacher says of whole utterances."""

from dataclasses import replace

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
