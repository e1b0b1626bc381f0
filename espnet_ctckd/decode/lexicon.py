"""Beam search over the words of a lexicon, with an n-gram language model."""

import importlib
import itertools
import logging
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, shorten
from espnet_ctckd.data.kaldi import read_lines
from espnet_ctckd.decode.base import SPACE as SPACE
from espnet_ctckd.decode.base import Decoder, Hypothesis, Vocabulary
from espnet_ctckd.decode.language_model import check_lm, kenlm_error

# Largest number of words of one spelling in flashlight-text's trie (kTrieMaxLabel).
MAX_HOMOPHONES = 6
# Number of words that a warning names.
_NAMED = 50
UNKNOWN = "<unk>"


def read_lexicon(path: Pathlike, tokens: Sequence[str]) -> Dict[str, List[List[str]]]:
    """Read a lexicon.

    Args:
        path: file with one spelling per line: the word and its tokens; a word may have
            several lines.
        tokens: V valid tokens.

    Returns:
        Word -> spellings.

    Raises:
        InputError: the file is missing or empty, a line has no tokens, or a token is
            unknown.
    """
    known, words = set(tokens), {}  # type: ignore[var-annotated]
    for number, line in enumerate(read_lines(path, "lexicon"), 1):
        if not line.strip():
            raise InputError(f"{path}:{number} is an empty line; remove it")
        word, *spelling = line.split()
        odd = [token for token in spelling if token not in known]
        if not spelling or odd:
            raise InputError(
                f"{path}:{number} spells {word!r} with {shorten(odd) or 'nothing'}; "
                "give tokens of the model's token list"
            )
        words.setdefault(word, []).append(spelling)
    if not words:
        raise InputError(f"the lexicon {path} is empty")
    return words


def limit_homophones(
    spellings: Mapping[str, Sequence[Sequence[str]]],
    prefer: Callable[[str], float],
    most: int = MAX_HOMOPHONES,
) -> Tuple[Dict[str, List[List[str]]], List[str]]:
    """Limit the words of each spelling to the number that a trie can hold.

    Args:
        spellings: word -> spellings.
        prefer: maps a word to its score; the words with the highest scores are kept,
            and the first of equal ones.
        most: largest number of words of one spelling.

    Returns:
        The kept spellings, without duplicates and in order; and the words that lost a
        spelling.
    """
    words: Dict[Tuple[str, ...], Dict[str, None]] = {}
    for word, ways in spellings.items():
        for way in ways:
            words.setdefault(tuple(way), {})[word] = None
    kept: Dict[str, List[List[str]]] = {}
    dropped: Dict[str, None] = {}
    chosen = {
        way: set(sorted(alike, key=prefer, reverse=True)[:most])
        if len(alike) > most
        else alike
        for way, alike in words.items()
    }
    for word, ways in spellings.items():
        for spelling in dict.fromkeys(map(tuple, ways)):
            if word in chosen[spelling]:
                kept.setdefault(word, []).append(list(spelling))
            else:
                dropped[word] = None
    return kept, list(dropped)


