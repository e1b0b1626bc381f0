"""The distillation objective: selector, frame loss and reduction, in that order."""

import dataclasses
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from espnet_ctckd.align import match_frames
from espnet_ctckd.choices import Choice, InputError, check_options, look_up
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
        reduction_conf: options of the reduction.
        ctc_norm: ``batch`` divides the CTC loss by the utterances, as ESPnet does;
            ``token`` by the labels, as the paper's authors do. None is ``batch``.
        from_epoch: the selector chooses from this epoch on; before it, the student
            learns from all frames. Epochs count from 1.
        until_epoch: the last epoch in which the selector chooses; after it, the
            student learns from all frames. None is the last of the training.
        warmup_epochs: W; the distillation loss is multiplied by min(epoch / W, 1).
            0 is no warm-up.
        prior_file: token priors as ``estimate_prior`` writes them. What counts as
            blank is then the argmax of log p - s log prior; the loss is not changed.
        prior_scale: s, of at least 0.
        frame_ratio: the teacher's frames to one of the student's in the same time:
            2 is a teacher of 20 ms and a student of 40 ms. A number, or a fraction as
            ``3/2``.
    """

    weight: float
    selector: str
    loss: str
    reduction: str
    selector_conf: Mapping[str, Any] = field(default_factory=dict)
    loss_conf: Mapping[str, Any] = field(default_factory=dict)
    reduction_conf: Mapping[str, Any] = field(default_factory=dict)
    ctc_norm: Optional[str] = None
    from_epoch: int = 1
    until_epoch: Optional[int] = None
    warmup_epochs: int = 0
    prior_file: Optional[str] = None
    prior_scale: Optional[float] = None
    frame_ratio: Any = 1

    def __post_init__(self) -> None:
        weight = self.weight
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise InputError(f"kd.weight (lambda) is {weight!r}; give a number")
        if not 0.0 <= weight <= 1.0:
            raise InputError(f"kd.weight (lambda) is {weight}; give one in [0, 1]")
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
        self._check_schedule()
        self._check_prior()
        self._check_ratio()
        self._check_choices()

    def _check_schedule(self) -> None:
        until = self.until_epoch
        for key, value, least in (
            ("from_epoch", self.from_epoch, 1),
            ("until_epoch", self.from_epoch if until is None else until, 1),
            ("warmup_epochs", self.warmup_epochs, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(
                    f"kd.{key} is {value!r}; give a whole number >= {least}"
                )
        if until is not None and until < self.from_epoch:
            raise InputError(
                f"kd.until_epoch is {until}, before kd.from_epoch {self.from_epoch}: "
                "the selector would never choose"
            )

    def _check_prior(self) -> None:
        if (self.prior_file is None) != (self.prior_scale is None):
            raise InputError(
                f"kd.prior_file is {self.prior_file!r} and kd.prior_scale "
                f"{self.prior_scale!r}: give both or neither"
            )
        scale = self.prior_scale
        if scale is None:
            return
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise InputError(f"kd.prior_scale is {scale!r}; give a number")
        if not 0.0 <= scale < float("inf"):
            raise InputError(f"kd.prior_scale is {scale}; give one of at least 0")
        if self.selector == "all":
            raise InputError(
                "kd.prior_file changes which frames are blank, but selector 'all' "
                "takes all frames: remove kd.prior_file, or choose another selector"
            )

    def _check_ratio(self) -> None:
        try:
            sane = Fraction(1, 100) <= self.ratio <= 100
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            sane = False
        if isinstance(self.frame_ratio, bool) or not sane:
            raise InputError(
                f"kd.frame_ratio is {self.frame_ratio!r}; give the teacher's frames to "
                "one of the student's, as 2 or 3/2"
            )

    def _check_choices(self) -> None:
        # A tiny batch calls all three, so that values which they refuse are refused
        # here and not at the first batch of the training.
        probe = FramePosteriors(torch.zeros(1, 1, 1), torch.ones(1).long(), blank=0)
        selector = self._choice("selector", SELECTOR_CHOICES)
        weights = selector(probe, 1, **self.selector_conf)  # (1, 1)
        loss = self._choice("loss", LOSS_CHOICES)
        loss(torch.zeros(1, 1, 1), probe, **self.loss_conf)
        reduction = self._choice("reduction", REDUCTION_CHOICES)
        nonblank = probe.nonblank()
        totals = count(weights, nonblank, probe.lengths, None, everywhere=False)
        reduction(weights, nonblank, totals, **self.reduction_conf)

    def _choice(self, family: str, choices: Mapping[str, Choice]) -> Callable[..., Any]:
        name, conf = getattr(self, family), getattr(self, f"{family}_conf")
        choice = look_up(family, name, choices)
        if not isinstance(conf, Mapping):
            raise InputError(f"kd.{family}_conf is {conf!r}; give a mapping of options")
        check_options(family, name, choice.fn, conf)
        if "labels" in choice.needs and not self.needs_labels:
            raise InputError(
                f"{family} {name!r} needs labels, but kd.weight 1 trains without "
                f"them: choose another {family}, or kd.weight below 1"
            )
        return choice.fn

    @property
    def ratio(self) -> Fraction:
        """The teacher's frames to one of the student's, exact."""
        return Fraction(str(self.frame_ratio)).limit_denominator(1000)

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


class KDObjective(nn.Module):
    """Distance between a student and a teacher on the frames of a batch.

    It has no parameters, and computes in float32 whatever the autocast. The student's
    outputs are read, and computed where they are not there yet, on the selected
    frames alone.

    Args:
        config: what to compute.
        log_prior: log-probabilities of the tokens (V,), where ``prior_file`` is set.

    Attributes:
        epoch: of the training, from 1; whoever trains keeps it up to date.

    References:
        Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based
        Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503
    """

    log_prior: Optional[Tensor]

    def __init__(self, config: KDConfig, log_prior: Optional[Tensor] = None) -> None:
        super().__init__()
        self.config = config
        self.epoch = 1
        self._select = SELECTOR_CHOICES[config.selector].fn
        self._loss = LOSS_CHOICES[config.loss].fn
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
            student: logits (B, T, V), or with a head its input (B, T, dim).
            lengths: the student's valid frames (B,).
            teacher: log_probs (B, U, K), in the student's tokens.
            labels: labels of each utterance (B,), for the reductions that need them.
            head: gives the logits (1, M, V) of M frames (1, M, dim).

        Returns:
            The loss (), exactly 0 with a finite gradient where no frame is selected,
            and statistics: ``kd_selected`` (share of the valid frames),
            ``kd_empty`` (utterances without a selected frame), ``blank_teacher`` and,
            in evaluation, ``blank_student`` (share of frames that stand for blank).

        Raises:
            InputError: teacher and student disagree on the number of frames.
        """
        said = at_least_float32(teacher.log_probs.detach())
        teacher = replace(teacher, log_probs=said)
        teacher, lengths = match_frames(
            teacher, lengths, student.size(1), self.config.ratio
        )
        weights, nonblank = self._weigh(teacher)  # (B, T)
        totals = count(weights, nonblank, lengths, labels)
        factors = self._reduce(
            weights, nonblank, totals, **self.config.reduction_conf
        )  # (B, T)
        frames = weights.size(1)
        chosen = weights.flatten().nonzero().squeeze(1)  # (M,)
        rows = _rows(student[:, :frames], chosen)  # (1, M, V or dim)
        logits = rows if head is None else head(rows)  # (1, M, V)
        with torch.autocast(logits.device.type, enabled=False):
            values = self._loss(
                at_least_float32(logits),
                _teacher_rows(teacher, chosen),
                **self.config.loss_conf,
            )  # (1, M)
            factors = factors.flatten().index_select(0, chosen)  # (M,)
            loss = (values.squeeze(0) * factors.to(values)).sum()
            loss = loss * (totals.share * self._warmth()).to(loss)
        stats = _statistics(weights, nonblank, lengths)
        if not self.training:
            valid = length_mask(lengths, frames)  # (B, T)
            stats["blank_student"] = _blank_rate(
                student[:, :frames], valid, teacher.blank, head
            )
        return loss, stats

    @torch.no_grad()
    def _weigh(self, teacher: FramePosteriors) -> Tuple[Tensor, Tensor]:
        """Weights of the frames, 0 in padding, and which are not blank (B, T)."""
        seen = blank_padding(replace(teacher, best=self._best(teacher)))
        config, epoch = self.config, self.epoch
        last = epoch if config.until_epoch is None else config.until_epoch
        if config.from_epoch <= epoch <= last:
            weights = self._select(seen, epoch, **config.selector_conf)  # (B, T)
        else:
            weights = select_all(seen)
        weights = torch.where(seen.valid(), weights, weights.new_zeros(()))
        return weights, seen.nonblank()

    def _best(self, teacher: FramePosteriors) -> Tensor:
        """The token that each frame stands for (B, T), the prior taken out."""
        if self.log_prior is None or not self.config.prior_scale:
            return teacher.argmax()
        prior = self.log_prior
        if teacher.ids is not None:
            prior = prior[teacher.ids.clamp(0, prior.numel() - 1)]  # (B, T, K)
        scores = teacher.log_probs - self.config.prior_scale * prior  # (B, T, K)
        return replace(teacher, log_probs=scores, best=None).argmax()

    def _warmth(self) -> float:
        epochs = self.config.warmup_epochs
        return min(self.epoch / epochs, 1.0) if epochs else 1.0


def _rows(x: Tensor, chosen: Tensor) -> Tensor:
    """The chosen frames (1, M, ...) of (B, T, ...)."""
    return x.flatten(0, 1).index_select(0, chosen).unsqueeze(0)


def _teacher_rows(teacher: FramePosteriors, chosen: Tensor) -> FramePosteriors:
    """The chosen frames as one utterance (1, M, K); what is impossible is finite."""
    ids, best = teacher.ids, teacher.best
    return FramePosteriors(
        _rows(teacher.log_probs, chosen).clamp_(min=LOG_ZERO),
        chosen.new_tensor([chosen.numel()]),
        teacher.blank,
        None if ids is None else _rows(ids, chosen),
        None if best is None else _rows(best, chosen),
    )


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
    """Share of the valid frames whose most probable token is the blank."""
    rows = student[valid].unsqueeze(0)  # (1, frames, V or dim)
    logits = rows if head is None else head(rows)
    return (logits.argmax(-1) == blank).sum() / valid.sum().clamp(min=1)
