"""Weights of a model, loaded without running what a file says."""

import pickle
from typing import Dict

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.data import Pathlike


def load_weights(path: Pathlike, device: str = "cpu") -> Dict[str, Tensor]:
    """Load the state dict of a checkpoint.

    Args:
        path: file of torch.
        device: where the tensors go.

    Returns:
        Name -> tensor.

    Raises:
        InputError: the file is missing, cut short, or holds more than tensors.
    """
    try:
        states: Dict[str, Tensor] = torch.load(
            path, map_location=device, weights_only=True
        )
    except FileNotFoundError:
        raise InputError(
            f"there is no model file {path}; is the training finished?"
        ) from None
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} is not a whole checkpoint of torch ({str(error).splitlines()[0]}):"
            " restore it"
        ) from None
    return states
