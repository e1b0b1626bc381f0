"""A model that ESPnet trained: loaded, run up to its encoder, and measured."""

import contextlib
import copy
import math
import os
import pickle
import tempfile
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

from espnet_ctckd import MODEL_NAME
from espnet_ctckd.checkpoint import load_config, load_weights
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import Pathlike, shorten
from espnet_ctckd.model import OWN_PARAMETERS
from espnet_ctckd.probe import frames_per_shift, least_samples

# ESPnet's, which treat audio alike: of ASR, and of OWSM-CTC.
_PREPROCESSORS = ("default", "multi", "s2t_ctc")
# Far more than any sentencepiece model, or the statistics of a feature, has.
_MOST_BYTES = 2**28


def load_espnet_model(
    config_file: Pathlike,
    model_file: Pathlike,
    device: str = "cpu",
    task: Type[AbsTask] = ASRTask,
) -> Tuple[Any, Namespace]:
    """Build a model of ESPnet and load its weights, all of them or not at all.

    Args:
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        device: where the model goes.
        task: of ESPnet, from `task_of`.

    Returns:
        The model in eval mode, and the training arguments.

    Raises:
        InputError: a file is missing or damaged, or the weights are of another model.
    """
    from espnet_ctckd.task import CTCKDTask

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
    try:
        # Without weights: ESPnet would load them with pickle, and not strictly.
        task = CTCKDTask if task is ASRTask else task
        with _for_inference(config_file) as (told, unused):
            model, args = task.build_model_from_file(told, None, device)
    except InputError as error:
        raise InputError(f"cannot build the model of {config_file}: {error}") from error
    except ImportError as error:
        raise InputError(
            f"cannot build the model of {config_file}, which needs a library that is "
            f"not installed ({error}): install that"
        ) from error
    # A foreign configuration, and the files that it names, make ESPnet and torch raise
    # nearly anything, as an unpickler does that refuses what is no tensor.
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        if isinstance(
            error, pickle.UnpicklingError
        ):  # torch goes on with unsafe advice
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


def check_named_files(conf: Mapping[str, Any], config_file: Pathlike) -> None:
    """Refuse a configuration that names what is no file as a file to read.

    Files that are missing are another matter: not every command reads them.

    Args:
        conf: contents of ``config.yaml``.
        config_file: its path, for the error.

    Raises:
        InputError: ``bpemodel`` or ``normalize_conf.stats_file`` is no path, or is of a
            device, pipe or folder, or far larger than any such file.
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


# Front-ends that start from the weights of a model on a hub.
_HUB_FRONTENDS = ("huggingface", "ctckd_huggingface")


@contextlib.contextmanager
def _for_inference(
    config_file: Pathlike,
) -> Iterator[Tuple[Pathlike, Tuple[str, ...]]]:
    """A configuration without what CTC inference does not use.

    Losses and decoders may need libraries, and front-ends a network, that inference
    does without: the CTC loss and the decoder beside the CTC branch are left out, and
    the front-end's weights come from the checkpoint. A student is built as the plain
    model that it is, so that nothing of ``kd``, which may name a file, is read.

    Args:
        config_file: ``config.yaml`` of the training.

    Yields:
        The path of the configuration, and the prefixes of the weights that the model
        of it does not have.
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
        unused = OWN_PARAMETERS
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
    """ESPnet's task that a configuration is of: ASR, or OWSM-CTC's.

    Args:
        conf: contents of a training's ``config.yaml``.
    """
    task: Type[AbsTask] = S2TTask if "promptencoder" in conf else ASRTask
    return task


def measure_frame_shift(model: ESPnetASRModel) -> Fraction:
    """Samples from one output frame of a model to the next, by trying.

    Args:
        model: takes raw audio.

    Returns:
        The exact shift, in samples.
    """
    return frames_per_shift(lambda samples: _frames(model, samples))


def shortest_input(model: ESPnetASRModel) -> int:
    """The fewest samples that a model makes a frame of, by trying.

    Args:
        model: takes raw audio.

    Returns:
        Samples, at most those of the shorter probe.
    """
    return least_samples(lambda samples: _frames(model, samples))


@torch.no_grad()
def _frames(model: ESPnetASRModel, samples: int) -> int:
    speech = torch.zeros(samples, device=next(model.parameters()).device)
    try:
        return int(encode(model, [speech])[1])
    # Parts that do not fit together raise what their layers do.
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise InputError(
            f"the model cannot be run on {samples} samples: do its parts (frontend, "
            f"preencoder, encoder, postencoder) fit together? {type(error).__name__}: "
            f"{error}"
        ) from error


def encode(model: ESPnetASRModel, audio: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
    """Encode utterances, each as if it were alone, for inference.

    ESPnet's front-ends and convolution modules read what lies beyond the end of an
    utterance in a padded batch. So the front-end and the normalisation get one
    utterance at a time, and the encoder those of equally many feature frames together.

    Args:
        model: in eval mode.
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
    """The peak to which a model's preprocessor scales each utterance, or None.

    ESPnet applies it at inference, too, unlike noise and reverberation.

    Args:
        args: of the training.

    Raises:
        InputError: the preprocessor is not one of those that are applied here.
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
    """Normalised features (frames, dim) of a waveform (S,), and the valid frames."""
    lengths = torch.tensor([len(speech)], device=speech.device)
    with torch.autocast(speech.device.type, enabled=False):
        feats, lengths = model._extract_feats(speech.unsqueeze(0), lengths)
        if model.normalize is not None:
            feats, lengths = model.normalize(feats, lengths)
    return feats[0], int(lengths[0])


def _encode_features(
    model: ESPnetASRModel, feats: Tensor, lengths: Tensor
) -> Tuple[Tensor, Tensor]:
    """Encoder output (B, T, dim) and lengths (B,) of features, as ESPnet's `encode`."""
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
    """Samples per second that an ESPnet ASR configuration expects.

    Args:
        args: of the training.

    Raises:
        InputError: ``frontend_conf.fs`` is no rate.
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
