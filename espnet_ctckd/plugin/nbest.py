"""Reading of n-best lists in training."""

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
    """Converts lines of an n-best list to training targets, in the data workers.

    Args:
        config: number of hypotheses and kind of weights.
        index: index of each token in the student's token list.
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
        """Read the tokens (L,), sizes (N,) and weights (N,) of an utterance.

        Args:
            utterance: name of the utterance.
            line: its line of the n-best list.
            text: its labels, if the weights need them.
            speech: its audio (S,), compared with the audio that was fed to the teacher.

        Raises:
            InputError: the list is damaged or belongs to another utterance or audio, or
                the student's token list lacks a token.
        """
        audio, hypotheses = from_line(line, utterance)
        if speech is not None and speech.ndim == 1:
            new_audio = fingerprint(speech)
            if new_audio != audio:
                raise InputError(
                    f"utterance {utterance}: its audio ({new_audio}) is not what "
                    f"the n-best list was computed from ({audio}): dump teacher "
                    "and lists for this data"
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
