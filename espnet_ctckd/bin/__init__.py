"""Commands: ``python -m espnet_ctckd.bin.<name>``."""
