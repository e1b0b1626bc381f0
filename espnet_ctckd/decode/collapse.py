"""Blank Collapse: shorten runs of confident blanks before a search."""

import numpy as np

from espnet_ctckd.choices import InputError


def collapse(log_blank: np.ndarray, threshold: float) -> np.ndarray:
    """Return the frames that a search needs.

    A frame is a confident blank if its blank probability is above the threshold.
    Confident blanks at the beginning and the end are dropped. Of a run between other
    frames the last one is kept, so that repeated labels stay apart. If all frames are
    confident blanks, the last frame is kept.

    Args:
        log_blank: log-probability of the blank of one utterance (U,), without padding,
            and before priors or penalties.
        threshold: theta; 1 drops nothing.

    Returns:
        Indices of the remaining frames (U',), in order.

    Raises:
        InputError: the threshold is not in (0, 1].

    Examples:
        >>> blank = np.array([0.999, 0.1, 0.999, 0.999, 0.2, 0.3, 0.999])
        >>> collapse(np.log(blank), 0.9).tolist()
        [1, 3, 4, 5]

    References:
        Jung et al., Blank Collapse: Compressing CTC Emission for the Faster Decoding
        (2023), https://arxiv.org/abs/2210.17017
    """
    if not 0.0 < threshold <= 1.0:
        raise InputError(f"--blank_collapse is {threshold}; give one in (0, 1]")
    if threshold == 1.0:
        return np.arange(len(log_blank))
    others = np.exp(log_blank) <= threshold  # (U,)
    places = np.flatnonzero(others)
    if not len(places):
        return np.arange(len(log_blank))[-1:]
    # The last confident blank before another frame is kept.
    kept = others.copy()
    kept[:-1] |= others[1:]
    kept[: places[0]] = False
    return np.flatnonzero(kept)
