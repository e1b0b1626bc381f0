"""Safe loading of model weights and configurations, without running code in files."""

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
        path: file written by torch.
        device: device of the tensors.

    Returns:
        Name -> tensor.

    Raises:
        InputError: the file is missing, truncated, or holds NaN or other objects than
            tensors.
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
    # torch's unpickler raises many types of errors for files that are not its own.
    except Exception as error:
        reason = (str(error) or "it ends too early").splitlines()[0]
        if "Weights only load failed" in reason:  # torch's message adds unsafe advice
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
        InputError: the file is missing, damaged, or not a configuration.
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
