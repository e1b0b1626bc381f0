"""The most probable token sequences of utterances, many at a time."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet_ctckd.decode import base

_NEVER = -np.inf
# Prefixes are told apart by a hash of their tokens; a prefix of no tokens has _ROOT,
# and places of the beam that are not taken have one that is never looked for.
_ROOT, _NOBODY, _NO_PARENT = 1, 0, 2
_FACTOR, _SUMMAND = np.uint64(6364136223846793005), np.uint64(1442695040888963407)


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
    said = _candidates(log_probs, ids, blank, tokens_per_frame)
    return _search([said], beam)[0]


def prefix_beam_searches(
    log_probs: Sequence[np.ndarray], blank: int, beam: int, tokens_per_frame: int = 20
) -> List[List[Hypothesis]]:
    """`prefix_beam_search` of several utterances side by side, which is faster.

    Args:
        log_probs: of each (U, V).
        blank: index of the blank.
        beam: prefixes that are followed.
        tokens_per_frame: most probable tokens that a prefix is extended by.

    Returns:
        Of each utterance what it gives alone.
    """
    return _search(
        [_candidates(each, None, blank, tokens_per_frame) for each in log_probs], beam
    )


class PrefixBeamDecoder(base.Decoder):
    """`prefix_beam_searches`, without a language model.

    Args:
        vocabulary: tokens of the posteriors.
        nbest: hypotheses of an utterance, at most.
        beam: prefixes that are followed.
        tokens_per_frame: most probable tokens that a prefix is extended by.
    """

    def __init__(
        self,
        vocabulary: base.Vocabulary,
        *,
        nbest: int,
        beam: int,
        tokens_per_frame: int,
    ) -> None:
        super().__init__(vocabulary)
        self._nbest, self._beam, self._most = nbest, beam, tokens_per_frame

    def __call__(self, log_probs: Sequence[np.ndarray]) -> List[List[base.Hypothesis]]:
        """Decode utterances, as of `Decoder`."""
        found = prefix_beam_searches(
            log_probs, self.vocabulary.blank, self._beam, self._most
        )
        return [
            [self.hypothesis(*each) for each in hypotheses[: self._nbest]]
            for hypotheses in found
        ]


class _Candidates(NamedTuple):
    """What an utterance may say in each frame."""

    said: np.ndarray  # (U, k), of the likeliest tokens but the blank
    tokens: np.ndarray  # (U, k)
    log_blank: np.ndarray  # (U,)


def _candidates(
    log_probs: np.ndarray, ids: Optional[np.ndarray], blank: int, most: int
) -> _Candidates:
    if ids is None:
        ids = np.broadcast_to(np.arange(log_probs.shape[1]), log_probs.shape)
    is_blank = ids == blank
    log_blank = np.where(is_blank, log_probs, _NEVER).max(1, initial=_NEVER)
    others = np.where(is_blank, _NEVER, log_probs)
    if most < others.shape[1]:
        kept = np.argpartition(-others, most, axis=1)[:, :most]
        others = np.take_along_axis(others, kept, 1)
        ids = np.take_along_axis(ids, kept, 1)
    # What cannot be, as the blank, is a token that nothing ends in.
    return _Candidates(others, np.where(others > _NEVER, ids, -2), log_blank)


class _Beam:
    """Prefixes of utterances (B, n), and their log-probabilities.

    Attributes:
        nodes: hashes of the prefixes.
        parents: those of the prefixes that are shorter by a token.
        last: last tokens, -1 where there is none.
        with_blank: log-probability where the last frame was blank.
        without: where it was not.
    """

    def __init__(self, utterances: int, beam: int) -> None:
        self._most = beam
        size = (utterances, 1)
        self.nodes = np.full(size, _ROOT, np.uint64)
        self.parents = np.full(size, _NO_PARENT, np.uint64)
        self.last = np.full(size, -1)
        self.with_blank, self.without = np.zeros(size), np.full(size, _NEVER)

    def _widen(self, width: int) -> None:
        """Have at least so many places."""
        more = ((0, 0), (0, max(width - self.nodes.shape[1], 0)))
        self.nodes = np.pad(self.nodes, more, constant_values=_NOBODY)
        self.parents = np.pad(self.parents, more, constant_values=_NO_PARENT)
        self.last = np.pad(self.last, more, constant_values=-1)
        self.with_blank = np.pad(self.with_blank, more, constant_values=_NEVER)
        self.without = np.pad(self.without, more, constant_values=_NEVER)

    def step(
        self, said: np.ndarray, tokens: np.ndarray, log_blank: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Hear a frame of the first utterances.

        Args:
            said: (b, k), of the first b.
            tokens: (b, k).
            log_blank: (b,).

        Returns:
            For each place of the beam (b, n) the place that it comes from, and the
            token that was added, or -1.
        """
        some = len(said)
        nodes, parents, last = self.nodes[:some], self.parents[:some], self.last[:some]
        with_blank, without = self.with_blank[:some], self.without[:some]
        beam, number = nodes.shape[1], said.shape[1]
        total = np.logaddexp(with_blank, without)
        # A repeated token extends only what ended in a blank.
        same = last[:, :, None] == tokens[:, None, :]  # (b, n, k)
        grown = np.where(same, with_blank[:, :, None], total[:, :, None])
        grown += said[:, None, :]
        again = np.where(same, said[:, None, :], _NEVER).max(2, initial=_NEVER)
        stays, blanked = without + again, total + log_blank[:, None]
        # What is in the beam is reached from its parent there, too.
        row, child, parent = np.nonzero(parents[:, :, None] == nodes[:, None, :])
        by, column = np.nonzero(last[row, child][:, None] == tokens[row])
        row, child, parent = row[by], child[by], parent[by]
        joined = np.logaddexp(stays[row, child], grown[row, parent, column])
        stays[row, child] = joined
        grown[row, parent, column] = _NEVER
        scores = np.concatenate(
            [np.logaddexp(blanked, stays), grown.reshape(some, -1)], 1
        )
        # No more places than can be taken, and no fewer than there are.
        can_be = int((scores > _NEVER).sum(1).max(initial=0))
        width = min(max(min(self._most, can_be), beam), scores.shape[1])
        best = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, 1)  # (b, n)
        rows = np.arange(some)[:, None]
        kept = best < beam
        place, column = np.divmod(best - beam, max(number, 1))
        place = np.where(kept, best, place)
        column = np.where(kept, 0, column)
        added = np.full(best.shape, -1)
        without_blank = stays[rows, place]
        if number:
            added = np.where(kept, -1, tokens[rows, column])
            without_blank = np.where(kept, without_blank, grown[rows, place, column])
        before = nodes[rows, place]
        child_hash = before * _FACTOR + (added + 1).astype(np.uint64) + _SUMMAND
        alive = scores[rows, best] > _NEVER
        if width > beam:
            self._widen(width)
        self.with_blank[:some] = np.where(kept, blanked[rows, place], _NEVER)
        self.without[:some] = without_blank
        self.parents[:some] = np.where(kept, parents[rows, place], before)
        self.last[:some] = np.where(kept, last[rows, place], added)
        self.nodes[:some] = np.where(kept, before, child_hash)
        self.nodes[:some][~alive], self.parents[:some][~alive] = _NOBODY, _NO_PARENT
        return place, added


