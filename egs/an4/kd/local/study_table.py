#!/usr/bin/env python3
"""Prints the table of study.sh: error rates, and what the spikes of each system do.

The systems of several seeds are one row. Intervals are of the choice of test utterances
(bootstrap), of the mean of the seeds where there are several; the difference is to the
system without distillation on the same utterances.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.evaluation.experiments import without_seed
from espnet_ctckd.evaluation.score import bootstrap_interval, read_scores
from espnet_ctckd.report.spikes import KnownSpikes, open_source

BASELINE = "no_distillation"
COLUMNS = (
    "system",
    "seeds",
    "WER %",
    "95 % interval",
    "than without %",
    "CER %",
    "blank %",
    "missed %",
    "inserted %",
    "offset ms",
    "distance ms",
)
SPIKES = ("blank", "missed", "inserted", "offset", "distance")


def get_parser() -> argparse.ArgumentParser:
    """Builds the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--expdir", type=Path, default=Path("exp"))
    parser.add_argument("--teacher", required=True, help="name of the teacher's folder")
    parser.add_argument("--wav_scp", required=True, help="of the test set")
    parser.add_argument("--decoding", default="decode_ctckd/test")
    return parser


def main() -> None:
    """Runs the script."""
    args = get_parser().parse_args()
    scores = dict(read_scores(args.expdir))
    names = [
        name.removesuffix(f"/{args.decoding}")
        for name in scores
        if name.endswith(f"/{args.decoding}")
    ]
    wavs = read_scp(args.wav_scp)
    spikes = KnownSpikes(open_source(args.expdir / args.teacher / "export", wavs), wavs)
    groups = defaultdict(list)
    for name in names:
        groups[without_seed(name.removeprefix("asr_"))].append(name)
    print(as_row(COLUMNS))
    print(as_row("---" for _ in COLUMNS))
    for system in sorted(groups, key=order):
        members = groups[system]
        totals = [scores[f"{name}/{args.decoding}"] for name in members]

        def files(of: Iterable[str]) -> list[Path]:
            return [args.expdir / name / args.decoding / "wer.tsv" for name in of]

        low, high = bootstrap_interval(files(members))
        difference = ""
        if system != BASELINE and BASELINE in groups:
            ends = bootstrap_interval(files(members), files(groups[BASELINE]))
            difference = "{:+.1f} to {:+.1f}".format(*ends)
        rows = []
        for name in members:
            source = open_source(args.expdir / name / "export", wavs)
            rows.append(spikes.of(source, args.expdir / name / "spikes.json").summary())
        print(
            as_row(
                [
                    system,
                    str(len(members)),
                    " ".join(f"{t['wer'].rate:.1f}" for t in totals),
                    f"{low:.1f} - {high:.1f}",
                    difference,
                    " ".join(f"{t['cer'].rate:.1f}" for t in totals),
                    *(mean_of(rows, key) for key in SPIKES),
                ]
            )
        )


def order(system: str) -> tuple[int, str]:
    """Teachers first, then the student without distillation."""
    return (0 if system.startswith("teacher") else 1 + (system != BASELINE), system)


def mean_of(rows: Sequence[dict[str, float | None]], key: str) -> str:
    """The mean over the seeds."""
    values = [value for row in rows if (value := row[key]) is not None]
    return f"{statistics.fmean(values):.1f}" if values else "-"


def as_row(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
