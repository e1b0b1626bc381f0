"""Searches of a set, in this process or in others beside the model."""

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from espnet_ctckd.decode.greedy import greedy
from espnet_ctckd.decode.search import (
    Hypothesis,
    Search,
    SearchConfig,
    Word,
    words_of,
)

# Hypotheses, and how many frames were searched.
Answer = Tuple[List[Hypothesis], int]


class _Awaited(NamedTuple):
    """An answer that another process looks for, among others."""

    future: "Future[List[Answer]]"
    place: int


Asked = Union[Answer, _Awaited]


class Searching:
    """Searches here, or in other processes.

    Args:
        config: how.
        tokens: V.
        blank: index of the blank.
        token_type: of ESPnet: how tokens make words.
        processes: others that search; 0: none.
    """

    def __init__(
        self,
        config: SearchConfig,
        tokens: Sequence[str],
        blank: int,
        token_type: str,
        processes: int,
    ) -> None:
        self._config, self._processes = config, processes
        self._blank, self._type = blank, token_type
        arguments = (config, tokens, blank, token_type)
        self._search = Search(*arguments)  # here, so that its errors are said here
        self._pool: Optional[ProcessPoolExecutor] = None
        if processes > 0:
            # They compute with numpy alone, which a fork leaves whole.
            self._pool = ProcessPoolExecutor(
                processes,
                multiprocessing.get_context("fork"),
                initializer=_prepare,
                initargs=arguments,
            )

    def ask(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> "Sequence[Asked]":
        """Begin with a batch."""
        if self._config.plain:
            found = greedy(log_probs, lengths, self._blank)
            return [
                ([Hypothesis(tuple(t), self._words(t), 0.0)], n)
                for t, n in zip(found, lengths.tolist())
            ]
        said = log_probs.cpu().numpy()
        parts = [row[:n] for row, n in zip(said, lengths.tolist())]
        if self._pool is None:
            return self._search(parts)
        # Those of about one length together, a share for each process.
        share = -(-len(parts) // self._processes)
        asked: List[Asked] = []
        for first in range(0, len(parts), share):
            some = parts[first : first + share]
            future = self._pool.submit(_search, some)
            asked += [_Awaited(future, i) for i in range(len(some))]
        return asked

    def _words(self, tokens: Sequence[int]) -> Tuple[Word, ...]:
        return words_of(self._search.names(tokens), self._type)

    def answer(self, asked: Asked) -> Answer:
        """What was found."""
        if isinstance(asked, _Awaited):
            return asked.future.result()[asked.place]
        return asked

    def close(self) -> None:
        """End the other processes."""
        if self._pool is not None:
            self._pool.shutdown()


_here: List[Search] = []


def _prepare(
    config: SearchConfig, tokens: Sequence[str], blank: int, token_type: str
) -> None:
    _here.append(Search(config, tokens, blank, token_type))


def _search(log_probs: Sequence[np.ndarray]) -> List[Answer]:
    return _here[0](log_probs)
