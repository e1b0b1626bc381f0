"""A distance between student and teacher, as a training configuration says it."""

import dataclasses
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Callable, ClassVar, Mapping, Optional, Type, TypeVar

import torch

from espnet_ctckd.choices import Choice, InputError, check_options, look_up
from espnet_ctckd.losses import LOSS_CHOICES
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.reduce import REDUCTION_CHOICES, count
from espnet_ctckd.select import SELECTOR_CHOICES

DELAYS = ("frame", "soft", "utterance", "fixed")

_Config = TypeVar("_Config", bound="Checked")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A mapping of the YAML, checked when it is read."""

    # Where it stands in the YAML, for errors.
    place: ClassVar[str]

    def check_number(self, key: str, value: object, most: float = float("inf")) -> None:
        """Refuse what is no number in [0, most]."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{self.place}.{key} is {value!r}; give a number")
        if not 0.0 <= value <= most or value == float("inf"):
            wanted = "of at least 0" if most == float("inf") else f"in [0, {most:g}]"
            raise InputError(f"{self.place}.{key} is {value}; give one {wanted}")

    def check_one_of(self, key: str, allowed: Any) -> None:
        """Refuse a value that is none of the allowed."""
        value = getattr(self, key)
        if value not in allowed:
            raise InputError(
                f"unknown {self.place}.{key} {value!r}; choose one of: "
                f"{', '.join(allowed)}"
            )

    def check_whole(self, key: str, value: object, least: int) -> None:
        """Refuse what is no whole number of at least so many."""
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(
                f"{self.place}.{key} is {value!r}; give a whole number >= {least}"
            )

    def labels_for(self) -> Optional[str]:
        """What of it reads the transcripts, or None."""
        return None

    @classmethod
    def from_dict(cls: Type[_Config], conf: object) -> _Config:
        """Read the mapping of the YAML.

        Args:
            conf: what stands there.

        Returns:
            The checked configuration.

        Raises:
            InputError: a key is unknown or missing, or a value makes no sense.
        """
        if not isinstance(conf, Mapping):
            raise InputError(f"model_conf.{cls.place} is {conf!r}; give a mapping")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        # What is its own comes first.
        inherited = {f.name for f in dataclasses.fields(FrameConfig)}
        listed = ", ".join(sorted(fields, key=lambda name: name in inherited))
        for key in conf:
            if key not in fields:
                raise InputError(
                    f"unknown key {key!r} in model_conf.{cls.place}; it takes: {listed}"
                )
        for name, entry in fields.items():
            required = (
                entry.default is dataclasses.MISSING
                and entry.default_factory is dataclasses.MISSING
            )
            if required and name not in conf:
                raise InputError(
                    f"model_conf.{cls.place} lacks the key {name!r}; it takes: "
                    f"{listed}. (On the command line a kd.<key> after kd=<file> "
                    "replaces the file: write kd={base: <file>, <key>: <value>})"
                )
        return cls(**conf)


