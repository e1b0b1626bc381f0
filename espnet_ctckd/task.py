"""The training task, importable by the name used in ESPnet3 configurations."""

from espnet_ctckd.plugin.task import CTCKDTask

__all__ = ["CTCKDTask"]
