"""What a model has of its teacher's spikes, and what it does with the blank."""

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
    """Counts of a model against its teacher.

    Attributes:
        frames: of the model.
        blank: of them, those that stand for the blank.
        spikes: of the teacher.
        missed: of them, those that the model has not, or has with another token.
        inserted: spikes of the model that the teacher has not.
        offsets: of the matched ones, in milliseconds.
        runs: blank frames between spikes of the model, in milliseconds.
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
        """Rates in percent and medians in milliseconds; None where nothing is."""
        away = [abs(offset) for offset in self.offsets]
        return {
            "blank": 100 * self.blank / self.frames if self.frames else None,
            "missed": 100 * self.missed / self.spikes if self.spikes else None,
            "inserted": 100 * self.inserted / self.spikes if self.spikes else None,
            "offset": statistics.fmean(self.offsets) if self.offsets else None,
            "distance": statistics.fmean(away) if away else None,
            "run": statistics.median(self.runs) if self.runs else None,
        }


# Of `Comparison.summary`, as a table names them.
COLUMNS = {
    "blank": "blank %",
    "missed": "missed %",
    "inserted": "inserted %",
    "offset": "offset ms",
    "distance": "|offset| ms",
    "run": "blank run ms",
}


class Exported:
    """An exported model, which is run when it is asked.

    Args:
        folder: of config.yaml and model.pth.
        wavs: utterance -> audio file.

    Raises:
        InputError: there is no such model.
    """

    def __init__(self, folder: Path, wavs: Mapping[str, str]) -> None:
        self.folder, self._wavs = folder, wavs
        self._model = EspnetTeacher(folder / "config.yaml", folder / "model.pth")
        self.token_list, self.blank = self._model.token_list, self._model.blank
        self.rate, self.frame_shift = self._model.rate, self._model.frame_shift
        self.shortest = self._model.shortest

    def __iter__(self) -> Iterator[str]:
        """The utterances."""
        return iter(self._wavs)

    def __contains__(self, utt: object) -> bool:
        """Whether it can be asked of an utterance."""
        return utt in self._wavs

    def stamp(self) -> int:
        """Differs between models that say something else."""
        return file_crc32(self.folder / "model.pth")

    def say(self, utt: str) -> FramePosteriors:
        """What it says of an utterance, as a batch of one."""
        audio = torch.from_numpy(read_audio(utt, self._wavs[utt], self.rate))
        return self._model.posteriors(audio[None], torch.tensor([len(audio)]))


Source = Union[Cached, Exported]


def open_source(folder: Pathlike, wavs: Optional[Mapping[str, str]] = None) -> Source:
    """Open a cache, or a model where there is none.

    Args:
        folder: of either.
        wavs: utterance -> audio file; a cache may do without.

    Raises:
        InputError: it is neither, or the audio is missing.
    """
    folder = Path(folder)
    if not (folder / "model.pth").exists():
        return Cached(folder, wavs)
    if wavs is None:
        raise InputError(f"{folder} is a model: give the audio, too (`wavs`)")
    return Exported(folder, wavs)


def places(source: Source, teacher: Source) -> Optional[List[int]]:
    """Where the tokens of a student stand in its teacher's list.

    Args:
        source: the student.
        teacher: its teacher.

    Returns:
        The teacher's index of each, `DROPPED` for those that it lacks; None where the
        lists are the same.

    Raises:
        InputError: it says other tokens than the teacher.
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
        source: of them.
        teacher: whose token list is used.
        utterances: to read; without it all.

    Yields:
        Utterance, and its number of frames and spikes.

    Raises:
        InputError: its tokens are not the teacher's.
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
    """Count what a model has of its teacher's spikes.

    Args:
        expected: the teacher's, as `read_spikes` gives them.
        teacher: where they come from.
        source: of the model.
        utterances: to compare; without it all.

    Returns:
        The counts.

    Raises:
        InputError: they are of other utterances.
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
    """Compares exported models with a teacher; what was compared is not run again.

    Args:
        teacher: what it says.
        wavs: utterance -> audio file, of those that are compared.
    """

    def __init__(self, teacher: Source, wavs: Mapping[str, str]) -> None:
        self._teacher, self._wavs = teacher, wavs
        self._expected: Dict[str, Tuple[int, List[Spike]]] = {}
        listed = "".join(f"{utt} {path}\n" for utt, path in wavs.items())
        self._stamp = [teacher.stamp(), zlib.crc32(listed.encode())]

    def of(self, source: Source, path: Path) -> Comparison:
        """The counts of a model, kept in a file."""
        stamp = [source.stamp(), *self._stamp]
        counted = _read_counted(path, stamp)
        if counted is None:
            if not self._expected:
                said = read_spikes(self._teacher, self._teacher, self._wavs)
                self._expected = dict(said)
            counted = compare(self._expected, self._teacher, source, self._wavs)
            with atomic_write(path) as f:
                json.dump({"stamp": stamp, "counts": asdict(counted)}, f)
        return counted


def _read_counted(path: Path, stamp: List[Any]) -> Optional[Comparison]:
    """What was counted before, where it is there, whole, and of the same."""
    try:
        found = read_json(path, "remove it") if path.exists() else {}
    except InputError:
        logging.warning(f"{path} is damaged, and is counted again")
        return None
    if found.get("stamp") != stamp:
        return None
    return Comparison(**found["counts"])
