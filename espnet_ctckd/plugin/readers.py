"""ESPnet's readers of audio and arks, whose errors name utterance and file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.train.dataset import DATA_TYPES, ESPnetDataset, ESPnetMultiTaskDataset

from espnet_ctckd.cache.reader import META, SCP, RecordVectors, read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import audio_info
from espnet_ctckd.data.kaldi import read_scp

# Advice in error messages, by data type.
_ADVICE = {
    "sound": "give audio of one channel and of the rate of the others",
    "kaldi_ark": "find all such with `python -m espnet_ctckd.bin.check_cache`, or dump "
    "the teacher again",
}


class _Named(Mapping):  # type: ignore[type-arg]
    """A reader whose errors name the utterance and the file."""

    def __init__(self, reader: Any, path: str, kind: str) -> None:
        self._reader, self._path, self._kind = reader, path, kind

    def __getitem__(self, utt: str) -> Any:
        try:
            value = self._reader[utt]
        # Re-raise any library error with the utterance id.
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
            # ESPnet does not detect truncated files.
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


def name_what_fails(dataset: ESPnetDataset) -> None:
    """Make the readers of a dataset name the failing utterance in errors.

    Records of a cache are read as data, so that pipes in their list are not run.

    Args:
        dataset: the dataset whose readers are replaced.
    """
    for name, (path, given) in dataset.debug_info.items():
        # As in ESPnet: the first type that is a prefix of the given type.
        kind = next((kind for kind in DATA_TYPES if re.match(kind, given)), None)
        reader = dataset.loader_dict[name]
        if kind not in _ADVICE or isinstance(reader, _Named):
            continue
        cache = cache_of(path) if kind == "kaldi_ark" else None
        if cache is not None:
            reader = RecordVectors(cache / SCP, path)
        dataset.loader_dict[name] = _Named(reader, path, kind)


def datasets_of(factory: AbsIterFactory) -> Iterator[ESPnetDataset]:
    """Iterate over the datasets of an iterator factory of ESPnet."""
    for value in vars(factory).values():
        if isinstance(value, AbsIterFactory):
            yield from datasets_of(value)
        elif isinstance(value, ESPnetMultiTaskDataset):
            yield from value.datasets
        elif isinstance(value, ESPnetDataset):
            yield value


def cache_of(path: str) -> Optional[Path]:
    """Return the folder of the cache that contains a list, or None."""
    folders = (Path(path).parent, Path(path).resolve().parent)
    return next((f for f in folders if (f / META).exists()), None)


def check_caches(data: List[Tuple[str, str, str]], flag: str) -> List[str]:
    """Refuse lists of caches with entries that are not records of their cache.

    kaldiio runs commands and unpickles objects that a list of arks names, and a cache
    may come from an untrusted source.

    Args:
        data: path, name and type of each training data.
        flag: command-line flag of the data, for the error.

    Returns:
        The names of the data that are records of a cache.

    Raises:
        InputError: an entry points outside its cache, or the list of a cache is given
            with another data type.
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
