"""Conversion between tokens and text: ESPnet tokenizers and sentencepiece models."""

import json
import random
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

import sentencepiece
from espnet2.text.build_tokenizer import build_tokenizer
from sentencepiece import sentencepiece_model_pb2 as pb2

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, shorten
from espnet_ctckd.tokens import (
    MARK,
    SPECIAL,
    has_pieces,
    join_pieces,
    type_of_words,
)

# Number of texts on which a sentencepiece model is compared with its tokenizer.
_TRIALS = 500


def text_maker(
    token_type: str, bpemodel: Optional[Pathlike], tokens: Sequence[str]
) -> Callable[[Sequence[str]], str]:
    """Return a function that converts tokens to text.

    Args:
        token_type: token type of ESPnet.
        bpemodel: sentencepiece model, or None.
        tokens: V tokens of the model.

    Returns:
        Function from tokens to their text.

    Raises:
        InputError: the token type is unknown, or the file is not a sentencepiece model.
    """
    if type_of_words(token_type, tokens) != token_type:
        return join_pieces
    if token_type == "bpe" and bpemodel is not None:
        open_model(Path(bpemodel).read_bytes(), str(bpemodel))
    try:
        tokenizer = build_tokenizer(token_type, bpemodel=bpemodel)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"token_type is {token_type!r}, which cannot be converted to text: {error}"
        ) from None

    def make(pieces: Sequence[str]) -> str:
        text: str = tokenizer.tokens2text(list(pieces))
        return text.strip() if token_type == "bpe" else text

    return make


def make_model(
    pieces: Sequence[str],
    scores: Optional[Dict[str, float]] = None,
    merges: bool = False,
) -> bytes:
    """Build a sentencepiece model from pieces.

    Args:
        pieces: names of the pieces; special ones (``<...>``) are left out.
        scores: score of each piece. Without scores all pieces are equal: the model
            joins pieces to text, but cannot split text as a teacher does.
        merges: the scores are the order of BPE merges, not log-probabilities of a
            unigram model.

    Returns:
        The serialized model.
    """
    model = pb2.ModelProto()
    kind = pb2.ModelProto.SentencePiece
    model.pieces.add(piece="<unk>", score=0.0, type=kind.UNKNOWN)
    names = [p for p in dict.fromkeys(pieces) if not SPECIAL.fullmatch(p)]
    for name in names:
        score = -1.0 if scores is None else scores[name]
        model.pieces.add(piece=name, score=score, type=kind.NORMAL)
    spec = pb2.TrainerSpec
    model.trainer_spec.model_type = spec.BPE if merges else spec.UNIGRAM
    starts = any(len(name) > 1 and name[0] == MARK for name in names)
    model.trainer_spec.treat_whitespace_as_suffix = not starts
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    model.normalizer_spec.escape_whitespaces = True
    return bytes(model.SerializeToString())


def open_model(model: bytes, where: str) -> Any:
    """Open a sentencepiece model.

    Args:
        model: serialized.
        where: origin of the model, for the error.

    Returns:
        A ``SentencePieceProcessor``.

    Raises:
        InputError: the bytes are not a sentencepiece model.
    """
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise InputError(f"{where} is no sentencepiece model: {error}") from None


def splits_text(model: bytes, where: str) -> bool:
    """Return True if a sentencepiece model has scores, so that it can split text.

    Args:
        model: serialized.
        where: origin of the model, for the error.
    """
    processor = open_model(model, where)
    scores = {
        processor.get_score(i)
        for i in range(processor.get_piece_size())
        if not (processor.is_unknown(i) or processor.is_control(i))
    }
    return len(scores) > 1


def check_splits(
    tokens: Sequence[str],
    token_type: str,
    bpemodel: Optional[Pathlike],
    reader: str,
    instead: str,
) -> None:
    """Check that text can be split into the given tokens.

    Args:
        tokens: V tokens.
        token_type: token type of ESPnet.
        bpemodel: sentencepiece model, or None.
        reader: the setting that needs tokenized text, for the error.
        instead: an alternative, for the error.

    Raises:
        InputError: the tokens are word pieces, and no given model splits words into
            them.
    """
    if not has_pieces(tokens):
        return
    example = next(t for t in tokens if len(t) > 1 and MARK in (t[0], t[-1]))
    if token_type != "bpe" or bpemodel is None:
        raise InputError(
            f"{reader}, but the tokens are word pieces ({example!r}) and token_type is "
            f"{token_type!r}, which would take every word for unknown: give "
            f"--token_type bpe and the sentencepiece model of the pieces{instead}"
        )
    if not Path(bpemodel).is_file():
        raise InputError(f"there is no sentencepiece model {bpemodel}")
    if not splits_text(Path(bpemodel).read_bytes(), str(bpemodel)):
        raise InputError(
            f"{reader}, but {bpemodel} was made of the names of the teacher's word "
            "pieces alone, and does not tell into which of these a word is split: "
            "give the sentencepiece model that the teacher was trained with "
            f"(attribute bpemodel of a teacher of your own){instead}"
        )


def model_of_tokenizer(tokenizer: Any) -> Optional[bytes]:
    """Convert a Hugging Face tokenizer to an equivalent sentencepiece model.

    Args:
        tokenizer: tokenizer of transformers.

    Returns:
        The serialized model, or None if there is no equivalent one: the tokenizer has
        another type, or splits random words differently.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    model = json.loads(backend.to_str())["model"]
    if model.get("type") == "Unigram":
        scores = {piece: float(score) for piece, score in model["vocab"]}
        bpe = False
    elif model.get("type") == "BPE" and model.get("merges"):
        merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        scores = {piece: -float(len(merges)) for piece in model["vocab"]}
        for rank, (left, right) in reversed(list(enumerate(merges))):
            scores[left + right] = -float(rank)
        bpe = True
    else:
        return None
    if not has_pieces(list(scores)):
        return None
    built = make_model(list(scores), scores, bpe)
    return built if _agree(built, tokenizer, list(scores)) else None


def _agree(model: bytes, tokenizer: Any, pieces: Sequence[str]) -> bool:
    """Return True if a model and a tokenizer split random words in the same way."""
    processor = open_model(model, "the tokenizer's vocabulary")
    known = [p for p in pieces if not SPECIAL.fullmatch(p)]
    generator = random.Random(0)
    for _ in range(_TRIALS):
        drawn = generator.choices(known, k=generator.randint(1, 8))
        text = join_pieces(drawn)
        if processor.encode(text, out_type=str) != tokenizer.tokenize(text):
            return False
    return True


def check_model(model: bytes, tokens: Sequence[str], where: str) -> None:
    """Check that a token list contains all pieces of a sentencepiece model.

    Args:
        model: serialized.
        tokens: V tokens.
        where: origin of the model, for the error.

    Raises:
        InputError: it is not a sentencepiece model, or has other pieces.
    """
    processor = open_model(model, where)
    own = set(tokens)
    lacks = [
        processor.id_to_piece(i)
        for i in range(processor.get_piece_size())
        if not (processor.is_unknown(i) or processor.is_control(i))
        and processor.id_to_piece(i) not in own
    ]
    if lacks:
        raise InputError(
            f"{where} has {len(lacks)} pieces that the teacher's tokens lack: "
            f"{shorten(lacks)}. Give the sentencepiece model of these tokens"
        )
