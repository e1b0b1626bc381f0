"""Containers of audio: whether a file is whole, and how long it is without its header.

libsndfile takes the end of a file for the end of its audio, and believes an MP3's
guessed length. A header that a tool has written to a pipe promises nothing, or the
most that it can: nearly 2 or 4 GiB.
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

# A size of 32 bits from here on stands for "unknown": sox writes 0x7ffff024.
_UNKNOWN_SIZE = 0x7F000000
_BLOCK = 65536  # samples that are decoded at a time
_NO_FLAC_LENGTH = 2**63 - 1  # libsndfile's

_Kind = Tuple[int, int]  # version of MPEG, and Hz


class UnusableAudioError(InputError):
    """An audio file cannot be used."""


def check_whole(where: str, path: str, info: soundfile._SoundFileInfo) -> bool:
    """Refuse a file that is shorter than its container says, or of several streams.

    Args:
        where: what it is, for the error.
        path: the file.
        info: libsndfile's, of the file.

    Returns:
        Whether the length in its header is known, and no guess.

    Raises:
        UnusableAudioError: it is cut short, or several streams are joined in it.
    """
    has = os.path.getsize(path)
    with open(path, "rb") as f:
        if info.format == "MP3":
            return _check_mp3(where, f.read())
        if info.format == "OGG":
            _check_ogg(where, f, has)
        promised = _PROMISED[info.format](f) if info.format in _PROMISED else None
    if promised is not None and promised > has + 1:  # a pad byte may be left out
        raise UnusableAudioError(
            f"{where} is cut short: its header says {promised} bytes, it has {has}. "
            "Restore or remove it"
        )
    return not (info.format == "FLAC" and info.frames == _NO_FLAC_LENGTH)


def decode(path: str, kind: str) -> Iterator[np.ndarray]:
    """Decode a file to its end, whatever length its header says.

    Args:
        path: a mono file.
        kind: its container, as libsndfile calls it.

    Yields:
        Samples in [-1, 1], float32, some at a time.

    Raises:
        soundfile.LibsndfileError: it is damaged.
    """
    import soundfile

    class Unsought(soundfile.SoundFile):  # type: ignore[misc]
        """A file whose length is not asked for; where it is unknown, seeking fails."""

        def seekable(self) -> bool:
            return False

    # Of an MP3 that comes through a pipe, libsndfile guesses no length.
    with (
        _piped(path) if kind == "MP3" else contextlib.nullcontext(path) as source,
        Unsought(source, closefd=False) as f,
    ):
        block = np.empty(_BLOCK, np.float32)
        while count := f.buffer_read_into(block, "float32"):
            yield block[:count].copy()


@contextlib.contextmanager
def _piped(path: str) -> Iterator[int]:
    """The reading end of a pipe that a file is written to."""
    reading, writing = os.pipe()

    def feed() -> None:
        # The reader may have had enough.
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
    """Where the furthest of the chunks ends that begin here, None if none is known.

    Args:
        f: after the head of the container.
        head: format of a chunk's own, its name and size.
        pad: chunks begin at multiples of it.
    """
    end, size_of_head = None, struct.calcsize(head)
    while len(read := f.read(size_of_head)) == size_of_head:
        name, size = struct.unpack(head, read)
        if not 0 <= size < (_UNKNOWN_SIZE if size_of_head == 8 else 2**62):
            break
        if name in (b"data", b"SSND", b"BODY"):
            # Some tools know not even this, and write 0.
            return f.tell() + size if size else end
        end = f.tell() + size
        f.seek(size + -size % pad, os.SEEK_CUR)
    return end


def _iff(f: BinaryIO) -> Optional[int]:
    """WAV and AIFF: the size of all, and those of the chunks."""
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


# The bytes that a file must have, by its container; None where its header knows not.
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


def _check_ogg(where: str, f: BinaryIO, has: int) -> None:
    """Walk the pages (RFC 3533): the last must be whole and say that it is the last."""
    begun = ended = False
    while f.tell() < has:
        head = f.read(27)
        if ended and head[:4] != b"OggS":
            break  # whatever was put behind the stream
        sizes = f.read(head[26]) if len(head) == 27 else b""
        end = f.tell() + sum(sizes)
        whole = head[:4] == b"OggS" and len(sizes) == head[26] and end <= has
        if not whole:
            ended = False
            break
        first, ended = bool(head[5] & 2), bool(head[5] & 4)
        if first and begun:
            raise UnusableAudioError(
                f"{where} holds several Ogg streams one after another, of which only "
                "the first would be read: write each to a file of its own"
            )
        begun = begun or not first
        f.seek(end)
    if not ended:
        raise UnusableAudioError(
            f"{where} is cut short: it has no whole last Ogg page that ends the "
            "stream. Restore or remove it"
        )


class _Mp3:
    """The frames of an MPEG audio file of layer 3, by their headers.

    Attributes:
        frames: that are whole and hold audio.
        promised: frames that the header says (Xing, Info), None if it says nothing.
        cut: whether the last frame is not whole.
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
        """The next frame: where it begins, its bytes and kind; None at the end.

        One that does not follow upon another must be followed by another.
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
        """Bytes of the frame that begins here, and its version and rate, or None."""
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
        """The number of frames in the first one, where that is a header."""
        version, mono = frame[1] >> 3 & 3, frame[3] >> 6 == 3
        side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
        for place in (4 + side, 6 + side):  # with a checksum, too
            if frame[place : place + 4] in (b"Xing", b"Info"):
                flags, frames = struct.unpack(">II", frame[place + 4 : place + 12])
                return int(frames) if flags & 1 else None
        return None


def _check_mp3(where: str, data: bytes) -> bool:
    """Refuse what is cut short or joined; say whether the header knows the length."""
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
