"""Searches of a set, in this process or in others beside the model."""

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from espnet_ctckd.choices import InputError
from espnet_ctckd.decode.search import Hypothesis, Search

# Hypotheses, and how many frames were searched.
Answer = Tuple[List[Hypothesis], int]


class _Awaited(NamedTuple):
    """An answer that another process looks for, among others."""

    future: "Future[List[Answer]]"
    place: int


Asked = Union[Answer, _Awaited]


class SearchPool:
    """Searches here, or in other processes.

    Args:
        search: how.
        processes: others that search; 0: none.

    Attributes:
        search: how.
    """

    def __init__(self, search: Search, processes: int) -> None:
        self.search, self._processes = search, processes
        self._pool: Optional[ProcessPoolExecutor] = None
        if processes > 0:
            # They compute with numpy alone, which a fork leaves whole, and it lends
            # them the language model.
            self._pool = ProcessPoolExecutor(
                processes,
                multiprocessing.get_context("fork"),
                initializer=_here.append,
                initargs=(search,),
            )

    def ask(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> "Sequence[Asked]":
        """Begin with a batch.

        Raises:
            InputError: another process has died.
        """
        if self.search.config.plain:
            return self.search.decode_padded(log_probs, lengths)
        said = log_probs.cpu().numpy()
        parts = [row[:n] for row, n in zip(said, lengths.tolist())]
        if self._pool is None:
            return self.search(parts)
        # Those of about one length together, a share for each process.
        share = -(-len(parts) // self._processes)
        asked: List[Asked] = []
        for first in range(0, len(parts), share):
            some = parts[first : first + share]
            try:
                future = self._pool.submit(_search, some)
            except BrokenProcessPool:
                raise self._died() from None
            asked += [_Awaited(future, i) for i in range(len(some))]
        return asked

    def answer(self, asked: Asked) -> Answer:
        """What was found.

        Raises:
            InputError: another process has died.
        """
        if not isinstance(asked, _Awaited):
            return asked
        try:
            return asked.future.result()[asked.place]
        except BrokenProcessPool:
            raise self._died() from None

    def _died(self) -> InputError:
        return InputError(
            f"one of the {self._processes} processes that search has died; if it was "
            "for lack of memory, give fewer --search_processes"
        )

    def close(self) -> None:
        """End the other processes."""
        if self._pool is not None:
            self._pool.shutdown()


_here: List[Search] = []


def _search(log_probs: Sequence[np.ndarray]) -> List[Answer]:
    return _here[0](log_probs)
