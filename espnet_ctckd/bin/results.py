"""Summarize the scores of all experiments in a folder.

Writes RESULTS.md in the format of ESPnet's recipes, or prints with --table error rates,
parameters and speed of each system.
"""

import datetime
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_write, read_report
from espnet_ctckd.evaluation.score import (
    UNITS,
    bootstrap_interval,
    read_scores,
    results_table,
)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Write or print the results."""
    p = parser(__doc__)
    p.add_argument("--expdir", required=True, help="folder of the experiments")
    p.add_argument("--command", default="", help="what made them, for RESULTS.md")
    p.add_argument("--table", action="store_true", help="print the systems instead")
    args = p.parse_args(cmd)
    scores = read_scores(args.expdir)
    if not scores:
        raise InputError(f"{args.expdir} has no scores; decode and score first")
    if args.table:
        print(systems_table(Path(args.expdir)))
        return
    units = [u for u in UNITS if any(u in totals for _, totals in scores)]
    with atomic_write(Path(args.expdir) / "RESULTS.md") as f:
        f.write("\n".join([*_environment(args.command), ""]))
        for unit in units:
            f.write("\n" + results_table(scores, unit))
    print(f"{args.expdir}/RESULTS.md")


def _environment(command: str) -> List[str]:
    names = ("espnet", "torch", "espnet_ctckd")
    versions = [f"- {name} version: `{metadata.version(name)}`" for name in names]
    hashed = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return [
        "# RESULTS",
        "## Environments",
        f"- date: `{datetime.datetime.now().astimezone():%a %b %d %H:%M:%S %Z %Y}`",
        f"- python version: `{platform.python_version()}`",
        *versions,
        f"- Git hash: `{hashed.stdout.strip() or 'not a repository'}`",
        f"- command: `{command}`",
    ]


def systems_table(expdir: Path) -> str:
    """Format a table of systems and their scores.

    Args:
        expdir: folder with ``<experiment>/<decoding>/<set>/score.json``.

    Returns:
        The table; the interval is a bootstrap over the test utterances and does not
        include the variance of the training.
    """
    rows: List[Tuple[str, ...]] = [
        (
            "system",
            "decoded",
            "set",
            "WER %",
            "95 % interval",
            "CER %",
            "parameters",
            "RTF",
        )
    ]
    for name, totals in read_scores(expdir):
        system, decoding, subset = name.split("/")
        speed = read_report(expdir / name / "decode.json")
        rows.append(
            (
                system,
                decoding,
                subset,
                f"{totals['wer'].rate:.1f}",
                "{:.1f} - {:.1f}".format(
                    *bootstrap_interval([expdir / name / "wer.tsv"])
                ),
                f"{totals['cer'].rate:.1f}",
                f"{speed['parameters'] / 1e6:.2f} M" if speed else "",
                f"{speed['rtf']:.4f}" if speed else "",
            )
        )
    words = 3
    if len({row[1] for row in rows[1:]}) == 1:
        rows, words = [(row[0], *row[2:]) for row in rows], 2
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
