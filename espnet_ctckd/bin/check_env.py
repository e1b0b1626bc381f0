"""Print the software and hardware of this machine; refuse it if a recipe would fail."""

import os
import platform
import shutil
from importlib import metadata
from typing import Optional, Sequence

from espnet_ctckd.bin.cli import amount, count, parser, run
from espnet_ctckd.choices import InputError


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Check the machine."""
    p = parser(__doc__)
    p.add_argument("--ngpu", type=count, default=0, help="number of GPUs")
    p.add_argument("--output_dir", default=".", help="folder of the results")
    p.add_argument(
        "--min_free_gb", type=amount, default=2.0, help="minimum free disk in GiB"
    )
    args = p.parse_args(cmd)
    import torch

    there = torch.cuda.device_count()
    free = shutil.disk_usage(args.output_dir).free / 2**30
    names = ("espnet", "torch", "torchaudio", "kaldiio", "jiwer")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    print(f"Python {platform.python_version()}, {versions}")
    print(f"{os.cpu_count()} CPUs, {there} GPUs, {free:.1f} GiB free")
    if args.ngpu > there:
        raise InputError(
            f"--ngpu is {args.ngpu}, but this machine has {there} usable GPUs; give "
            f"--ngpu {there}"
        )
    if not os.access(args.output_dir, os.W_OK):
        raise InputError(f"{os.path.abspath(args.output_dir)} cannot be written to")
    if free < args.min_free_gb:
        raise InputError(
            f"{os.path.abspath(args.output_dir)} has {free:.1f} GiB free; expected at "
            f"least {args.min_free_gb:g} GiB. Make room, or work on another disk"
        )


if __name__ == "__main__":
    run(main)
