"""Reading of audio files, with checks for damaged ones."""

import os
from typing import (
    Any,
    Iterator,
    Optional,
    Tuple,
)

import numpy as np

from espnet_ctckd.data.containers import UnusableAudioError, check_whole, decode

# Maximum size in bytes of a file with a header and no samples.
_BARE_HEADER = 200


class UnknownLengthError(UnusableAudioError):
    """An audio file without a length in its header, which ESPnet cannot read whole."""


class EmptyAudioError(UnusableAudioError):
    """A complete audio file without samples."""


def audio_info(utt: str, path: str, rate: Optional[int]) -> int:
    """Return the length of an audio file as ESPnet reads it.

    The length is read from the header, or counted if the header does not hold it.

    Args:
        utt: utterance id, for the error.
        path: a file in a format of libsndfile: wav, flac, ogg, sph, …
        rate: required sample rate in Hz; None for any.

    Returns:
        Number of samples, S.

    Raises:
        UnknownLengthError: ESPnet would read only a part of the file, or fail.
        UnusableAudioError: the file is missing, empty, truncated, not audio, not mono
            or has another sample rate.
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
    """Return libsndfile's info of a file, and whether its length is reliable."""
    import soundfile

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
    """Decode a file to its end, block by block."""
    import soundfile

    try:
        yield from decode(path, kind)
    except soundfile.LibsndfileError as error:
        raise UnusableAudioError(
            f"{where} cannot be read to its end: {error}"
        ) from None


def read_audio(utt: str, path: str, rate: Optional[int]) -> np.ndarray:
    """Read a mono audio file.

    Args:
        utt: utterance id, for the error.
        path: a file in a format of libsndfile.
        rate: required sample rate in Hz; None for any.

    Returns:
        Samples in [-1, 1], (S,), float32.

    Raises:
        UnusableAudioError: see `audio_info`; or the file is truncated or holds NaN.
    """
    import soundfile

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
    """Read a mono audio file like `read_audio`, even without a length in its header."""
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
