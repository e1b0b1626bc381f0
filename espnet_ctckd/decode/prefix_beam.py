"""The most probable token sequences of an utterance."""

from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

_NEVER = -np.inf


class Hypothesis(NamedTuple):
    """A token sequence and the log of its probability as far as the beam saw it."""

    tokens: Tuple[int, ...]
    log_prob: float


def prefix_beam_search(
    log_probs: np.ndarray,
    blank: int,
    beam: int,
    ids: Optional[np.ndarray] = None,
    tokens_per_frame: int = 20,
) -> List[Hypothesis]:
    """Search for the sequences of greatest probability, all alignments summed.

    Args:
        log_probs: (U, K).
        blank: index of the blank.
        beam: prefixes that are followed.
        ids: tokens of the log-probabilities (U, K); None where all are there.
        tokens_per_frame: most probable tokens that a prefix is extended by.

    Returns:
        Distinct sequences, the best first, at most as many as the beam.

    References:
        Graves, Jaitly, Towards End-To-End Speech Recognition with Recurrent Neural
        Networks (2014), https://proceedings.mlr.press/v32/graves14.html
    """
    trie = _Trie()
    nodes = np.array([_Trie.ROOT])  # (n,) prefixes in the beam
    with_blank, without = np.array([0.0]), np.array([_NEVER])  # (n,) by last frame
    for t, row in enumerate(log_probs):
        said, tokens, log_blank = _candidates(
            row, None if ids is None else ids[t], blank, tokens_per_frame
        )
        last = np.array([trie.last[node] for node in nodes])  # (n,)
        parents = np.array([trie.parent[node] for node in nodes])
        total = np.logaddexp(with_blank, without)
        # A repeated token extends only what ended in a blank.
        same = last[:, None] == tokens  # (n, k)
        grown = np.where(same, with_blank[:, None], total[:, None]) + said
        stays = without + np.where(same, said, _NEVER).max(1, initial=_NEVER)
        blanked = total + log_blank
        # What is in the beam is reached from its parent there, too.
        child, parent = np.nonzero(parents[:, None] == nodes)
        for j, i in zip(child, parent):
            column = np.nonzero(tokens == last[j])[0]
            if column.size:
                stays[j] = np.logaddexp(stays[j], grown[i, column[0]])
                grown[i, column[0]] = _NEVER
        scores = np.concatenate([np.logaddexp(blanked, stays), grown.ravel()])
        best = np.argsort(-scores, kind="stable")[:beam]
        best = best[scores[best] > _NEVER]
        old, new = best[best < len(nodes)], best[best >= len(nodes)] - len(nodes)
        rows, columns = np.divmod(new, max(len(tokens), 1))
        added = [trie.child(nodes[i], int(tokens[c])) for i, c in zip(rows, columns)]
        nodes = np.concatenate([nodes[old], np.array(added, dtype=nodes.dtype)])
        with_blank = np.concatenate([blanked[old], np.full(len(added), _NEVER)])
        without = np.concatenate([stays[old], grown[rows, columns]])
    total = np.logaddexp(with_blank, without)
    order = np.argsort(-total, kind="stable")
    return [Hypothesis(trie.sequence(nodes[i]), float(total[i])) for i in order]


def _candidates(
    row: np.ndarray, ids: Optional[np.ndarray], blank: int, most: int
) -> Tuple[np.ndarray, np.ndarray, float]:
    """Log-probabilities and ids of the likeliest tokens, and that of the blank."""
    tokens = np.arange(len(row)) if ids is None else ids
    is_blank = tokens == blank
    log_blank = float(row[is_blank].max(initial=_NEVER))
    row, tokens = row[~is_blank], tokens[~is_blank]
    if len(row) > most:
        kept = np.argpartition(-row, most)[:most]
        row, tokens = row[kept], tokens[kept]
    return row, tokens, log_blank


class _Trie:
    """Prefixes by number, each with its last token and the prefix before that."""

    ROOT = 0

    def __init__(self) -> None:
        self.parent, self.last = [-1], [-1]
        self._children: Dict[Tuple[int, int], int] = {}

    def child(self, node: int, token: int) -> int:
        key = (int(node), token)
        if key not in self._children:
            self._children[key] = len(self.parent)
            self.parent.append(int(node))
            self.last.append(token)
        return self._children[key]

    def sequence(self, node: int) -> Tuple[int, ...]:
        tokens = []
        while node != self.ROOT:
            tokens.append(self.last[node])
            node = self.parent[node]
        return tuple(reversed(tokens))
