"""Test whether two systems differ significantly, by a paired bootstrap.

Draws utterances with replacement, the same for both systems, from the counts of
`score`. Several folders are seeds of a system, which are averaged; with one seed the
interval does not include the variance of the training.
"""

from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike
from espnet_ctckd.evaluation.score import (
    UNITS,
    Score,
    bootstrap_interval,
    check_alike,
    read_score,
)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Compare two systems."""
    p = parser(__doc__)
    p.add_argument("--system", required=True, nargs="+", help="folders of scores")
    p.add_argument(
        "--against", required=True, nargs="+", help="folders of the other system"
    )
    p.add_argument("--unit", choices=UNITS, default="wer", help="error rate")
    args = p.parse_args(cmd)
    systems = [args.system, args.against]
    compared: List[Tuple[str, Pathlike, Score]] = []
    for folders in systems:
        scores = [read_score(folder) for folder in folders]
        compared += (("", *pair) for pair in zip(folders, scores))
        for folder, score in zip(folders, scores):
            if args.unit not in score.totals:
                raise InputError(
                    f"{folder} has no {args.unit}; it has {', '.join(score.totals)}"
                )
        rates = [score.totals[args.unit].rate for score in scores]
        listed = " ".join(f"{rate:.1f}" for rate in rates)
        print(f"{sum(rates) / len(rates):6.2f} %  ({listed})  {' '.join(folders)}")
    check_alike(compared)
    one, other = ([Path(f, f"{args.unit}.tsv") for f in folders] for folders in systems)
    low, high = bootstrap_interval(one, other)
    verdict = "within noise" if low <= 0 <= high else "more than noise"
    print(f"difference {low:+.2f} to {high:+.2f} points (95 %): {verdict}")


if __name__ == "__main__":
    run(main)
