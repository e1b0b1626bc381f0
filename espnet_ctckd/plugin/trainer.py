"""ESPnet's trainer, for students: they are told epochs, and given online teachers."""

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

# What ESPnet's reporter leaves in a checkpoint beside tensors: numbers and durations.
REPORTED: List[Any] = [
    datetime.timedelta,
    np.dtype,
    type(np.dtype(np.float64)),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]


@dataclass
class CTCKDTrainerOptions(TrainerOptions):
    """ESPnet's, and the sample rate of the student's audio."""

    rate: int = 16000


class CTCKDTrainer(Trainer):
    """ESPnet's trainer, whose checkpoints survive a kill at any moment.

    The stock trainer writes ``checkpoint.pth`` in place. Here a copy of the one of the
    epoch before is kept until the new one is whole.
    """

    @classmethod
    def build_options(cls, args: Namespace) -> CTCKDTrainerOptions:
        """What `run` is given of the training arguments."""
        options = super().build_options(args)
        return CTCKDTrainerOptions(**vars(options), rate=sample_rate(args))

    @classmethod
    def run(cls, *args: Any, **kwargs: Any) -> None:
        """Mend what a killed run left, open an online teacher, then train."""
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
        """Train, having told a student which epoch it is."""
        student = getattr(model, "module", model)
        if isinstance(student, ESPnetCTCKDModel):
            last = kwargs["options"].max_epoch
            student.set_epoch(kwargs["reporter"].epoch, last)
        return super().train_one_epoch(model, *args, **kwargs)  # type: ignore[no-any-return]

    @classmethod
    def validate_one_epoch(cls, *args: Any, **kwargs: Any) -> None:
        """Validate, and copy the checkpoint that is about to be overwritten.

        The stock trainer may resume at any moment, so its file stays where it is.
        """
        super().validate_one_epoch(*args, **kwargs)
        checkpoint = Path(kwargs["options"].output_dir) / "checkpoint.pth"
        if _is_rank0(kwargs["distributed_option"]) and checkpoint.exists():
            with atomic_path(checkpoint.with_suffix(".previous.pth")) as partial:
                shutil.copyfile(checkpoint, partial)


def _open_teacher(
    student: ESPnetCTCKDModel, options: CTCKDTrainerOptions, distributed: Any
) -> None:
    """Give a student the teacher that its configuration names."""
    if distributed.ngpu > 1 and not distributed.distributed:
        raise InputError(
            f"kd.teacher.mode is online with --ngpu {distributed.ngpu} in one process: "
            "give --multiprocessing_distributed true"
        )
    config = student.kd_config
    device = "cuda" if options.ngpu > 0 else "cpu"
    teacher = student.online  # of the process that has tried it before
    if not isinstance(teacher, OnlineTeacher):
        teacher = open_online(
            config.teacher, student.token_list, student.blank_id, device
        )
    student.eval()  # trying it must not move its statistics; the trainer sets it back
    teacher.check_rate(options.rate, measure_frame_shift(student), config.ratio)
    student.online = teacher
    logging.info(f"the teacher {config.teacher.teacher} runs in each step ({device})")


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
    states = read_checkpoint(checkpoint)
    model = output_dir / f"{states['reporter']['epoch']}epoch.pth"
    if not _is_whole(model):
        logging.warning(f"{model} is missing or cut short; writing it again")
        partial = model.with_suffix(".part")
        torch.save(states["model"], partial)
        os.replace(partial, model)


def read_checkpoint(path: Path) -> Dict[str, Any]:
    """Read the state of a training, as ESPnet writes it after each epoch.

    Args:
        path: ``checkpoint.pth``.

    Raises:
        InputError: it is missing, or cut short.
    """
    if not _is_whole(path):
        raise InputError(f"{path} is missing or cut short: is the training finished?")
    with torch.serialization.safe_globals(REPORTED):
        found: Dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def _is_whole(path: Path) -> bool:
    return path.exists() and zipfile.is_zipfile(path)
