"""Comparison of a student's spikes with those of its teacher."""

from typing import Dict, Iterable, List, Sequence, Tuple

import jiwer

from espnet_ctckd.paths import Spike, find_spikes


def match_spikes(
    wanted: Sequence[Spike], spikes: Sequence[Spike]
) -> List[Tuple[Spike, Spike]]:
    """Match spikes of the same token, in an alignment with the fewest errors.

    Args:
        wanted: spikes of the teacher in an utterance.
        spikes: spikes of the student, in the teacher's tokens.

    Returns:
        Pairs of a teacher's and a student's spike, in the order of time.

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
    """Compare the spikes of a student with those of its teacher.

    Args:
        pairs: the argmax of each frame of the teacher and of the student, for each
            utterance.
        blank: index of the blank.
        ratio: teacher frames per student frame.

    Returns:
        ``spikes_missed`` and ``spikes_inserted``, as shares of the teacher's spikes,
        and ``spike_offset``, the mean delay of the matched spikes in student frames;
        NaN if there are no such spikes.
    """
    wanted = found = 0
    offsets: List[float] = []
    for theirs, ours in pairs:
        expected, spikes = find_spikes(theirs, blank), find_spikes(ours, blank)
        wanted, found = wanted + len(expected), found + len(spikes)
        matched = match_spikes(expected, spikes)
        offsets += [b.frame - a.frame / ratio for a, b in matched]
    nothing = float("nan")
    return {
        "spikes_missed": (wanted - len(offsets)) / wanted if wanted else nothing,
        "spikes_inserted": (found - len(offsets)) / wanted if wanted else nothing,
        "spike_offset": sum(offsets) / len(offsets) if offsets else nothing,
    }
