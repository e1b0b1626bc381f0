"""The distance between student and teacher: selector, frame loss and reduction."""

from dataclasses import replace
from typing import Callable, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from espnet_ctckd.config import FrameConfig
from espnet_ctckd.frames import match_frames
from espnet_ctckd.losses import LOSS_CHOICES
from espnet_ctckd.posteriors import (
    LOG_ZERO,
    FramePosteriors,
    at_least_float32,
    blank_padding,
    length_mask,
)
from espnet_ctckd.reduce import REDUCTION_CHOICES, count
from espnet_ctckd.select import SELECTOR_CHOICES, select_all


class KDObjective(nn.Module):
    """Distance between a student and a teacher on the frames of a batch.

    The objective has no parameters and computes in float32 even under autocast. It
    reads the student's outputs, or computes them with the given head, only on the
    selected frames.

    Args:
        config: selector, loss, reduction and their options.
        log_prior: log-probabilities of the tokens (V,), where ``prior_file`` is set.

    Attributes:
        epoch: epoch of the training, from 1; updated by the training loop.

    References:
        Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based
        Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503
    """

    log_prior: Optional[Tensor]

    def __init__(self, config: FrameConfig, log_prior: Optional[Tensor] = None) -> None:
        super().__init__()
        self.config = config
        self.epoch = 1
        self._select = SELECTOR_CHOICES[config.selector].fn
        self._loss = config.losses[config.loss].fn
        self._reduce = REDUCTION_CHOICES[config.reduction].fn
        self.register_buffer("log_prior", log_prior, persistent=False)

    def forward(
        self,
        student: Tensor,
        lengths: Tensor,
        teacher: FramePosteriors,
        labels: Optional[Tensor] = None,
        head: Optional[Callable[[Tensor], Tensor]] = None,
    ) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Compute the loss of a batch.

        Args:
            student: logits (B, T, V), or the input (B, T, dim) of `head` if given.
            lengths: the student's valid frames (B,).
            teacher: log_probs (B, U, K), in the student's tokens.
            labels: number of labels of each utterance (B,), for reductions that need
                it.
            head: maps M frames (1, M, dim) to logits (1, M, V).

        Returns:
            The loss (), exactly 0 with a finite gradient where no frame is selected,
            and statistics: ``kd_selected`` (share of the valid frames),
            ``kd_empty`` (utterances without a selected frame), ``kd_delay`` with a
            delay (mean delay in frames), ``blank_teacher`` (share of blank frames) and,
            in evaluation and if the student outputs tokens, ``blank_student``.

        Raises:
            InputError: teacher and student disagree on the number of frames.
        """
        teacher, lengths, weights, nonblank = self.select(
            teacher, lengths, student.size(1)
        )  # (B, T)
        totals = count(weights, nonblank, lengths, labels)
        factors = self._reduce(
            weights, nonblank, totals, **self.config.reduction_conf
        )  # (B, T)
        frames = weights.size(1)
        student = student[:, :frames]
        chosen = weights.flatten().nonzero().squeeze(1)  # (M,)
        factors = factors.flatten().index_select(0, chosen)  # (M,)
        teacher = _teacher_rows(teacher, chosen)  # (1, M, K)
        if self.config.delay:
            delayed = DelayedFrames(chosen, lengths, frames, self.config.delay)
            values, factors, delay = self._delayed(
                student, teacher, delayed, head, factors
            )
        else:
            logits = _rows(student, chosen)  # (1, M, V or dim)
            logits = logits if head is None else head(logits)  # (1, M, V)
            values = self._compare(logits, teacher)  # (M,)
            delay = None
        loss = (values * factors.to(values)).sum()
        loss = loss * (totals.share * self._warmup_factor()).to(loss)
        stats = _statistics(weights, nonblank, lengths)
        if delay is not None:
            stats["kd_delay"] = delay
        if not self.training and self.config.losses is LOSS_CHOICES:
            valid = length_mask(lengths, frames)  # (B, T)
            stats["blank_student"] = _blank_rate(student, valid, teacher.blank, head)
        return loss, stats

    def select(
        self, teacher: FramePosteriors, lengths: Tensor, frames: int
    ) -> Tuple[FramePosteriors, Tensor, Tensor, Tensor]:
        """Select the frames of a batch.

        Args:
            teacher: log_probs (B, U, K).
            lengths: the student's valid frames (B,).
            frames: size of the student's time axis, T.

        Returns:
            The teacher at the student's frame rate, common lengths (B,), weights of
            the frames (B, T), 0 in padding, and the mask of non-blank frames (B, T).

        Raises:
            InputError: teacher and student disagree on the number of frames.
        """
        log_probs = at_least_float32(teacher.log_probs.detach())
        teacher = replace(teacher, log_probs=log_probs)
        teacher, lengths = match_frames(teacher, lengths, frames, self.config.ratio)
        return teacher, lengths, *self._weigh(teacher)

    def _compare(self, logits: Tensor, teacher: FramePosteriors) -> Tensor:
        """Return frame losses (M,) of logits (1, M, V) and M teacher frames."""
        with torch.autocast(logits.device.type, enabled=False):
            values: Tensor = self._loss(
                at_least_float32(logits),
                teacher,
                **self.config.loss_conf,
            )  # (1, M)
        return values.squeeze(0)

    def _delayed(
        self,
        student: Tensor,
        teacher: FramePosteriors,
        delayed: "DelayedFrames",
        head: Optional[Callable[[Tensor], Tensor]],
        factors: Tensor,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Return losses (M,) at the chosen delays, factors (M,) and mean delay ().

        References:
            Li, Liu, Fang et al., Delayed-KD: Delayed Knowledge Distillation based CTC
            for Low-Latency Streaming ASR (2025), https://arxiv.org/abs/2505.22069
        """
        logits = _rows(student, delayed.read)
        logits = logits if head is None else head(logits)  # (1, R, V)
        each = [
            self._compare(logits[:, delayed.place[:, d]], teacher)
            for d in range(delayed.place.size(1))
        ]
        values = torch.stack(each, -1)  # (M, d + 1)
        choice = self.config.delay_choice
        out_of_reach = values.new_full((), float("inf"))
        if choice in ("frame", "soft"):
            reached = torch.where(delayed.inside, values, out_of_reach)
            best, delays = reached.min(-1)  # (M,)
            if choice == "soft":
                eta = self.config.delay_softness
                best = -eta * (-reached / eta).logsumexp(-1)
        else:
            # Delayed frames after the end of the utterance are left out.
            if choice == "fixed":
                delays = torch.full_like(delayed.chosen, self.config.delay)
            else:
                delays = delayed.best_of_utterance(values.detach())
            column = delays.unsqueeze(-1)
            best = values.gather(-1, column).squeeze(-1)
            factors = factors * delayed.inside.gather(-1, column).squeeze(-1)
        mean = delays.float().mean() if delays.numel() else values.new_zeros(())
        return best, factors, mean.detach()

    @torch.no_grad()
    def _weigh(self, teacher: FramePosteriors) -> Tuple[Tensor, Tensor]:
        """Return frame weights, 0 in padding, and the non-blank mask (B, T each)."""
        teacher = blank_padding(replace(teacher, best=self._best(teacher)))
        config, epoch = self.config, self.epoch
        last = epoch if config.until_epoch is None else config.until_epoch
        if config.from_epoch <= epoch <= last:
            weights = self._select(teacher, epoch, **config.selector_conf)  # (B, T)
        else:
            weights = select_all(teacher)
        weights = torch.where(teacher.valid(), weights, weights.new_zeros(()))
        return weights, teacher.nonblank()

    def _best(self, teacher: FramePosteriors) -> Tensor:
        """Return the token assigned to each frame (B, T), with the prior removed."""
        if self.log_prior is None or not self.config.prior_scale:
            return teacher.argmax()
        prior = self.log_prior
        if teacher.ids is not None:
            prior = prior[teacher.ids.clamp(0, prior.numel() - 1)]  # (B, T, K)
        scores = teacher.log_probs - self.config.prior_scale * prior  # (B, T, K)
        return replace(teacher, log_probs=scores, best=None).argmax()

    def _warmup_factor(self) -> float:
        epochs = self.config.warmup_epochs if self.training else 0
        return min(self.epoch / epochs, 1.0) if epochs else 1.0


