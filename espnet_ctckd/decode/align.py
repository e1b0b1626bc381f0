"""Alignment of a hypothesis to the frames, with a confidence for each token."""

from dataclasses import dataclass
from itertools import pairwise
from typing import List, Sequence

import numpy as np
import torch
from torchaudio.functional import forced_align

from espnet_ctckd.choices import InputError
from espnet_ctckd.paths import find_spikes

# Below the log-probability of any possible path; a sum of many is still finite.
_LEAST = -1e30


@dataclass(frozen=True)
class Span:
    """The frames of a token.

    Attributes:
        token: token index.
        start: first frame.
        end: frame after the last one.
        confidence: mean probability of the token in these frames.
    """

    token: int
    start: int
    end: int
    confidence: float


def align(log_probs: np.ndarray, tokens: Sequence[int], blank: int) -> List[Span]:
    """Find the most probable CTC alignment of a token sequence.

    Args:
        log_probs: (U, V).
        tokens: tokens of the hypothesis, without blanks.
        blank: index of the blank.

    Returns:
        A span of frames for each token, in order.

    Raises:
        InputError: there are too few frames for the tokens.

    References:
        Graves et al., Connectionist Temporal Classification (2006),
        https://doi.org/10.1145/1143844.1143891
    """
    if not tokens:
        return []
    impossible = InputError(
        f"{len(tokens)} tokens cannot be aligned to {len(log_probs)} frames"
    )
    repeats = sum(a == b for a, b in pairwise(tokens))
    if len(tokens) + repeats > len(log_probs):
        raise impossible
    # torchaudio reads beyond its tables if all paths are impossible.
    finite = torch.from_numpy(log_probs).double().clamp(min=_LEAST)
    paths, _ = forced_align(finite.unsqueeze(0), torch.tensor([tokens]), blank=blank)
    path = paths[0].numpy()  # (U,)
    if np.isneginf(log_probs[np.arange(len(path)), path]).any():
        raise impossible
    spans = []
    for spike in find_spikes(path.tolist(), blank):
        end = spike.frame + spike.frames
        confidence = float(np.exp(log_probs[spike.frame : end, spike.token]).mean())
        spans.append(Span(spike.token, spike.frame, end, confidence))
    return spans
