"""Timing of several functions that take turns."""

import statistics
import time
from typing import Callable, Dict, List, Mapping, Sequence, Tuple

import torch

Contenders = Mapping[str, Callable[[], object]]


def take_turns(contenders: Contenders, rounds: int) -> Dict[str, List[float]]:
    """Time each function once per round, after one round of warm-up.

    Args:
        contenders: name -> function.
        rounds: the number of rounds.

    Returns:
        Name -> seconds in each round.
    """
    times: Dict[str, List[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            begun = _now()
            contender()
            if number:
                times[name].append(_now() - begun)
    return times


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def quartiles(values: Sequence[float]) -> Tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
