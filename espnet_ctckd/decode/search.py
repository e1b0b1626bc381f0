"""From the posteriors of an utterance to its hypotheses, by any of the methods."""

import copy
import math
from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.kaldi import read_prior
from espnet_ctckd.decode.collapse import collapse
from espnet_ctckd.decode.lexicon import SPACE, Lexicon, LexiconSearch
from espnet_ctckd.decode.prefix_beam import prefix_beam_searches

METHODS = ("greedy", "prefix_beam", "lexicon")
_FACTORS = ("beam_threshold", "lm_scale", "word_score", "silence_score", "prior_scale")
# What begins a word in sentencepiece's tokens.
_BEGIN = "▁"

# A word, its first token in the hypothesis, and the one after its last.
Word = Tuple[str, int, int]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How posteriors are searched.

    Attributes:
        method: ``greedy``; ``prefix_beam``, without a language model; or ``lexicon``,
            with or without one.
        nbest: hypotheses that are asked for.
        blank_collapse: theta of `collapse`; 1 searches all frames.
        beam: hypotheses that are followed.
        tokens_per_frame: most probable tokens of a frame that are tried.
        beam_threshold: of ``lexicon``: hypotheses that are worse than the best by more
            (in nats) are given up.
        lexicon: of ``lexicon``: file of words and their tokens.
        lm: of ``lexicon``: file of KenLM, ARPA or binary.
        lm_scale: factor of its log-probability.
        word_score: of ``lexicon``: added for each word.
        silence_score: of ``lexicon``: added for each ``<space>`` between words.
        prior_file: token priors, as ``estimate_prior`` writes them: they are taken out
            of the posteriors, after `collapse`.
        prior_scale: how much of them.

    Raises:
        InputError: a value makes no sense, or goes with another method.
    """

    method: str = "greedy"
    nbest: int = 1
    blank_collapse: float = 1.0
    beam: int = 20
    tokens_per_frame: int = 20
    beam_threshold: float = 25.0
    lexicon: Optional[str] = None
    lm: Optional[str] = None
    lm_scale: float = 1.0
    word_score: float = 0.0
    silence_score: float = 0.0
    prior_file: Optional[str] = None
    prior_scale: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(
                f"unknown --method {self.method!r}; choose one of {', '.join(METHODS)}"
            )
        collapse(np.zeros(1), self.blank_collapse)
        self._check_numbers()
        if self.method == "greedy" and self.nbest > 1:
            raise InputError(
                "--nbest is of --method prefix_beam and lexicon; greedy has one answer"
            )
        if self.nbest > self.beam:
            raise InputError(
                f"--nbest is {self.nbest}, and --beam {self.beam}: a beam holds no "
                "more hypotheses than that"
            )
        if (self.method == "lexicon") != (self.lexicon is not None):
            raise InputError("--method lexicon and --lexicon go together")
        if self.lm is not None and self.method != "lexicon":
            raise InputError("--lm is of --method lexicon")
        if self.prior_scale < 0 or (self.prior_scale > 0) != bool(self.prior_file):
            raise InputError(
                f"--prior_file is {self.prior_file} and --prior_scale "
                f"{self.prior_scale}: give both, the scale above 0, or neither"
            )

    def _check_numbers(self) -> None:
        for name in _FACTORS:
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"--{name} is {getattr(self, name)}; give a number")
        if self.beam_threshold <= 0:
            raise InputError(
                f"--beam_threshold is {self.beam_threshold}; give one above 0"
            )
        for name in ("nbest", "beam", "tokens_per_frame"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"--{name} is {getattr(self, name)}; give one of at least 1"
                )

    @property
    def plain(self) -> bool:
        """Whether the best token of each frame is all that is asked for."""
        return self.method == "greedy" and not self.prior_scale


class Hypothesis(NamedTuple):
    """What may have been said.

    Attributes:
        tokens: indices, without blanks.
        words: each with its place in the tokens.
        score: log-probability, or what the lexicon search makes of it; of different
            methods and thresholds not to be compared.
    """

    tokens: Tuple[int, ...]
    words: Tuple[Word, ...]
    score: float


class Search:
    """Searches posteriors, by prefix beam in many utterances side by side.

    Args:
        config: how.
        tokens: V.
        blank: index of the blank.
        token_type: of ESPnet: how tokens make words.

    Attributes:
        config: how.
        blank: index of the blank.

    Raises:
        InputError: a file of the configuration is missing or cannot be used.
    """

    def __init__(
        self, config: SearchConfig, tokens: Sequence[str], blank: int, token_type: str
    ) -> None:
        self.config, self.blank = config, blank
        self._tokens, self._type = list(tokens), token_type
        self._prior: Optional[np.ndarray] = None
        if config.prior_file is not None:
            self._prior = np.array(read_prior(config.prior_file, tokens, tokens[blank]))
        self._lexicon: Optional[LexiconSearch] = None
        if config.lexicon is not None:
            lexicon = Lexicon(tokens, blank, config.lexicon, config.lm)
            self._lexicon = self._by_lexicon(lexicon)

    def _by_lexicon(self, lexicon: Lexicon) -> LexiconSearch:
        config = self.config
        return LexiconSearch(
            lexicon,
            lm_scale=config.lm_scale,
            word_score=config.word_score,
            silence_score=config.silence_score,
            beam=config.beam,
            tokens_per_frame=config.tokens_per_frame,
            threshold=config.beam_threshold,
        )

    def at(self, config: SearchConfig) -> "Search":
        """The same with other numbers, or without the prior; no file is read again."""
        other = copy.copy(self)
        other.config = config
        if config.prior_file is None:
            other._prior = None
        if self._lexicon is not None:
            other._lexicon = other._by_lexicon(self._lexicon.lexicon)
        return other

    def __call__(
        self, log_probs: Sequence[np.ndarray]
    ) -> List[Tuple[List[Hypothesis], int]]:
        """Search some utterances.

        Args:
            log_probs: of each (U, V).

        Returns:
            For each its hypotheses, the best first, at least one; and how many frames
            were searched.
        """
        config = self.config
        said = []
        for each in log_probs:
            each = each[collapse(each[:, self.blank], config.blank_collapse)]
            if self._prior is not None:
                each = each - config.prior_scale * self._prior
            said.append(each)
        # Of what has no frames, nothing is searched, and the hypothesis is empty.
        there = [each for each in said if len(each)]
        if self._lexicon is not None:
            found = [self._by_words(self._lexicon, each) for each in there]
        elif config.method == "prefix_beam":
            lists = prefix_beam_searches(
                there, self.blank, config.beam, config.tokens_per_frame
            )
            found = [
                [self._hypothesis(*each) for each in hypotheses[: config.nbest]]
                for hypotheses in lists
            ]
        else:
            found = [[self._greedy(each)] for each in there]
        answers = iter(found)
        nothing = Hypothesis((), (), 0.0)
        return [
            ((next(answers) if len(each) else []) or [nothing], len(each))
            for each in said
        ]

    def _by_words(self, lexicon: LexiconSearch, said: np.ndarray) -> List[Hypothesis]:
        return [
            Hypothesis(tuple(tokens), tuple(words), score)
            for tokens, words, score in lexicon(said)[: self.config.nbest]
        ]

    def _greedy(self, said: np.ndarray) -> Hypothesis:
        best = said.argmax(1)
        kept = best != self.blank
        kept[1:] &= best[1:] != best[:-1]
        return self._hypothesis(best[kept].tolist(), float(said.max(1).sum()))

    def _hypothesis(self, tokens: Sequence[int], score: float) -> Hypothesis:
        return Hypothesis(tuple(tokens), self.words(tokens), score)

    def words(self, tokens: Sequence[int]) -> Tuple[Word, ...]:
        """The words of a hypothesis."""
        return words_of([self._tokens[token] for token in tokens], self._type)


def words_of(tokens: Sequence[str], token_type: str) -> Tuple[Word, ...]:
    """The words that tokens make.

    Args:
        tokens: of a hypothesis.
        token_type: of ESPnet: char, bpe, word or phn.

    Examples:
        >>> words_of(["a", "b", "<space>", "c"], "char")
        (('ab', 0, 2), ('c', 3, 4))
        >>> words_of(["▁he", "ll", "▁o"], "bpe")
        (('hell', 0, 2), ('o', 2, 3))
        >>> words_of(["he", "ll▁", "o▁"], "bpe")
        (('hell', 0, 2), ('o', 2, 3))
    """
    words: List[Word] = []
    begun = False
    for place, token in enumerate(tokens):
        if token == SPACE:
            begun = False
            continue
        single = token_type in ("word", "phn")
        piece = token
        ends = token_type == "bpe" and len(token) > 1 and token.endswith(_BEGIN)
        if token_type == "bpe" and token.startswith(_BEGIN):
            begun, piece = False, token[len(_BEGIN) :]
        if ends:
            piece = piece[: -len(_BEGIN)]
        if begun and not single:
            name, first, _ = words[-1]
            words[-1] = (name + piece, first, place + 1)
        else:
            words.append((piece, place, place + 1))
            begun = True
        if ends:
            begun = False
    return tuple(word for word in words if word[0])
