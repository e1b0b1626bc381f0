"""Batches of items of about one length."""

from typing import Callable, List, Sequence, TypeVar

Item = TypeVar("Item")


def batch_by_length(
    items: Sequence[Item], length: Callable[[Item], int], most: float
) -> List[List[Item]]:
    """Divide items into batches, in their order.

    Args:
        items: the shortest first.
        length: of an item.
        most: length of a batch, padding included; a longer item is a batch of its own.

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
