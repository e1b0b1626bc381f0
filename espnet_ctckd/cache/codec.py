"""How the posteriors of an utterance are packed into a Kaldi matrix.

Any tool that reads Kaldi's ark reads these: a float32 matrix with a row a frame,
holding all V log-probabilities, or K of them and then the K token ids; then, where
they were asked for, the D dimensions of the hidden state.
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
        states: D, or 0 for none.

    Raises:
        InputError: K is not in [2, V).
    """

    tokens: int
    kept: Optional[int] = None
    states: int = 0

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
        return self._said + self.states

    @property
    def _said(self) -> int:
        return self.tokens if self.kept is None else 2 * self.kept

    def encode(
        self, log_probs: Tensor, blank: int, states: Optional[Tensor] = None
    ) -> np.ndarray:
        """Pack an utterance.

        Args:
            log_probs: (U, V).
            blank: index of the blank, which is always kept.
            states: (U, D), read where they are kept.

        Returns:
            (U, columns), float32.
        """
        parts = [log_probs.float()]
        if self.kept is not None:
            best, ids = log_probs.float().topk(self.kept)  # (U, K)
            lacks = (ids != blank).all(-1)  # (U,)
            ids[lacks, -1] = blank
            best[lacks, -1] = log_probs[lacks, blank].float()
            parts = [best, ids.float()]
        if self.states:
            assert states is not None
            parts.append(states.float())
        return torch.cat(parts, dim=-1).cpu().numpy()

    def decode(
        self, packed: np.ndarray
    ) -> Tuple[np.ndarray, Optional[np.ndarray], Optional[np.ndarray]]:
        """Unpack an utterance.

        Args:
            packed: (U, columns).

        Returns:
            Log-probabilities (U, K) float32, token ids (U, K) int64 or None where
            all are kept, and hidden states (U, D) or None where they are not kept.

        Raises:
            InputError: the matrix has other columns.
        """
        if packed.ndim != 2 or packed.shape[1] != self.columns:
            raise InputError(
                f"a matrix of the cache has the shape {packed.shape}; expected "
                f"{self.columns} columns. Dump the teacher again"
            )
        said, states = packed[:, : self._said], None
        if self.states:
            states = packed[:, self._said :]
        if self.kept is None:
            return said, None, states
        return said[:, : self.kept], said[:, self.kept :].astype(np.int64), states


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
