"""A teacher that runs in the training step, on the audio that the student hears."""

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

# So many frames say how much of what the teacher says the student lacks.
_ENOUGH_FRAMES = 5000


class OnlineTeacher:
    """A teacher in the student's tokens.

    It is no module: nothing of it is trained, saved or sent to other processes.

    Args:
        teacher: of any kind.
        where: what it is, for errors.
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
        """Refuse a teacher that hears other audio, or has other frames.

        Args:
            rate: samples per second of the student.
            shift: samples from one frame of the student to the next.
            asked: ``frame_ratio``, the teacher's frames to one of the student's.

        Raises:
            InputError: saying what differs.
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
        """Frame posteriors of a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V) in the student's tokens, and states (B, U, D) where
            there are some; and the seconds that it took.

        Raises:
            InputError: the teacher says much that the student cannot.
        """
        if speech.dim() != 2:
            raise InputError(
                "kd.teacher.mode is online, which needs audio, and the data has "
                "features: train on raw audio, or from a cache"
            )
        start = time.perf_counter()
        said = self._teacher.posteriors(speech, lengths)
        device, states = speech.device, said.states
        said = replace(
            said,
            log_probs=said.log_probs.to(device),
            lengths=said.lengths.to(device),
            states=None if states is None else states.float().to(device),
        )
        if self._index is not None:
            said = self._in_order(said, self._index)
        if speech.is_cuda:
            torch.cuda.synchronize()
        return said, {"teacher_seconds": time.perf_counter() - start}

    def _in_order(self, said: FramePosteriors, index: List[int]) -> FramePosteriors:
        logs = said.log_probs  # (B, U, tokens of the teacher)
        if DROPPED in index:
            kept = [i for i, place in enumerate(index) if place != DROPPED]
            total = logs[..., kept].logsumexp(-1, keepdim=True)
            self._account(total.squeeze(-1), said.valid())
            logs = logs - total
        placed = place_tokens(logs, index, len(self._tokens), LOG_ZERO)
        return replace(said, log_probs=placed, blank=self._blank)

    def _account(self, log_kept: Tensor, valid: Tensor) -> None:
        """Add up what is dropped of the valid frames (B, U), or refuse."""
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
    """Open the teacher of a training.

    Args:
        config: ``model_conf.kd.teacher``.
        token_list: V tokens of the student.
        blank: index of the blank among them.
        device: where it computes.

    Raises:
        InputError: it cannot be opened, or has other tokens.
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
