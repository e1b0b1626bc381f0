"""Train an ESPnet model, `model: ctckd` included.

The flags are those of `espnet2.bin.asr_train`; --help_all lists them all, which takes
some seconds. In addition `--model ctckd` learns from a teacher; `--model_conf
kd=<file>` names the method, a YAML file of `conf/kd`, and `--model_conf
kd.<key>=<value>` overrides keys of the file. `--train_data_path_and_name_and_type
<cache>/teacher.scp,teacher,kaldi_ark`, and the same for the valid data, names a cache
of posteriors.
"""

from __future__ import annotations

import argparse
import sys
from typing import Optional, Sequence

from espnet_ctckd.bin.cli import run

_USAGE = "python -m espnet_ctckd.bin.asr_train [--config CONFIG] [flags of ESPnet]"


def get_parser() -> argparse.ArgumentParser:
    """The parser of ``espnet2.bin.asr_train``."""
    from espnet_ctckd.plugin.task import CTCKDTask

    return CTCKDTask.get_parser()


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Train; the flags are those of ``espnet2.bin.asr_train``."""
    flags = sys.argv[1:] if cmd is None else list(cmd)
    if "-h" in flags or "--help" in flags:
        print(f"usage: {_USAGE}\n\n{__doc__}")
        raise SystemExit(0)
    if "--help_all" in flags:
        get_parser().print_help()
        raise SystemExit(0)
    from espnet_ctckd.plugin.task import CTCKDTask

    CTCKDTask.main(cmd=cmd)


if __name__ == "__main__":
    run(main)