@dataclass(frozen=True, kw_only=True)
class FrameConfig(Checked):
    """A distance between student and teacher, frame by frame.

    Attributes:
        selector: name in `SELECTOR_CHOICES`.
        loss: name in `LOSS_CHOICES`.
        reduction: name in `REDUCTION_CHOICES`.
        selector_conf: options of the selector.
        loss_conf: options of the loss.
        reduction_conf: options of the reduction.
        from_epoch: the selector chooses from this epoch on; before it, the student
            learns from all frames. Epochs count from 1.
        until_epoch: the last epoch in which the selector chooses; after it, the
            student learns from all frames. None is the last of the training.
        warmup_epochs: W; in training the distance is multiplied by min(epoch / W, 1).
            0 is no warm-up.
        prior_file: token priors as ``estimate_prior`` writes them. What counts as
            blank is then the argmax of log p - s log prior; the loss is not changed.
        prior_scale: s, of at least 0.
        frame_ratio: the teacher's frames to one of the student's in the same time:
            2 is a teacher of 20 ms and a student of 40 ms. A number, or a fraction as
            ``3/2``.
        delay: d, the student's frames by which it may lag behind the teacher (temporal
            alignment buffer). 0 is none.
        delay_choice: of the delays 0 to d, which: ``frame`` takes the one of least
            loss for each frame; ``soft`` a soft minimum; ``utterance`` the one of
            least mean for each utterance; ``fixed`` always d.
        delay_softness: eta of the soft minimum -eta log sum exp(-loss / eta).
    """

    place: ClassVar[str] = "kd"
    losses: ClassVar[Mapping[str, Choice]] = LOSS_CHOICES

    selector: str
    loss: str
    reduction: str
    selector_conf: Mapping[str, Any] = field(default_factory=dict)
    loss_conf: Mapping[str, Any] = field(default_factory=dict)
    reduction_conf: Mapping[str, Any] = field(default_factory=dict)
    from_epoch: int = 1
    until_epoch: Optional[int] = None
    warmup_epochs: int = 0
    prior_file: Optional[str] = None
    prior_scale: Optional[float] = None
    frame_ratio: Any = 1
    delay: int = 0
    delay_choice: str = "frame"
    delay_softness: float = 1.0

    def __post_init__(self) -> None:
        self._check_schedule()
        self.check_one_of("delay_choice", DELAYS)
        self.check_number("delay_softness", self.delay_softness)
        if self.delay == 0 and self.delay_choice != "frame":
            raise InputError(
                f"{self.place}.delay_choice is {self.delay_choice!r}, but there is no "
                f"delay to choose: set {self.place}.delay, or remove it"
            )
        if self.delay_softness == 0:
            raise InputError(f"{self.place}.delay_softness is 0; give one above 0")
        self._check_ratio()
        self._check_choices()
        self._check_prior()

    def _check_schedule(self) -> None:
        until = self.until_epoch
        for key, value, least in (
            ("from_epoch", self.from_epoch, 1),
            ("until_epoch", self.from_epoch if until is None else until, 1),
            ("warmup_epochs", self.warmup_epochs, 0),
            ("delay", self.delay, 0),
        ):
            self.check_whole(key, value, least)
        if until is not None and until < self.from_epoch:
            raise InputError(
                f"{self.place}.until_epoch is {until}, before {self.place}.from_epoch "
                f"{self.from_epoch}: the selector would never choose"
            )

    def _check_prior(self) -> None:
        if (self.prior_file is None) != (self.prior_scale is None):
            raise InputError(
                f"{self.place}.prior_file is {self.prior_file!r} and "
                f"{self.place}.prior_scale {self.prior_scale!r}: give both or neither"
            )
        if self.prior_scale is None:
            return
        self.check_number("prior_scale", self.prior_scale)
        selector = SELECTOR_CHOICES[self.selector]
        reduction = REDUCTION_CHOICES[self.reduction]
        if not (selector.reads_blank or reduction.reads_blank):
            raise InputError(
                f"{self.place}.prior_file changes which frames are blank, but selector "
                f"{self.selector!r} takes all frames: remove {self.place}.prior_file, "
                "or choose another selector"
            )

    def _check_ratio(self) -> None:
        try:
            sane = Fraction(1, 100) <= self.ratio <= 100
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            sane = False
        if isinstance(self.frame_ratio, bool) or not sane:
            raise InputError(
                f"{self.place}.frame_ratio is {self.frame_ratio!r}; give the teacher's "
                "frames to one of the student's, as 2 or 3/2"
            )

    def _check_choices(self) -> None:
        # A tiny batch calls all three, so that values which they refuse are refused
        # here and not at the first batch of the training.
        one = torch.zeros(1, 1, 1)
        probe = FramePosteriors(one, torch.ones(1).long(), blank=0, states=one)
        selector = self._choice("selector", SELECTOR_CHOICES)
        weights = selector(probe, 1, **self.selector_conf)  # (1, 1)
        self._choice("loss", self.losses)(one, probe, **self.loss_conf)
        reduction = self._choice("reduction", REDUCTION_CHOICES)
        nonblank = probe.nonblank()
        totals = count(weights, nonblank, probe.lengths, None, everywhere=False)
        reduction(weights, nonblank, totals, **self.reduction_conf)

    def _choice(self, family: str, choices: Mapping[str, Choice]) -> Callable[..., Any]:
        name, conf = getattr(self, family), getattr(self, f"{family}_conf")
        choice = look_up(family, name, choices)
        if not isinstance(conf, Mapping):
            raise InputError(
                f"{self.place}.{family}_conf is {conf!r}; give a mapping of options"
            )
        try:
            check_options(family, name, choice.fn, conf)
        except InputError as error:
            where = f"{self.place}.{family}_conf"
            raise InputError(
                f"{error}. {where} is {dict(conf)}; on the command line, --model_conf "
                f"{where}={{}} empties it"
            ) from None
        return choice.fn

    def labels_for(self) -> Optional[str]:
        """What of it reads the transcripts, or None."""
        if "labels" in REDUCTION_CHOICES[self.reduction].needs:
            return f"reduction {self.reduction!r}"
        return None

    @property
    def ratio(self) -> Fraction:
        """The teacher's frames to one of the student's, exact."""
        return Fraction(str(self.frame_ratio)).limit_denominator(1000)
