"""From what a cache or a list holds to what the training reads, in its data workers."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from espnet_ctckd.cache.codec import rename_tokens
from espnet_ctckd.cache.nbest import NBEST
from espnet_ctckd.cache.record import Records, fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.plugin.nbest import NBestReader

# Names of the data, beside ESPnet's own and `NBEST`.
TEACHER = "teacher"
STATES = "teacher_states"


@dataclass(frozen=True)
class PosteriorReader:
    """From a record of a cache to what the training reads, in the data workers.

    Args:
        records: of the cache.
        index: where the teacher's tokens stand in the student's list, as
            `map_tokens` gives it.
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
        """Log-probabilities (U, K), and where there are some, ids and states.

        Args:
            utt: the utterance.
            record: from the cache.
            speech: its audio (S,), to be held against what the teacher heard.

        Raises:
            InputError: the record is damaged, or not of this utterance and audio.
        """
        said = self.records.open(utt, record)
        if speech is not None and speech.ndim == 1:
            heard = fingerprint(speech)
            if heard != said.audio:
                raise InputError(
                    f"utterance {utt}: its audio ({heard}) is not what the teacher of "
                    f"{self.records.where} heard ({said.audio}): dump the teacher for "
                    "this data"
                )
        log_probs, ids = said.log_probs, said.ids
        if self.index is not None:
            log_probs, ids = rename_tokens(log_probs, ids, self.index, self.tokens)
        found = {TEACHER: log_probs, f"{TEACHER}_ids": ids, STATES: said.states}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class TeacherDecoder:
    """Preprocessor of what the teacher said of an utterance, in the data workers.

    Args:
        stock: what else is to be done, or None.
        posteriors: reads the cache; None where there is none.
        nbest: reads the n-best lists; None where nothing learns from them.
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
