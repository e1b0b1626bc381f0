"""The task of training, under the name that configurations and ESPnet3 give it."""

from espnet_ctckd.plugin.task import CTCKDTask

__all__ = ["CTCKDTask"]
