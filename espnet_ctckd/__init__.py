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
FRONTEND_NAME = "ctckd_huggingface"
ENCODER_NAME = "ctckd_skip_conformer"


def register() -> None:
    """Add what this package has to the choices of ESPnet's ASR task.

    ``model: ctckd``, ``frontend: ctckd_huggingface`` and ``encoder:
    ctckd_skip_conformer``; nothing else is changed. Calling it again does nothing.

    Raises:
        RuntimeError: the key belongs to another class.
    """
    from espnet2.tasks.asr import encoder_choices, frontend_choices, model_choices

    from espnet_ctckd.models.frontend import CTCKDHuggingFaceFrontend
    from espnet_ctckd.models.skip_encoder import CTCKDSkipConformerEncoder
    from espnet_ctckd.plugin.model import ESPnetCTCKDModel

    for choices, name, own in (
        (model_choices, MODEL_NAME, ESPnetCTCKDModel),
        (frontend_choices, FRONTEND_NAME, CTCKDHuggingFaceFrontend),
        (encoder_choices, ENCODER_NAME, CTCKDSkipConformerEncoder),
    ):
        present = choices.classes.setdefault(name, own)
        if present is not own:
            raise RuntimeError(
                f"the {choices.name} choice {name!r} of ESPnet is already taken by "
                f"{present.__module__}.{present.__qualname__}: uninstall or rename "
                "that one"
            )