class DelayedFrames:
    """The student frames that are compared with the selected frames at each delay.

    Args:
        chosen: selected frames as indices into the flattened (B, T), ascending (M,).
        lengths: common lengths (B,).
        frames: size of the time axis, T.
        most: maximum delay in frames, d.

    Attributes:
        read: distinct student frames as indices into the flattened (B, T), ascending
            (R,).
        place: index into `read` for each selected frame and delay (M, d + 1).
        inside: mask of delayed frames before the end of the utterance (M, d + 1), bool.
    """

    def __init__(self, chosen: Tensor, lengths: Tensor, frames: int, most: int) -> None:
        self.chosen = chosen
        self.utterances = lengths.numel()
        self.utterance = chosen // max(frames, 1)  # (M,)
        delays = torch.arange(most + 1, device=chosen.device)
        delayed = chosen.unsqueeze(-1) + delays  # (M, d + 1)
        ends = self.utterance * frames + lengths[self.utterance]  # (M,)
        self.inside = delayed < ends.unsqueeze(-1)
        delayed = torch.where(self.inside, delayed, chosen.unsqueeze(-1))
        self.read, self.place = torch.unique(delayed, return_inverse=True)

    def best_of_utterance(self, values: Tensor) -> Tensor:
        """Return the delay (M,) with the least mean loss in each frame's utterance."""
        size = (self.utterances, values.size(1))
        inside = self.inside.to(values)
        total = values.new_zeros(size).index_add(0, self.utterance, values * inside)
        count = values.new_zeros(size).index_add(0, self.utterance, inside)
        mean = torch.where(count > 0, total / count, float("inf"))  # (B, d + 1)
        return mean.argmin(-1)[self.utterance]


