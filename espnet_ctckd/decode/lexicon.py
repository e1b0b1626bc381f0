"""Beam search over the words of a lexicon, with an n-gram language model."""

import gzip
import importlib
import itertools
import logging
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet_ctckd.choices import InputError
from espnet_ctckd.data import Pathlike, read_lines, shorten

# flashlight-text keeps no more words of one spelling.
_MOST_HOMOPHONES = 6

# What a binary language model of KenLM begins with.
KENLM_BINARY = b"mmap lm http://kheafield.com/code"
_HEAD = 1024  # bytes that show what a file is
SPACE = "<space>"
UNKNOWN = "<unk>"


def read_lexicon(path: Pathlike, tokens: Sequence[str]) -> Dict[str, List[List[str]]]:
    """Read a lexicon.

    Args:
        path: a line a spelling: the word and its tokens; a word may have several lines.
        tokens: V that may stand there.

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


class Lexicon:
    """Words, how they are spelled, and how likely they are: what takes long to read.

    Models whose words are kept apart by ``<space>`` may say it after each word; the
    lexicon spells words without it.

    Args:
        tokens: V.
        blank: index of the blank.
        lexicon: file, as `read_lexicon` takes it.
        lm: ARPA or binary file of KenLM; None where only the lexicon counts.

    Attributes:
        size: V.
        blank: index of the blank.
        space: index of ``<space>``, None where there is none.
        silence: index of the space, or else of the blank.
        words: of flashlight-text.
        unknown: index of the unknown word.
        lm: of flashlight-text.
        trie: of spellings.

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
                raise InputError(
                    f"KenLM cannot read the language model {lm}: "
                    f"{' '.join(str(error).split())}. It wants ARPA with tabs after "
                    "probabilities, or its own binary format"
                ) from None
        self.trie = text.Trie(self.size, self.silence)
        start = self.lm.start(False)
        index = {token: i for i, token in enumerate(tokens)}
        ends = [] if self.space is None else [self.space]
        _, unknown_score = self.lm.score(start, self.unknown)
        strange = []
        alike: Dict[Tuple[int, ...], List[Tuple[float, int]]] = {}
        for word, ways in spellings.items():
            number = self.words.get_index(word)
            _, score = self.lm.score(start, number)
            if lm is not None and score == unknown_score and word != UNKNOWN:
                strange.append(word)
            for way in ways:
                spelling = tuple(index[token] for token in way)
                alike.setdefault(spelling, []).append((score, number))
        dropped = []
        for spelling, scored in alike.items():
            # Of words that are equally likely, those that stand first.
            scored.sort(key=lambda pair: -pair[0])
            for score, number in scored[:_MOST_HOMOPHONES]:
                self.trie.insert([*spelling, *ends], number, score)
            dropped += scored[_MOST_HOMOPHONES:]
        if dropped:
            names = [self.words.get_entry(number) for _, number in dropped]
            logging.warning(
                f"{lexicon} spells more than {_MOST_HOMOPHONES} words alike, and the "
                "search keeps as many, the likeliest by the language model: "
                f"{len(names)} spellings are left out: {shorten(names)}"
            )
        if strange:
            # Of a model that holds many words to be as likely as <unk>, by their names.
            known = _library("kenlm").Model(str(lm))
            strange = [word for word in strange if word not in known]
        _tell_strange(strange, len(spellings), str(lexicon), str(lm))
        self.trie.smear(text.SmearingMode.MAX)


def check_lm(path: Pathlike) -> None:
    """Refuse a language model that KenLM would end at, without reading all of it.

    Args:
        path: ARPA, perhaps gzipped, or a binary of KenLM.

    Raises:
        InputError: it is missing, unreadable, cut short, or something else.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no language model {path}")
    with open(path, "rb") as f:
        begin = f.read(_HEAD)
    if begin.startswith(KENLM_BINARY):
        return
    if begin.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as unpacked:
                begin = unpacked.read(_HEAD)
                while unpacked.read(2**20):
                    pass
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"the language model {path} is a damaged gzip file ({error}): restore "
                "it"
            ) from None
    if not begin.lstrip().startswith(b"\\data\\"):
        raise InputError(
            f"{path} is no language model that KenLM reads: it begins with "
            f"{begin[:20]!r}; give an ARPA file (which begins with \\data\\), "
            "perhaps gzipped, or a binary of KenLM"
        )


class LexiconSearch:
    """The best word sequences, by flashlight-text.

    Args:
        lexicon: words that may be said.
        lm_scale: factor of its log-probability (natural logarithm).
        word_score: added for each word.
        silence_score: added for each ``<space>`` between words.
        beam: hypotheses that are followed.
        tokens_per_frame: most probable tokens of a frame that are tried.
        threshold: hypotheses that are worse than the best by more are given up.

    Attributes:
        lexicon: words that may be said.

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
        """Search.

        Args:
            log_probs: (U, V).

        Returns:
            Hypotheses, the best first: tokens; words, each with its first token and
            the one after its last; and the score.
        """
        said = log_probs
        if self.lexicon.space is not None:
            # Nothing is said after the last word, but the search ends words by a space.
            after = np.full((1, said.shape[1]), -1e4)
            after[0, self.lexicon.space] = 0.0
            said = np.concatenate([said, after])
        said = np.ascontiguousarray(said, np.float32)
        found = self._decoder.decode(said.ctypes.data, *said.shape)
        return [self._read(result) for result in found]

    def _read(self, result: Any) -> Tuple[List[int], List[Tuple[str, int, int]], float]:
        """Tokens and words of a hypothesis, whose frames flashlight lists.

        Between words stands one space, wherever and however often it was said.
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


def _tell_strange(words: Sequence[str], of: int, lexicon: str, lm: str) -> None:
    """Say which words the language model has never seen; refuse where it is all."""
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


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"decoding with a lexicon needs flashlight-text, and kenlm for a language "
            f"model ({error}): pip install 'espnet_ctckd[lm]'"
        ) from None


def spell(words: Sequence[str], split: Any, tokens: Sequence[str]) -> List[str]:
    """Lines of a lexicon, for `read_lexicon`.

    Args:
        words: to be spelled.
        split: from a word to its tokens.
        tokens: V that the model has.

    Returns:
        A line for each word that can be spelled, in order; others are left out.
    """
    known = set(tokens)
    lines = []
    for word in dict.fromkeys(words):
        spelling = split(word)
        if spelling and known.issuperset(spelling):
            lines.append(" ".join(itertools.chain([word], spelling)))
    return lines
