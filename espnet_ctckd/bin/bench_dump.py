"""The former name of ``bench --what dump``; deprecated, and removed in 0.4."""

from typing import Optional, Sequence

from espnet_ctckd.bin.benches import main_deprecated
from espnet_ctckd.bin.cli import run


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Measure as ``bench --what dump`` does."""
    main_deprecated("bench_dump", "dump", cmd)


if __name__ == "__main__":
    run(main)
