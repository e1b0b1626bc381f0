"""Kaldi files and audio, read with errors that name the line or the file."""

import contextlib
import gzip
import hashlib
import io
import json
import math
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    TextIO,
    Tuple,
    Union,
)

import numpy as np
import soundfile

from espnet_ctckd.choices import InputError
from espnet_ctckd.containers import UnusableAudioError, check_whole, decode

Pathlike = Union[str, Path]

# The list of the utterances of a data folder whose audio cannot be used.
UNUSABLE = "unusable"
# The list of the speeds of utterances, for those folders that have copies of others.
SPEEDS = "utt2speed"

# What a gzip file begins with.
_GZIP = b"\x1f\x8b"
# Bytes of a file that holds a header and no samples, at most.
_BARE_HEADER = 200


def shorten(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names, for an error message."""
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed}, … ({len(names)} in all)"


def file_crc32(path: Pathlike) -> int:
    """Checksum of a file."""
    crc = 0
    with open(path, "rb") as f:
        while block := f.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def sha256(path: Pathlike) -> str:
    """Hash of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Pathlike, advice: str) -> Dict[str, Any]:
    """Read a JSON object from a file that may have been written by anyone.

    Args:
        path: the file.
        advice: what to do about a damaged one, for the error.

    Returns:
        Its keys and values.

    Raises:
        InputError: it is not JSON, or not an object, or nested too deeply.
        OSError: it is missing, or cannot be read.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): {advice}") from None
    if not isinstance(found, dict):
        raise InputError(
            f"{path} is damaged: it holds no mapping. To mend it, {advice}"
        )
    return found


def read_told(path: Pathlike) -> Dict[str, Any]:
    """Read what a command has told of its work, in JSON.

    Args:
        path: as ``decode.json``.

    Returns:
        Its keys and values; none where there is no such file.

    Raises:
        InputError: it is damaged.
    """
    try:
        return read_json(path, "remove it")
    except FileNotFoundError:
        return {}


def folder_size(path: Pathlike) -> int:
    """Bytes of the files in a folder, and in those below it."""
    return sum(p.stat().st_size for p in Path(path).rglob("*") if p.is_file())


@contextlib.contextmanager
def open_text(path: Pathlike, what: str, errors: str = "strict") -> Iterator[TextIO]:
    """Open UTF-8 text, gzipped or not, for reading.

    Args:
        path: the file; gzip is told by its first bytes, whatever its name.
        what: it is, for the error.
        errors: of the encoding, as `open` takes them.

    Yields:
        The open file.

    Raises:
        InputError: it is missing, a folder, not to be read, a damaged gzip file, or not
            text; while it is read, too.
    """
    try:
        with open(path, "rb") as plain:
            zipped = plain.peek(2)[:2] == _GZIP
            source: Any = gzip.GzipFile(fileobj=plain) if zipped else plain
            with io.TextIOWrapper(source, "utf-8", errors) as f:
                yield f
    except FileNotFoundError:
        raise InputError(f"there is no {what} {path}") from None
    except IsADirectoryError:
        raise InputError(f"the {what} {path} is a folder; give a file") from None
    except PermissionError:
        raise InputError(
            f"the {what} {path} cannot be read: you have no permission to"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"the {what} {path} is a gzip file that is damaged or cut short ({error}): "
            "fetch or write it again"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"the {what} {path} is not UTF-8 text: {error}") from None


def read_lines(path: Pathlike, what: str) -> List[str]:
    """Read the lines of a text file; only a line feed ends one, as in ESPnet.

    Args:
        path: the file, gzipped or not.
        what: it is, for the error.

    Raises:
        InputError: as `open_text`, or it begins with a byte order mark.
    """
    with open_text(path, what) as f:
        lines = [line.rstrip("\n") for line in f]
    if lines and lines[0].startswith("\ufeff"):
        raise InputError(
            f"the {what} {path} begins with a byte order mark, which would be taken "
            "for a part of the first name; write it as UTF-8 without one"
        )
    return lines


def read_scp(path: Pathlike) -> Dict[str, str]:
    """Read a Kaldi file of two columns.

    Args:
        path: each line is ``<utterance> <rest>``; the rest may be empty.

    Returns:
        Utterance -> rest, in the order of the file.

    Raises:
        InputError: the file is missing or empty, or an utterance stands in it twice.
    """
    entries: Dict[str, str] = {}
    for number, line in enumerate(read_lines(path, "file"), 1):
        fields = line.split(maxsplit=1)
        if not fields:
            raise InputError(f"{path}:{number} is an empty line; remove it")
        if fields[0] in entries:
            raise InputError(
                f"{path}:{number} has the utterance {fields[0]!r} a second time; each "
                "must stand there once"
            )
        entries[fields[0]] = fields[1].rstrip() if len(fields) > 1 else ""
    if not entries:
        raise InputError(f"{path} is empty; it should have a line for each utterance")
    return entries


def read_wav_scp(path: Pathlike) -> Dict[str, str]:
    """Read Kaldi's list of audio files, one file an utterance.

    Args:
        path: ``wav.scp``.

    Returns:
        Utterance -> file, in the order of the list.

    Raises:
        InputError: as of `read_scp`, or ``segments`` beside it cut its recordings.
    """
    refuse_segments(path)
    return read_scp(path)


def refuse_segments(path: Pathlike) -> None:
    """Refuse a ``wav.scp`` whose recordings are cut into utterances by ``segments``."""
    segments = Path(path).parent / "segments"
    if segments.exists():
        raise InputError(
            f"{segments} says which parts of the recordings of {path} are utterances, "
            "and segments are not read here: write each utterance to a file of its "
            "own, name these in wav.scp and remove segments"
        )


def refuse_same(sources: Sequence[Path], target: Path) -> None:
    """Refuse to write over the data folders that are read.

    Raises:
        InputError: ``--output_dir`` is one of ``--input_dir``.
    """
    for source in sources:
        if source.resolve() == target.resolve():
            raise InputError(
                f"--output_dir is {target}, which is read (--input_dir), and would be "
                "overwritten: choose another folder"
            )


def limit_bad(
    bad: Mapping[str, str], total: int, percent: float, where: object, listed: Pathlike
) -> None:
    """Refuse data of which too much cannot be used.

    Args:
        bad: utterance -> what is wrong with it.
        total: utterances in all.
        percent: of them that may be bad; one always may, unless it is 0.
        where: the data.
        listed: the file that lists all of them.

    Raises:
        InputError: it is more, with the first few.
    """
    allowed = max(1.0, percent / 100 * total) if percent > 0 else 0.0
    if len(bad) > allowed:
        few = "; ".join(f"{utt}: {why}" for utt, why in list(bad.items())[:5])
        raise InputError(
            f"{len(bad)} of {total} utterances of {where} cannot be used, which is "
            f"more than --max_bad_share {percent:g} %: {few}. {listed} lists all: mend "
            "or remove them, or raise --max_bad_share"
        )


def refuse_all_bad(
    bad: Mapping[str, str], total: int, where: object, listed: Pathlike
) -> None:
    """Refuse data of which nothing can be used, whatever share may be bad.

    Args:
        bad: utterance -> what is wrong with it.
        total: utterances that could be used.
        where: the data.
        listed: the file that lists all of the bad ones.

    Raises:
        InputError: all are bad, with the first few.
    """
    if bad and len(bad) >= total:
        few = "; ".join(f"{utt}: {why}" for utt, why in list(bad.items())[:5])
        raise InputError(
            f"none of {total} utterances of {where} can be used: {few}. {listed} lists "
            "all: mend or replace them"
        )


@contextlib.contextmanager
def beside(path: Pathlike) -> Iterator[Path]:
    """A name to write a file to that gets its own only when whole.

    Args:
        path: the file to write.

    Yields:
        Another name in the same folder, which is gone afterwards.

    Raises:
        InputError: there is a folder of that name.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None:  # a full disk does not say which file
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def write_beside(path: Pathlike) -> Iterator[TextIO]:
    """Open a text file for writing that appears under its name only when whole.

    Args:
        path: the file to write.

    Yields:
        The open file, of another name in the same folder.
    """
    with beside(path) as partial, open(partial, "w", encoding="utf-8") as f:
        yield f
        f.flush()
        os.fsync(f.fileno())


