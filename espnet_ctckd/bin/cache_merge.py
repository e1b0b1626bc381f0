"""Join caches of one teacher, of different utterances, into one; or move one.

The new one holds copies. A cache names its files by where it was dumped; merging it
alone into a new folder makes one that names them by the new place.
"""

from pathlib import Path
from typing import Optional, Sequence

from espnet_ctckd.bin.cli import parser, run


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Join them."""
    p = parser(__doc__)
    p.add_argument("--cache", required=True, action="append", help="give it for each")
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
