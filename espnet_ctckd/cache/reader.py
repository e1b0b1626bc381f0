"""Metadata of a cache, and access to its records."""

import functools
import hashlib
import json
import logging
import math
import os
import re
import struct
import zlib
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import numpy as np
from kaldiio.matio import read_kaldi

from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.record import Audio, DecodedRecord, Records
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, read_json
from espnet_ctckd.data.kaldi import read_scp, read_token_list

FORMAT = 3
# Batching of older caches, which do not store it.
UNRECORDED = "unrecorded"
_BATCHINGS = ("single", "padded", UNRECORDED)
# Offset in an ark, in bytes.
_OFFSET = re.compile("[0-9]{1,18}")
# First bytes of a record: the header of Kaldi's binary vector of floats.
_VECTOR = b"\0BFV "
META = "meta.json"
SCP = "teacher.scp"
# List of utterances that the teacher outputs nothing for, with the reasons; not part
# of the cache.
UNHEARD = "unheard"
TOKENS = "tokens.txt"
UTT2AUDIO = "utt2audio"
UTT2FRAMES = "utt2num_frames"
# Seconds of audio that a job dumped since its last start, and the time it took; not
# part of the cache.
SPEED = "logs/speed.{}.json"


@dataclass(frozen=True)
class CacheMeta:
    """Contents of ``meta.json``, which is written after all other files.

    Attributes:
        folder: folder of the cache.
        teacher: type, hashes and versions of the teacher.
        token_list: V tokens in the order of the posteriors.
        blank: index of the blank.
        rate: sample rate of the audio in Hz.
        frame_shift: frame shift in samples, exact.
        codec: compression of the posteriors.
        utterances: number of utterances.
        frames: number of frames of all utterances.
        arks: path of each ark inside the folder -> size in bytes and crc32.
        files: likewise for the other files, except those that contain the folder's
            path.
        batching: batching of the teacher, see `Teacher`; `UNRECORDED` in older caches.
    """

    folder: Path
    teacher: Mapping[str, str]
    token_list: List[str]
    blank: int
    rate: int
    frame_shift: Fraction
    codec: Codec
    utterances: int
    frames: int
    arks: Mapping[str, Tuple[int, int]]
    files: Mapping[str, Tuple[int, int]]
    batching: str

    @property
    def records(self) -> Records:
        """Encoder and decoder of the records."""
        return Records(
            self.codec,
            self.blank,
            key_of(
                self.teacher,
                self.token_list,
                self.blank,
                self.rate,
                self.frame_shift,
                self.codec,
            ),
            str(self.folder),
        )

    @functools.cached_property
    def _ark_paths(self) -> Set[Path]:
        return {(self.folder / name).resolve() for name in self.arks}

    def locate(self, utt: str, place: str) -> Tuple[Path, int]:
        """Find the record of an utterance by its entry in ``teacher.scp``.

        A cache may come from an untrusted source: only arks of this cache are opened,
        whatever the list contains.

        Args:
            utt: name of the utterance.
            place: entry of the utterance.

        Returns:
            The ark and the offset.

        Raises:
            InputError: the entry is not an ark of this cache and an offset.
        """
        ark, _, offset = place.rpartition(":")
        # A path cannot contain a null byte.
        known = "\0" not in ark and Path(ark).resolve() in self._ark_paths
        if not (known and _OFFSET.fullmatch(offset)):
            raise InputError(
                f"{self.folder / SCP} has {place!r} for the utterance {utt}, which is "
                "not of this cache: the list was changed, the folder was moved, or it "
                "is named from another working directory. Go where it was dumped, or "
                "make a cache of this place with `python -m "
                "espnet_ctckd.bin.cache_merge`"
            )
        return Path(ark), int(offset)

    def vector(self, utt: str, place: str) -> np.ndarray:
        """Read the record of an utterance from its ark, undecoded.

        Args:
            utt: name of the utterance.
            place: entry of the utterance in ``teacher.scp``.

        Returns:
            (bytes / 4,), float32.

        Raises:
            InputError: the location does not hold a vector of floats.
        """
        ark, offset = self.locate(utt, place)
        try:
            with open(ark, "rb") as f:
                f.seek(min(offset, os.fstat(f.fileno()).st_size))
                if f.read(len(_VECTOR)) == _VECTOR:
                    f.seek(offset)
                    return np.asarray(read_kaldi(f))
        except (ValueError, AssertionError, struct.error, MemoryError, OverflowError):
            pass  # raised by kaldiio for damaged arks
        raise InputError(
            f"utterance {utt}: {place} is no record: the ark or the list is damaged. "
            "Find all such with `python -m espnet_ctckd.bin.check_cache`, or dump the "
            "teacher again"
        )

    def read(self, utt: str, place: str) -> DecodedRecord:
        """Read and decode the record of an utterance; see `vector`."""
        return self.records.open(utt, self.vector(utt, place))

    def to_json(self) -> Dict[str, Any]:
        """Return the contents of ``meta.json``, with a checksum.

        The tokens are in another file, which has its own checksum.
        """
        found = {
            "format": FORMAT,
            "teacher": dict(self.teacher),
            "blank": self.blank,
            "rate": self.rate,
            "frame_shift": str(self.frame_shift),
            "frame_shift_seconds": float(self.frame_shift / self.rate),
            "codec": asdict(self.codec),
            "utterances": self.utterances,
            "frames": self.frames,
            "arks": {name: list(ark) for name, ark in self.arks.items()},
            "files": {name: list(entry) for name, entry in self.files.items()},
            "batching": self.batching,
        }
        return {**found, "crc32": _crc(found)}