def write_scp(path: Pathlike, entries: Iterable[Tuple[str, object]]) -> None:
    """Write a Kaldi file of two columns, sorted by bytes, beside and renamed."""
    lines = sorted(f"{utt} {rest}\n".encode() for utt, rest in entries)
    with write_beside(path) as f:
        f.writelines(line.decode() for line in lines)


class UnknownLengthError(UnusableAudioError):
    """Audio that ESPnet cannot read whole: its header does not know its length."""


class EmptyAudioError(UnusableAudioError):
    """An audio file is whole, and holds no samples."""


def audio_info(utt: str, path: str, rate: Optional[int]) -> int:
    """The length of an audio file, as ESPnet reads it.

    It is taken from the header, or counted where the header does not know it.

    Args:
        utt: utterance, for the error.
        path: a file that libsndfile reads: wav, flac, ogg, sph, …
        rate: the sample rate that it must have, in Hz; None for any.

    Returns:
        Samples, S.

    Raises:
        UnknownLengthError: ESPnet reads a part of it, or none.
        UnusableAudioError: the file is missing, empty, cut short, not audio, not mono
            or not of that rate.
    """
    where = f"utterance {utt}: {path}"
    info, known = _open_info(where, path, rate)
    if known:
        return int(info.frames)
    samples = sum(map(len, _decode(where, path, info.format)))
    if info.frames < samples or info.format == "FLAC":
        raise UnknownLengthError(
            f"{where} has {samples} samples, which its header does not know: ESPnet "
            f"would {'fail' if info.frames > samples else f'read {info.frames}'}. "
            "Write it anew with `python -m espnet_ctckd.bin.format_audio` (stage 3 of "
            "a recipe)"
        )
    return samples


