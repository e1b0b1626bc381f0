"""Builds the student of a training configuration, for commands that check data."""

from typing import Optional, Sequence, Tuple

from espnet_ctckd.cache.check import Student
from espnet_ctckd.data.kaldi import read_token_list
from espnet_ctckd.models.espnet import measure_frame_shift, shortest_input
from espnet_ctckd.plugin.checks import check_labels, student_of
from espnet_ctckd.plugin.model import ESPnetCTCKDModel
from espnet_ctckd.plugin.task import CTCKDTask


def build_student(
    flags: Sequence[str],
) -> Tuple[Student, Optional[ESPnetCTCKDModel], int]:
    """Build the student of a training configuration.

    Args:
        flags: flags of asr_train.

    Returns:
        The student's requirements on its data; the model, or None if it is not
        distilled; and the last epoch of the training.

    Raises:
        InputError: the student cannot be built.
    """
    args = CTCKDTask.get_parser().parse_args(flags)
    read_token_list(args.token_list)
    model = CTCKDTask.build_model(args).eval()
    if isinstance(model, ESPnetCTCKDModel):
        check_labels(args, model.kd_config)
    preprocess = CTCKDTask.build_preprocess_fn(args, train=False)
    is_student = isinstance(model, ESPnetCTCKDModel)
    student = student_of(
        model, preprocess, measure_frame_shift(model), shortest_input(model)
    )
    return student, model if is_student else None, args.max_epoch
