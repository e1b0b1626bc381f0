"""A teacher of one's own, in one file: the phoneme recogniser of the package `hama`.

pip install hama onnxruntime (Apache 2.0, 23 MB; MIT), and give a recipe or dump_teacher
``--teacher_type python --teacher local.hama_teacher:make``. It hears 16 kHz audio and
says 191 phonemes, the blank last, every 20 ms; no transcripts are needed to learn from
it.
"""

import numpy as np

try:
    import hama
except ImportError as error:
    raise ImportError("pip install hama") from error


class HamaTeacher:
    """What a teacher of one's own must have.

    Attributes:
        token_list: V names in the order of the outputs.
        blank: index of the blank.
        rate: samples per second.
    """

    def __init__(self, boundaries: bool) -> None:
        model = hama.ASRModel()
        self._session = model.session
        self.rate = int(model.model_sample_rate)
        self.blank = int(model.blank_id)
        # A space cannot stand in a file of tokens; the end of a word is one to ESPnet.
        names = {" ": "<gap>", "<wb>": "<space>"}
        self.token_list = [names.get(t, t) for t in model.decoder_tokens]
        # Where the student shall say phonemes alone, the others count as blank.
        self._silent = [
            index
            for index, token in enumerate(self.token_list)
            if not boundaries and token in names.values()
        ]

    def __call__(self, speech: np.ndarray) -> np.ndarray:
        """Map a waveform (S,), float32 in [-1, 1], to log-probabilities (U, V)."""
        log_probs, lengths = self._session.run(
            ["log_probs", "out_lengths"],
            {"waveform": speech[None], "waveform_lengths": np.array([len(speech)])},
        )
        said = log_probs[0, : int(lengths[0])]
        if self._silent:
            mass = [*self._silent, self.blank]
            said[:, self.blank] = np.logaddexp.reduce(said[:, mass], axis=1)
            said[:, self._silent] = -1e4
        return said

    def describe(self) -> dict[str, str]:
        """Provenance, for the cache."""
        return {"hama": getattr(hama, "__version__", "unknown")}


def make(boundaries: bool = True) -> HamaTeacher:
    """Make the teacher; with ``--teacher_conf boundaries=false``, of phonemes alone."""
    return HamaTeacher(boundaries)
