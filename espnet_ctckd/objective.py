"""The distillation objective: selector, frame loss and reduction, in that order."""

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from espnet_ctckd.align import match_frames
from espnet_ctckd.choices import InputError, check_options, look_up
from espnet_ctckd.losses import LOSS_CHOICES
from espnet_ctckd.posteriors import (
    FramePosteriors,
    at_least_float32,
    blank_padding,
    length_mask,
)
from espnet_ctckd.reduce import REDUCTION_CHOICES
from espnet_ctckd.select import SELECTOR_CHOICES

CTC_NORMS = ("batch", "token")


@dataclass(frozen=True)
class KDConfig:
    """``model_conf.kd`` of a training configuration, checked when it is read.

    Attributes:
        weight: lambda in [0, 1]: loss = (1 - lambda) CTC + lambda distillation. At 1
            there is no CTC and nothing reads ``text``.
        selector: name in `SELECTOR_CHOICES`.
        loss: name in `LOSS_CHOICES`.
        reduction: name in `REDUCTION_CHOICES`.
        selector_conf: options of the selector.
        loss_conf: options of the loss.
        ctc_norm: ``batch`` divides the CTC loss by the utterances, as ESPnet does;
            ``token`` by the labels, as the paper's authors do. None is ``batch``.
    """

    weight: float
    selector: str
    loss: str
    reduction: str
    selector_conf: Mapping[str, Any] = field(default_factory=dict)
    loss_conf: Mapping[str, Any] = field(default_factory=dict)
    ctc_norm: Optional[str] = None

    def __post_init__(self) -> None:
        weight = self.weight
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise InputError(f"kd.weight (lambda) is {weight!r}; give a number")
        if not 0.0 <= weight <= 1.0:
            raise InputError(f"kd.weight (lambda) is {weight}; give one in [0, 1]")
        look_up("reduction", self.reduction, REDUCTION_CHOICES)
        if self.ctc_norm is not None and weight == 1.0:
            raise InputError(
                f"kd.ctc_norm is {self.ctc_norm!r}, but with kd.weight 1 there is no "
                "CTC loss to normalise: remove kd.ctc_norm"
            )
        if self.ctc_norm not in (None, *CTC_NORMS):
            raise InputError(
                f"unknown kd.ctc_norm {self.ctc_norm!r}; choose one of: "
                f"{', '.join(CTC_NORMS)}"
            )
        # A tiny batch calls both functions, so that values which they refuse are
        # refused here and not at the first batch of the training.
        probe = FramePosteriors(torch.zeros(1, 1, 1), torch.ones(1).long(), blank=0)
        selector = look_up("selector", self.selector, SELECTOR_CHOICES)
        _check_conf("selector_conf", self.selector_conf)
        check_options("selector", self.selector, selector.fn, self.selector_conf)
        selector.fn(probe, **self.selector_conf)
        loss = look_up("loss", self.loss, LOSS_CHOICES)
        _check_conf("loss_conf", self.loss_conf)
        check_options("loss", self.loss, loss.fn, self.loss_conf)
        loss.fn(torch.zeros(1, 1, 1), probe, **self.loss_conf)

    @classmethod
    def from_dict(cls, conf: object) -> "KDConfig":
        """Read ``model_conf.kd``.

        Args:
            conf: the mapping that stands there.

        Returns:
            The checked configuration.

        Raises:
            InputError: a key is unknown or missing, or a value makes no sense.
        """
        if not isinstance(conf, Mapping):
            raise InputError(f"model_conf.kd is {conf!r}; give a mapping")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        listed = ", ".join(fields)
        for key in conf:
            if key not in fields:
                raise InputError(
                    f"unknown key {key!r} in model_conf.kd; it takes: {listed}"
                )
        for name, entry in fields.items():
            required = (
                entry.default is dataclasses.MISSING
                and entry.default_factory is dataclasses.MISSING
            )
            if required and name not in conf:
                raise InputError(
                    f"model_conf.kd lacks the key {name!r}; it takes: {listed}"
                )
        return cls(**conf)

    @property
    def needs_labels(self) -> bool:
        """Whether training reads ``text``."""
        return self.weight < 1.0


