"""Batches of items of similar length."""

from typing import Callable, List, Sequence, TypeVar

Item = TypeVar("Item")


def batch_by_length(
    items: Sequence[Item], length: Callable[[Item], int], most: float
) -> List[List[Item]]:
    """Divide items into batches, keeping their order.

    Args:
        items: items sorted by length, shortest first.
        length: returns the length of an item.
        most: maximum length of a batch, padding included; a longer item forms a batch
            by itself.

    Returns:
        The batches.

    Examples:
        >>> batch_by_length(["a", "b", "cc", "dddd", "eeeee"], len, 4)
        [['a', 'b'], ['cc'], ['dddd'], ['eeeee']]
    """
    batches: List[List[Item]] = []
    for item in items:
        padded = (len(batches[-1]) + 1) * length(item) if batches else 0
        if not batches or padded > most:
            batches.append([])
        batches[-1].append(item)
    return batches
