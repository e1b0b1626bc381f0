"""A decoder: from the posteriors of utterances to their hypotheses."""

from dataclasses import dataclass
from typing import Any, ClassVar, List, NamedTuple, Sequence, Tuple

import numpy as np
from torch import Tensor

SPACE = "<space>"
# What begins a word in sentencepiece's tokens.
_BEGIN = "▁"

# A word, its first token in the hypothesis, and the one after its last.
Word = Tuple[str, int, int]


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


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model.

    Attributes:
        tokens: V.
        blank: index of the blank.
        token_type: of ESPnet: how tokens make words.
    """

    tokens: Tuple[str, ...]
    blank: int
    token_type: str

    def words(self, tokens: Sequence[int]) -> Tuple[Word, ...]:
        """The words of a hypothesis of token indices."""
        return words_of([self.tokens[token] for token in tokens], self.token_type)


class Decoder:
    """A search for the hypotheses of utterances.

    Its options are the keyword-only parameters of the constructor. Each has the name
    of a field of `SearchConfig`, from which it gets its value.

    Args:
        vocabulary: tokens of the posteriors.

    Attributes:
        vocabulary: tokens of the posteriors.
        padded: whether `decode_padded` is there.
    """

    padded: ClassVar[bool] = False

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def __call__(self, log_probs: Sequence[np.ndarray]) -> List[List[Hypothesis]]:
        """Decode utterances.

        Args:
            log_probs: of each utterance (U, V), U > 0, perhaps with a prior taken out.

        Returns:
            The hypotheses of each utterance, the best first; there may be none.
        """
        raise NotImplementedError

    def decode_padded(self, log_probs: Tensor, lengths: Tensor) -> List[List[int]]:
        """Decode a batch on its device, where nothing is done to the posteriors.

        Args:
            log_probs: (B, U, V).
            lengths: (B,).

        Returns:
            The tokens of the best hypothesis of each utterance.
        """
        raise NotImplementedError

    def with_options(self, **options: Any) -> "Decoder":
        """The same decoder with other numbers; files are those of this one.

        Args:
            options: all of the decoder.
        """
        return type(self)(self.vocabulary, **options)

    def hypothesis(self, tokens: Sequence[int], score: float) -> Hypothesis:
        """A hypothesis of token indices, with its words."""
        return Hypothesis(tuple(tokens), self.vocabulary.words(tokens), score)


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
