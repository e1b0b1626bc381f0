"""Which spikes of a student are its teacher's, and how late they come."""

from typing import Dict, Iterable, List, Sequence, Tuple

import jiwer

from espnet_ctckd.paths import Spike, find_spikes


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
