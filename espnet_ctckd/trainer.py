"""ESPnet's trainer, for students: epochs are told, and no kill loses a training."""

import datetime
import logging
import os
import zipfile
from pathlib import Path
from typing import Any, List

import numpy as np
import torch
from espnet2.train.trainer import Trainer

from espnet_ctckd.model import ESPnetCTCKDModel

# What ESPnet's reporter leaves in a checkpoint beside tensors: numbers and durations.
_REPORTED: List[Any] = [
    datetime.timedelta,
    np.dtype,
    type(np.dtype(np.float64)),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]


class CTCKDTrainer(Trainer):
    """ESPnet's trainer, whose checkpoints survive a kill at any moment.

    The stock trainer writes ``checkpoint.pth`` in place. Here the one of the epoch
    before is kept until the new one is whole.
    """

    @classmethod
    def run(cls, *args: Any, **kwargs: Any) -> None:
        """Mend what a killed run left, then train."""
        if kwargs["trainer_options"].resume and _is_rank0(kwargs["distributed_option"]):
            restore_checkpoint(Path(kwargs["trainer_options"].output_dir))
        if kwargs["distributed_option"].distributed:
            torch.distributed.barrier()
        super().run(*args, **kwargs)

    @classmethod
    def train_one_epoch(cls, model: Any, *args: Any, **kwargs: Any) -> bool:
        """Train, having told a student which epoch it is."""
        student = getattr(model, "module", model)
        if isinstance(student, ESPnetCTCKDModel):
            last = kwargs["options"].max_epoch
            student.set_epoch(kwargs["reporter"].epoch, last)
        return super().train_one_epoch(model, *args, **kwargs)  # type: ignore[no-any-return]

    @classmethod
    def validate_one_epoch(cls, *args: Any, **kwargs: Any) -> None:
        """Validate, and put the checkpoint aside that is about to be replaced."""
        super().validate_one_epoch(*args, **kwargs)
        checkpoint = Path(kwargs["options"].output_dir) / "checkpoint.pth"
        if _is_rank0(kwargs["distributed_option"]) and checkpoint.exists():
            os.replace(checkpoint, checkpoint.with_suffix(".previous.pth"))


def _is_rank0(option: Any) -> bool:
    return not option.distributed or option.dist_rank == 0


def restore_checkpoint(output_dir: Path) -> None:
    """Make a killed training resumable from its last whole epoch.

    Args:
        output_dir: the experiment's folder.
    """
    checkpoint = output_dir / "checkpoint.pth"
    previous = checkpoint.with_suffix(".previous.pth")
    if not _is_whole(checkpoint) and _is_whole(previous):
        logging.warning(f"{checkpoint} is missing or cut short; resuming {previous}")
        os.replace(previous, checkpoint)
    if not _is_whole(checkpoint):
        return
    # The kill may have come between the checkpoint and the epoch's model, which the
    # averaging at the end needs.
    with torch.serialization.safe_globals(_REPORTED):
        states = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = output_dir / f"{states['reporter']['epoch']}epoch.pth"
    if not _is_whole(model):
        logging.warning(f"{model} is missing or cut short; writing it again")
        partial = model.with_suffix(".part")
        torch.save(states["model"], partial)
        os.replace(partial, model)


def _is_whole(path: Path) -> bool:
    return path.exists() and zipfile.is_zipfile(path)
