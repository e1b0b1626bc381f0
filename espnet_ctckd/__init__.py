"""Knowledge distillation of CTC speech recognisers, as a plug-in of ESPnet.

Legend of the shapes, used in every docstring of this package:

    B  utterances of a batch
    S  samples of an utterance
    U  frames of the teacher
    T  frames of the student
    V  tokens, blank included
    K  tokens kept of a frame (K == V when all are)
    N  labels of an utterance

References:
    Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based
    Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503
"""

__version__ = "0.1.0"

MODEL_NAME = "ctckd"


def register() -> None:
    """Add ``ctckd`` to the model choices of ESPnet's ASR task; nothing else changes.

    Calling it again does nothing.

    Raises:
        RuntimeError: the key belongs to another class.
    """
    from espnet2.tasks.asr import model_choices

    from espnet_ctckd.model import ESPnetCTCKDModel

    present = model_choices.classes.setdefault(MODEL_NAME, ESPnetCTCKDModel)
    if present is not ESPnetCTCKDModel:
        raise RuntimeError(
            f"the model choice {MODEL_NAME!r} of ESPnet is already taken by "
            f"{present.__module__}.{present.__qualname__}: uninstall or rename that one"
        )