def _open_info(where: str, path: str, rate: Optional[int]) -> Tuple[Any, bool]:
    """Libsndfile's header of a file, and whether it knows the length."""
    if path.endswith("|"):
        raise UnusableAudioError(
            f"{where} is a command, which is not run here: write its output to a "
            "file and name that in wav.scp"
        )
    if not os.path.isfile(path):
        raise UnusableAudioError(
            f"{where} is not there; mend or remove its line in wav.scp"
        )
    size = os.path.getsize(path)
    if size == 0:
        raise UnusableAudioError(f"{where} is an empty file; restore or remove it")
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise UnusableAudioError(f"{where} cannot be read as audio: {error}") from None
    if info.channels != 1:
        raise UnusableAudioError(
            f"{where} has {info.channels} channels; expected 1. Mix it down or pick "
            "one channel"
        )
    if rate is not None and info.samplerate != rate:
        raise UnusableAudioError(
            f"{where} has {info.samplerate} Hz; expected {rate} Hz. Resample it, or "
            "set the rate (fs) of the recipe"
        )
    known = check_whole(where, path, info)
    if info.frames == 0:
        kind = EmptyAudioError if size <= _BARE_HEADER else UnusableAudioError
        raise kind(
            f"{where} holds no samples by its header, and {size} bytes; restore or "
            "remove it, or write its header anew if it came through a pipe"
        )
    return info, known


def _decode(where: str, path: str, kind: str) -> Iterator[np.ndarray]:
    """Decode a file to its end, some samples at a time."""
    try:
        yield from decode(path, kind)
    except soundfile.LibsndfileError as error:
        raise UnusableAudioError(
            f"{where} cannot be read to its end: {error}"
        ) from None


