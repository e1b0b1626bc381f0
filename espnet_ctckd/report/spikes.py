"""Comparison of a model's spikes and blanks with those of its teacher."""

import json
import logging
import statistics
import zlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Union

import torch

from espnet_ctckd.cache.statistics import Cached
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.files import (
    Pathlike,
    atomic_write,
    file_crc32,
    read_json,
    shorten,
)
from espnet_ctckd.evaluation.spikes import match_spikes
from espnet_ctckd.paths import Spike, blank_runs, find_spikes
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.teachers.espnet import EspnetTeacher
from espnet_ctckd.tokens import DROPPED, map_tokens


@dataclass
class Comparison:
    """Spike and blank counts of a model, compared with its teacher.

    Attributes:
        frames: number of frames of the model.
        blank: number of the model's frames whose argmax is blank.
        spikes: number of spikes of the teacher.
        missed: number of the teacher's spikes that the model does not have, or has
            with another token.
        inserted: number of the model's spikes that the teacher does not have.
        offsets: delay of each matched spike in milliseconds.
        runs: duration of each run of blank between spikes of the model, in
            milliseconds.
    """

    frames: int = 0
    blank: int = 0
    spikes: int = 0
    missed: int = 0
    inserted: int = 0
    offsets: List[float] = field(default_factory=list)
    runs: List[float] = field(default_factory=list)

    def __add__(self, other: "Comparison") -> "Comparison":
        return Comparison(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )

    def summary(self) -> Dict[str, Any]:
        """Return rates in percent and times in milliseconds; None without data."""
        away = [abs(offset) for offset in self.offsets]
        return {
            "blank": 100 * self.blank / self.frames if self.frames else None,
            "missed": 100 * self.missed / self.spikes if self.spikes else None,
            "inserted": 100 * self.inserted / self.spikes if self.spikes else None,
            "offset": statistics.fmean(self.offsets) if self.offsets else None,
            "distance": statistics.fmean(away) if away else None,
            "run": statistics.median(self.runs) if self.runs else None,
        }


# Keys of `Comparison.summary`, and their column heads.
COLUMNS = {
    "blank": "blank %",
    "missed": "missed %",
    "inserted": "inserted %",
    "offset": "offset ms",
    "distance": "|offset| ms",
    "run": "blank run ms",
}


class Exported:
    """An exported model that computes posteriors on demand.

    Args:
        folder: folder of config.yaml and model.pth.
        wavs: utterance -> audio file.

    Raises:
        InputError: the model is missing or cannot be used.
    """

    def __init__(self, folder: Path, wavs: Mapping[str, str]) -> None:
        self.folder, self._wavs = folder, wavs
        self._model = EspnetTeacher(folder / "config.yaml", folder / "model.pth")
        self.token_list, self.blank = self._model.token_list, self._model.blank
        self.rate, self.frame_shift = self._model.rate, self._model.frame_shift
        self.shortest = self._model.shortest

    def __iter__(self) -> Iterator[str]:
        """Iterate over the utterances."""
        return iter(self._wavs)

    def __contains__(self, utt: object) -> bool:
        """Return True if the audio of an utterance is given."""
        return utt in self._wavs

    def stamp(self) -> int:
        """Return a checksum that differs between models."""
        return file_crc32(self.folder / "model.pth")

    def say(self, utt: str) -> FramePosteriors:
        """Compute the posteriors of an utterance, as a batch of one."""
        audio = torch.from_numpy(read_audio(utt, self._wavs[utt], self.rate))
        return self._model.posteriors(audio[None], torch.tensor([len(audio)]))


Source = Union[Cached, Exported]


def open_source(folder: Pathlike, wavs: Optional[Mapping[str, str]] = None) -> Source:
    """Open an exported model or a cache.

    Args:
        folder: folder of the model or the cache.
        wavs: utterance -> audio file; optional for a cache.

    Raises:
        InputError: the folder is neither, or a model lacks the audio.
    """
    folder = Path(folder)
    if not (folder / "model.pth").exists():
        return Cached(folder, wavs)
    if wavs is None:
        raise InputError(f"{folder} is a model: give the audio, too (`wavs`)")
    return Exported(folder, wavs)


