"""Loading, encoding and measuring of trained ESPnet models."""

import contextlib
import copy
import math
import os
import pickle
import re
import tempfile
import traceback
from argparse import Namespace
from fractions import Fraction
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
)

import humanfriendly
import torch
import yaml
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.abs_task import AbsTask
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.s2t_ctc import S2TTask
from torch import Tensor

from espnet_ctckd import MODEL_NAME, register
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import own_parameters
from espnet_ctckd.data.files import Pathlike, shorten
from espnet_ctckd.models.checkpoint import load_config, load_weights
from espnet_ctckd.models.probe import frames_per_shift, least_samples

# ESPnet's preprocessors for ASR and OWSM-CTC, which treat audio in the same way.
_PREPROCESSORS = ("default", "multi", "s2t_ctc")
# Maximum file size; sentencepiece models and feature statistics are far smaller.
_MOST_BYTES = 2**28


def load_espnet_model(
    config_file: Pathlike,
    model_file: Pathlike,
    device: str = "cpu",
    task: Type[AbsTask] = ASRTask,
) -> Tuple[Any, Namespace]:
    """Build an ESPnet model and load its weights strictly.

    Args:
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        device: device of the model.
        task: ESPnet task, see `task_of`.

    Returns:
        The model in eval mode, and the training arguments.

    Raises:
        InputError: a file is missing or damaged, or the weights do not match.
    """
    register()
    conf = load_config(config_file)
    tokens = conf.get("token_list")
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        raise InputError(
            f"{config_file} holds no token list; give the config.yaml that the "
            "training wrote beside its weights"
        )
    check_named_files(conf, config_file)
    for key in ("encoder_conf", "frontend_conf", "model_conf", "preprocessor_conf"):
        if not isinstance(conf.get(key) or {}, dict):
            raise InputError(
                f"{config_file}: {key} is {conf[key]!r}; give a mapping of options"
            )
    sample_rate(Namespace(frontend_conf=conf.get("frontend_conf")))
    states = load_weights(model_file, device)
    given = Namespace(**conf)
    try:
        # Without weights: ESPnet would load them with pickle, and not strictly.
        with _for_inference(config_file) as (path, unused), named_errors(given):
            model, args = task.build_model_from_file(path, None, device)
    except InputError as error:
        raise InputError(f"cannot build the model of {config_file}: {error}") from error
    except ImportError as error:
        raise InputError(
            f"cannot build the model of {config_file}, which needs a library that is "
            f"not installed ({error}): install that"
        ) from error
    # ESPnet and torch raise many types of errors for other configurations and the files
    # that they name; the unpickler refuses other objects than tensors.
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        # torch's message adds unsafe advice.
        if isinstance(error, pickle.UnpicklingError):
            reason = "a file that it names holds more than tensors"
        raise InputError(
            f"cannot build the model of {config_file} ({type(error).__name__}: "
            f"{reason}): is it of this ESPnet?"
        ) from error
    states = {k: v for k, v in states.items() if not k.startswith(unused)}
    try:
        model.load_state_dict(states)
    except RuntimeError as error:
        raise InputError(
            f"the weights {model_file} are not of the model {config_file}: "
            f"{shorten([line.strip()[:200] for line in str(error).splitlines()], 3)}"
        ) from None
    return model.eval(), args


# How ESPnet's ``build_model`` calls the constructor of a part.
_CONSTRUCTOR = re.compile(r"= (\w+?)(?:_class)?\(", re.IGNORECASE)


@contextlib.contextmanager
def named_errors(args: Namespace) -> Iterator[None]:
    """Let the errors of ESPnet's constructors name the configuration.

    Args:
        args: the training arguments.

    Raises:
        InputError: a part cannot be built as it is configured.
    """
    try:
        yield
    except (InputError, ImportError, OSError):
        raise
    # Constructors assert, divide and look up what they are given.
    except Exception as error:
        lines = [
            frame.line or ""
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.name == "build_model"
        ]
        if not lines:  # it comes from the training
            raise
        found = _CONSTRUCTOR.search(lines[-1])
        part = found[1].lower() if found else "model"
        name = getattr(args, part, None)
        conf = getattr(args, f"{part}_conf", None) or {}
        if part == "model":
            conf = {key: value for key, value in conf.items() if key != "kd"}
        raise InputError(
            f"ESPnet cannot build {part}{f' {name!r}' if name else ''} with "
            f"{part}_conf {conf}: {type(error).__name__}: {error}"
        ) from error


