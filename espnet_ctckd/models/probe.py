"""Measurements of teachers by probing, and batches of single utterances."""

import hashlib
from fractions import Fraction
from typing import Callable, List, Mapping

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import FramePosteriors

# Lengths of the two probes in samples. The difference is a multiple of all common frame
# shifts (320, 512, 640, 960, 1024 and 1280 samples).
SHORT, LONG = 16000, 16000 + 307200


def frames_per_shift(frames: Callable[[int], int]) -> Fraction:
    """Measure the frame shift of a model.

    Args:
        frames: returns the number of frames for a number of samples.

    Returns:
        The exact frame shift in samples.

    Raises:
        InputError: the number of frames does not grow with the audio.
    """
    few, many = frames(SHORT), frames(LONG)
    if many <= few:
        raise InputError(
            f"the teacher says {few} frames of {SHORT} samples and {many} of {LONG}: "
            "the frames of a CTC model are evenly spread over the audio"
        )
    return Fraction(LONG - SHORT, many - few)


def least_samples(frames: Callable[[int], int]) -> int:
    """Measure the minimum number of samples for one frame.

    Args:
        frames: returns the number of frames for a number of samples, or raises.

    Returns:
        Number of samples, at most `SHORT`.
    """

    def has_frame(samples: int) -> bool:
        try:
            return frames(samples) > 0
        except Exception:  # errors for short input differ by model
            return False

    low, high = 0, SHORT
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if has_frame(middle) else (middle, high)
    return high


def hash_of(states: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights, over names, types, shapes and values.

    Args:
        states: state dict.
    """
    digest = hashlib.sha256()
    for name, value in sorted(states.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def pad_batch(posteriors: List[FramePosteriors]) -> FramePosteriors:
    """Pad the posteriors of single utterances to a batch.

    Args:
        posteriors: posteriors of each utterance, as batches of one.
    """

    def pad(parts: List[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([p[0] for p in parts], batch_first=True)

    states = [p.states for p in posteriors if p.states is not None]
    return FramePosteriors(
        pad([p.log_probs for p in posteriors]),
        torch.cat([p.lengths for p in posteriors]),
        posteriors[0].blank,
        states=pad(states) if states else None,
    )


def single(log_probs: Tensor, blank: int) -> FramePosteriors:
    """Return a batch of one utterance with log-probabilities (U, V)."""
    return FramePosteriors(
        log_probs.unsqueeze(0), torch.tensor([len(log_probs)]), blank
    )
