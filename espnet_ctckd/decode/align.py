"""When the tokens of a hypothesis are said, and how sure of each the model is."""

from dataclasses import dataclass
from typing import List, Sequence

import numpy as np

from espnet_ctckd.choices import InputError

_NEVER = -np.inf


@dataclass(frozen=True)
class Span:
    """The frames of a token.

    Attributes:
        token: its index.
        start: first frame.
        end: the frame after its last.
        confidence: mean probability of the token in these frames.
    """

    token: int
    start: int
    end: int
    confidence: float


def align(log_probs: np.ndarray, tokens: Sequence[int], blank: int) -> List[Span]:
    """The most probable CTC alignment of a token sequence.

    Args:
        log_probs: (U, V).
        tokens: of the hypothesis, without blanks.
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
    states = np.full(2 * len(tokens) + 1, blank)  # blank, token, blank, ...
    states[1::2] = tokens
    scores = log_probs[:, states]  # (U, S)
    # A blank between two tokens may be left out where they differ.
    skips = np.zeros(len(states), bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    reached = np.full(len(states), _NEVER)
    reached[:2] = scores[0, :2]
    steps = np.zeros((len(scores), len(states)), np.int8)
    for frame in range(1, len(scores)):
        before = np.full((3, len(states)), _NEVER)
        before[0] = reached
        before[1, 1:] = reached[:-1]
        before[2, 2:] = np.where(skips[2:], reached[:-2], _NEVER)
        steps[frame] = before.argmax(0)
        reached = before.max(0) + scores[frame]
    state = len(states) - 1 - int(reached[-1] < reached[-2])
    if reached[state] == _NEVER:
        raise InputError(
            f"{len(tokens)} tokens cannot be aligned to {len(scores)} frames"
        )
    path = np.empty(len(scores), np.int64)
    for frame in range(len(scores) - 1, -1, -1):
        path[frame] = state
        state -= steps[frame, state]
    spans = []
    for index, token in enumerate(tokens):
        frames = np.nonzero(path == 2 * index + 1)[0]
        sure = float(np.exp(log_probs[frames, token]).mean())
        spans.append(Span(int(token), int(frames[0]), int(frames[-1]) + 1, sure))
    return spans
