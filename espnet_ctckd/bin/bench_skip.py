"""The former name of ``bench --what skip``; deprecated, and removed in 0.4."""

from typing import Optional, Sequence

from espnet_ctckd.bin.benches import main_deprecated
from espnet_ctckd.bin.cli import run


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Measure as ``bench --what skip`` does."""
    main_deprecated("bench_skip", "skip", cmd)


if __name__ == "__main__":
    run(main)
