"""Records of a cache: the compressed posteriors of one utterance, with a checksum.

In Kaldi's ark a record is a vector of float32 that holds the bytes of the record. The
checksum covers the utterance's name and the cache's key, so that a record that is
damaged, or of another utterance, teacher or token list, is always refused.
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
_CHECKED = 8  # offset from which on the checksum covers the record


class Audio(NamedTuple):
    """Length and checksum that identify the audio of an utterance."""

    samples: int
    crc32: int

    def __str__(self) -> str:
        return f"{self.samples} samples, crc32 {self.crc32:08x}"

    @property
    def entry(self) -> str:
        """The entry in the lists of a cache."""
        return f"{self.samples} {self.crc32:08x}"

    @classmethod
    def read(cls, entry: str) -> "Audio":
        """Parse an `entry`; raises ValueError if it is malformed."""
        samples, crc32 = entry.split()
        return cls(int(samples), int(crc32, 16))


def fingerprint(speech: np.ndarray) -> Audio:
    """Return length and checksum of audio, as 16-bit samples.

    Args:
        speech: (S,), floats in [-1, 1], or 16-bit integers.
    """
    if speech.dtype.kind == "f":
        speech = np.rint(speech * 32768.0).clip(-32768, 32767)
    return Audio(len(speech), zlib.crc32(speech.astype("<i2").tobytes()))


@dataclass(frozen=True)
class DecodedRecord:
    """Contents of a record.

    Attributes:
        log_probs: (U, K) float32.
        ids: token ids (U, K) int64, or None for dense posteriors.
        states: hidden states (U, D) float32, or None.
        audio: fingerprint of the audio that the record was computed from.
    """

    log_probs: np.ndarray
    ids: Optional[np.ndarray]
    states: Optional[np.ndarray]
    audio: Audio


@dataclass(frozen=True)
class Records:
    """Encodes and decodes the records of a cache.

    Attributes:
        codec: compression of the posteriors.
        blank: index of the blank.
        key: key of the cache; see `key_of`.
        where: name of the cache in errors.
    """

    codec: Codec
    blank: int
    key: str
    where: str

    def seal(
        self, utt: str, log_probs: Tensor, states: Optional[Tensor], audio: Audio
    ) -> np.ndarray:
        """Encode the record of an utterance.

        Args:
            utt: name of the utterance.
            log_probs: (U, V).
            states: hidden states (U, D); ignored if the codec stores none.
            audio: fingerprint of the teacher's input.

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
        """Decode the record of an utterance.

        Args:
            utt: name of the utterance.
            vector: from the ark.

        Returns:
            The contents of the record.

        Raises:
            InputError: the record is damaged, or of another utterance or cache.
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
                decoded = self.codec.decode(payload, self.blank)
                return DecodedRecord(*decoded, Audio(*audio))
        raise InputError(
            f"utterance {utt}: its record in {self.where} is damaged, or of another "
            "utterance, teacher, token list or packing than the cache's. Find all "
            "such with `python -m espnet_ctckd.bin.check_cache`, or dump the teacher "
            "again"
        )

    def _crc(self, utt: str, rest: bytes) -> int:
        return zlib.crc32(rest, zlib.crc32(f"{self.key} {utt}\0".encode()))
