"""A pool of processes that search in parallel to the model."""

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from espnet_ctckd.choices import InputError
from espnet_ctckd.decode.search import Hypothesis, Search

# Hypotheses of an utterance, and the number of frames that were searched.
Answer = Tuple[List[Hypothesis], int]


class _Awaited(NamedTuple):
    """A pending answer, and its place in the batch of a worker process."""

    future: "Future[List[Answer]]"
    place: int


Asked = Union[Answer, _Awaited]


class SearchPool:
    """Runs searches in this process or in worker processes.

    Args:
        search: the search.
        processes: number of worker processes; 0 searches in this process.

    Attributes:
        search: the search.
    """

    def __init__(self, search: Search, processes: int) -> None:
        self.search, self._processes = search, processes
        self._pool: Optional[ProcessPoolExecutor] = None
        if processes > 0:
            # The workers use numpy only, which works after a fork, and share the
            # language model's memory.
            self._pool = ProcessPoolExecutor(
                processes,
                multiprocessing.get_context("fork"),
                initializer=_worker_search.append,
                initargs=(search,),
            )

    def ask(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> "Sequence[Asked]":
        """Start to search a batch.

        Args:
            log_probs: (B, U, V).
            lengths: (B,).

        Returns:
            An answer, or a pending one, for each utterance; see `answer`.

        Raises:
            InputError: a worker process has died.
        """
        if self.search.config.plain:
            return self.search.decode_padded(log_probs, lengths)
        rows = log_probs.cpu().numpy()
        parts = [row[:n] for row, n in zip(rows, lengths.tolist())]
        if self._pool is None:
            return self.search(parts)
        # Each process gets a share of utterances of similar length.
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
        """Wait for an answer, and return it.

        Raises:
            InputError: a worker process has died.
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
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown()


# The search of a worker process, set by the pool's initializer.
_worker_search: List[Search] = []


def _search(log_probs: Sequence[np.ndarray]) -> List[Answer]:
    return _worker_search[0](log_probs)
