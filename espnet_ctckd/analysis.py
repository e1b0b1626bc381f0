"""What a CTC model does with the blank: spikes, and the runs of blank between them."""

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Dict, Iterable, List, Sequence, Tuple

import jiwer


@dataclass(frozen=True)
class Spike:
    """A run of frames with the same most probable token, not blank.

    Attributes:
        token: its index.
        frame: the first of the run, from 0.
        frames: how many.
    """

    token: int
    frame: int
    frames: int


def find_spikes(best: Sequence[int], blank: int) -> List[Spike]:
    """The spikes of an utterance, whose tokens are its greedy transcript.

    Args:
        best: the most probable token of each valid frame (T,).
        blank: index of the blank.

    Returns:
        In the order of time.

    Examples:
        >>> [(s.token, s.frame, s.frames) for s in find_spikes([0, 2, 2, 0, 2, 1], 0)]
        [(2, 1, 2), (2, 4, 1), (1, 5, 1)]
    """
    found, frame = [], 0
    for token, run in groupby(best):
        frames = sum(1 for _ in run)
        if token != blank:
            found.append(Spike(int(token), frame, frames))
        frame += frames
    return found


def blank_runs(spikes: Sequence[Spike]) -> List[int]:
    """Frames of blank between each spike and the next, where there are any.

    Args:
        spikes: of an utterance.

    Returns:
        Lengths in frames, in the order of time; silence before the first spike and
        after the last is not among them.

    Examples:
        >>> blank_runs(find_spikes([0, 1, 0, 0, 1, 0, 0, 0, 1, 0], 0))
        [2, 3]
    """
    gaps = [b.frame - (a.frame + a.frames) for a, b in pairwise(spikes)]
    return [gap for gap in gaps if gap > 0]


def match_spikes(
    wanted: Sequence[Spike], spikes: Sequence[Spike]
) -> List[Tuple[Spike, Spike]]:
    """Pairs of spikes with one token in an alignment with fewest errors.

    Args:
        wanted: the teacher's, of an utterance.
        spikes: the student's, in the same tokens.

    Returns:
        Pairs of both, in the order of time.

    Examples:
        >>> ours, theirs = find_spikes([1, 0, 2], 0), find_spikes([0, 2, 2], 0)
        >>> [(a.frame, b.frame) for a, b in match_spikes(ours, theirs)]
        [(2, 1)]
    """
    if not wanted or not spikes:
        return []
    texts = (" ".join(str(s.token) for s in some) for some in (wanted, spikes))
    (chunks,) = jiwer.process_words(*texts).alignments
    pairs: List[Tuple[Spike, Spike]] = []
    for chunk in chunks:
        if chunk.type == "equal":
            pairs += zip(
                wanted[chunk.ref_start_idx : chunk.ref_end_idx],
                spikes[chunk.hyp_start_idx : chunk.hyp_end_idx],
            )
    return pairs


def spike_rates(
    pairs: Iterable[Tuple[Sequence[int], Sequence[int]]], blank: int, ratio: float
) -> Dict[str, float]:
    """How a student's spikes differ from its teacher's.

    Args:
        pairs: the most probable tokens of each frame, of teacher and student, for some
            utterances.
        blank: index of the blank.
        ratio: frames of the teacher to one of the student's.

    Returns:
        ``spikes_missed`` and ``spikes_inserted``, as shares of the teacher's spikes,
        and ``spike_offset``, by how many of the student's frames the others come later
        on average; NaN where there is nothing to count.
    """
    wanted = found = 0
    offsets: List[float] = []
    for theirs, ours in pairs:
        expected, said = find_spikes(theirs, blank), find_spikes(ours, blank)
        wanted, found = wanted + len(expected), found + len(said)
        offsets += [b.frame - a.frame / ratio for a, b in match_spikes(expected, said)]
    nothing = float("nan")
    return {
        "spikes_missed": (wanted - len(offsets)) / wanted if wanted else nothing,
        "spikes_inserted": (found - len(offsets)) / wanted if wanted else nothing,
        "spike_offset": sum(offsets) / len(offsets) if offsets else nothing,
    }