class Lexicon:
    """A lexicon with a language model, loaded once for many searches.

    The lexicon spells words without ``<space>``, even if the model outputs it between
    words.

    Args:
        tokens: V tokens.
        blank: index of the blank.
        lexicon: file of words and their tokens; see `read_lexicon`.
        lm: ARPA or binary file of KenLM; None for no language model.

    Attributes:
        size: V.
        blank: index of the blank.
        space: index of ``<space>``, or None.
        silence: index of ``<space>`` if there is one, else of the blank.
        words: dictionary of flashlight-text.
        unknown: index of the unknown word.
        spellings: word -> its spellings, without those that the trie cannot hold.
        lm: language model of flashlight-text.
        trie: trie of the spellings.

    Raises:
        InputError: a file or library is missing or cannot be used.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        blank: int,
        lexicon: Pathlike,
        lm: Optional[Pathlike] = None,
    ) -> None:
        text = _library("flashlight.lib.text.decoder")
        dictionary = _library("flashlight.lib.text.dictionary")
        spellings = read_lexicon(lexicon, tokens)
        self.size, self.blank = len(tokens), blank
        self.space = tokens.index(SPACE) if SPACE in tokens else None
        self.silence = blank if self.space is None else self.space
        self.words = dictionary.create_word_dict({**spellings, UNKNOWN: []})
        self.unknown = self.words.get_index(UNKNOWN)
        if lm is None:
            self.lm: Any = text.ZeroLM()
        else:
            check_lm(lm)
            kenlm = _library("flashlight.lib.text.decoder.kenlm")
            try:
                self.lm = kenlm.KenLM(str(lm), self.words)
            except (RuntimeError, UnicodeDecodeError) as error:
                raise kenlm_error(lm, error) from None
        self.trie = text.Trie(self.size, self.silence)
        start = self.lm.start(False)
        index = {token: i for i, token in enumerate(tokens)}
        ends = [] if self.space is None else [self.space]
        _, unknown_score = self.lm.score(start, self.unknown)
        unknown = []
        scores: Dict[str, float] = {}
        for word in spellings:
            _, scores[word] = self.lm.score(start, self.words.get_index(word))
            if lm is not None and scores[word] == unknown_score and word != UNKNOWN:
                unknown.append(word)
        nothing = self.lm.start(True)
        self.spellings, dropped = limit_homophones(
            spellings,
            lambda word: self.lm.score(nothing, self.words.get_index(word))[1],
        )
        _warn_dropped(dropped, str(lexicon), None if lm is None else str(lm))
        for word, ways in self.spellings.items():
            number = self.words.get_index(word)
            for way in ways:
                spelling = [index[token] for token in way] + ends
                self.trie.insert(spelling, number, scores[word])
        if unknown:
            # A known word may have the score of <unk>: compare the words themselves.
            known = _library("kenlm").Model(str(lm))
            unknown = [word for word in unknown if word not in known]
        _check_unknown(unknown, len(spellings), str(lexicon), str(lm))
        self.trie.smear(text.SmearingMode.MAX)


class LexiconSearch:
    """Beam search for the best word sequences, by flashlight-text.

    Args:
        lexicon: words and language model.
        lm_scale: factor of the language model's log-probability (natural logarithm).
        word_score: score added for each word.
        silence_score: score added for each ``<space>`` between words.
        beam: beam size.
        tokens_per_frame: number of most probable tokens that are tried in each frame.
        threshold: hypotheses whose score is more than so many nats below the best are
            pruned.

    Attributes:
        lexicon: words and language model.

    References:
        Collobert, Puhrsch, Synnaeve, Wav2Letter: an End-to-End ConvNet-based Speech
        Recognition System (2016), https://arxiv.org/abs/1609.03193; flashlight-text,
        https://github.com/flashlight/text
    """

    def __init__(
        self,
        lexicon: Lexicon,
        *,
        lm_scale: float = 1.0,
        word_score: float = 0.0,
        silence_score: float = 0.0,
        beam: int = 50,
        tokens_per_frame: int = 20,
        threshold: float = 25.0,
    ) -> None:
        text = _library("flashlight.lib.text.decoder")
        self.lexicon = lexicon
        options = text.LexiconDecoderOptions(
            beam_size=beam,
            beam_size_token=min(tokens_per_frame, lexicon.size),
            beam_threshold=threshold,
            lm_weight=lm_scale,
            word_score=word_score,
            unk_score=-np.inf,
            sil_score=silence_score,
            log_add=False,
            criterion_type=text.CriterionType.CTC,
        )
        self._decoder = text.LexiconDecoder(
            options,
            lexicon.trie,
            lexicon.lm,
            lexicon.silence,
            lexicon.blank,
            lexicon.unknown,
            [],
            False,
        )

    def __call__(
        self, log_probs: np.ndarray
    ) -> List[Tuple[List[int], List[Tuple[str, int, int]], float]]:
        """Search an utterance.

        Args:
            log_probs: (U, V).

        Returns:
            Hypotheses, the best first: tokens; words, each with the index of its first
            token and the index after its last token; and the score.
        """
        if self.lexicon.space is not None:
            # The search ends words by a space, so a frame of space follows the last.
            after = np.full((1, log_probs.shape[1]), -1e4)
            after[0, self.lexicon.space] = 0.0
            log_probs = np.concatenate([log_probs, after])
        log_probs = np.ascontiguousarray(log_probs, np.float32)
        found = self._decoder.decode(log_probs.ctypes.data, *log_probs.shape)
        return [self._read(result) for result in found]

    def _read(self, result: Any) -> Tuple[List[int], List[Tuple[str, int, int]], float]:
        """Convert the frames of a hypothesis of flashlight-text to tokens and words.

        The tokens have exactly one space between words, however many were output.
        """
        tokens: List[int] = []
        words: List[Tuple[str, int, int]] = []
        spoken: List[int] = []
        before = self.lexicon.blank
        for token, word in zip(result.tokens, result.words):
            if token not in (before, self.lexicon.blank, self.lexicon.space):
                spoken.append(token)
            before = token
            if word >= 0:
                if words and self.lexicon.space is not None:
                    tokens.append(self.lexicon.space)
                name, first = self.lexicon.words.get_entry(word), len(tokens)
                tokens += spoken
                words.append((name, first, len(tokens)))
                spoken = []
        return tokens, words, float(result.score)


class LexiconDecoder(Decoder):
    """Beam search over the words of a lexicon; see `LexiconSearch`.

    Args:
        vocabulary: tokens of the posteriors.
        lexicon: file of words and their tokens, see `read_lexicon`; or the loaded
            lexicon with its language model.
        lm: file of KenLM, or None; not read if the lexicon is loaded.
        nbest: largest number of hypotheses of an utterance.
        lm_scale: factor of the language model's log-probability.
        word_score: score added for each word.
        silence_score: score added for each ``<space>`` between words.
        beam: beam size.
        tokens_per_frame: number of most probable tokens that are tried in each frame.
        beam_threshold: hypotheses whose score is more than so many nats below the best
            are pruned.

    Raises:
        InputError: a file or library is missing or cannot be used.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        lexicon: Union[Pathlike, Lexicon],
        lm: Optional[Pathlike],
        nbest: int,
        lm_scale: float,
        word_score: float,
        silence_score: float,
        beam: int,
        tokens_per_frame: int,
        beam_threshold: float,
    ) -> None:
        super().__init__(vocabulary)
        self._nbest = nbest
        if not isinstance(lexicon, Lexicon):
            lexicon = Lexicon(vocabulary.tokens, vocabulary.blank, lexicon, lm)
        self._search = LexiconSearch(
            lexicon,
            lm_scale=lm_scale,
            word_score=word_score,
            silence_score=silence_score,
            beam=beam,
            tokens_per_frame=tokens_per_frame,
            threshold=beam_threshold,
        )

    def __call__(self, log_probs: Sequence[np.ndarray]) -> List[List[Hypothesis]]:
        """Decode utterances; see `Decoder`."""
        return [
            [
                Hypothesis(tuple(tokens), tuple(words), score)
                for tokens, words, score in self._search(each)[: self._nbest]
            ]
            for each in log_probs
        ]

    def with_options(self, **options: Any) -> "LexiconDecoder":
        """Return the same decoder with other numbers; no file is read again."""
        options = {**options, "lexicon": self._search.lexicon}
        return type(self)(self.vocabulary, **options)


