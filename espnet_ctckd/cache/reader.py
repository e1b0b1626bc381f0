"""What a cache says of itself."""

import functools
import hashlib
import json
import logging
import struct
import zlib
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np
from kaldiio.matio import read_kaldi

from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.record import Opened, Records
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import Pathlike, read_scp, read_token_list

FORMAT = 3
# Of caches that do not hold how they were batched.
UNRECORDED = "unrecorded"
# What the record of an utterance begins with: Kaldi's binary vector of floats.
_VECTOR = b"\0BFV "
META = "meta.json"
SCP = "teacher.scp"
# Utterances of the data that the teacher outputs nothing for, and why; not part of the
# cache.
UNHEARD = "unheard"
TOKENS = "tokens.txt"
UTT2AUDIO = "utt2audio"
UTT2FRAMES = "utt2num_frames"
# What a job has dumped since it was last started, in seconds; not part of the cache.
SPEED = "logs/speed.{}.json"


@dataclass(frozen=True)
class CacheMeta:
    """Contents of ``meta.json``, which is written when all else is whole.

    Attributes:
        folder: where it stands.
        teacher: type, hashes and versions of the teacher.
        token_list: V tokens in the order of the posteriors.
        blank: index of the blank.
        rate: samples per second of the audio.
        frame_shift: samples from one frame to the next, exact.
        codec: how the matrices are packed.
        utterances: how many.
        frames: how many in all.
        arks: bytes and crc32 of each ark, by its path inside the folder.
        files: the same of the other files, but those that name the folder.
        batching: of the teacher, as of `Teacher`; `UNRECORDED` in older caches.
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
        """Reads and writes its records."""
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
        """Find the record of an utterance, by its entry in ``teacher.scp``.

        A cache may come from elsewhere, so that its lists are data: an entry is an ark
        of this cache and an offset, and nothing else is opened.

        Args:
            utt: the utterance.
            place: its entry.

        Returns:
            The ark and the offset.

        Raises:
            InputError: the entry is something else.
        """
        ark, _, offset = place.rpartition(":")
        if not offset.isdecimal() or Path(ark).resolve() not in self._ark_paths:
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
            utt: the utterance.
            place: its entry in ``teacher.scp``.

        Returns:
            (bytes / 4,), float32.

        Raises:
            InputError: there is no vector of floats.
        """
        ark, offset = self.locate(utt, place)
        try:
            with open(ark, "rb") as f:
                f.seek(offset)
                if f.read(len(_VECTOR)) == _VECTOR:
                    f.seek(offset)
                    return np.asarray(read_kaldi(f))
        except (ValueError, AssertionError, struct.error, MemoryError):
            pass  # what the bytes of a damaged ark make of the reader
        raise InputError(
            f"utterance {utt}: {place} is no record: the ark or the list is damaged. "
            "Find all such with `python -m espnet_ctckd.bin.check_cache`, or dump the "
            "teacher again"
        )

    def read(self, utt: str, place: str) -> Opened:
        """Read and decode the record of an utterance, as `vector`."""
        return self.records.open(utt, self.vector(utt, place))

    def to_json(self) -> Dict[str, Any]:
        """What stands in the file, with a checksum; the tokens have their own."""
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
    """What of a teacher's provenance tells it from another."""
    return {k: v for k, v in sorted(teacher.items()) if k.endswith("_sha256")}


def key_of(
    teacher: Mapping[str, str],
    token_list: Sequence[str],
    blank: int,
    rate: int,
    frame_shift: Fraction,
    codec: Codec,
) -> str:
    """What all records of a cache have in common; with another it is another cache.

    Args:
        teacher: provenance, of which the hashes count.
        token_list: V tokens.
        blank: index of the blank.
        rate: samples per second.
        frame_shift: samples from one frame to the next.
        codec: how the records are packed.
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
    """Read what belongs to a cache.

    Args:
        path: the cache's folder, or its ``teacher.scp``.

    Returns:
        The contents of its ``meta.json`` and ``tokens.txt``.

    Raises:
        InputError: it is not a finished cache, or of another version.
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
    """The contents of ``meta.json`` and ``tokens.txt``, once for each state of both."""
    try:
        found = json.loads((folder / META).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{folder / META} is damaged: {error}. Dump again") from None
    if not isinstance(found, dict):
        raise InputError(f"{folder / META} is damaged: it holds no mapping. Dump again")
    if found.get("format") != FORMAT:
        raise InputError(
            f"{folder / META} has format {found.get('format')!r}; this version reads "
            f"{FORMAT}. Dump the teacher again"
        )
    if found.pop("crc32", None) != _crc(found):
        raise InputError(
            f"{folder / META} is damaged: it is not what was written. Dump again"
        )
    for name in (*found["arks"], *found["files"]):
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{folder / META} names the file {name!r}, which lies outside of the "
                "cache: it is none that dump_teacher wrote"
            )
    batching = found.get("batching", UNRECORDED)
    if batching == UNRECORDED:
        logging.warning(
            f"{folder} was dumped by a version that computed the posteriors in padded "
            "batches, which changes those of an ESPnet teacher at the edges of an "
            "utterance: it is read as it is; dump the teacher again for exact ones"
        )
    return CacheMeta(
        folder=folder,
        teacher=found["teacher"],
        token_list=read_token_list(folder / TOKENS),
        blank=found["blank"],
        rate=found["rate"],
        frame_shift=Fraction(found["frame_shift"]),
        codec=Codec(**found["codec"]),
        utterances=found["utterances"],
        frames=found["frames"],
        arks={name: tuple(ark) for name, ark in found["arks"].items()},
        files={name: tuple(entry) for name, entry in found["files"].items()},
        batching=batching,
    )


class RecordVectors(Mapping[str, np.ndarray]):
    """The undecoded records of a cache by utterance, as a training's data.

    Args:
        scp: ``teacher.scp`` of the cache.
        listed: another list of its records; None for ``teacher.scp``.
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
    """Utterances of the data that the teacher of a cache outputs nothing for, and why.

    Args:
        folder: of the cache.
    """
    path = folder / UNHEARD
    if not path.exists() or path.stat().st_size == 0:
        return {}
    return read_scp(path)
