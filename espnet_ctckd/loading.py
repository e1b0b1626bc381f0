"""ESPnet's readers of audio and arks, whose errors name utterance and file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Iterator

from espnet2.train import dataset

from espnet_ctckd.cache.reader import META, RecordVectors
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import audio_info

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
        cached = kind == "kaldi_ark" and (Path(path).parent / META).exists()
        reader = RecordVectors(path) if cached else opened(path, *args, **kwargs)
        return _Named(reader, path, kind)

    load.named = True  # type: ignore[attr-defined]
    return load