def _check_unknown(words: Sequence[str], of: int, lexicon: str, lm: str) -> None:
    """Warn of words that the language model does not have; refuse if it has none."""
    if len(words) == of:
        raise InputError(
            f"the language model {lm} knows none of the {of} words of the lexicon "
            f"{lexicon}: {shorten(words)}. Is it of another language, or case?"
        )
    if words:
        logging.warning(
            f"{len(words)} of the {of} words of {lexicon} are unknown to {lm}, and are "
            f"as likely as its <unk>: {shorten(words)}"
        )


def _warn_dropped(words: Sequence[str], lexicon: str, lm: Optional[str]) -> None:
    """Warn of words that lost a spelling."""
    if words:
        preferred = "that stand first" if lm is None else f"that {lm} prefers"
        logging.warning(
            f"{lexicon} spells more than {MAX_HOMOPHONES} words alike, and the search "
            f"holds no more of one spelling: it keeps those {preferred}, and leaves "
            f"{len(words)} out of it: {shorten(words, _NAMED)}"
        )


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"decoding with a lexicon needs flashlight-text, and kenlm for a language "
            f"model ({error}): pip install 'espnet_ctckd[lm]'"
        ) from None


def spell(words: Sequence[str], split: Any, tokens: Sequence[str]) -> List[str]:
    """Return the lines of a lexicon, for `read_lexicon`.

    Args:
        words: words of the lexicon.
        split: maps a word to its tokens.
        tokens: V tokens of the model.

    Returns:
        A line for each word that can be spelled, in order; other words are dropped.
    """
    known = set(tokens)
    lines = []
    for word in dict.fromkeys(words):
        spelling = split(word)
        if spelling and known.issuperset(spelling):
            lines.append(" ".join(itertools.chain([word], spelling)))
    return lines
