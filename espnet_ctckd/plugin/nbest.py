"""N-best lists as a training reads them."""

import math
from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Sequence

import numpy as np

from espnet_ctckd.cache.nbest import NBEST, from_line
from espnet_ctckd.cache.record import fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import NBestConfig
from espnet_ctckd.evaluation.score import count_errors


@dataclass(frozen=True)
class NBestReader:
    """From a line to what the training reads, in the data workers.

    Args:
        config: which hypotheses, and their weights.
        index: the student's index of each token.
    """

    config: NBestConfig
    index: Mapping[str, int]

    def read(
        self,
        utterance: str,
        line: str,
        text: Optional[np.ndarray],
        speech: Optional[np.ndarray] = None,
    ) -> Dict[str, np.ndarray]:
        """Tokens (L,), sizes (N,) and weights (N,) of an utterance.

        Args:
            utterance: its name.
            line: of the file.
            text: its labels, where the weights need them.
            speech: its audio (S,), to be held against what the teacher heard.

        Raises:
            InputError: the list is damaged or not of this utterance and audio, or a
                token is not the student's.
        """
        audio, hypotheses = from_line(line, utterance)
        if speech is not None and speech.ndim == 1:
            heard = fingerprint(speech)
            if heard != audio:
                raise InputError(
                    f"utterance {utterance}: its audio ({heard}) is not what the "
                    f"teacher of the n-best list heard ({audio}): dump teacher and "
                    "lists for this data"
                )
        hypotheses = hypotheses[: self.config.hypotheses]
        lacks = sorted({t for ids, _ in hypotheses for t in ids} - self.index.keys())
        if lacks:
            raise InputError(
                f"utterance {utterance}: the student's token list lacks {lacks[0]!r} "
                "of the n-best list: dump the n-best list of a teacher that has the "
                "student's tokens"
            )
        ids = [[self.index[token] for token in tokens] for tokens, _ in hypotheses]
        weights = self._weigh([share for _, share in hypotheses], ids, text)
        return {
            NBEST: np.array([i for sequence in ids for i in sequence], dtype=np.int64),
            f"{NBEST}_sizes": np.array([len(s) for s in ids], dtype=np.int64),
            f"{NBEST}_weights": weights.astype(np.float32),
        }

    def _weigh(
        self,
        shares: Sequence[float],
        ids: Sequence[Sequence[int]],
        text: Optional[np.ndarray],
    ) -> np.ndarray:
        kind, scale = self.config.weights, self.config.scale
        scores = [0.0] * len(shares)
        if kind == "posterior":
            scores = [scale * math.log(max(share, 1e-300)) for share in shares]
        elif kind == "accuracy":
            assert text is not None
            labels = text.tolist()
            right = [
                1 - count_errors(labels, s).errors / max(len(labels), 1) for s in ids
            ]
            scores = [scale * share for share in right]
        elif kind == "best":
            scores[1:] = [-math.inf] * len(scores[1:])
        likely = np.exp(np.array(scores) - max(scores))
        weights: np.ndarray = likely / likely.sum()
        return weights
