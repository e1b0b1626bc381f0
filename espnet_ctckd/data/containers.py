"""Audio containers: detection of truncated files, and lengths without a header.

libsndfile takes the end of a file for the end of its audio, and estimates the length
of an MP3. A header that was written to a pipe holds no size, or the largest possible
one: nearly 2 or 4 GiB.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import threading
from typing import (
    TYPE_CHECKING,
    BinaryIO,
    Callable,
    ClassVar,
    Dict,
    Iterator,
    Optional,
    Tuple,
)

import numpy as np

from espnet_ctckd.choices import InputError

if TYPE_CHECKING:
    import soundfile

# 32-bit sizes from here on stand for "unknown": sox writes 0x7ffff024.
_UNKNOWN_SIZE = 0x7F000000
_BLOCK = 65536  # samples decoded at a time
_NO_FLAC_LENGTH = 2**63 - 1  # libsndfile's value for an unknown length

_Kind = Tuple[int, int]  # MPEG version, and sample rate in Hz


class UnusableAudioError(InputError):
    """An audio file cannot be used."""


def check_whole(where: str, path: str, info: soundfile._SoundFileInfo) -> bool:
    """Check that a file is not truncated and holds a single stream.

    Args:
        where: description of the file, for the error.
        path: the file.
        info: libsndfile's info of the file.

    Returns:
        True if its header holds the length, and not an estimate.

    Raises:
        UnusableAudioError: the file is truncated or holds several streams.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        if info.format == "MP3":
            return _check_mp3(where, f.read())
        if info.format == "OGG":
            _check_ogg(where, f, size)
        promised = _PROMISED[info.format](f) if info.format in _PROMISED else None
    if promised is not None and promised > size + 1:  # a pad byte may be missing
        raise UnusableAudioError(
            f"{where} is cut short: its header says {promised} bytes, it has {size}. "
            "Restore or remove it"
        )
    return not (info.format == "FLAC" and info.frames == _NO_FLAC_LENGTH)


def decode(path: str, kind: str) -> Iterator[np.ndarray]:
    """Decode a file to its end, regardless of the length in its header.

    Args:
        path: a mono file.
        kind: libsndfile's name of its container.

    Yields:
        Blocks of samples in [-1, 1], float32.

    Raises:
        soundfile.LibsndfileError: the file is damaged.
    """
    import soundfile

    class Unseekable(soundfile.SoundFile):  # type: ignore[misc]
        """A file that is read without seeking, which fails if its length is unknown."""

        def seekable(self) -> bool:
            return False

    # libsndfile does not estimate the length of an MP3 that it reads from a pipe.
    with (
        _piped(path) if kind == "MP3" else contextlib.nullcontext(path) as source,
        Unseekable(source, closefd=False) as f,
    ):
        block = np.empty(_BLOCK, np.float32)
        while count := f.buffer_read_into(block, "float32"):
            yield block[:count].copy()


@contextlib.contextmanager
def _piped(path: str) -> Iterator[int]:
    """Open the reading end of a pipe that a file is written to."""
    reading, writing = os.pipe()

    def feed() -> None:
        # The reader may close the pipe before the end.
        with (
            contextlib.suppress(BrokenPipeError),
            open(writing, "wb") as pipe,
            open(path, "rb") as f,
        ):
            while block := f.read(2**16):
                pipe.write(block)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield reading
    finally:
        os.close(reading)
        thread.join()


def _chunks(f: BinaryIO, head: str, pad: int) -> Optional[int]:
    """Return the end of the last chunk in bytes, None if unknown.

    Args:
        f: file positioned after the header of the container.
        head: struct format of a chunk header, name and size.
        pad: alignment of the chunks in bytes.
    """
    end, size_of_head = None, struct.calcsize(head)
    while len(read := f.read(size_of_head)) == size_of_head:
        name, size = struct.unpack(head, read)
        if not 0 <= size < (_UNKNOWN_SIZE if size_of_head == 8 else 2**62):
            break
        if name in (b"data", b"SSND", b"BODY"):
            # Some tools write a size of 0 for unknown.
            return f.tell() + size if size else end
        end = f.tell() + size
        f.seek(size + -size % pad, os.SEEK_CUR)
    return end


def _iff(f: BinaryIO) -> Optional[int]:
    """Return the size of a WAV or AIFF file by its header, or by its chunks."""
    magic = f.read(4)
    order = "<" if magic == b"RIFF" else ">"
    size = struct.unpack(f"{order}I", f.read(4))[0]
    f.seek(4, os.SEEK_CUR)
    if 0 < size < _UNKNOWN_SIZE:
        return int(size) + 8
    return _chunks(f, f"{order}4sI", 2)


def _rf64(f: BinaryIO) -> Optional[int]:
    head = f.read(28)
    size: int = struct.unpack("<Q", head[20:28])[0] if head[12:16] == b"ds64" else 0
    return size + 8 if 0 < size < 2**62 else None


def _w64(f: BinaryIO) -> Optional[int]:
    size: int = struct.unpack("<Q", f.read(24)[16:])[0]
    return size if 0 < size < 2**62 else None


def _au(f: BinaryIO) -> Optional[int]:
    order = ">" if f.read(4) == b".snd" else "<"
    offset, size = struct.unpack(f"{order}II", f.read(8))
    return int(offset + size) if 0 < size < _UNKNOWN_SIZE else None


def _caf(f: BinaryIO) -> Optional[int]:
    f.seek(8)
    return _chunks(f, ">4sq", 1)