def places(source: Source, teacher: Source) -> Optional[List[int]]:
    """Map the tokens of a student to its teacher's token list.

    Args:
        source: the student.
        teacher: the teacher.

    Returns:
        The teacher's index of each token of the student, `DROPPED` for tokens that
        the teacher lacks; None if the lists are equal.

    Raises:
        InputError: the token lists do not match.
    """
    ours = map_tokens(
        teacher.token_list,
        teacher.blank,
        source.token_list,
        source.blank,
        str(teacher.folder),
    )
    if ours is None:
        return None
    index = [DROPPED] * len(source.token_list)
    for theirs, place in enumerate(ours):
        if place != DROPPED:
            index[place] = theirs
    return index


def read_spikes(
    source: Source, teacher: Source, utterances: Optional[Iterable[str]] = None
) -> Iterator[Tuple[str, Tuple[int, List[Spike]]]]:
    """Read the spikes of a cache or model, in the teacher's tokens.

    Args:
        source: the cache or model.
        teacher: teacher whose token list is used.
        utterances: utterances to read; None reads all.

    Yields:
        Utterance, and its number of frames and its spikes.

    Raises:
        InputError: the token lists do not match.
    """
    index = places(source, teacher)
    for utt in source if utterances is None else utterances:
        tokens = source.say(utt).argmax()[0].tolist()
        if index is not None:
            tokens = [index[token] for token in tokens]
        yield utt, (len(tokens), find_spikes(tokens, teacher.blank))


def compare(
    expected: Dict[str, Tuple[int, List[Spike]]],
    teacher: Source,
    source: Source,
    utterances: Optional[Iterable[str]] = None,
) -> Comparison:
    """Compare the spikes of a model with those of its teacher.

    Args:
        expected: spikes of the teacher, from `read_spikes`.
        teacher: cache or model of the teacher.
        source: cache or model to compare.
        utterances: utterances to compare; None compares all.

    Returns:
        The counts.

    Raises:
        InputError: the utterances of the two differ.
    """
    found = dict(read_spikes(source, teacher, utterances))
    differs = sorted(found.keys() ^ expected.keys())
    if differs:
        raise InputError(
            f"{source.folder} and {teacher.folder} are not of the same utterances: "
            f"{len(differs)} are in one alone: {shorten(differs)}. Dump both for one "
            "wav.scp"
        )
    total = Comparison()
    ours, theirs = (1000 * float(m.frame_shift / m.rate) for m in (source, teacher))
    for utt, (frames, spikes) in found.items():
        _, wanted = expected[utt]
        total.frames += frames
        total.blank += frames - sum(spike.frames for spike in spikes)
        total.spikes += len(wanted)
        total.runs += [gap * ours for gap in blank_runs(spikes)]
        matched = match_spikes(wanted, spikes)
        total.missed += len(wanted) - len(matched)
        total.inserted += len(spikes) - len(matched)
        total.offsets += [b.frame * ours - a.frame * theirs for a, b in matched]
    return total


class KnownSpikes:
    """Compares exported models with a teacher, and stores the results.

    Args:
        teacher: cache or model of the teacher.
        wavs: utterance -> audio file; these utterances are compared.
    """

    def __init__(self, teacher: Source, wavs: Mapping[str, str]) -> None:
        self._teacher, self._wavs = teacher, wavs
        self._expected: Dict[str, Tuple[int, List[Spike]]] = {}
        listed = "".join(f"{utt} {path}\n" for utt, path in wavs.items())
        self._stamp = [teacher.stamp(), zlib.crc32(listed.encode())]

    def of(self, source: Source, path: Path) -> Comparison:
        """Return the counts of a model, from a file if it is up to date."""
        stamp = [source.stamp(), *self._stamp]
        counted = _read_counted(path, stamp)
        if counted is None:
            if not self._expected:
                spikes = read_spikes(self._teacher, self._teacher, self._wavs)
                self._expected = dict(spikes)
            counted = compare(self._expected, self._teacher, source, self._wavs)
            with atomic_write(path) as f:
                json.dump({"stamp": stamp, "counts": asdict(counted)}, f)
        return counted


def _read_counted(path: Path, stamp: List[Any]) -> Optional[Comparison]:
    """Load the stored counts if they are complete and up to date."""
    try:
        found = read_json(path, "remove it") if path.exists() else {}
    except InputError:
        logging.warning(f"{path} is damaged, and is counted again")
        return None
    if found.get("stamp") != stamp:
        return None
    return Comparison(**found["counts"])