def read_audio(utt: str, path: str, rate: Optional[int]) -> np.ndarray:
    """Read a mono audio file.

    Args:
        utt: utterance, for the error.
        path: a file that libsndfile reads.
        rate: the sample rate that it must have, in Hz; None for any.

    Returns:
        Samples in [-1, 1], (S,), float32.

    Raises:
        UnusableAudioError: as `audio_info`, or the file is cut short, or holds NaN.
    """
    frames = audio_info(utt, path, rate)
    try:
        samples, _ = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise UnusableAudioError(
            f"utterance {utt}: {path} cannot be read to its end: {error}"
        ) from None
    if len(samples) != frames:
        raise UnusableAudioError(
            f"utterance {utt}: {path} is cut short: its header says {frames} samples, "
            f"it has {len(samples)}. Restore or remove it"
        )
    return _finite(utt, path, samples)


def decode_audio(utt: str, path: str, rate: int) -> np.ndarray:
    """Read a mono audio file whose header may not know its length; as `read_audio`."""
    try:
        return read_audio(utt, path, rate)
    except UnknownLengthError:
        where = f"utterance {utt}: {path}"
        info, _ = _open_info(where, path, rate)
        parts = list(_decode(where, path, info.format))
        return _finite(utt, path, np.concatenate(parts))


def _finite(utt: str, path: str, samples: np.ndarray) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise UnusableAudioError(
            f"utterance {utt}: {path} has samples that are no numbers (NaN or "
            "infinite). Restore or remove it"
        )
    return samples


def read_token_list(path: Pathlike) -> List[str]:
    """Read a token list, one token a line.

    Args:
        path: as ESPnet's ``--token_list``.

    Returns:
        V tokens.

    Raises:
        InputError: it is missing or empty, or a token stands there twice.
    """
    tokens = read_lines(path, "token list")
    if not tokens:
        raise InputError(f"the token list {path} is empty")
    twice = [token for token, count in Counter(tokens).items() if count > 1]
    if twice:
        raise InputError(f"the token list {path} has tokens twice: {shorten(twice)}")
    return tokens


# Priors are written to the last digit, and float posteriors add up to nearly 1.
_PRIOR_ROOM = 0.01


def read_prior(path: Pathlike, tokens: Sequence[str], blank: str) -> List[float]:
    """Read token priors as ``espnet_ctckd.bin.estimate_prior`` writes them.

    Args:
        path: a line a token: the token and the natural logarithm of its prior; the
            first is the blank, whatever its name.
        tokens: V tokens.
        blank: the one of them that is the blank.

    Returns:
        Log-priors in the order of the tokens (V,); 0, which never makes a token win,
        for special tokens (``<...>``) that have none.

    Raises:
        InputError: the file is missing or damaged, or its tokens are others.
    """
    if not Path(path).exists():
        raise InputError(
            f"there is no prior {path}: make it with "
            "`python -m espnet_ctckd.bin.estimate_prior`"
        )
    try:
        lines = read_lines(path, "prior")
    except OSError as error:
        raise InputError(f"the prior {path} cannot be read: {error}") from None
    try:
        pairs = [line.rsplit(maxsplit=1) for line in lines]
        priors = {token: float(value) for token, value in pairs}
    except ValueError:
        raise InputError(
            f"{path} is no list of priors: every line must be a token and a number"
        ) from None
    if not pairs or not all(value <= 0.0 for value in priors.values()):
        raise InputError(f"{path} is no list of priors: give logarithms, at most 0")
    mass = math.fsum(math.exp(value) for value in priors.values())
    if len(priors) != len(pairs) or abs(mass - 1.0) > _PRIOR_ROOM:
        raise InputError(
            f"{path} is no list of priors: its {len(pairs)} lines have {len(priors)} "
            f"tokens and add up to {mass:.3f}, not 1. Make it with "
            "`python -m espnet_ctckd.bin.estimate_prior`"
        )
    priors[blank] = priors.pop(pairs[0][0])
    special = [t for t in tokens if t.startswith("<") and t.endswith(">")]
    lacks = [t for t in tokens if t not in priors and t not in special]
    extra = [t for t in priors if t not in tokens]
    if lacks or extra:
        raise InputError(
            f"the priors {path} are not of these tokens: they lack {len(lacks)} "
            f"({shorten(lacks)}) and have {len(extra)} others ({shorten(extra)}). "
            "Estimate them from the cache that the student learns from"
        )
    return [priors.get(token, 0.0) for token in tokens]
