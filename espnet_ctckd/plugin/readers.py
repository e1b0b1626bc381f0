"""ESPnet's readers of audio and arks, whose errors name utterance and file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple

from espnet2.train import dataset

from espnet_ctckd.cache.reader import META, SCP, RecordVectors, read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.kaldi import audio_info, read_scp

# What to do about each type of data.
_ADVICE = {
    "sound": "give audio of one channel and of the rate of the others",
    "kaldi_ark": "find all such with `python -m espnet_ctckd.bin.check_cache`, or dump "
    "the teacher again",
}


class _Named(Mapping):  # type: ignore[type-arg]
    """What a reader gives; where it fails, the error says of what."""

    def __init__(self, reader: Any, path: str, kind: str) -> None:
        self._reader, self._path, self._kind = reader, path, kind

    def __getitem__(self, utt: str) -> Any:
        try:
            value = self._reader[utt]
        # Whatever libraries raise at damaged files; it is told, and not caught.
        except Exception as error:
            raise InputError(
                f"utterance {utt}: what {self._path} names cannot be read "
                f"({type(error).__name__}: {error}): {_ADVICE[self._kind]}"
            ) from error
        if self._kind == "sound" and value.ndim == 2:
            raise InputError(
                f"utterance {utt}: the audio that {self._path} names has "
                f"{value.shape[1]} channels: {_ADVICE[self._kind]}"
            )
        if self._kind == "sound":
            # ESPnet takes what there is of a file for all of it.
            path = self._reader.loader.data[utt]
            samples = audio_info(utt, path, None)
            if len(value) != samples:
                raise InputError(
                    f"utterance {utt}: {path} is cut short: its header says {samples} "
                    f"samples, it has {len(value)}. Restore or remove it"
                )
        return value

    def __len__(self) -> int:
        return len(self._reader)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader)


def name_what_fails() -> None:
    """Let ESPnet's readers say which utterance they fail at; again it does nothing."""
    for kind in _ADVICE:
        entry = dataset.DATA_TYPES[kind]
        if not hasattr(entry["func"], "named"):
            entry["func"] = _named(entry["func"], kind)


def _named(opened: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def load(path: str, *args: Any, **kwargs: Any) -> _Named:
        # What a cache's list holds is data: no pipe in it is run.
        cache = cache_of(path) if kind == "kaldi_ark" else None
        reader = (
            opened(path, *args, **kwargs)
            if cache is None
            else RecordVectors(cache / SCP, path)
        )
        return _Named(reader, path, kind)

    load.named = True  # type: ignore[attr-defined]
    return load


def cache_of(path: str) -> Optional[Path]:
    """The folder of the cache that a list lies in, or None."""
    folders = (Path(path).parent, Path(path).resolve().parent)
    return next((f for f in folders if (f / META).exists()), None)


def check_caches(data: List[Tuple[str, str, str]], flag: str) -> List[str]:
    """Refuse lists of caches that name anything but records of their cache.

    kaldiio runs commands and unpickles objects that a list of arks names, and a cache
    may come from elsewhere.

    Args:
        data: path, name and type of each data of a training.
        flag: that gave them, for the error.

    Returns:
        The names of the data that are records of a cache.

    Raises:
        InputError: an entry lies outside of its cache, or the list of a cache is given
            as data of another type.
    """
    names = []
    for path, name, kind in data:
        cache = cache_of(path)
        if cache is None:
            continue
        if kind == "kaldi_ark":
            meta = read_meta(cache)
            for utt, place in read_scp(path).items():
                meta.locate(utt, place)
            names.append(name)
        elif SCP in (Path(path).name, Path(path).resolve().name):
            raise InputError(
                f"{flag} reads the records of the cache {cache} as {kind!r}; give "
                f"{path},{name},kaldi_ark"
            )
    return names