def check_named_files(conf: Mapping[str, Any], config_file: Pathlike) -> None:
    """Check that the files named in a configuration are regular files.

    Missing files are accepted, as not every command reads them.

    Args:
        conf: contents of ``config.yaml``.
        config_file: its path, for the error.

    Raises:
        InputError: ``bpemodel`` or ``normalize_conf.stats_file`` is not a path, is a
            device, pipe or folder, or is larger than any such file.
    """
    normalize = conf.get("normalize_conf") or {}
    if not isinstance(normalize, dict):
        raise InputError(
            f"{config_file}: normalize_conf is {normalize!r}; give a mapping of options"
        )
    named = {
        "bpemodel": conf.get("bpemodel"),
        "normalize_conf.stats_file": normalize.get("stats_file"),
    }
    for key, path in named.items():
        if path is None:
            continue
        if not isinstance(path, str):
            raise InputError(
                f"{config_file}: {key} is {path!r}; give the path of a file"
            )
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(
                f"{config_file} names {path} as {key}, which is no regular file: give "
                "the file that the model was trained with"
            )
        size = os.path.getsize(path) if os.path.exists(path) else 0
        if size > _MOST_BYTES:
            raise InputError(
                f"{config_file} names {path} as {key}, which has "
                f"{size} bytes; at most {_MOST_BYTES} are read: "
                "give the file that the model was trained with"
            )


# Front-ends that load pretrained weights from a hub.
_HUB_FRONTENDS = ("huggingface", "ctckd_huggingface")


@contextlib.contextmanager
def _for_inference(
    config_file: Pathlike,
) -> Iterator[Tuple[Pathlike, Tuple[str, ...]]]:
    """Write a configuration without the parts that CTC inference does not use.

    Losses and decoders may need libraries, and front-ends a network, that inference
    does not: the CTC loss and the decoder next to the CTC branch are omitted, and the
    front-end's weights come from the checkpoint. A student is built as a plain ESPnet
    model, so the files named in ``kd`` are not read.

    Args:
        config_file: ``config.yaml`` of the training.

    Yields:
        The path of the configuration, and the prefixes of the weights that its model
        does not have.
    """
    conf, unused = load_config(config_file), tuple[str, ...]()
    changed = copy.deepcopy(conf)
    if (changed.get("ctc_conf") or {}).get("ctc_type", "builtin") != "builtin":
        changed["ctc_conf"]["ctc_type"] = "builtin"
    options = changed.get("model_conf") or {}
    if changed.get("model") == MODEL_NAME:
        options = {k: v for k, v in options.items() if k != "kd"}
        options["ctc_weight"] = 1.0
        changed.update(model="espnet", model_conf=options)
        unused = own_parameters()
    if changed.get("decoder") and options.get("ctc_weight", 0.5) > 0:
        changed["decoder"], options["ctc_weight"] = None, 1.0
        options.pop("transducer_multi_blank_durations", None)
        changed["model_conf"] = options
        unused += ("decoder.", "joint_network.", "criterion_transducer.")
    if changed.get("frontend") in _HUB_FRONTENDS:
        options = {**(changed.get("frontend_conf") or {}), "load_pretrained": False}
        changed["frontend_conf"] = options
    if changed == conf:
        yield config_file, unused
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(changed, allow_unicode=True, sort_keys=False))
        yield path, unused


def task_of(conf: Mapping[str, Any]) -> Type[AbsTask]:
    """Return the ESPnet task of a configuration: ASR or OWSM-CTC.

    Args:
        conf: contents of a training's ``config.yaml``.
    """
    task: Type[AbsTask] = S2TTask if "promptencoder" in conf else ASRTask
    return task


def measure_frame_shift(model: ESPnetASRModel) -> Fraction:
    """Measure the frame shift of a model by running it on two lengths of silence.

    Args:
        model: model that takes raw audio.

    Returns:
        The exact frame shift in samples.
    """
    return frames_per_shift(lambda samples: _frames(model, samples))


def shortest_input(model: ESPnetASRModel) -> int:
    """Measure the minimum input length for one output frame by running the model.

    Args:
        model: model that takes raw audio.

    Returns:
        Number of samples, at most `espnet_ctckd.models.probe.SHORT`.
    """
    return least_samples(lambda samples: _frames(model, samples))


@torch.no_grad()
def _frames(model: ESPnetASRModel, samples: int) -> int:
    speech = torch.zeros(samples, device=next(model.parameters()).device)
    try:
        return int(encode(model, [speech])[1])
    # Incompatible parts raise the errors of their layers.
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise InputError(
            f"the model cannot be run on {samples} samples: do its parts (frontend, "
            f"preencoder, encoder, postencoder) fit together? {type(error).__name__}: "
            f"{error}"
        ) from error


