"""Base class of decoders, which map posteriors to hypotheses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np
from torch import Tensor

SPACE = "<space>"
# Marks the beginning of a word in sentencepiece's tokens.
_BEGIN = "▁"

# A word, the index of its first token, and the index after its last token.
Word = Tuple[str, int, int]


class Hypothesis(NamedTuple):
    """A hypothesis of an utterance.

    Attributes:
        tokens: token indices, without blanks.
        words: words, with their ranges in the tokens.
        score: log-probability, or the score of the lexicon search; not comparable
            between methods or thresholds.
    """

    tokens: Tuple[int, ...]
    words: Tuple[Word, ...]
    score: float


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model.

    Attributes:
        tokens: V.
        blank: index of the blank.
        token_type: ESPnet's token type (``char``, ``bpe``, ``word``, ``phn``).
    """

    tokens: Tuple[str, ...]
    blank: int
    token_type: str

    def words(self, tokens: Sequence[int]) -> Tuple[Word, ...]:
        """Return the words of a sequence of token indices."""
        return words_of([self.tokens[token] for token in tokens], self.token_type)


class Decoder(ABC):
    """A search for the hypotheses of utterances.

    The options of a decoder are the keyword-only parameters of its constructor. Each
    has the name of the field of `SearchConfig` that gives its value.

    Args:
        vocabulary: tokens of the posteriors.

    Attributes:
        vocabulary: tokens of the posteriors.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    @abstractmethod
    def __call__(self, log_probs: Sequence[np.ndarray]) -> List[List[Hypothesis]]:
        """Decode utterances.

        Args:
            log_probs: (U, V) of each utterance, U > 0; a prior may be subtracted.

        Returns:
            The hypotheses of each utterance, the best first; possibly none.
        """

    def with_options(self, **options: Any) -> "Decoder":
        """Return the same decoder with other numbers; no file is read again.

        Args:
            options: all options of the decoder.
        """
        return type(self)(self.vocabulary, **options)

    def hypothesis(self, tokens: Sequence[int], score: float) -> Hypothesis:
        """Return the hypothesis of a sequence of token indices, with its words."""
        return Hypothesis(tuple(tokens), self.vocabulary.words(tokens), score)


class PaddedDecoder(Decoder):
    """A decoder that also takes a padded batch on the device of the model."""

    @abstractmethod
    def decode_padded(self, log_probs: Tensor, lengths: Tensor) -> List[List[int]]:
        """Decode a padded batch on its device.

        Args:
            log_probs: (B, U, V).
            lengths: (B,).

        Returns:
            The tokens of the best hypothesis of each utterance.
        """


def words_of(tokens: Sequence[str], token_type: str) -> Tuple[Word, ...]:
    """Join tokens to words.

    Args:
        tokens: tokens of a hypothesis.
        token_type: ESPnet's token type: char, bpe, word or phn.

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
