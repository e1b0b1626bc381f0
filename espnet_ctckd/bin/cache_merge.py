"""Merge caches of one teacher and different utterances into one cache, or move a cache.

The new cache contains copies. The paths in a cache depend on where it was dumped;
merging a single cache into a new folder updates them.
"""

from pathlib import Path
from typing import Optional, Sequence

from espnet_ctckd.bin.cli import parser, run


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Merge caches."""
    p = parser(__doc__)
    p.add_argument(
        "--cache",
        required=True,
        action="append",
        help="folder of a cache; may be repeated",
    )
    p.add_argument("--output_dir", required=True, help="folder of the new cache")
    args = p.parse_args(cmd)
    from espnet_ctckd.cache.index import merge
    from espnet_ctckd.cache.reader import read_meta

    merged = merge([read_meta(cache) for cache in args.cache], Path(args.output_dir))
    print(
        f"{args.output_dir}: {merged.utterances} utterances, {merged.frames} frames, "
        f"of {len(args.cache)} caches"
    )


if __name__ == "__main__":
    run(main)