def encode(model: ESPnetASRModel, audio: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
    """Encode utterances independently of the batch, for inference.

    ESPnet's front-ends and convolution modules read beyond the end of an utterance in a
    padded batch. Therefore the front-end and the normalisation process one utterance at
    a time, and the encoder batches of utterances with equally many feature frames.

    Args:
        model: ESPnet model in eval mode.
        audio: waveforms (S,) of any lengths.

    Returns:
        Encoder output (B, T, dim), without intermediate layers, and lengths (B,).
    """
    groups: Dict[Tuple[int, int], List[int]] = {}
    features = [_features(model, speech) for speech in audio]
    for i, (feats, frames) in enumerate(features):
        groups.setdefault((len(feats), frames), []).append(i)
    states: List[Tensor] = [torch.empty(0)] * len(features)
    for (_, frames), members in groups.items():
        feats = torch.stack([features[i][0] for i in members])  # (b, frames, dim)
        lengths = torch.full((len(members),), frames, device=feats.device)
        encoded, lengths = _encode_features(model, feats, lengths)
        for i, hidden, length in zip(members, encoded, lengths.tolist()):
            states[i] = hidden[:length]
    lengths = torch.tensor([len(hidden) for hidden in states], device=states[0].device)
    return torch.nn.utils.rnn.pad_sequence(states, batch_first=True), lengths


def volume_of(args: Namespace) -> Optional[float]:
    """Return the peak to which a model's preprocessor scales utterances, or None.

    ESPnet also applies this at inference, unlike noise and reverberation.

    Args:
        args: arguments of the training.

    Raises:
        InputError: the preprocessor is not supported.
    """
    if not getattr(args, "use_preprocessor", True):
        return None
    kind = getattr(args, "preprocessor", "default")
    if kind not in _PREPROCESSORS:
        raise InputError(
            f"the model's preprocessor is {kind!r}, which is not applied here; choose "
            f"a model with one of: {', '.join(_PREPROCESSORS)}"
        )
    if "speech_volume_normalize" in (getattr(args, "preprocessor_conf", None) or {}):
        raise InputError(
            "the model's preprocessor_conf has speech_volume_normalize, which ESPnet "
            "refuses there: move it out of preprocessor_conf"
        )
    volume = getattr(args, "speech_volume_normalize", None)
    if volume is None:
        return None
    try:
        peak = float(volume)
    except (TypeError, ValueError):
        peak = math.nan
    if not (math.isfinite(peak) and peak > 0):
        raise InputError(
            f"speech_volume_normalize is {volume!r}; give the peak, a number above 0, "
            "as 1.0"
        )
    return peak


def scale_peak(speech: Tensor, volume: Optional[float]) -> Tensor:
    """Scale a waveform (S,) to a peak, as ESPnet's preprocessor does; None keeps it."""
    if volume is None or not bool(speech.any()):
        return speech
    return speech * volume / speech.abs().max()


def _features(model: ESPnetASRModel, speech: Tensor) -> Tuple[Tensor, int]:
    """Compute normalised features (frames, dim) of audio (S,), and their length."""
    lengths = torch.tensor([len(speech)], device=speech.device)
    with torch.autocast(speech.device.type, enabled=False):
        feats, lengths = model._extract_feats(speech.unsqueeze(0), lengths)
        if model.normalize is not None:
            feats, lengths = model.normalize(feats, lengths)
    return feats[0], int(lengths[0])


def _encode_features(
    model: ESPnetASRModel, feats: Tensor, lengths: Tensor
) -> Tuple[Tensor, Tensor]:
    """Encode features like ESPnet's `encode`: states (B, T, dim) and lengths (B,)."""
    if model.preencoder is not None:
        feats, lengths = model.preencoder(feats, lengths)
    if model.encoder is None:
        return feats, lengths
    asks_ctc = any(
        getattr(model.encoder, name, False)
        for name in ("interctc_use_conditioning", "ctc_trim")
    )
    more = {"ctc": model.ctc} if asks_ctc else {}
    states, lengths, _ = model.encoder(feats, lengths, **more)
    if isinstance(states, tuple):
        states = states[0]
    if model.postencoder is not None:
        states, lengths = model.postencoder(states, lengths)
    return states, lengths


def sample_rate(args: Namespace) -> int:
    """Return the sample rate in Hz of an ESPnet ASR configuration.

    Args:
        args: arguments of the training.

    Raises:
        InputError: ``frontend_conf.fs`` is not a sample rate.
    """
    given = (args.frontend_conf or {}).get("fs", 16000)
    rate = given
    if isinstance(given, str):
        try:
            rate = humanfriendly.parse_size(given)  # as ESPnet's front-ends: 16k, 16000
        except humanfriendly.InvalidSize:
            rate = 0
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or rate < 1:
        raise InputError(
            f"frontend_conf.fs is {given!r}; give samples per second, as 16000 or 16k"
        )
    return int(rate)
