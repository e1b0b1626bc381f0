"""Token priors on disk."""

import math
from pathlib import Path
from typing import (
    List,
    Sequence,
)

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, shorten
from espnet_ctckd.data.kaldi import read_lines

# Tolerance of the sum of the priors, which are means of float32 posteriors.
_PRIOR_ROOM = 0.01


def read_prior(path: Pathlike, tokens: Sequence[str], blank: str) -> List[float]:
    """Read token priors written by ``espnet_ctckd.bin.estimate_prior``.

    Args:
        path: file with one token and the natural logarithm of its prior per line; the
            first line is the blank, regardless of its name.
        tokens: V tokens.
        blank: name of the blank token.

    Returns:
        Log-priors in the order of the tokens (V,). Special tokens (``<...>``) without
        a prior get 0, with which they never become the argmax.

    Raises:
        InputError: the file is missing or damaged, or has other tokens.
    """
    if not Path(path).exists():
        raise InputError(
            f"there is no prior {path}: make it with "
            "`python -m espnet_ctckd.bin.estimate_prior`"
        )
    try:
        lines = read_lines(path, "prior")
    except OSError as error:
        raise InputError(f"the prior {path} cannot be read: {error}") from None
    try:
        pairs = [line.rsplit(maxsplit=1) for line in lines]
        priors = {token: float(value) for token, value in pairs}
    except ValueError:
        raise InputError(
            f"{path} is no list of priors: every line must be a token and a number"
        ) from None
    if not pairs or not all(value <= 0.0 for value in priors.values()):
        raise InputError(f"{path} is no list of priors: give logarithms, at most 0")
    mass = math.fsum(math.exp(value) for value in priors.values())
    if len(priors) != len(pairs) or abs(mass - 1.0) > _PRIOR_ROOM:
        raise InputError(
            f"{path} is no list of priors: its {len(pairs)} lines have {len(priors)} "
            f"tokens and add up to {mass:.3f}, not 1. Make it with "
            "`python -m espnet_ctckd.bin.estimate_prior`"
        )
    priors[blank] = priors.pop(pairs[0][0])
    special = [t for t in tokens if t.startswith("<") and t.endswith(">")]
    lacks = [t for t in tokens if t not in priors and t not in special]
    extra = [t for t in priors if t not in tokens]
    if lacks or extra:
        raise InputError(
            f"the priors {path} are not of these tokens: they lack {len(lacks)} "
            f"({shorten(lacks)}) and have {len(extra)} others ({shorten(extra)}). "
            "Estimate them from the cache that the student learns from"
        )
    return [priors.get(token, 0.0) for token in tokens]
