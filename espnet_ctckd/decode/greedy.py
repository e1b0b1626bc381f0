"""Greedy CTC decoding."""

from typing import List, Sequence

import numpy as np
import torch
from torch import Tensor

from espnet_ctckd.decode.base import Hypothesis, PaddedDecoder
from espnet_ctckd.paths import greedy

__all__ = ["GreedyDecoder", "greedy"]


class GreedyDecoder(PaddedDecoder):
    """Greedy decoder: best token of each frame, repetitions merged, blanks removed.

    The score is the log-probability of the path.

    References:
        Graves et al., Connectionist Temporal Classification (2006),
        https://doi.org/10.1145/1143844.1143891
    """

    def __call__(self, log_probs: Sequence[np.ndarray]) -> List[List[Hypothesis]]:
        """Decode utterances; see `Decoder`."""
        return [[self._decode(each)] for each in log_probs]

    def _decode(self, log_probs: np.ndarray) -> Hypothesis:
        batch = torch.from_numpy(log_probs).unsqueeze(0)  # (1, U, V)
        lengths = torch.tensor([len(log_probs)])
        (tokens,) = self.decode_padded(batch, lengths)
        return self.hypothesis(tokens, float(log_probs.max(1).sum()))

    def decode_padded(self, log_probs: Tensor, lengths: Tensor) -> List[List[int]]:
        """Decode a batch; see `Decoder`."""
        return greedy(log_probs, lengths, self.vocabulary.blank)
