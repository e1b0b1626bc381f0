"""Online teachers, which run in the training step on the audio of the student."""

import time
from dataclasses import replace
from fractions import Fraction
from typing import Dict, List, Sequence, Tuple

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.config import TeacherConfig
from espnet_ctckd.frames import check_shift
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors
from espnet_ctckd.teachers import Teacher, open_teacher
from espnet_ctckd.tokens import DROPPED, MOST_DROPPED, map_tokens, place_tokens

# Number of frames after which the mass of dropped tokens is checked.
_ENOUGH_FRAMES = 5000


class OnlineTeacher:
    """A teacher whose posteriors are mapped to the student's tokens.

    It is not a torch module, so it is not trained, saved or sent to other processes.

    Args:
        teacher: teacher of any kind.
        where: description of the teacher, for errors.
        token_list: V tokens of the student.
        blank: index of the blank among them.
    """

    def __init__(
        self, teacher: Teacher, where: str, token_list: Sequence[str], blank: int
    ) -> None:
        self._teacher, self._where, self._blank = teacher, where, blank
        self._tokens = list(token_list)
        self._index = map_tokens(
            teacher.token_list, teacher.blank, token_list, blank, where
        )
        self._frames, self._lost = 0, 0.0

    def check_rate(self, rate: int, shift: Fraction, asked: Fraction) -> None:
        """Check that the sample rates match and the frame shifts have the given ratio.

        Args:
            rate: sample rate of the student in Hz.
            shift: frame shift of the student in samples.
            asked: ``frame_ratio``, teacher frames per student frame.

        Raises:
            InputError: a value differs; the error names it.
        """
        if rate != self._teacher.rate:
            raise InputError(
                f"{self._where} hears audio of {self._teacher.rate} Hz, the student of "
                f"{rate} Hz (frontend_conf.fs): online, both hear the same. Dump the "
                "teacher for audio of its own rate, or take another"
            )
        check_shift(self._where, self._teacher.frame_shift, rate, shift, asked)

    @torch.no_grad()
    def __call__(
        self, speech: Tensor, lengths: Tensor
    ) -> Tuple[FramePosteriors, Dict[str, float]]:
        """Compute the frame posteriors of a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V) in the student's tokens, with states (B, U, D) if the
            teacher has them; and statistics: ``teacher_seconds``.

        Raises:
            InputError: tokens that the student lacks have too much probability.
        """
        if speech.dim() != 2:
            raise InputError(
                "kd.teacher.mode is online, which needs audio, and the data has "
                "features: train on raw audio, or from a cache"
            )
        start = time.perf_counter()
        posteriors = self._teacher.posteriors(speech, lengths)
        device, states = speech.device, posteriors.states
        posteriors = replace(
            posteriors,
            log_probs=posteriors.log_probs.to(device),
            lengths=posteriors.lengths.to(device),
            states=None if states is None else states.float().to(device),
        )
        if self._index is not None:
            posteriors = self._in_order(posteriors, self._index)
        if speech.is_cuda:
            torch.cuda.synchronize()
        return posteriors, {"teacher_seconds": time.perf_counter() - start}

    def _in_order(
        self, posteriors: FramePosteriors, index: List[int]
    ) -> FramePosteriors:
        logs = posteriors.log_probs  # (B, U, tokens of the teacher)
        if DROPPED in index:
            kept = [i for i, place in enumerate(index) if place != DROPPED]
            total = logs[..., kept].logsumexp(-1, keepdim=True)
            self._account(total.squeeze(-1), posteriors.valid())
            logs = logs - total
        placed = place_tokens(logs, index, len(self._tokens), LOG_ZERO)
        return replace(posteriors, log_probs=placed, blank=self._blank)

    def _account(self, log_kept: Tensor, valid: Tensor) -> None:
        """Sum the dropped mass over the valid frames (B, U); refuse too much of it."""
        self._frames += int(valid.sum())
        self._lost += float((1.0 - log_kept.exp())[valid].sum())
        share = self._lost / max(self._frames, 1)
        if self._frames >= _ENOUGH_FRAMES and share > MOST_DROPPED:
            raise InputError(
                f"the student lacks tokens that have {100 * share:.1f} % of the mass "
                f"of {self._where}: at most {100 * MOST_DROPPED:g} % is left out. "
                "Train the student with a token list that has them"
            )


def open_online(
    config: TeacherConfig, token_list: Sequence[str], blank: int, device: str
) -> OnlineTeacher:
    """Open the online teacher of a training.

    Args:
        config: ``model_conf.kd.teacher``.
        token_list: V tokens of the student.
        blank: index of the blank among them.
        device: device of the teacher.

    Raises:
        InputError: the teacher cannot be opened, or has other tokens.
    """
    if config.teacher is None:
        raise InputError(
            "kd.teacher.mode is online, but kd.teacher.teacher does not say which: "
            "give a folder, id or name, as dump_teacher takes it"
        )
    teacher = open_teacher(
        config.teacher_type,
        config.teacher,
        device,
        config.teacher_conf,
        config.dtype,
    )
    return OnlineTeacher(teacher, f"the teacher {config.teacher}", token_list, blank)
