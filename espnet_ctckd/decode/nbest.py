"""N-best hypotheses of a teacher, from its posteriors."""

from typing import List, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_ctckd.cache.nbest import Weighted
from espnet_ctckd.decode.prefix_beam import prefix_beam_search
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors


def nbest_of(
    teacher: FramePosteriors, tokens: Sequence[str], beam: int, number: int
) -> List[Weighted]:
    """Find the best hypotheses of an utterance.

    The probabilities are those of CTC, renormalized over the hypotheses found.

    Args:
        teacher: posteriors of one utterance, log_probs (1, U, K).
        tokens: V tokens.
        beam: beam size of the search.
        number: largest number of hypotheses.

    Returns:
        Hypotheses, the most probable first; their probabilities add up to 1.
    """
    ids = None if teacher.ids is None else teacher.ids[0].numpy()
    found = prefix_beam_search(teacher.log_probs[0].numpy(), teacher.blank, beam, ids)[
        :number
    ]
    # The beam search prunes alignments; the CTC loss sums over all of them.
    sequences = [list(hypothesis.tokens) for hypothesis in found]
    log_probs = _log_probabilities(teacher, sequences, len(tokens))
    shares = log_probs.softmax(0).tolist()
    ordered = sorted(zip(shares, sequences), key=lambda pair: -pair[0])
    return [(tuple(tokens[i] for i in ids), share) for share, ids in ordered]


def _log_probabilities(
    teacher: FramePosteriors, sequences: Sequence[Sequence[int]], size: int
) -> Tensor:
    """Return the log-probability of each sequence (N,), float64."""
    log_probs = teacher.log_dense(size)[0].double()  # (U, V)
    number = len(sequences)
    losses = F.ctc_loss(
        log_probs.clamp(min=LOG_ZERO).unsqueeze(1).expand(-1, number, -1),
        torch.tensor([i for ids in sequences for i in ids], dtype=torch.long),
        torch.full((number,), log_probs.size(0)),
        torch.tensor([len(ids) for ids in sequences]),
        blank=teacher.blank,
        reduction="none",
    )
    return -losses
