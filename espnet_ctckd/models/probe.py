"""What teachers share: what is found out by trying them, and utterances one by one."""

import hashlib
from fractions import Fraction
from typing import Callable, List, Mapping

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import FramePosteriors

# Two probes this far apart show a whole number of frames for every hop and
# subsampling in use (multiples of 320, 512, 640, 960, 1024, 1280 samples).
SHORT, LONG = 16000, 16000 + 307200


def frames_per_shift(frames: Callable[[int], int]) -> Fraction:
    """Samples from one frame to the next.

    Args:
        frames: says how many frames so many samples make.

    Returns:
        The exact shift.

    Raises:
        InputError: more audio makes no more frames.
    """
    few, many = frames(SHORT), frames(LONG)
    if many <= few:
        raise InputError(
            f"the teacher says {few} frames of {SHORT} samples and {many} of {LONG}: "
            "the frames of a CTC model are evenly spread over the audio"
        )
    return Fraction(LONG - SHORT, many - few)


def least_samples(frames: Callable[[int], int]) -> int:
    """The fewest samples that make a frame.

    Args:
        frames: says how many frames so many samples make, or raises.

    Returns:
        Samples, at most those of the shorter probe.
    """

    def makes_one(samples: int) -> bool:
        try:
            return frames(samples) > 0
        except Exception:  # every model has its own for what is too short
            return False

    low, high = 0, SHORT
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if makes_one(middle) else (middle, high)
    return high


def hash_of(states: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights: names, types, shapes and values.

    Args:
        states: a state dict.
    """
    digest = hashlib.sha256()
    for name, value in sorted(states.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def together(said: List[FramePosteriors]) -> FramePosteriors:
    """A batch of utterances that were heard one by one.

    Args:
        said: of each utterance alone.
    """

    def pad(parts: List[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([p[0] for p in parts], batch_first=True)

    states = [s.states for s in said if s.states is not None]
    return FramePosteriors(
        pad([s.log_probs for s in said]),
        torch.cat([s.lengths for s in said]),
        said[0].blank,
        states=pad(states) if states else None,
    )


def alone(log_probs: Tensor, blank: int) -> FramePosteriors:
    """A batch of one utterance, of its log-probabilities (U, V)."""
    return FramePosteriors(
        log_probs.unsqueeze(0), torch.tensor([len(log_probs)]), blank
    )
