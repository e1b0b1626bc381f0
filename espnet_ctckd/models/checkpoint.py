"""Weights and configuration of a model, loaded without running what a file says."""

from pathlib import Path
from typing import Any, Dict

import torch
import yaml
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike


def load_weights(path: Pathlike, device: str = "cpu") -> Dict[str, Tensor]:
    """Load the state dict of a checkpoint.

    Args:
        path: file of torch.
        device: where the tensors go.

    Returns:
        Name -> tensor.

    Raises:
        InputError: the file is missing, cut short, holds more than tensors, or NaN.
    """
    try:
        states: Dict[str, Tensor] = torch.load(
            path, map_location=device, weights_only=True
        )
    except FileNotFoundError:
        raise InputError(
            f"there is no model file {path}; is the training finished?"
        ) from None
    except (PermissionError, IsADirectoryError):
        raise
    # What is no file of torch makes its unpickler raise nearly anything.
    except Exception as error:
        reason = (str(error) or "it ends too early").splitlines()[0]
        if "Weights only load failed" in reason:  # torch goes on with unsafe advice
            reason = "torch finds more than tensors in it, or something else"
        raise InputError(
            f"{path} is not a whole file of weights ({reason}): give one such as "
            "valid.cer_ctc.ave.pth, or restore it"
        ) from None
    if not isinstance(states, dict):
        raise InputError(f"{path} holds no weights by their names: give another file")
    for name, value in states.items():
        if isinstance(value, Tensor) and bool(value.isnan().any()):
            raise InputError(
                f"{path}: the weights {name} are NaN, so the training that wrote it "
                "has gone wrong: take an earlier checkpoint, or a lower learning rate"
            )
    return states


def load_config(path: Pathlike) -> Dict[str, Any]:
    """Load the ``config.yaml`` of a training.

    Args:
        path: the file.

    Returns:
        Its keys and values.

    Raises:
        InputError: the file is missing, damaged, or something else.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no {path}; is the training finished?")
    try:
        conf = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(conf, dict):
        raise InputError(f"{path} is not the config.yaml of a training; give that")
    return conf
