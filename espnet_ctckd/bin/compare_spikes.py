"""Compare the spikes of models with those of their teacher, and what the blank does.

All are given as caches of posteriors of the same audio. Dump a student like a teacher:
`dump_teacher --teacher_config <export>/config.yaml --teacher_model <export>/model.pth`.
The spikes of an utterance are aligned by their tokens with fewest errors; the offset of
a matched one is its first frame less the teacher's.
"""

import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import jiwer
import kaldiio

from espnet_ctckd.align import map_tokens
from espnet_ctckd.analysis import Spike, blank_runs, find_spikes
from espnet_ctckd.bin import parser, run
from espnet_ctckd.cache.reader import CacheMeta, read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import shorten, write_beside


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
    p.add_argument("--teacher", required=True, help="cache of the teacher")
    p.add_argument("--output", help="file to write the counts to (JSON)")
    p.add_argument("caches", nargs="+", help="caches of the models")
    args = p.parse_args(cmd)
    teacher = read_meta(args.teacher)
    expected = dict(read_spikes(teacher, teacher))
    found = {}
    for cache in (args.teacher, *args.caches):
        meta = read_meta(cache)
        found[str(cache)] = compare(expected, teacher, meta)
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


def read_spikes(
    meta: CacheMeta, teacher: CacheMeta
) -> Iterator[Tuple[str, Tuple[int, List[Spike]]]]:
    """Read the spikes of a cache, in the teacher's tokens.

    Args:
        meta: of the cache.
        teacher: whose token list is used.

    Yields:
        Utterance, and its number of frames and spikes.

    Raises:
        InputError: its tokens are not the teacher's.
    """
    index = map_tokens(
        meta.token_list,
        meta.blank,
        teacher.token_list,
        teacher.blank,
        f"cache {meta.folder}",
    )
    for name in meta.arks:
        with open(meta.folder / name, "rb") as ark:
            for utt, packed in kaldiio.load_ark(ark):
                log_probs, ids, _ = meta.codec.decode(packed)
                best = log_probs.argmax(1)  # (U,)
                if ids is not None:
                    best = ids[range(len(ids)), best]
                tokens = best.tolist()
                if index is not None:
                    tokens = [index[token] for token in tokens]
                yield utt, (len(tokens), find_spikes(tokens, teacher.blank))


def compare(
    expected: Dict[str, Tuple[int, List[Spike]]], teacher: CacheMeta, meta: CacheMeta
) -> Comparison:
    """Count what a model has of its teacher's spikes.

    Args:
        expected: the teacher's, as `read_spikes` gives them.
        teacher: of the teacher's cache.
        meta: of the model's cache.

    Returns:
        The counts.

    Raises:
        InputError: the caches are of other utterances.
    """
    found = dict(read_spikes(meta, teacher))
    differs = sorted(found.keys() ^ expected.keys())
    if differs:
        raise InputError(
            f"{meta.folder} and {teacher.folder} are not of the same utterances: "
            f"{len(differs)} are in one alone: {shorten(differs)}. Dump both for one "
            "wav.scp"
        )
    total = Comparison()
    ours, theirs = (1000 * float(m.frame_shift / m.rate) for m in (meta, teacher))
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
