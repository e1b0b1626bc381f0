"""Train as ``espnet2.bin.asr_train`` does, and know ``model: ctckd``."""

from typing import Optional, Sequence

from espnet_ctckd.bin.cli import run
from espnet_ctckd.plugin.task import CTCKDTask


def get_parser():  # type: ignore[no-untyped-def]
    """The parser of ``espnet2.bin.asr_train``."""
    return CTCKDTask.get_parser()


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Train; the flags are those of ``espnet2.bin.asr_train``."""
    CTCKDTask.main(cmd=cmd)


if __name__ == "__main__":
    run(main)
