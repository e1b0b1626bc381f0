"""What a model has of its teacher's spikes, and what it does with the blank."""

import json
import statistics
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import jiwer
import kaldiio
import torch

from espnet_ctckd.align import map_tokens
from espnet_ctckd.analysis import Spike, blank_runs, find_spikes
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import (
    Pathlike,
    file_crc32,
    read_audio,
    read_scp,
    shorten,
    write_beside,
)
from espnet_ctckd.teachers.espnet import EspnetTeacher


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


class Model:
    """A model that is run when its spikes are read.

    Args:
        folder: of config.yaml and model.pth.
        wav_scp: Kaldi's list of audio files.
    """

    def __init__(self, folder: Path, wav_scp: str) -> None:
        self.folder = folder
        self.wav_scp = wav_scp
        self._teacher = EspnetTeacher(folder / "config.yaml", folder / "model.pth")
        self.token_list, self.blank = self._teacher.token_list, self._teacher.blank
        self.rate, self.frame_shift = self._teacher.rate, self._teacher.frame_shift

    def best_tokens(self) -> Iterator[Tuple[str, List[int]]]:
        """Utterance, and the most probable token of each frame."""
        for utt, path in read_scp(self.wav_scp).items():
            audio = torch.from_numpy(read_audio(utt, path, self.rate)).unsqueeze(0)
            said = self._teacher.posteriors(audio, torch.tensor([audio.size(1)]))
            yield utt, said.argmax()[0, : int(said.lengths)].tolist()


class Cache:
    """Posteriors that were dumped before.

    Args:
        folder: of the cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._meta = read_meta(folder)
        self.token_list, self.blank = self._meta.token_list, self._meta.blank
        self.rate, self.frame_shift = self._meta.rate, self._meta.frame_shift

    def best_tokens(self) -> Iterator[Tuple[str, List[int]]]:
        """Utterance, and the most probable token of each frame."""
        for name in self._meta.arks:
            with open(self.folder / name, "rb") as ark:
                for utt, record in kaldiio.load_ark(ark):
                    said = self._meta.records.open(utt, record)
                    best = said.log_probs.argmax(1)  # (U,)
                    if said.ids is not None:
                        best = said.ids[range(len(best)), best]
                    yield utt, best.tolist()


Source = Union[Cache, Model]


def open_source(folder: Pathlike, wav_scp: Optional[str] = None) -> Source:
    """Open a cache, or a model where there is none.

    Args:
        folder: of either.
        wav_scp: the audio for a model.

    Raises:
        InputError: it is neither, or the audio is missing.
    """
    folder = Path(folder)
    if not (folder / "model.pth").exists():
        return Cache(folder)
    if wav_scp is None:
        raise InputError(f"{folder} is a model: give the audio with --wav_scp")
    return Model(folder, wav_scp)


def read_spikes(
    source: Source, teacher: Source
) -> Iterator[Tuple[str, Tuple[int, List[Spike]]]]:
    """Read the spikes of a cache or model, in the teacher's tokens.

    Args:
        source: of them.
        teacher: whose token list is used.

    Yields:
        Utterance, and its number of frames and spikes.

    Raises:
        InputError: its tokens are not the teacher's.
    """
    index = map_tokens(
        source.token_list,
        source.blank,
        teacher.token_list,
        teacher.blank,
        str(source.folder),
    )
    for utt, tokens in source.best_tokens():
        if index is not None:
            tokens = [index[token] for token in tokens]
        yield utt, (len(tokens), find_spikes(tokens, teacher.blank))


def compare(
    expected: Dict[str, Tuple[int, List[Spike]]], teacher: Source, source: Source
) -> Comparison:
    """Count what a model has of its teacher's spikes.

    Args:
        expected: the teacher's, as `read_spikes` gives them.
        teacher: where they come from.
        source: of the model.

    Returns:
        The counts.

    Raises:
        InputError: they are of other utterances.
    """
    found = dict(read_spikes(source, teacher))
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
        matched = _match(wanted, spikes)
        total.missed += len(wanted) - len(matched)
        total.inserted += len(spikes) - len(matched)
        total.offsets += [b.frame * ours - a.frame * theirs for a, b in matched]
    return total


def _match(wanted: List[Spike], spikes: List[Spike]) -> List[Tuple[Spike, Spike]]:
    """Pairs of spikes with one token in an alignment with fewest errors."""
    if not wanted or not spikes:
        return []
    texts = (" ".join(str(s.token) for s in some) for some in (wanted, spikes))
    (chunks,) = jiwer.process_words(*texts).alignments
    pairs: List[Tuple[Spike, Spike]] = []
    for chunk in chunks:
        if chunk.type == "equal":
            pairs += zip(
                wanted[chunk.ref_start_idx : chunk.ref_end_idx],
                spikes[chunk.hyp_start_idx : chunk.hyp_end_idx],
            )
    return pairs


class KnownSpikes:
    """Compares exported models with a teacher; what was compared is not run again.

    Args:
        teacher: folder of its experiment.
        wav_scp: the audio.
    """

    def __init__(self, teacher: Path, wav_scp: str) -> None:
        self.teacher, self._wav_scp = teacher, wav_scp
        self._source: Optional[Source] = None
        self._expected: Dict[str, Tuple[int, List[Spike]]] = {}
        self._audio = file_crc32(wav_scp)

    def of(self, folder: Path, name: str = "spikes.json") -> Comparison:
        """The counts of an experiment, kept in its folder under a name."""
        models = [self.teacher, folder]
        stamp = [file_crc32(m / "export/model.pth") for m in models]
        stamp.append(self._audio)
        path = folder / name
        if not path.exists() or json.loads(path.read_text())["stamp"] != stamp:
            counts = self._compare(folder)
            with write_beside(path) as f:
                json.dump({"stamp": stamp, "counts": asdict(counts)}, f)
        return Comparison(**json.loads(path.read_text())["counts"])

    def _compare(self, folder: Path) -> Comparison:
        if self._source is None:
            self._source = open_source(self.teacher / "export", self._wav_scp)
            self._expected = dict(read_spikes(self._source, self._source))
        student = open_source(folder / "export", self._wav_scp)
        return compare(self._expected, self._source, student)
