"""Matching of the teacher's tokens to the student's: characters and word pieces.

Tokens are matched by their strings, the blank by its role.

ESPnet uses the word pieces of sentencepiece, with a mark at the start of a word
(``▁he l lo``) or, with ``treat_whitespace_as_suffix``, at its end (``he l lo▁``).
Other libraries mark pieces differently.
"""

import re
from collections import Counter
from typing import Callable, Dict, List, Mapping, Optional, Sequence

from torch import Tensor

from espnet_ctckd.choices import InputError

# Index of a token that the student does not have.
DROPPED = -1
# Maximum share of the teacher's probability mass on tokens that the student lacks.
MOST_DROPPED = 0.01
MARK = "▁"
# Names of special tokens: <unk>, [CLS].
SPECIAL = re.compile(r"<.+>|\[[A-Z]+\]")


def has_pieces(tokens: Sequence[str]) -> bool:
    """Return True if a token list marks where words begin or end.

    Args:
        tokens: names in the notation of sentencepiece, see `piece_names`.

    Examples:
        >>> has_pieces(["<blank>", "▁he", "l", "lo"])
        True
        >>> has_pieces(["<blank>", "▁", "h", "e"])
        False
    """
    return any(len(t) > 1 and MARK in (t[0], t[-1]) for t in tokens)


def piece_names(tokens: Sequence[str]) -> List[str]:
    """Convert tokens to the notation of sentencepiece.

    BERT marks pieces that continue a word, fastBPE and subword-nmt pieces that do or
    do not end a word, byte-level BPE pieces that begin a word. A list without such
    marks is returned unchanged.

    Args:
        tokens: V tokens.

    Returns:
        V tokens.

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
    special = set(tokens) - set(plain)
    return [t if t in special else rename(t) for t in tokens]


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
    """Decode a piece of byte-level BPE; parts of a character keep their names."""
    alphabet = _byte_alphabet()
    try:
        text = bytes(alphabet[character] for character in token).decode()
    except UnicodeDecodeError:
        return token
    text = text.replace(" ", MARK)
    return text if text.split() == [text] else token


def _byte_alphabet() -> Dict[str, int]:
    """Return character -> byte of GPT-2's alphabet; printable bytes keep theirs."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    alphabet = {chr(byte): byte for byte in shown}
    return {**alphabet, **{chr(256 + i): byte for i, byte in enumerate(hidden)}}


def join_pieces(pieces: Sequence[str]) -> str:
    """Join word pieces to text.

    Examples:
        >>> join_pieces(["▁he", "l", "lo", "▁", "you"])
        'hello you'
    """
    return " ".join("".join(pieces).replace(MARK, " ").split())


def type_of_words(token_type: str, tokens: Sequence[str]) -> str:
    """Return ESPnet's token type for joining tokens: ``bpe`` for any word pieces.

    Args:
        token_type: token type in the configuration.
        tokens: V tokens.
    """
    return (
        "bpe" if token_type in ("word", "char") and has_pieces(tokens) else token_type
    )


def map_tokens(
    teacher_tokens: Sequence[str],
    teacher_blank: int,
    student_tokens: Sequence[str],
    student_blank: int,
    where: str,
) -> Optional[List[int]]:
    """Map the teacher's tokens to the student's.

    Tokens are matched by their strings, word pieces in the notation of sentencepiece
    (`piece_names`); then by the names that libraries use for the same token (``|`` and
    ``<space>``, ``[UNK]`` and ``<unk>``, apostrophes); then case-insensitively. Tokens
    that the student lacks are `DROPPED`; the reader of the posteriors checks their
    probability mass. The student may have additional special tokens (``<...>``), which
    the teacher never outputs.

    Args:
        teacher_tokens: tokens in the order of the posteriors.
        teacher_blank: index of the blank among them.
        student_tokens: V tokens in the order of the student's outputs.
        student_blank: index of the blank among them.
        where: origin of the teacher's tokens, for the error.

    Returns:
        The student's index of each of the teacher's tokens, or None if the lists are
        equal.

    Raises:
        InputError: only the blank is matched, or the teacher lacks tokens of the
            student.
    """
    index = [DROPPED] * len(teacher_tokens)
    index[teacher_blank] = student_blank
    free = [i for i in range(len(student_tokens)) if i != student_blank]
    our_names, their_names = piece_names(student_tokens), piece_names(teacher_tokens)
    for name in (str, plain_name, _folded):
        ours = _unique({i: name(our_names[i]) for i in free})
        left = [i for i, place in enumerate(index) if place == DROPPED]
        theirs = _unique({i: name(their_names[i]) for i in left})
        for token, i in theirs.items():
            if token in ours:
                index[i] = ours[token]
                free.remove(ours[token])
    lacks = [teacher_tokens[i] for i, place in enumerate(index) if place == DROPPED]
    extra = [student_tokens[i] for i in free if not _special(student_tokens[i])]
    matched = len(teacher_tokens) - 1 - len(lacks)
    if extra or not matched:
        raise InputError(
            f"the teacher's tokens ({where}) are not the student's: {matched} of "
            f"{len(teacher_tokens) - 1} but the blank are matched; the student lacks "
            f"{_some(lacks)} of the teacher's, the teacher {_some(extra)} of the "
            "student's. Train the student with the teacher's token list, or dump the "
            "posteriors of a teacher that has the student's"
        )
    return None if index == list(range(len(student_tokens))) else index


