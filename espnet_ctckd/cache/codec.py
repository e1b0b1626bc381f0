"""How the posteriors of an utterance are packed into a Kaldi matrix.

Any tool that reads Kaldi's ark reads these: a float32 matrix with a row a frame,
holding all V log-probabilities, or K of them and then the K token ids.
"""

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import LOG_ZERO

# Ids are stored as float32, which is exact up to here.
_MOST_TOKENS = 2**24


@dataclass(frozen=True)
class Codec:
    """Packing of a cache.

    Attributes:
        tokens: V.
        kept: K, or None for all.

    Raises:
        InputError: K is not in [2, V).
    """

    tokens: int
    kept: Optional[int] = None

    def __post_init__(self) -> None:
        if self.tokens > _MOST_TOKENS:
            raise InputError(f"{self.tokens} tokens; at most {_MOST_TOKENS} are packed")
        # The blank is always kept, and says nothing without another beside it.
        if self.kept is not None and not 1 < self.kept < self.tokens:
            raise InputError(
                f"--top_k is {self.kept}; give one from 2 to {self.tokens - 1}, or 0 "
                f"to keep all {self.tokens} tokens"
            )

    @property
    def columns(self) -> int:
        """Columns of a packed matrix."""
        return self.tokens if self.kept is None else 2 * self.kept

    def encode(self, log_probs: Tensor, blank: int) -> np.ndarray:
        """Pack an utterance.

        Args:
            log_probs: (U, V).
            blank: index of the blank, which is always kept.

        Returns:
            (U, columns), float32.
        """
        if self.kept is None:
            return log_probs.float().cpu().numpy()
        best, ids = log_probs.float().topk(self.kept)  # (U, K)
        lacks = (ids != blank).all(-1)  # (U,)
        ids[lacks, -1] = blank
        best[lacks, -1] = log_probs[lacks, blank].float()
        return torch.cat([best, ids.float()], dim=-1).cpu().numpy()

    def decode(self, packed: np.ndarray) -> Tuple[np.ndarray, Optional[np.ndarray]]:
        """Unpack an utterance.

        Args:
            packed: (U, columns).

        Returns:
            Log-probabilities (U, K) float32, and token ids (U, K) int64 or None where
            all are kept.

        Raises:
            InputError: the matrix has other columns.
        """
        if packed.ndim != 2 or packed.shape[1] != self.columns:
            raise InputError(
                f"a matrix of the cache has the shape {packed.shape}; expected "
                f"{self.columns} columns. Dump the teacher again"
            )
        if self.kept is None:
            return packed, None
        return packed[:, : self.kept], packed[:, self.kept :].astype(np.int64)


def rename_tokens(
    log_probs: np.ndarray, ids: Optional[np.ndarray], index: Sequence[int], tokens: int
) -> Tuple[np.ndarray, Optional[np.ndarray]]:
    """Put the posteriors of an utterance into the student's order.

    Args:
        log_probs: (U, K).
        ids: the tokens that they belong to (U, K), or None where all are there.
        index: the student's index of each of the teacher's tokens, as
            `espnet_ctckd.align.map_tokens` gives it.
        tokens: V of the student.

    Returns:
        log_probs (U, V) and None, or (U, K) and ids (U, K).
    """
    place = np.asarray(index)
    if ids is not None:
        return log_probs, place[ids]
    renamed = np.full((log_probs.shape[0], tokens), LOG_ZERO, log_probs.dtype)
    renamed[:, place] = log_probs
    return renamed, None
