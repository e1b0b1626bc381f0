"""Compare the spikes of models with those of their teacher, and what the blank does.

Each is a cache of posteriors, or with --wav_scp a folder of config.yaml and model.pth,
as export_student writes it; all of the same audio. The spikes of an utterance are
aligned by their tokens with fewest errors; the offset of a matched one is its first
frame less the teacher's.
"""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import jiwer
import kaldiio
import torch

from espnet_ctckd.align import map_tokens
from espnet_ctckd.analysis import Spike, blank_runs, find_spikes
from espnet_ctckd.bin import parser, run
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import Pathlike, read_audio, read_scp, shorten, write_beside
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


_COLUMNS = {
    "blank": "blank %",
    "missed": "missed %",
    "inserted": "inserted %",
    "offset": "offset ms",
    "distance": "|offset| ms",
    "run": "blank run ms",
}


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Compare, and print a table."""
    p = parser(__doc__)
    p.add_argument("--teacher", required=True, help="cache or folder of the teacher")
    p.add_argument("--wav_scp", help="Kaldi's list of audio files, for model folders")
    p.add_argument("--output", help="file to write the counts to (JSON)")
    p.add_argument("models", nargs="+", help="caches or folders of the models")
    args = p.parse_args(cmd)
    teacher = open_source(args.teacher, args.wav_scp)
    expected = dict(read_spikes(teacher, teacher))
    found = {}
    for model in (args.teacher, *args.models):
        source = open_source(model, args.wav_scp)
        found[str(model)] = compare(expected, teacher, source)
    width = max(len(name) for name in found)
    print(" " * width + "".join(f"{column:>13}" for column in _COLUMNS.values()))
    for name, comparison in found.items():
        row = comparison.summary()
        cells = (row[key] for key in _COLUMNS)
        print(
            f"{name:{width}}"
            + "".join(f"{'-' if c is None else format(c, '.1f'):>13}" for c in cells)
        )
    if args.output:
        with write_beside(args.output) as f:
            json.dump({name: asdict(c) for name, c in found.items()}, f)


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


if __name__ == "__main__":
    run(main)