def place_tokens(
    values: Tensor, index: Sequence[int], size: int, fill: float
) -> Tensor:
    """Reorder the values of tokens to another token list.

    Args:
        values: (..., V), in the order of the first list.
        index: index of each of the V tokens in the second list, without repetitions;
            `DROPPED` for tokens that the second list lacks.
        size: number of tokens of the second list, W.
        fill: value of tokens that the first list lacks.

    Returns:
        (..., W).

    Examples:
        >>> import torch
        >>> place_tokens(torch.tensor([1.0, 2.0, 3.0]), [2, DROPPED, 0], 4, 0.0)
        tensor([3., 0., 1., 0.])
    """
    kept = [i for i, place in enumerate(index) if place != DROPPED]
    placed = values.new_full((*values.shape[:-1], size), fill)
    placed[..., [index[i] for i in kept]] = values[..., kept]
    return placed


def describe_match(
    teacher_tokens: Sequence[str], student_tokens: Sequence[str], index: Sequence[int]
) -> str:
    """Describe in one line how the teacher's tokens are mapped.

    Args:
        teacher_tokens: tokens in the order of the posteriors.
        student_tokens: V tokens.
        index: result of `map_tokens`.
    """
    pairs = [(token, place) for token, place in zip(teacher_tokens, index)]
    renamed = [
        f"{token} as {student_tokens[place]}"
        for token, place in pairs
        if place != DROPPED and token != student_tokens[place]
    ]
    dropped = [token for token, place in pairs if place == DROPPED]
    same = len(pairs) - len(renamed) - len(dropped)
    return (
        f"{same} of the teacher's {len(pairs)} tokens are the student's, "
        f"{_some(renamed, 40)} are renamed, {_some(dropped, 40)} dropped"
    )


def _unique(names: Mapping[int, str]) -> Dict[str, int]:
    """Return name -> index of the names that occur once."""
    times = Counter(names.values())
    return {name: i for i, name in names.items() if times[name] == 1}


def plain_name(token: str) -> str:
    """Return ESPnet's name of a token that libraries name differently."""
    if token in ("|", "▁", " ", "[SPACE]"):
        return "<space>"
    if token.lower() in ("[unk]", "unk"):
        return "<unk>"
    return token.replace("’", "'").replace("`", "'")


def espnet_names(tokens: Sequence[str]) -> List[str]:
    """Convert a teacher's tokens, characters or word pieces, to ESPnet's names.

    Args:
        tokens: V tokens.

    Returns:
        V tokens.
    """
    names = piece_names(tokens)
    if not has_pieces(names):
        return [plain_name(name) for name in names]
    # Among word pieces, ▁ is an ordinary piece, and | an ordinary character.
    return ["<unk>" if plain_name(name) == "<unk>" else name for name in names]


def _folded(token: str) -> str:
    return plain_name(token).casefold()


def _special(token: str) -> bool:
    return token.startswith("<") and token.endswith(">") and token != "<space>"


def _some(tokens: Sequence[str], shown: int = 5) -> str:
    named = ", ".join(repr(token) for token in tokens[:shown])
    more = ", ..." if len(tokens) > shown else ""
    return f"{len(tokens)} ({named}{more})" if tokens else "0"
