"""Preprocessing of cached posteriors and n-best lists, in the data workers."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from espnet_ctckd.cache.codec import rename_tokens
from espnet_ctckd.cache.nbest import NBEST
from espnet_ctckd.cache.record import Records, fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.plugin.nbest import NBestReader

# Data names in addition to ESPnet's and `NBEST`.
TEACHER = "teacher"
STATES = "teacher_states"


@dataclass(frozen=True)
class PosteriorReader:
    """Converts records of a cache to training targets, in the data workers.

    Args:
        records: decoder of the cache's records.
        index: the student's index of each of the teacher's tokens, from `map_tokens`;
            None if the token lists are the same.
        tokens: V of the student.
        blank: index of the blank among the student's tokens.
    """

    records: Records
    index: Optional[List[int]]
    tokens: int
    blank: int

    def read(
        self, utt: str, record: np.ndarray, speech: Optional[np.ndarray]
    ) -> Dict[str, np.ndarray]:
        """Read log-probabilities (U, K) and, if the record has them, ids and states.

        Args:
            utt: name of the utterance.
            record: its record in the cache.
            speech: its audio (S,), compared with the audio that was fed to the teacher.

        Raises:
            InputError: the record is damaged, or belongs to another utterance or audio.
        """
        decoded = self.records.open(utt, record)
        if speech is not None and speech.ndim == 1:
            audio = fingerprint(speech)
            if audio != decoded.audio:
                raise InputError(
                    f"utterance {utt}: its audio ({audio}) is not what "
                    f"{self.records.where} was computed from ({decoded.audio}): dump "
                    "the teacher for this data"
                )
        log_probs, ids = decoded.log_probs, decoded.ids
        if self.index is not None:
            log_probs, ids = rename_tokens(log_probs, ids, self.index, self.tokens)
        found = {TEACHER: log_probs, f"{TEACHER}_ids": ids, STATES: decoded.states}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class TeacherDecoder:
    """Preprocessor that adds the teacher's targets, in the data workers.

    Args:
        stock: ESPnet's preprocessor, or None.
        posteriors: reader of the cache, or None without a cache.
        nbest: reader of the n-best lists, or None if no term learns from them.
    """

    stock: Optional[Callable[..., Any]]
    posteriors: Optional[PosteriorReader]
    nbest: Optional[NBestReader]

    def __call__(self, uid: str, data: Dict[str, Any]) -> Dict[str, np.ndarray]:
        """Preprocess one utterance."""
        record, line = data.pop(TEACHER, None), data.pop(NBEST, None)
        speech = data.get("speech")
        if self.stock is not None:
            data = self.stock(uid, data)
        if record is not None and self.posteriors is not None:
            data.update(self.posteriors.read(uid, record, speech))
        if line is not None and self.nbest is not None:
            data.update(self.nbest.read(uid, line, data.get("text"), speech))
        return data
