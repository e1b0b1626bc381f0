"""CTC prefix beam search of many utterances at once."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet_ctckd.decode import base

_NEVER = -np.inf
# Prefixes are identified by a hash of their tokens. The empty prefix has _ROOT, free
# places of the beam have _NOBODY, and neither has a parent in the beam.
_ROOT, _NOBODY, _NO_PARENT = 1, 0, 2
_FACTOR, _SUMMAND = np.uint64(6364136223846793005), np.uint64(1442695040888963407)


class Hypothesis(NamedTuple):
    """A token sequence, and its log-probability over the alignments in the beam."""

    tokens: Tuple[int, ...]
    log_prob: float


def prefix_beam_search(
    log_probs: np.ndarray,
    blank: int,
    beam: int,
    ids: Optional[np.ndarray] = None,
    tokens_per_frame: int = 20,
) -> List[Hypothesis]:
    """Search for the most probable token sequences, summed over alignments.

    Args:
        log_probs: (U, K).
        blank: index of the blank.
        beam: beam size.
        ids: token ids (U, K), or None for dense posteriors.
        tokens_per_frame: number of most probable tokens that extend a prefix.

    Returns:
        Distinct sequences, the best first, at most ``beam``.

    References:
        Graves, Jaitly, Towards End-To-End Speech Recognition with Recurrent Neural
        Networks (2014), https://proceedings.mlr.press/v32/graves14.html
    """
    candidates = _candidates(log_probs, ids, blank, tokens_per_frame)
    return _search([candidates], beam)[0]


def prefix_beam_searches(
    log_probs: Sequence[np.ndarray], blank: int, beam: int, tokens_per_frame: int = 20
) -> List[List[Hypothesis]]:
    """Run `prefix_beam_search` on several utterances at once, which is faster.

    Args:
        log_probs: (U, V) of each utterance.
        blank: index of the blank.
        beam: beam size.
        tokens_per_frame: number of most probable tokens that extend a prefix.

    Returns:
        For each utterance the result of `prefix_beam_search`.
    """
    return _search(
        [_candidates(each, None, blank, tokens_per_frame) for each in log_probs], beam
    )


class PrefixBeamDecoder(base.Decoder):
    """Prefix beam search without a language model.

    Args:
        vocabulary: tokens of the posteriors.
        nbest: largest number of hypotheses of an utterance.
        beam: beam size.
        tokens_per_frame: number of most probable tokens that extend a prefix.
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
        """Decode utterances; see `Decoder`."""
        found = prefix_beam_searches(
            log_probs, self.vocabulary.blank, self._beam, self._most
        )
        return [
            [self.hypothesis(*each) for each in hypotheses[: self._nbest]]
            for hypotheses in found
        ]


class _Candidates(NamedTuple):
    """Most probable non-blank tokens of each frame of an utterance."""

    log_probs: np.ndarray  # (U, k)
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
    # Tokens of probability 0, and the blank, become -2, the last token of no prefix.
    return _Candidates(others, np.where(others > _NEVER, ids, -2), log_blank)


class _Beam:
    """Prefixes of utterances (B, n), and their log-probabilities.

    Attributes:
        nodes: hashes of the prefixes.
        parents: hashes of the prefixes without their last token.
        last: last tokens; -1 for the empty prefix.
        with_blank: log-probability of the alignments that end in a blank.
        without: log-probability of the alignments that end in a token.
    """

    def __init__(self, utterances: int, beam: int) -> None:
        self._most = beam
        size = (utterances, 1)
        self.nodes = np.full(size, _ROOT, np.uint64)
        self.parents = np.full(size, _NO_PARENT, np.uint64)
        self.last = np.full(size, -1)
        self.with_blank, self.without = np.zeros(size), np.full(size, _NEVER)

    def _widen(self, width: int) -> None:
        """Grow to at least so many places."""
        more = ((0, 0), (0, max(width - self.nodes.shape[1], 0)))
        self.nodes = np.pad(self.nodes, more, constant_values=_NOBODY)
        self.parents = np.pad(self.parents, more, constant_values=_NO_PARENT)
        self.last = np.pad(self.last, more, constant_values=-1)
        self.with_blank = np.pad(self.with_blank, more, constant_values=_NEVER)
        self.without = np.pad(self.without, more, constant_values=_NEVER)

    def step(
        self, log_probs: np.ndarray, tokens: np.ndarray, log_blank: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Extend the prefixes of the first b utterances by a frame.

        Args:
            log_probs: log-probabilities of the candidates (b, k).
            tokens: token ids of the candidates (b, k).
            log_blank: log-probabilities of the blank (b,).

        Returns:
            For each place of the beam (b, n) its previous place, and the token that
            was added, or -1.
        """
        some = len(log_probs)
        nodes, parents, last = self.nodes[:some], self.parents[:some], self.last[:some]
        with_blank, without = self.with_blank[:some], self.without[:some]
        beam, number = nodes.shape[1], log_probs.shape[1]
        total = np.logaddexp(with_blank, without)
        # A repeated token extends only alignments that end in a blank.
        same = last[:, :, None] == tokens[:, None, :]  # (b, n, k)
        grown = np.where(same, with_blank[:, :, None], total[:, :, None])
        grown += log_probs[:, None, :]
        again = np.where(same, log_probs[:, None, :], _NEVER).max(2, initial=_NEVER)
        stays, blanked = without + again, total + log_blank[:, None]
        # A prefix in the beam is also reached from its parent in the beam.
        row, child, parent = np.nonzero(parents[:, :, None] == nodes[:, None, :])
        by, column = np.nonzero(last[row, child][:, None] == tokens[row])
        row, child, parent = row[by], child[by], parent[by]
        joined = np.logaddexp(stays[row, child], grown[row, parent, column])
        stays[row, child] = joined
        grown[row, parent, column] = _NEVER
        scores = np.concatenate(
            [np.logaddexp(blanked, stays), grown.reshape(some, -1)], 1
        )
        # At most as many places as there are possible prefixes, and never fewer than
        # before.
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


def _search(utterances: Sequence[_Candidates], beam: int) -> List[List[Hypothesis]]:
    # Longest first, so that the running utterances are the first rows in each frame.
    sizes = [len(each.log_blank) for each in utterances]
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    lengths = np.array([sizes[i] for i in order])
    state = _Beam(len(order), beam)
    history = []
    for t in range(int(lengths.max(initial=0))):
        running = [utterances[i] for i in order[: int((lengths > t).sum())]]
        history.append(
            state.step(
                np.stack([each.log_probs[t] for each in running]),
                np.stack([each.tokens[t] for each in running]),
                np.array([each.log_blank[t] for each in running]),
            )
        )
    found: List[List[Hypothesis]] = [[] for _ in utterances]
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
    """Trace back the tokens of a place of the beam."""
    tokens = []
    for places, added in reversed(history[:frames]):
        if added[row, place] >= 0:
            tokens.append(int(added[row, place]))
        place = places[row, place]
    return tuple(reversed(tokens))
