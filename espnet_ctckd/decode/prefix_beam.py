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
    # Prefixes in the beam (n,), their last token, the prefix before it, and their
    # log-probabilities by whether the last frame was blank.
    nodes, last, parents = np.array([_Trie.ROOT]), np.array([-1]), np.array([-1])
    with_blank, without = np.array([0.0]), np.array([_NEVER])
    every = _candidates(log_probs, ids, blank, tokens_per_frame)
    for said, tokens, log_blank in zip(*every):
        total = np.logaddexp(with_blank, without)
        # A repeated token extends only what ended in a blank.
        same = last[:, None] == tokens  # (n, k)
        grown = np.where(same, with_blank[:, None], total[:, None]) + said
        stays = without + np.where(same, said, _NEVER).max(1, initial=_NEVER)
        blanked = total + log_blank
        # What is in the beam is reached from its parent there, too.
        child, parent = np.nonzero(parents[:, None] == nodes)
        by, column = np.nonzero(last[child][:, None] == tokens)
        child, parent = child[by], parent[by]
        stays[child] = np.logaddexp(stays[child], grown[parent, column])
        grown[parent, column] = _NEVER
        scores = np.concatenate([np.logaddexp(blanked, stays), grown.ravel()])
        best = np.argsort(-scores, kind="stable")[:beam]
        best = best[scores[best] > _NEVER]
        old, new = best[best < len(nodes)], best[best >= len(nodes)] - len(nodes)
        rows, columns = np.divmod(new, max(len(tokens), 1))
        before, said_now = nodes[rows], tokens[columns]
        added = trie.children(before, said_now)
        nodes = np.concatenate([nodes[old], added])
        last = np.concatenate([last[old], said_now])
        parents = np.concatenate([parents[old], before])
        with_blank = np.concatenate([blanked[old], np.full(len(added), _NEVER)])
        without = np.concatenate([stays[old], grown[rows, columns]])
    total = np.logaddexp(with_blank, without)
    order = np.argsort(-total, kind="stable")
    return [Hypothesis(trie.sequence(nodes[i]), float(total[i])) for i in order]


def _candidates(
    log_probs: np.ndarray, ids: Optional[np.ndarray], blank: int, most: int
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities and ids of the likeliest (U, k), and of the blank (U,)."""
    if ids is None:
        ids = np.broadcast_to(np.arange(log_probs.shape[1]), log_probs.shape)
    is_blank = ids == blank
    log_blank = np.where(is_blank, log_probs, _NEVER).max(1, initial=_NEVER)
    others = np.where(is_blank, _NEVER, log_probs)
    most = min(most, others.shape[1])
    kept = np.argsort(-others, axis=1, kind="stable")[:, :most]
    others = np.take_along_axis(others, kept, 1)
    # The blank, where it is among them, is a token that nothing can be.
    tokens = np.where(others > _NEVER, np.take_along_axis(ids, kept, 1), -2)
    return others, tokens, log_blank


class _Trie:
    """Prefixes by number, each with its last token and the prefix before that."""

    ROOT = 0

    def __init__(self) -> None:
        self.parent, self.last = [-1], [-1]
        self._children: Dict[Tuple[int, int], int] = {}

    def children(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The prefixes that are longer by a token, for pairs."""
        found = []
        for key in zip(nodes.tolist(), tokens.tolist()):
            if key not in self._children:
                self._children[key] = len(self.parent)
                self.parent.append(key[0])
                self.last.append(key[1])
            found.append(self._children[key])
        return np.array(found, dtype=nodes.dtype)

    def sequence(self, node: int) -> Tuple[int, ...]:
        tokens = []
        while node != self.ROOT:
            tokens.append(self.last[node])
            node = self.parent[node]
        return tuple(reversed(tokens))
