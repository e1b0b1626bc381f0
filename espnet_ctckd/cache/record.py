"""A record of a cache: the packed posteriors of one utterance, and what they belong to.

In Kaldi's ark it is a vector of float32 whose bytes are the record's. Its checksum
takes in the utterance's name and the cache's key, so that a record that is damaged, or
of another utterance, teacher or token list, is never taken for the one asked for.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np
from torch import Tensor

from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.choices import InputError

_MAGIC = b"KD2\0"
# Magic, checksum, bytes of the payload, and samples and fingerprint of the audio.
_HEADER = struct.Struct("<4sIIII")
_CHECKED = 8  # from here on


class Audio(NamedTuple):
    """What tells one utterance's audio from others."""

    samples: int
    crc32: int

    def __str__(self) -> str:
        return f"{self.samples} samples, crc32 {self.crc32:08x}"

    @property
    def entry(self) -> str:
        """As it stands in the lists."""
        return f"{self.samples} {self.crc32:08x}"

    @classmethod
    def read(cls, entry: str) -> "Audio":
        """Read what `entry` gives; raises ValueError where it is something else."""
        samples, crc32 = entry.split()
        return cls(int(samples), int(crc32, 16))


def fingerprint(speech: np.ndarray) -> Audio:
    """Length and checksum of audio, as 16-bit samples.

    Args:
        speech: (S,), in [-1, 1], or integers of 16 bits.
    """
    if speech.dtype.kind == "f":
        speech = np.rint(speech * 32768.0).clip(-32768, 32767)
    return Audio(len(speech), zlib.crc32(speech.astype("<i2").tobytes()))


@dataclass(frozen=True)
class DecodedRecord:
    """What a record says.

    Attributes:
        log_probs: (U, K) float32.
        ids: (U, K) int64, or None where all tokens are kept.
        states: (U, D) float32, or None.
        audio: that the teacher heard.
    """

    log_probs: np.ndarray
    ids: Optional[np.ndarray]
    states: Optional[np.ndarray]
    audio: Audio


@dataclass(frozen=True)
class Records:
    """Writes and reads the records of a cache.

    Attributes:
        codec: how posteriors are packed.
        blank: index of the blank.
        key: of the cache.
        where: for errors.
    """

    codec: Codec
    blank: int
    key: str
    where: str

    def seal(
        self, utt: str, log_probs: Tensor, states: Optional[Tensor], audio: Audio
    ) -> np.ndarray:
        """Make the record of an utterance.

        Args:
            utt: its name.
            log_probs: (U, V).
            states: (U, D), read where they are kept.
            audio: what the teacher heard.

        Returns:
            (bytes / 4,), float32.
        """
        payload = self.codec.encode(log_probs, self.blank, states)
        header = _HEADER.pack(_MAGIC, 0, len(payload), *audio)
        crc = self._crc(utt, header[_CHECKED:] + payload)
        record = _HEADER.pack(_MAGIC, crc, len(payload), *audio) + payload
        record += bytes(-len(record) % 4)
        return np.frombuffer(record, np.float32)

    def open(self, utt: str, vector: np.ndarray) -> DecodedRecord:
        """Read the record of an utterance.

        Args:
            utt: its name.
            vector: from the ark.

        Returns:
            What it says.

        Raises:
            InputError: it is damaged, or not what it should be.
        """
        if vector.dtype != np.float32 or vector.ndim != 1:
            raise InputError(
                f"utterance {utt}: the record in {self.where} is an array of "
                f"{vector.dtype} of the shape {vector.shape}, which is none of a "
                "cache's. Dump the teacher again"
            )
        record = vector.tobytes()
        if len(record) >= _HEADER.size:
            magic, crc, size, *audio = _HEADER.unpack_from(record)
            end = _HEADER.size + size
            whole = magic == _MAGIC and len(record) == end + -end % 4
            if whole and crc == self._crc(utt, record[_CHECKED:end]):
                payload = record[_HEADER.size : end]
                said = self.codec.decode(payload, self.blank)
                return DecodedRecord(*said, Audio(*audio))
        raise InputError(
            f"utterance {utt}: its record in {self.where} is damaged, or of another "
            "utterance, teacher, token list or packing than the cache's. Find all "
            "such with `python -m espnet_ctckd.bin.check_cache`, or dump the teacher "
            "again"
        )

    def _crc(self, utt: str, rest: bytes) -> int:
        return zlib.crc32(rest, zlib.crc32(f"{self.key} {utt}\0".encode()))
