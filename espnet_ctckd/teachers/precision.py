"""A teacher that computes in half precision."""

from typing import Any, Dict

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import FramePosteriors

DTYPES = ("float32", "bfloat16", "float16")


class HalfTeacher:
    """A teacher under autocast, which keeps sensitive operations in float32.

    Args:
        teacher: the wrapped teacher.
        device: device of the teacher.
        dtype: ``bfloat16`` or ``float16``.
    """

    def __init__(self, teacher: Any, device: str, dtype: str) -> None:
        self._teacher, self._dtype = teacher, dtype
        self._device = torch.device(device).type

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Compute the frame posteriors of a batch with the wrapped teacher."""
        with torch.autocast(self._device, getattr(torch, self._dtype)):
            found: FramePosteriors = self._teacher.posteriors(speech, lengths)
        return found

    def describe(self) -> Dict[str, str]:
        """Return the provenance, with the type."""
        return {**self._teacher.describe(), "dtype": self._dtype}


def in_dtype(teacher: Any, device: str, dtype: object) -> Any:
    """Return a teacher that computes in the given type.

    Args:
        teacher: teacher of any kind.
        device: device of the teacher.
        dtype: one of `DTYPES`.

    Raises:
        InputError: the type is unknown, or not supported on a CPU.
    """
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    if dtype == "float32":
        return teacher
    if dtype == "float16" and torch.device(device).type == "cpu":
        raise InputError("dtype float16 needs a GPU: take bfloat16 on a CPU")
    return HalfTeacher(teacher, device, str(dtype))
