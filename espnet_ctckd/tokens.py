"""The teacher's tokens in the student's names: characters and word pieces.

Tokens are matched by their strings, the blank by its role.

ESPnet spells words in pieces as sentencepiece does, with a mark where a word begins
(``▁he l lo``), or, of models with ``treat_whitespace_as_suffix``, where it ends
(``he l lo▁``). Other libraries mark pieces otherwise.
"""

import re
from collections import Counter
from typing import Callable, Dict, List, Mapping, Optional, Sequence

from torch import Tensor

from espnet_ctckd.choices import InputError

# The place of a token that the student has not.
DROPPED = -1
# Share of the teacher's mass that tokens may have which the student lacks.
MOST_DROPPED = 0.01
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


def map_tokens(
    teacher_tokens: Sequence[str],
    teacher_blank: int,
    student_tokens: Sequence[str],
    student_blank: int,
    where: str,
) -> Optional[List[int]]:
    """Where the teacher's tokens stand in the student's list.

    Tokens are matched by their strings, word pieces by sentencepiece's names for them
    (`piece_names`); then by what the field's libraries call the
    same thing (``|`` and ``<space>``, ``[UNK]`` and ``<unk>``, apostrophes); then
    without regard to case. Tokens that the student lacks are `DROPPED`; whoever reads
    posteriors says what mass they had. The student may have more special tokens
    (``<...>``), which the teacher never says.

    Args:
        teacher_tokens: in the order of the posteriors.
        teacher_blank: index of the blank among them.
        student_tokens: V tokens in the order of the student's outputs.
        student_blank: index of the blank among them.
        where: file or object that the teacher's tokens come from.

    Returns:
        The student's index of each of the teacher's tokens, or None where the lists
        are the same.

    Raises:
        InputError: nothing but the blank is matched, or the teacher lacks tokens that
            the student is to learn.
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
    """Put the values of tokens where they stand in another list.

    Args:
        values: (..., V), in the order of the one list.
        index: place of each of the V tokens in the other, each there once; `DROPPED`
            for those that it lacks, whose values are left out.
        size: tokens of the other list, W.
        fill: value of its tokens that the one list lacks.

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
    """How the teacher's tokens are taken, in a line for people.

    Args:
        teacher_tokens: in the order of the posteriors.
        student_tokens: V.
        index: from `map_tokens`.
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
    """Name -> index, of the names that stand once."""
    times = Counter(names.values())
    return {name: i for i, name in names.items() if times[name] == 1}


def plain_name(token: str) -> str:
    """What the field's libraries call by several names, by one, as ESPnet has it."""
    if token in ("|", "▁", " ", "[SPACE]"):
        return "<space>"
    if token.lower() in ("[unk]", "unk"):
        return "<unk>"
    return token.replace("’", "'").replace("`", "'")


def espnet_names(tokens: Sequence[str]) -> List[str]:
    """The names that ESPnet has for a teacher's tokens, of characters or word pieces.

    Args:
        tokens: V names.

    Returns:
        V names.
    """
    names = piece_names(tokens)
    if not has_pieces(names):
        return [plain_name(name) for name in names]
    # Among word pieces, ▁ is a piece as others, and | a character.
    return ["<unk>" if plain_name(name) == "<unk>" else name for name in names]


def _folded(token: str) -> str:
    return plain_name(token).casefold()


def _special(token: str) -> bool:
    return token.startswith("<") and token.endswith(">") and token != "<space>"


def _some(tokens: Sequence[str], shown: int = 5) -> str:
    named = ", ".join(repr(token) for token in tokens[:shown])
    more = ", ..." if len(tokens) > shown else ""
    return f"{len(tokens)} ({named}{more})" if tokens else "0"
