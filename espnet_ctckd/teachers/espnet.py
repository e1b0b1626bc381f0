"""A teacher that ESPnet trained: the CTC branch of an ASR checkpoint."""

import hashlib
from argparse import Namespace
from fractions import Fraction
from importlib import metadata
from typing import Dict, List, Optional, Tuple

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor

from espnet_ctckd.checkpoint import load_config, load_weights
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import Pathlike, shorten
from espnet_ctckd.model_zoo import find_model
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.teachers.probe import frames_per_shift, least_samples


def load_espnet_model(
    config_file: Pathlike, model_file: Pathlike, device: str = "cpu"
) -> Tuple[ESPnetASRModel, Namespace]:
    """Build an ESPnet ASR model and load its weights, all of them or not at all.

    Args:
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        device: where the model goes.

    Returns:
        The model in eval mode, and the training arguments.

    Raises:
        InputError: a file is missing or damaged, or the weights are of another model.
    """
    from espnet_ctckd.task import CTCKDTask

    if not isinstance(load_config(config_file).get("token_list"), list):
        raise InputError(
            f"{config_file} holds no token list; give the config.yaml that the "
            "training wrote beside its weights"
        )
    states = load_weights(model_file, device)
    try:
        # Without weights: ESPnet would load them with pickle, and not strictly.
        model, args = CTCKDTask.build_model_from_file(config_file, None, device)
    except FileNotFoundError as error:
        raise InputError(f"cannot build the model of {config_file}: {error}") from None
    try:
        model.load_state_dict(states)
    except RuntimeError as error:
        raise InputError(
            f"the weights {model_file} are not of the model {config_file}: "
            f"{shorten([line.strip()[:200] for line in str(error).splitlines()], 3)}"
        ) from None
    return model.eval(), args


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
    speech = torch.zeros(1, samples, device=next(model.parameters()).device)
    return int(encode(model, speech, _lengths(speech))[1])


def _lengths(speech: Tensor) -> Tensor:
    return torch.tensor([speech.size(1)], device=speech.device)


def encode(
    model: ESPnetASRModel, speech: Tensor, lengths: Tensor
) -> Tuple[Tensor, Tensor]:
    """Encoder output (B, T, dim) and lengths (B,), without intermediate layers."""
    encoder_out, lengths = model.encode(speech, lengths)
    if isinstance(encoder_out, tuple):
        encoder_out = encoder_out[0]
    return encoder_out, lengths


def sha256(path: Pathlike) -> str:
    """Hash of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sample_rate(args: Namespace) -> int:
    """Samples per second that an ESPnet ASR configuration expects."""
    rate = (args.frontend_conf or {}).get("fs", 16000)
    if isinstance(rate, str):
        rate = int(float(rate.lower().rstrip("k")) * 1000)
    return int(rate)


class EspnetTeacher:
    """CTC posteriors of an ESPnet ASR model.

    Hybrid models give those of their CTC branch.

    Args:
        source: folder or tag, as `find_model` takes it; None where the files are given.
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        device: where it computes.

    Raises:
        InputError: it cannot be loaded, has no CTC branch, or takes features instead
            of audio.
    """

    def __init__(
        self,
        source: Optional[str] = None,
        *,
        config_file: Optional[Pathlike] = None,
        model_file: Optional[Pathlike] = None,
        device: str = "cpu",
    ) -> None:
        if source is not None:
            config_file, model_file = find_model(source)
        if config_file is None or model_file is None:
            raise InputError(
                "an ESPnet teacher is a folder or tag (--teacher), or a configuration "
                "and weights (--teacher_config and --teacher_model)"
            )
        self._model, args = load_espnet_model(config_file, model_file, device)
        self._device = device
        self._files: Dict[str, Pathlike] = {
            "config": config_file,
            "weights": model_file,
        }
        if self._model.ctc is None:
            raise InputError(f"the teacher {config_file} has no CTC branch")
        if args.input_size is not None:
            raise InputError(
                f"the teacher {config_file} takes features (input_size "
                f"{args.input_size}); give one that takes audio"
            )
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        self.token_list: List[str] = list(self._model.token_list)
        self.blank: int = self._model.blank_id
        self.state_size: int = self._model.encoder.output_size()
        self.rate = sample_rate(args)
        self.frame_shift = measure_frame_shift(self._model)
        self.shortest = shortest_input(self._model)

    @torch.no_grad()
    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Frame posteriors of a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V), dense, and the states (B, U, D) that they come from.
        """
        speech, lengths = speech.to(self._device), lengths.to(self._device)
        encoder_out, lengths = encode(self._model, speech, lengths)
        log_probs = self._model.ctc.ctc_lo(encoder_out).float().log_softmax(-1)
        return FramePosteriors(log_probs, lengths, self.blank, states=encoder_out)

    def describe(self) -> Dict[str, str]:
        """Provenance: kind, files, hashes and the version of ESPnet."""
        described = {"type": "espnet", "espnet": metadata.version("espnet")}
        for name, path in self._files.items():
            described[name] = str(path)
            described[f"{name}_sha256"] = sha256(path)
        return described