def _check_conf(name: str, conf: object) -> None:
    if not isinstance(conf, Mapping):
        raise InputError(f"kd.{name} is {conf!r}; give a mapping of options")


class KDObjective(nn.Module):
    """Distance between a student and a teacher on the frames of a batch.

    It has no parameters, and computes in float32 whatever the autocast.

    Args:
        config: what to compute.

    References:
        Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based
        Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503
    """

    def __init__(self, config: KDConfig) -> None:
        super().__init__()
        self.config = config
        self._select = SELECTOR_CHOICES[config.selector].fn
        self._loss = LOSS_CHOICES[config.loss].fn
        self._reduce = REDUCTION_CHOICES[config.reduction].fn

    def forward(
        self, logits: Tensor, lengths: Tensor, teacher: FramePosteriors
    ) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Compute the loss of a batch.

        Args:
            logits: the student's (B, T, V).
            lengths: the student's valid frames (B,).
            teacher: log_probs (B, U, K), in the student's tokens.

        Returns:
            The loss (), exactly 0 with a finite gradient where no frame is selected,
            and statistics: ``kd_selected`` (share of the valid frames),
            ``kd_empty`` (utterances without a selected frame), ``blank_teacher`` and
            ``blank_student`` (share of frames whose best token is the blank).

        Raises:
            InputError: teacher and student disagree on the number of frames.
        """
        with torch.autocast(logits.device.type, enabled=False):
            teacher = replace(teacher, log_probs=teacher.log_probs.detach())
            teacher, lengths, frames = match_frames(teacher, lengths, logits.size(1))
            teacher = blank_padding(teacher)
            valid = length_mask(lengths, frames)  # (B, T)
            logits = at_least_float32(logits[:, :frames])  # (B, T, V)
            logits = torch.where(valid.unsqueeze(-1), logits, logits.new_zeros(()))
            weights = self._select(teacher, **self.config.selector_conf)  # (B, T)
            weights = torch.where(valid, weights, weights.new_zeros(()))
            values = self._loss(logits, teacher, **self.config.loss_conf)  # (B, T)
            above, below = self._reduce(values, weights, lengths)
            loss = divide(above, below, utterances=lengths.numel())
            stats = _statistics(logits, teacher, weights, valid)
        return loss, stats


def divide(numerator: Tensor, denominator: Tensor, utterances: int) -> Tensor:
    """Numerator over denominator, over all processes of a distributed training.

    ESPnet's trainer averages the losses of the processes with their numbers of
    utterances as weights; what is returned becomes the quotient of the sums then.

    Args:
        numerator: ().
        denominator: (), without gradient; where it is 0, so is the result.
        utterances: of this process.

    Returns:
        ().
    """
    share = 1.0
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        sums = torch.stack(
            [denominator.double(), denominator.new_tensor(utterances).double()]
        )
        torch.distributed.all_reduce(sums)
        denominator = sums[0].to(numerator.dtype)
        share = float(sums[1]) / utterances
    empty = denominator == 0
    safe = torch.where(empty, torch.ones_like(denominator), denominator)
    return torch.where(empty, numerator * 0.0, numerator / safe * share)


@torch.no_grad()
def _statistics(
    logits: Tensor, teacher: FramePosteriors, weights: Tensor, valid: Tensor
) -> Dict[str, Tensor]:
    frames = valid.sum().clamp(min=1)
    student_blank = (logits.argmax(-1) == teacher.blank) & valid  # (B, T)
    teacher_blank = valid & ~teacher.nonblank()  # (B, T)
    return {
        "kd_selected": weights.sum() / frames,
        # A float, because ESPnet averages it over processes.
        "kd_empty": (weights.sum(1) == 0).float().sum(),
        "blank_teacher": teacher_blank.sum() / frames,
        "blank_student": student_blank.sum() / frames,
    }
