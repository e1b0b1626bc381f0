"""Word pieces: their names, and the text that they make.

ESPnet spells words in pieces as sentencepiece does, with a mark where a word begins
(``▁he l lo``), or, of models with ``treat_whitespace_as_suffix``, where it ends
(``he l lo▁``). Other libraries mark pieces otherwise.
"""

import re
from typing import Callable, Dict, List, Optional, Sequence

MARK = "▁"
# Names of what is no text: <unk>, [CLS].
SPECIAL = re.compile(r"<.+>|\[[A-Z]+\]")


def has_pieces(tokens: Sequence[str]) -> bool:
    """Whether a token list marks where words begin or end.

    Args:
        tokens: in sentencepiece's names, as of `piece_names`.

    Examples:
        >>> has_pieces(["<blank>", "▁he", "l", "lo"])
        True
        >>> has_pieces(["<blank>", "▁", "h", "e"])
        False
    """
    return any(len(t) > 1 and MARK in (t[0], t[-1]) for t in tokens)


def piece_names(tokens: Sequence[str]) -> List[str]:
    """Tokens by the names that sentencepiece would give them.

    BERT marks pieces that continue a word, fastBPE and subword-nmt those that do not
    end or end one, byte-level BPE those that begin one. A list without such marks is
    returned as it is.

    Args:
        tokens: V names.

    Returns:
        V names.

    Examples:
        >>> piece_names(["[UNK]", "he", "##ll", "##o"])
        ['[UNK]', '▁he', 'll', 'o']
        >>> piece_names(["hel@@", "lo"]), piece_names(["hel", "lo</w>"])
        (['hel', 'lo▁'], ['hel', 'lo▁'])
        >>> piece_names(["Ġhe", "llo"])
        ['▁he', 'llo']
    """
    plain = [t for t in tokens if not SPECIAL.fullmatch(t) or t.endswith("</w>")]
    rename: Optional[Callable[[str], str]] = None
    if has_pieces(plain):
        return list(tokens)
    if any(len(t) > 2 and t.startswith("##") for t in plain):
        rename = _from_bert
    elif any(len(t) > 4 and t.endswith("</w>") for t in plain):
        rename = _from_word_ends
    elif any(len(t) > 2 and t.endswith("@@") for t in plain):
        rename = _from_continued
    elif any(len(t) > 1 and t.startswith("Ġ") for t in plain):
        alphabet = set(_byte_alphabet())
        if all(set(t) <= alphabet for t in plain):
            rename = _from_bytes
    if rename is None:
        return list(tokens)
    kept = set(tokens) - set(plain)
    return [t if t in kept else rename(t) for t in tokens]


def _from_bert(token: str) -> str:
    return token[2:] if len(token) > 2 and token.startswith("##") else MARK + token


def _from_word_ends(token: str) -> str:
    return token.removesuffix("</w>") + MARK if token.endswith("</w>") else token


def _from_continued(token: str) -> str:
    return (
        token.removesuffix("@@")
        if len(token) > 2 and token.endswith("@@")
        else (token + MARK)
    )


def _from_bytes(token: str) -> str:
    """A piece of byte-level BPE; parts of a character keep their names."""
    alphabet = _byte_alphabet()
    try:
        text = bytes(alphabet[character] for character in token).decode()
    except UnicodeDecodeError:
        return token
    text = text.replace(" ", MARK)
    return text if text.split() == [text] else token


def _byte_alphabet() -> Dict[str, int]:
    """GPT-2's character of each byte: itself if it can be printed, or one above 255."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    alphabet = {chr(byte): byte for byte in shown}
    return {**alphabet, **{chr(256 + i): byte for i, byte in enumerate(hidden)}}


def join_pieces(pieces: Sequence[str]) -> str:
    """The text of word pieces.

    Examples:
        >>> join_pieces(["▁he", "l", "lo", "▁", "you"])
        'hello you'
    """
    return " ".join("".join(pieces).replace(MARK, " ").split())


def type_of_words(token_type: str, tokens: Sequence[str]) -> str:
    """ESPnet's token type by which tokens make words: that of pieces where they are.

    Args:
        token_type: that the configuration gives.
        tokens: V names.
    """
    return (
        "bpe" if token_type in ("word", "char") and has_pieces(tokens) else token_type
    )