def _nist(f: BinaryIO) -> Optional[int]:
    size = int(f.read(16).split()[1])
    f.seek(0)
    head = f.read(size)
    counts = []
    for name in (b"sample_count", b"sample_n_bytes", b"channel_count"):
        found = re.search(rb"^" + name + rb" -\S+ (\d+)", head, re.MULTILINE)
        counts.append(int(found[1]) if found else 0)
    samples, width, channels = counts
    return size + samples * width * channels if samples * width * channels else None


# Expected file size in bytes, by container; None if the header does not hold it.
_PROMISED: Dict[str, Callable[[BinaryIO], Optional[int]]] = {
    "WAV": _iff,
    "WAVEX": _iff,
    "AIFF": _iff,
    "SVX": _iff,
    "RF64": _rf64,
    "W64": _w64,
    "AU": _au,
    "CAF": _caf,
    "NIST": _nist,
}


def _check_ogg(where: str, f: BinaryIO, size: int) -> None:
    """Check the pages (RFC 3533): the last must be whole and end the stream."""
    started = ended = False
    while f.tell() < size:
        head = f.read(27)
        if ended and head[:4] != b"OggS":
            break  # other data after the stream
        sizes = f.read(head[26]) if len(head) == 27 else b""
        end = f.tell() + sum(sizes)
        whole = head[:4] == b"OggS" and len(sizes) == head[26] and end <= size
        if not whole:
            ended = False
            break
        first, ended = bool(head[5] & 2), bool(head[5] & 4)
        if first and started:
            raise UnusableAudioError(
                f"{where} holds several Ogg streams one after another, of which only "
                "the first would be read: write each to a file of its own"
            )
        started = started or not first
        f.seek(end)
    if not ended:
        raise UnusableAudioError(
            f"{where} is cut short: it has no whole last Ogg page that ends the "
            "stream. Restore or remove it"
        )


class _Mp3:
    """The frames of an MPEG layer 3 audio file, by their headers.

    Attributes:
        frames: number of complete frames with audio.
        promised: number of frames by the Xing or Info header, None without one.
        cut: True if the last frame is truncated.
    """

    _RATES: ClassVar[Dict[int, Tuple[int, ...]]] = {
        3: (44100, 48000, 32000),
        2: (22050, 24000, 16000),
        0: (11025, 12000, 8000),
    }
    _KBITS: ClassVar[Dict[int, Tuple[int, ...]]] = {
        3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
        2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    }

    def __init__(self, data: bytes) -> None:
        self.frames, self.cut = 0, False
        self.promised: Optional[int] = None
        place, kind, found = self._after_tags(data), None, False
        while frame := self._next(data, place, kind, found):
            begin, size, kind_here = frame
            if begin + size > len(data):
                self.cut = True
                return
            if kind is None:
                self.promised = self._xing(data[begin : begin + size])
                self.frames -= self.promised is not None
            self.frames += 1
            place, kind, found = begin + size, kind_here, True

    @classmethod
    def _next(
        cls, data: bytes, place: int, kind: Optional[_Kind], found: bool
    ) -> Optional[Tuple[int, int, _Kind]]:
        """Return start, size in bytes and kind of the next frame; None at the end.

        A frame that does not directly follow another must be followed by one.
        """
        frame = cls._frame(data, place)
        if found and frame is not None and frame[1] == kind:
            return place, *frame
        while (place := data.find(b"\xff", place)) >= 0:
            frame = cls._frame(data, place)
            if frame is not None and kind in (None, frame[1]):
                after = cls._frame(data, place + frame[0])
                if after is not None and after[1] == frame[1]:
                    return place, *frame
            place += 1
        return None

    @staticmethod
    def _after_tags(data: bytes) -> int:
        place = 0
        while data[place : place + 3] == b"ID3" and len(data) >= place + 10:
            size = 0
            for byte in data[place + 6 : place + 10]:
                size = size << 7 | byte & 0x7F
            place += size + (20 if data[place + 5] & 0x10 else 10)
        return place

    @classmethod
    def _frame(cls, data: bytes, place: int) -> Optional[Tuple[int, _Kind]]:
        """Return size in bytes, version and rate of the frame at a place, or None."""
        head = data[place : place + 4]
        if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
            return None
        version, code, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
        if version == 1 or rate == 3 or code in (0, 15):
            return None
        kbits = cls._KBITS[3 if version == 3 else 2][code - 1]
        hertz = cls._RATES[version][rate]
        size = (144 if version == 3 else 72) * 1000 * kbits // hertz
        return size + (head[2] >> 1 & 1), (version, hertz)

    @staticmethod
    def _xing(frame: bytes) -> Optional[int]:
        """Return the number of frames by the first frame, if it is a header."""
        version, mono = frame[1] >> 3 & 3, frame[3] >> 6 == 3
        side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
        for place in (4 + side, 6 + side):  # without and with a checksum
            if frame[place : place + 4] in (b"Xing", b"Info"):
                flags, frames = struct.unpack(">II", frame[place + 4 : place + 12])
                return int(frames) if flags & 1 else None
        return None


def _check_mp3(where: str, data: bytes) -> bool:
    """Check for truncated or joined files; return True if the header has the length."""
    found = _Mp3(data)
    if found.cut:
        raise UnusableAudioError(
            f"{where} is cut short: its last MPEG frame is not whole. Restore or "
            "remove it"
        )
    if found.promised is None:
        return False
    # Some encoders count the header as a frame.
    if found.frames + 1 < found.promised:
        raise UnusableAudioError(
            f"{where} is cut short: its header says {found.promised} MPEG frames, it "
            f"has {found.frames}. Restore or remove it"
        )
    if found.frames > found.promised + 1:
        raise UnusableAudioError(
            f"{where} has {found.frames} MPEG frames, of which only the "
            f"{found.promised} of its header would be read: write each of the files "
            "that are joined in it to one of its own"
        )
    return True