def _rows(x: Tensor, chosen: Tensor) -> Tensor:
    """Select frames (1, M, ...) from (B, T, ...)."""
    return x.flatten(0, 1).index_select(0, chosen).unsqueeze(0)


def _teacher_rows(teacher: FramePosteriors, chosen: Tensor) -> FramePosteriors:
    """Select frames as one utterance (1, M, K), log-probabilities >= `LOG_ZERO`."""
    lengths = chosen.new_tensor([chosen.numel()])
    rows = teacher.map(lambda values: _rows(values, chosen), lengths)
    rows.log_probs.clamp_(min=LOG_ZERO)
    return rows


@torch.no_grad()
def _statistics(
    weights: Tensor, nonblank: Tensor, lengths: Tensor
) -> Dict[str, Tensor]:
    frames = lengths.sum().clamp(min=1)
    return {
        "kd_selected": weights.sum() / frames,
        # A float, because ESPnet averages it over processes.
        "kd_empty": (weights.sum(1) == 0).float().sum(),
        "blank_teacher": (lengths.sum() - nonblank.sum()) / frames,
    }


@torch.no_grad()
def _blank_rate(
    student: Tensor,
    valid: Tensor,
    blank: int,
    head: Optional[Callable[[Tensor], Tensor]],
) -> Tensor:
    """Return the share of valid frames whose argmax is blank."""
    rows = student[valid].unsqueeze(0)  # (1, frames, V or dim)
    logits = rows if head is None else head(rows)
    return (logits.argmax(-1) == blank).sum() / valid.sum().clamp(min=1)