def _crc(found: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(found, sort_keys=True).encode())


def hashes_of(teacher: Mapping[str, str]) -> Dict[str, str]:
    """Return the hashes that identify a teacher, from its provenance."""
    return {k: v for k, v in sorted(teacher.items()) if k.endswith("_sha256")}


def key_of(
    teacher: Mapping[str, str],
    token_list: Sequence[str],
    blank: int,
    rate: int,
    frame_shift: Fraction,
    codec: Codec,
) -> str:
    """Return the key that identifies a cache, part of all record checksums.

    Args:
        teacher: provenance of the teacher; only its hashes enter the key.
        token_list: V tokens.
        blank: index of the blank.
        rate: sample rate in Hz.
        frame_shift: frame shift in samples.
        codec: compression of the records.
    """
    parts = [
        hashes_of(teacher),
        list(token_list),
        blank,
        rate,
        str(frame_shift),
        asdict(codec),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def read_meta(path: Pathlike) -> CacheMeta:
    """Read the metadata of a cache.

    Args:
        path: folder of the cache, or its ``teacher.scp``.

    Returns:
        The contents of ``meta.json`` and ``tokens.txt``.

    Raises:
        InputError: the folder is not a finished cache, or is of another version.
    """
    folder = Path(path)
    if folder.suffix == ".scp":
        folder = folder.parent
    if not (folder / META).exists():
        raise InputError(
            f"{folder} is not a finished cache of posteriors: it has no {META}. Run "
            "`python -m espnet_ctckd.bin.dump_teacher`, which resumes what it began"
        )
    state = tuple(
        (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size)
        for path in (folder / META, folder / TOKENS)
        if path.exists()
    )
    return _read_meta(folder, Path.cwd(), state)


@functools.lru_cache(maxsize=16)
def _read_meta(folder: Path, _cwd: Path, _state: object) -> CacheMeta:
    """Read ``meta.json`` and ``tokens.txt``; cached until one of the files changes."""
    found = read_json(folder / META, "dump the teacher again")
    if found.get("format") != FORMAT:
        raise InputError(
            f"{folder / META} has format {found.get('format')!r}; this version reads "
            f"{FORMAT}. Dump the teacher again"
        )
    try:
        written = found.pop("crc32", None) == _crc(found)
    except RecursionError:
        written = False
    if not written:
        raise InputError(
            f"{folder / META} is damaged: it is not what was written. Dump again"
        )
    batching = found.setdefault("batching", UNRECORDED)
    _check_values(folder, found)
    token_list = read_token_list(folder / TOKENS)
    codec = _read_codec(folder, found["codec"])
    if codec.tokens != len(token_list):
        wrong = f"its tokens are {codec.tokens}, and {TOKENS} has {len(token_list)}"
        raise _wrong_meta(folder, "codec", wrong)
    if found["blank"] >= len(token_list):
        wrong = f"it is {found['blank']}, and there are {len(token_list)} tokens"
        raise _wrong_meta(folder, "blank", wrong)
    if batching == UNRECORDED:
        logging.warning(
            f"{folder} was dumped by a version that computed the posteriors in padded "
            "batches, which changes those of an ESPnet teacher at the edges of an "
            "utterance: it is read as it is; dump the teacher again for exact ones"
        )
    return CacheMeta(
        folder=folder,
        teacher=found["teacher"],
        token_list=token_list,
        blank=found["blank"],
        rate=found["rate"],
        frame_shift=Fraction(found["frame_shift"]),
        codec=codec,
        utterances=found["utterances"],
        frames=found["frames"],
        arks={name: tuple(ark) for name, ark in found["arks"].items()},
        files={name: tuple(entry) for name, entry in found["files"].items()},
        batching=batching,
    )


def _is_count(value: object, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_shift(value: object) -> bool:
    """Return True if a value is a positive fraction in the written form."""
    if not isinstance(value, str) or not _SHIFT.fullmatch(value):
        return False
    samples, _, of = value.partition("/")
    return int(samples) > 0 and int(of or 1) > 0


def _is_teacher(value: object) -> bool:
    if not isinstance(value, dict) or "type" not in value:
        return False
    return all(isinstance(each, str) for each in value.values())


def _are_files(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, list) and len(entry) == 2 and all(map(_is_count, entry))
        for entry in value.values()
    )


# Frame shift in samples, as `Fraction` prints it.
_SHIFT = re.compile("[0-9]{1,9}(/[0-9]{1,9})?")
_FILES = "files and, of each, a list of its bytes and its crc32"
# Check of each value of ``meta.json``, and the description of a valid one for errors.
_WANTED: Dict[str, Tuple[Callable[[Any], bool], str]] = {
    "teacher": (_is_teacher, "a mapping of strings, with the key type"),
    "blank": (_is_count, "a whole number, the index of a token"),
    "rate": (lambda value: _is_count(value, 1), "a whole number of samples a second"),
    "frame_shift": (_is_shift, "samples above 0, as '640' or '1280/3'"),
    "codec": (lambda value: isinstance(value, dict), "a mapping"),
    "utterances": (_is_count, "a whole number"),
    "frames": (_is_count, "a whole number"),
    "arks": (_are_files, _FILES),
    "files": (_are_files, _FILES),
    "batching": (lambda value: value in _BATCHINGS, f"one of {', '.join(_BATCHINGS)}"),
}
_WANTED_OF_CODEC: Dict[str, Tuple[Callable[[Any], bool], str]] = {
    "tokens": (lambda value: _is_count(value, 1), "a whole number"),
    "kept": (lambda value: value is None or _is_count(value), "a whole number or null"),
    "step": (_is_number, "a number"),
    "worth": (_is_number, "a number"),
    "states": (_is_count, "a whole number"),
    "selector": (lambda value: value is None or type(value) is str, "a name or null"),
    "selector_conf": (lambda value: isinstance(value, dict), "a mapping"),
}


def _check_values(folder: Path, found: Mapping[str, Any]) -> None:
    """Refuse missing or invalid values of ``meta.json``."""
    for name, (is_right, wanted) in _WANTED.items():
        if name not in found or not is_right(found[name]):
            has = f"has {found[name]!r:.80}" if name in found else "lacks it"
            raise _wrong_meta(folder, name, f"it should be {wanted}; the file {has}")
    for key in ("arks", "files"):
        for name in found[key]:
            if not _lies_in(folder, name):
                raise InputError(
                    f"{folder / META} names the file {name!r}, which lies outside of "
                    "the cache: it is none that dump_teacher wrote"
                )


def _wrong_meta(folder: Path, key: str, wrong: str) -> InputError:
    return InputError(
        f"{folder / META} has a wrong {key!r}: {wrong}. dump_teacher has not written "
        "that: dump the teacher again"
    )


def _lies_in(folder: Path, name: str) -> bool:
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except ValueError:  # a null byte
        return False


def _read_codec(folder: Path, found: Mapping[str, Any]) -> Codec:
    """Read the compression from ``meta.json``.

    Raises:
        InputError: a key is unknown, or a value is invalid.
    """
    for name, value in found.items():
        if name not in _WANTED_OF_CODEC:
            raise _wrong_meta(folder, f"codec.{name}", "there is no such key")
        is_right, wanted = _WANTED_OF_CODEC[name]
        if not is_right(value):
            wrong = f"it should be {wanted}; the file has {value!r:.80}"
            raise _wrong_meta(folder, f"codec.{name}", wrong)
    if "tokens" not in found:
        raise _wrong_meta(folder, "codec.tokens", "the file lacks it")
    try:
        return Codec(**found)
    # Selectors raise errors of their own for options of a wrong type.
    except (InputError, TypeError, ValueError, RuntimeError) as error:
        raise _wrong_meta(folder, "codec", str(error)) from error


def read_audio_list(meta: CacheMeta) -> Dict[str, Audio]:
    """Read the fingerprints of the audio that a cache was computed from.

    Args:
        meta: metadata of the cache.

    Returns:
        Utterance -> length and checksum of its audio.

    Raises:
        InputError: the list is missing, or an entry is malformed.
    """
    found, path = {}, meta.folder / UTT2AUDIO
    for utt, entry in read_scp(path).items():
        try:
            found[utt] = Audio.read(entry)
        except ValueError:
            raise InputError(
                f"{path} has {entry!r} for the utterance {utt}, which is no length and "
                "checksum of audio: dump the teacher again"
            ) from None
    return found


class RecordVectors(Mapping[str, np.ndarray]):
    """Undecoded records of a cache by utterance, as training data.

    Args:
        scp: ``teacher.scp`` of the cache.
        listed: another list of the same records; None for ``teacher.scp``.
    """

    def __init__(self, scp: Pathlike, listed: Optional[Pathlike] = None) -> None:
        self._meta, self._places = read_meta(scp), read_scp(listed or scp)

    def __getitem__(self, utt: str) -> np.ndarray:
        return self._meta.vector(utt, self._places[utt])

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)


def read_unheard(folder: Path) -> Dict[str, str]:
    """Read the utterances that the teacher outputs nothing for, with the reasons.

    Args:
        folder: folder of the cache.
    """
    path = folder / UNHEARD
    if not path.exists() or path.stat().st_size == 0:
        return {}
    return read_scp(path)
