"""A teacher that computes in half precision."""

from typing import Any, Dict

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import FramePosteriors

DTYPES = ("float32", "bfloat16", "float16")


class HalfTeacher:
    """Another teacher, under autocast: what is sensitive stays in float32.

    Args:
        teacher: any, which offers all else.
        device: where it computes.
        dtype: ``bfloat16`` or ``float16``.
    """

    def __init__(self, teacher: Any, device: str, dtype: str) -> None:
        self._teacher, self._dtype = teacher, dtype
        self._device = torch.device(device).type

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Frame posteriors of a batch, as the teacher's own."""
        with torch.autocast(self._device, getattr(torch, self._dtype)):
            said: FramePosteriors = self._teacher.posteriors(speech, lengths)
        return said

    def describe(self) -> Dict[str, str]:
        """Provenance, with the type."""
        return {**self._teacher.describe(), "dtype": self._dtype}


def in_dtype(teacher: Any, device: str, dtype: object) -> Any:
    """The teacher, computing in a type.

    Args:
        teacher: any.
        device: where it computes.
        dtype: one of `DTYPES`.

    Raises:
        InputError: it is none of these, or the CPU has no such arithmetic.
    """
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    if dtype == "float32":
        return teacher
    if dtype == "float16" and torch.device(device).type == "cpu":
        raise InputError("dtype float16 needs a GPU: take bfloat16 on a CPU")
    return HalfTeacher(teacher, device, str(dtype))
