"""ESPnet's trainer with online teachers, epoch schedules and safe checkpoints."""

import datetime
import logging
import os
import shutil
import zipfile
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch
from espnet2.train.trainer import Trainer, TrainerOptions

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_path
from espnet_ctckd.models.espnet import measure_frame_shift, sample_rate
from espnet_ctckd.plugin.model import ESPnetCTCKDModel
from espnet_ctckd.teachers.online import OnlineTeacher, open_online

# Types other than tensors that ESPnet's reporter stores in a checkpoint.
REPORTED: List[Any] = [
    datetime.timedelta,
    np.dtype,
    type(np.dtype(np.float64)),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]


@dataclass
class CTCKDTrainerOptions(TrainerOptions):
    """ESPnet's trainer options with the sample rate of the student's audio in Hz."""

    rate: int = 16000


class CTCKDTrainer(Trainer):
    """ESPnet's trainer, whose checkpoints survive a kill at any moment.

    The stock trainer writes ``checkpoint.pth`` in place. This trainer retains a copy of
    the previous epoch's checkpoint until the new checkpoint is complete.
    """

    @classmethod
    def build_options(cls, args: Namespace) -> CTCKDTrainerOptions:
        """Build the trainer options from the training arguments."""
        options = super().build_options(args)
        return CTCKDTrainerOptions(**vars(options), rate=sample_rate(args))

    @classmethod
    def run(cls, *args: Any, **kwargs: Any) -> None:
        """Restore the checkpoint of a killed run, open an online teacher, and train."""
        student = kwargs["model"]
        if isinstance(student, ESPnetCTCKDModel) and student.kd_config.online:
            _open_teacher(
                student, kwargs["trainer_options"], kwargs["distributed_option"]
            )
        if kwargs["trainer_options"].resume and _is_rank0(kwargs["distributed_option"]):
            restore_checkpoint(Path(kwargs["trainer_options"].output_dir))
        if kwargs["distributed_option"].distributed:
            torch.distributed.barrier()
        super().run(*args, **kwargs)

    @classmethod
    def train_one_epoch(cls, model: Any, *args: Any, **kwargs: Any) -> bool:
        """Set the student's epoch, and train for one epoch."""
        student = getattr(model, "module", model)
        if isinstance(student, ESPnetCTCKDModel):
            last = kwargs["options"].max_epoch
            student.set_epoch(kwargs["reporter"].epoch, last)
        return super().train_one_epoch(model, *args, **kwargs)  # type: ignore[no-any-return]

    @classmethod
    def validate_one_epoch(cls, *args: Any, **kwargs: Any) -> None:
        """Validate, and copy the checkpoint before the trainer overwrites it.

        The original stays in place, because the stock trainer resumes from it.
        """
        super().validate_one_epoch(*args, **kwargs)
        checkpoint = Path(kwargs["options"].output_dir) / "checkpoint.pth"
        if _is_rank0(kwargs["distributed_option"]) and checkpoint.exists():
            with atomic_path(checkpoint.with_suffix(".previous.pth")) as partial:
                shutil.copyfile(checkpoint, partial)


def _open_teacher(
    student: ESPnetCTCKDModel, options: CTCKDTrainerOptions, distributed: Any
) -> None:
    """Open the online teacher that a student's configuration names."""
    if distributed.ngpu > 1 and not distributed.distributed:
        raise InputError(
            f"kd.teacher.mode is online with --ngpu {distributed.ngpu} in one process: "
            "give --multiprocessing_distributed true"
        )
    config = student.kd_config
    device = "cuda" if options.ngpu > 0 else "cpu"
    teacher = student.online  # opened before by the checks of the data, on rank 0
    if not isinstance(teacher, OnlineTeacher):
        teacher = open_online(
            config.teacher, student.token_list, student.blank_id, device
        )
    student.eval()  # freeze batch statistics; the trainer sets the mode again
    teacher.check_rate(options.rate, measure_frame_shift(student), config.ratio)
    student.online = teacher
    logging.info(f"the teacher {config.teacher.teacher} runs in each step ({device})")


def _is_rank0(option: Any) -> bool:
    return not option.distributed or option.dist_rank == 0


def restore_checkpoint(output_dir: Path) -> None:
    """Make a killed training resumable from its last complete epoch.

    Args:
        output_dir: folder of the experiment.
    """
    checkpoint = output_dir / "checkpoint.pth"
    previous = checkpoint.with_suffix(".previous.pth")
    if not _is_whole(checkpoint) and _is_whole(previous):
        logging.warning(f"{checkpoint} is missing or cut short; resuming {previous}")
        os.replace(previous, checkpoint)
    if not _is_whole(checkpoint):
        return
    # The run may have been killed between writing the checkpoint and writing the
    # epoch's model, which is needed for averaging.
    states = read_checkpoint(checkpoint)
    model = output_dir / f"{states['reporter']['epoch']}epoch.pth"
    if not _is_whole(model):
        logging.warning(f"{model} is missing or cut short; writing it again")
        partial = model.with_suffix(".part")
        torch.save(states["model"], partial)
        os.replace(partial, model)


def read_checkpoint(path: Path) -> Dict[str, Any]:
    """Read a training checkpoint of ESPnet.

    Args:
        path: ``checkpoint.pth``.

    Raises:
        InputError: the file is missing or truncated.
    """
    if not _is_whole(path):
        raise InputError(f"{path} is missing or cut short: is the training finished?")
    with torch.serialization.safe_globals(REPORTED):
        found: Dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def _is_whole(path: Path) -> bool:
    return path.exists() and zipfile.is_zipfile(path)
