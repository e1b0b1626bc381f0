"""Search for the hypotheses of utterances, with any of the decoders."""

import copy
import inspect
import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.prior import read_prior
from espnet_ctckd.decode.base import (
    Decoder,
    Hypothesis,
    PaddedDecoder,
    Vocabulary,
    Word,
    words_of,
)
from espnet_ctckd.decode.collapse import collapse
from espnet_ctckd.decode.registry import DECODER_CHOICES

__all__ = ["Hypothesis", "Search", "SearchConfig", "Word", "words_of"]

_FACTORS = ("beam_threshold", "lm_scale", "word_score", "silence_score", "prior_scale")
# Files that are refused if the decoder does not use them.
_FILES = ("lexicon", "lm")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Options of a search.

    Attributes:
        method: name in `DECODER_CHOICES`: ``greedy``; ``prefix_beam``, without a
            language model; ``lexicon``, with or without a language model.
        nbest: number of hypotheses.
        blank_collapse: theta of `collapse`; 1 searches all frames.
        beam: beam size.
        tokens_per_frame: number of most probable tokens that are tried in each frame.
        beam_threshold: for ``lexicon``: hypotheses whose score is more than so many
            nats below the best are pruned.
        lexicon: for ``lexicon``: file of words and their tokens.
        lm: for ``lexicon``: KenLM file, ARPA or binary.
        lm_scale: factor of the language model's log-probability.
        word_score: for ``lexicon``: score added for each word.
        silence_score: for ``lexicon``: score added for each ``<space>`` between words.
        prior_file: token priors, from ``estimate_prior``; they are divided out of the
            posteriors after `collapse`.
        prior_scale: exponent of the priors.

    Raises:
        InputError: a value is invalid, or does not apply to the method.
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
        if self.method not in DECODER_CHOICES:
            raise InputError(
                f"unknown --method {self.method!r}; choose one of "
                f"{', '.join(DECODER_CHOICES)}"
            )
        collapse(np.zeros(1), self.blank_collapse)
        self._check_numbers()
        takes = options_of(self.method)
        if "nbest" not in takes and self.nbest > 1:
            raise InputError(
                f"--nbest is of --method {_that_take('nbest')}; {self.method} has one "
                "answer"
            )
        if self.nbest > self.beam:
            raise InputError(
                f"--nbest is {self.nbest}, and --beam {self.beam}: a beam holds no "
                "more hypotheses than that"
            )
        for name in _FILES:
            given = getattr(self, name) is not None
            if name in DECODER_CHOICES[self.method].needs and not given:
                raise InputError(f"--method {self.method} and --{name} go together")
            if name not in takes and given:
                raise InputError(f"--{name} is of --method {_that_take(name)}")
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
        """True if the decoder takes padded batches of unchanged posteriors."""
        fn: Any = DECODER_CHOICES[self.method].fn
        return issubclass(fn, PaddedDecoder) and not self.prior_scale

    @property
    def options(self) -> Dict[str, Any]:
        """The options of the decoder."""
        return {name: getattr(self, name) for name in options_of(self.method)}


def options_of(method: str) -> List[str]:
    """Return the fields of `SearchConfig` that are options of a decoder."""
    parameters = inspect.signature(DECODER_CHOICES[method].fn).parameters
    return [name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY]


def _that_take(option: str) -> str:
    methods = [name for name in DECODER_CHOICES if option in options_of(name)]
    return " and ".join(methods)


class Search:
    """A configured search: Blank Collapse, prior and decoder.

    Args:
        config: options of the search.
        tokens: V tokens.
        blank: index of the blank.
        token_type: ESPnet's token type.

    Attributes:
        config: options of the search.
        blank: index of the blank.
        decoder: the configured decoder.

    Raises:
        InputError: a file of the configuration is missing or cannot be used.
    """

    def __init__(
        self, config: SearchConfig, tokens: Sequence[str], blank: int, token_type: str
    ) -> None:
        self.config, self.blank = config, blank
        vocabulary = Vocabulary(tuple(tokens), blank, token_type)
        self._prior: Optional[np.ndarray] = None
        if config.prior_file is not None:
            self._prior = np.array(read_prior(config.prior_file, tokens, tokens[blank]))
        fn = DECODER_CHOICES[config.method].fn
        self.decoder: Decoder = fn(vocabulary, **config.options)

    def at(self, config: SearchConfig) -> "Search":
        """Return the same search with other numbers, or without the prior.

        No file is read again.
        """
        other = copy.copy(self)
        other.config = config
        if config.prior_file is None:
            other._prior = None
        other.decoder = self.decoder.with_options(**config.options)
        return other

    def __call__(
        self, log_probs: Sequence[np.ndarray]
    ) -> List[Tuple[List[Hypothesis], int]]:
        """Search utterances.

        Args:
            log_probs: (U, V) of each utterance.

        Returns:
            For each utterance its hypotheses, the best first, at least one; and the
            number of frames that were searched.
        """
        config = self.config
        inputs = []
        for each in log_probs:
            each = each[collapse(each[:, self.blank], config.blank_collapse)]
            if self._prior is not None:
                each = each - config.prior_scale * self._prior
            inputs.append(each)
        # Utterances without frames are not searched, and get an empty hypothesis.
        found = self.decoder([each for each in inputs if len(each)])
        answers = iter(found)
        nothing = Hypothesis((), (), 0.0)
        return [
            ((next(answers) if len(each) else []) or [nothing], len(each))
            for each in inputs
        ]

    def decode_padded(
        self, log_probs: Tensor, lengths: Tensor
    ) -> List[Tuple[List[Hypothesis], int]]:
        """Search a padded batch on its device, for `SearchConfig.plain`.

        Args:
            log_probs: (B, U, V).
            lengths: (B,).

        Returns:
            For each utterance its hypothesis, and its number of frames.
        """
        assert isinstance(self.decoder, PaddedDecoder)
        found = self.decoder.decode_padded(log_probs, lengths)
        return [
            ([self.decoder.hypothesis(tokens, 0.0)], frames)
            for tokens, frames in zip(found, lengths.tolist())
        ]