def _search(said: Sequence[_Candidates], beam: int) -> List[List[Hypothesis]]:
    # Longest first, so that those that have not ended come first in each frame.
    order = sorted(range(len(said)), key=lambda i: -len(said[i].said))
    lengths = np.array([len(said[i].said) for i in order])
    state = _Beam(len(order), beam)
    history = []
    for t in range(int(lengths.max(initial=0))):
        running = [said[i] for i in order[: int((lengths > t).sum())]]
        history.append(
            state.step(
                np.stack([each.said[t] for each in running]),
                np.stack([each.tokens[t] for each in running]),
                np.array([each.log_blank[t] for each in running]),
            )
        )
    found: List[List[Hypothesis]] = [[] for _ in said]
    total = np.logaddexp(state.with_blank, state.without)
    for row, utterance in enumerate(order):
        for place in np.argsort(-total[row], kind="stable"):
            if total[row, place] > _NEVER:
                tokens = _read_back(history, row, int(place), int(lengths[row]))
                hypothesis = Hypothesis(tokens, float(total[row, place]))
                found[utterance].append(hypothesis)
    return found


def _read_back(
    history: Sequence[Tuple[np.ndarray, np.ndarray]], row: int, place: int, frames: int
) -> Tuple[int, ...]:
    """The tokens of a place of the beam after some frames."""
    tokens = []
    for places, added in reversed(history[:frames]):
        if added[row, place] >= 0:
            tokens.append(int(added[row, place]))
        place = places[row, place]
    return tuple(reversed(tokens))
