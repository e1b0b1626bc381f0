"""Measure speed on this machine: of training, dumping, decoding and layer skipping."""

from espnet_ctckd.bin.benches import main
from espnet_ctckd.bin.cli import run

if __name__ == "__main__":
    run(main)
