"""Knowledge distillation of CTC speech recognisers, as a plug-in of ESPnet.

Legend of the shapes, used in every docstring of this package:

    B  utterances of a batch
    S  samples of an utterance
    U  frames of the teacher
    T  frames of the student
    V  tokens, blank included
    K  tokens kept per frame (K == V when all are kept)
    N  labels of an utterance

Legend of the terms:

    teacher       a model, or several, whose posteriors the student learns from
    student       the ESPnet CTC model that is trained
    posteriors    log-probabilities of the tokens in each frame
    spike         a maximal run of frames with one non-blank argmax
    frame shift   time from one frame of posteriors to the next, in samples or ms
    top K         the K most probable tokens of a frame, the blank among them
    tail mass     probability outside the top K of a frame
    cache         a folder with the posteriors of a teacher, in shards of records
    record        the posteriors of one utterance in a cache
    compression   top K tokens and quantized log-probabilities in place of float32
    packing       writing a model and its files to one archive
    selector      chooses, or weights, the frames that a loss is computed on
    loss          distance between student and teacher in one frame
    reduction     averages the frame losses of a batch
    objective     selector, loss, reduction, and the alignment of the frames
    term          a summand of the training loss, e.g. ``ctc``, ``frames``, ``feature``
    state         hidden vector of a frame, before the output layer
    occupancies   state posteriors (gamma) of the tokens given the transcript
    n-best list   hypotheses of a teacher with their probabilities
    online        the teacher computes during training, without a cache
    unlabelled    audio without transcripts

The public names below are imported on first use, so importing this package needs
neither torch nor ESPnet.

References:
    Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based
    Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503
"""

import importlib
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from espnet_ctckd.choices import Choice as Choice
    from espnet_ctckd.config import KDConfig as KDConfig
    from espnet_ctckd.decode.registry import DECODER_CHOICES as DECODER_CHOICES
    from espnet_ctckd.losses import LOSS_CHOICES as LOSS_CHOICES
    from espnet_ctckd.objective import KDObjective as KDObjective
    from espnet_ctckd.plugin.terms import TERM_CHOICES as TERM_CHOICES
    from espnet_ctckd.posteriors import FramePosteriors as FramePosteriors
    from espnet_ctckd.reduce import REDUCTION_CHOICES as REDUCTION_CHOICES
    from espnet_ctckd.select import SELECTOR_CHOICES as SELECTOR_CHOICES
    from espnet_ctckd.teachers import TEACHER_CHOICES as TEACHER_CHOICES
    from espnet_ctckd.teachers import Teacher as Teacher

__version__ = "0.2.0"

# Public names, and the modules that define them (PEP 562).
_EXPORTS = {
    "Choice": "espnet_ctckd.choices",
    "DECODER_CHOICES": "espnet_ctckd.decode.registry",
    "FramePosteriors": "espnet_ctckd.posteriors",
    "KDConfig": "espnet_ctckd.config",
    "KDObjective": "espnet_ctckd.objective",
    "LOSS_CHOICES": "espnet_ctckd.losses",
    "REDUCTION_CHOICES": "espnet_ctckd.reduce",
    "SELECTOR_CHOICES": "espnet_ctckd.select",
    "TEACHER_CHOICES": "espnet_ctckd.teachers",
    "TERM_CHOICES": "espnet_ctckd.plugin.terms",
    "Teacher": "espnet_ctckd.teachers",
}
__all__ = [*sorted(_EXPORTS), "register"]

MODEL_NAME = "ctckd"
FRONTEND_NAME = "ctckd_huggingface"
ENCODER_NAME = "ctckd_skip_conformer"


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    """Return all names of the module, imported or not."""
    return sorted({*globals(), *_EXPORTS})


def register() -> None:
    """Register the classes of this package with ESPnet's ASR task.

    Adds ``model: ctckd``, ``frontend: ctckd_huggingface`` and ``encoder:
    ctckd_skip_conformer``; nothing else is changed. Calling it again does nothing.

    Raises:
        RuntimeError: another class is registered under the name.
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
