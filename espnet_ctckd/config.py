"""The configuration ``model_conf.kd`` of a training, validated on construction."""

import dataclasses
from dataclasses import dataclass, field
from fractions import Fraction
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    Mapping,
    Optional,
    Tuple,
    Type,
    TypeVar,
)

import torch

from espnet_ctckd.choices import Choice, InputError, check_options, look_up
from espnet_ctckd.losses import FEATURE_LOSS_CHOICES, LOSS_CHOICES
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.reduce import REDUCTION_CHOICES, count
from espnet_ctckd.select import SELECTOR_CHOICES

DELAYS = ("frame", "soft", "utterance", "fixed")
CTC_NORMS = ("batch", "token")
HEADS = ("separate", "shared")
INTER_TARGETS = ("teacher", "self")
TARGETS = ("posteriors", "occupancies")
COMBINATIONS = ("mean", "sum")
TEACHER_MODES = ("cached", "online")
NBEST_WEIGHTS = ("posterior", "uniform", "best", "accuracy")


_Config = TypeVar("_Config", bound="Checked")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A mapping in the YAML, validated on construction."""

    # Key in the YAML, for errors.
    place: ClassVar[str]
    # Prefixes of the model parameters that only training uses.
    parameters: ClassVar[Tuple[str, ...]] = ()

    def check_number(self, key: str, value: object, most: float = float("inf")) -> None:
        """Check that a value is a number in [0, most]."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{self.place}.{key} is {value!r}; give a number")
        if not 0.0 <= value <= most or value == float("inf"):
            wanted = "of at least 0" if most == float("inf") else f"in [0, {most:g}]"
            raise InputError(f"{self.place}.{key} is {value}; give one {wanted}")

    def check_one_of(self, key: str, allowed: Any) -> None:
        """Check that the value of a key is one of `allowed`."""
        value = getattr(self, key)
        if value not in allowed:
            raise InputError(
                f"unknown {self.place}.{key} {value!r}; choose one of: "
                f"{', '.join(allowed)}"
            )

    def check_whole(self, key: str, value: object, least: int) -> None:
        """Check that a value is a whole number >= `least`."""
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(
                f"{self.place}.{key} is {value!r}; give a whole number >= {least}"
            )

    def labels_for(self) -> Optional[str]:
        """Describe the setting that needs transcripts; None if there is none."""
        return None

    @property
    def needs_teacher(self) -> bool:
        """True if training uses a teacher's posteriors or states."""
        return False

    @classmethod
    def from_dict(cls: Type[_Config], conf: object) -> _Config:
        """Build the configuration from a mapping in the YAML.

        Args:
            conf: the mapping.

        Returns:
            The validated configuration.

        Raises:
            InputError: a key is unknown or missing, or a value is invalid.
        """
        if not isinstance(conf, Mapping):
            raise InputError(f"model_conf.{cls.place} is {conf!r}; give a mapping")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        # Keys of the class itself are listed before inherited ones.
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
    """A frame-wise distance between student and teacher.

    Attributes:
        selector: name in `SELECTOR_CHOICES`.
        loss: name in `LOSS_CHOICES`.
        reduction: name in `REDUCTION_CHOICES`.
        selector_conf: options of the selector.
        loss_conf: options of the loss.
        reduction_conf: options of the reduction.
        from_epoch: first epoch in which the selector is used, from 1; before it, the
            student learns from all frames.
        until_epoch: last epoch in which the selector is used; after it, the student
            learns from all frames. None is the last epoch of the training.
        warmup_epochs: W; in training the distance is multiplied by min(epoch / W, 1).
            0 disables the warm-up.
        prior_file: token priors written by ``estimate_prior``. Blank frames are then
            defined by the argmax of log p - s log prior; the loss is unchanged.
        prior_scale: s >= 0.
        frame_ratio: teacher frames per student frame: 2 for frame shifts of 20 ms
            (teacher) and 40 ms (student). A number, or a fraction such as ``3/2``.
        delay: d, the maximum delay of the student behind the teacher in student frames
            (temporal alignment buffer). 0 disables it.
        delay_choice: delay from 0 to d: ``frame`` uses the delay of least loss for each
            frame; ``soft`` a soft minimum; ``utterance`` the delay of least mean loss
            for each utterance; ``fixed`` always d.
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
        # All three are called on a tiny batch, so invalid values are rejected here and
        # not at the first batch of the training.
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
        """Describe the setting that needs transcripts; None if there is none."""
        if "labels" in REDUCTION_CHOICES[self.reduction].needs:
            return f"reduction {self.reduction!r}"
        return None

    @property
    def ratio(self) -> Fraction:
        """The exact number of teacher frames per student frame."""
        return Fraction(str(self.frame_ratio)).limit_denominator(1000)


@dataclass(frozen=True, kw_only=True)
class InterConfig(FrameConfig):
    """``model_conf.kd.inter``: losses at intermediate layers of the encoder.

    At each layer of ``encoder_conf.interctc_layer_idx`` a head computes logits; its
    loss is ctc_weight CTC + kd_weight distance.

    Attributes:
        weight: w, the weight of the heads' loss. A number, or two, such as ``[0.3,
            0.7]``: the completed share of the training, clamped to this range.
        ctc_weight: weight of CTC at a head.
        kd_weight: weight of the distance at a head.
        target: ``teacher``, or ``self`` for the student's own last layer, which gets
            no gradient from this loss.
        head: ``separate`` for an output layer per head, dropped at export; ``shared``
            for the student's output layer.
        combine: ``mean`` or ``sum`` over the heads.
        convex: weigh the loss of the last layer by 1 - w instead of 1.
    """

    place: ClassVar[str] = "kd.inter"
    parameters: ClassVar[Tuple[str, ...]] = ("inter_heads.",)

    weight: Any
    ctc_weight: float
    kd_weight: float
    target: str
    head: str
    combine: str = "mean"
    convex: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("ctc_weight", "kd_weight"):
            self.check_number(key, getattr(self, key))
        if self.ctc_weight == self.kd_weight == 0:
            raise InputError(
                "kd.inter.ctc_weight and kd.inter.kd_weight are both 0: give one of "
                "them, or remove kd.inter"
            )
        self.check_one_of("target", INTER_TARGETS)
        self.check_one_of("head", HEADS)
        self.check_one_of("combine", COMBINATIONS)
        if not isinstance(self.convex, bool):
            raise InputError(f"kd.inter.convex is {self.convex!r}; give true or false")
        ends = self.weight if isinstance(self.weight, (list, tuple)) else [self.weight]
        for end in ends:
            self.check_number("weight", end, 1.0 if self.convex else float("inf"))
        if len(ends) not in (1, 2) or ends[0] > ends[-1]:
            raise InputError(
                f"kd.inter.weight is {self.weight!r}; give a number, or the least and "
                "the most, as [0.3, 0.7]"
            )
        if self.target == "self" and self.ratio != 1:
            raise InputError(
                f"kd.inter.frame_ratio is {self.frame_ratio}, but the target is the "
                "student itself: remove kd.inter.frame_ratio"
            )

    def labels_for(self) -> Optional[str]:
        """Describe the setting that needs transcripts; None if there is none."""
        if self.ctc_weight > 0:
            return f"kd.inter.ctc_weight {self.ctc_weight}"
        return super().labels_for()

    @property
    def needs_teacher(self) -> bool:
        """True if training uses a teacher's posteriors or states."""
        return self.target == "teacher"

    def weight_at(self, progress: float) -> float:
        """Return the weight w at a point of the training.

        Args:
            progress: completed share of the training, in [0, 1].
        """
        if not isinstance(self.weight, (list, tuple)):
            return float(self.weight)
        return float(min(max(progress, self.weight[0]), self.weight[-1]))


@dataclass(frozen=True, kw_only=True)
class ViewsConfig(FrameConfig):
    """``model_conf.kd.views``: two views of each utterance that learn from each other.

    In training each utterance is encoded twice with different SpecAugment masks. All
    other losses are means over both views. The distance of each view to the other is
    added; the view that serves as target gets no gradient.

    Attributes:
        weight: alpha, the weight of the mean of both distances.
    """

    place: ClassVar[str] = "kd.views"

    weight: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("weight", self.weight)
        if self.ratio != 1:
            raise InputError(
                f"kd.views.frame_ratio is {self.frame_ratio}, but both views are of "
                "the student: remove kd.views.frame_ratio"
            )


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(FrameConfig):
    """``model_conf.kd.feature``: the student's hidden states against the teacher's.

    A linear layer, dropped at export, projects the states of the last layer to the
    teacher's size; the distance of the states is added to the other losses.

    Attributes:
        weight: weight of the distance; may be 0 only if ``alone_epochs`` is not.
        size: size of the teacher's states, D.
        alone_epochs: number of initial epochs in which the distance is the only loss,
            with weight 1.
    """

    place: ClassVar[str] = "kd.feature"
    losses: ClassVar[Mapping[str, Choice]] = FEATURE_LOSS_CHOICES
    parameters: ClassVar[Tuple[str, ...]] = ("feature_projection.",)

    weight: float
    size: int
    alone_epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("weight", self.weight)
        self.check_whole("size", self.size, 1)
        self.check_whole("alone_epochs", self.alone_epochs, 0)
        if self.weight == self.alone_epochs == 0:
            raise InputError(
                "kd.feature.weight and kd.feature.alone_epochs are both 0: give one "
                "of them, or remove kd.feature"
            )

    @property
    def needs_teacher(self) -> bool:
        """True if training uses a teacher's posteriors or states."""
        return True


@dataclass(frozen=True, kw_only=True)
class NBestConfig(Checked):
    """``model_conf.kd.nbest``: the teacher's best hypotheses as transcripts.

    The weighted CTC losses of the hypotheses are added to the other losses.

    Attributes:
        weight: weight of the sum of these losses.
        hypotheses: N, the maximum number of hypotheses used per utterance.
        weights: weights of an utterance's hypotheses, which sum to 1: ``posterior``,
            the teacher's probabilities p^scale; ``uniform``; ``best``, the first
            hypothesis only; ``accuracy``, the softmax of scale times the token
            accuracy against the transcript.
        scale: exponent or factor above; 0 gives uniform weights, a large value only
            the best hypothesis.
    """

    place: ClassVar[str] = "kd.nbest"

    weight: float
    hypotheses: int
    weights: str = "posterior"
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.check_number("weight", self.weight)
        self.check_number("scale", self.scale)
        self.check_whole("hypotheses", self.hypotheses, 1)
        self.check_one_of("weights", NBEST_WEIGHTS)
        if self.weight == 0:
            raise InputError("kd.nbest.weight is 0: give one above 0, or remove it")

    def labels_for(self) -> Optional[str]:
        """Describe the setting that needs transcripts; None if there is none."""
        return "kd.nbest.weights 'accuracy'" if self.weights == "accuracy" else None


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Checked):
    """``model_conf.kd.teacher``: cached posteriors, or a teacher in the training step.

    All keys but ``mode`` are options of ``dump_teacher``, read only with ``online``.

    Attributes:
        mode: ``cached``: the posteriors come with the data; ``online``: in each step
            the teacher takes the same audio as the student, with its augmentation.
        teacher_type: kind of the teacher.
        teacher: folder, id or name of the teacher.
        teacher_conf: options of the kind.
        dtype: type that the teacher computes in: float32, bfloat16 or float16.
    """

    place: ClassVar[str] = "kd.teacher"

    mode: str
    teacher_type: str = "espnet"
    teacher: Optional[str] = None
    teacher_conf: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        self.check_one_of("mode", TEACHER_MODES)
        if not isinstance(self.teacher, (str, type(None))):
            raise InputError(
                f"kd.teacher.teacher is {self.teacher!r}; give one folder, id or name "
                "(several teachers: teacher_type ensemble, and its YAML)"
            )
        if not isinstance(self.teacher_conf, Mapping):
            raise InputError(
                f"kd.teacher.teacher_conf is {self.teacher_conf!r}; give a mapping of "
                "options"
            )


@dataclass(frozen=True, kw_only=True)
class KDConfig(FrameConfig):
    """``model_conf.kd``.

    Attributes:
        weight: lambda in [0, 1]: loss = (1 - lambda) CTC + lambda distance. At 1 there
            is no CTC loss, and ``text`` is not read.
        ctc_weight: weight of CTC; None is 1 - lambda.
        ctc_norm: ``batch`` divides the CTC loss by the number of utterances, as in
            ESPnet; ``token`` by the number of labels, as in the paper's code. None is
            ``batch``.
        target: ``posteriors`` of the teacher, or ``occupancies``, its state posteriors
            given the transcript.
        inter: `InterConfig` or its mapping; None disables the term.
        views: `ViewsConfig` or its mapping; None disables the term.
        feature: `FeatureConfig` or its mapping; None disables the term.
        nbest: `NBestConfig` or its mapping; None disables the term.
        teacher: `TeacherConfig` or its mapping; None is ``cached``.
        terms: configurations of added loss terms, by name.
    """

    weight: float
    ctc_weight: Any = None
    ctc_norm: Optional[str] = None
    target: str = "posteriors"
    inter: Any = None
    views: Any = None
    feature: Any = None
    nbest: Any = None
    teacher: Any = None
    terms: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weight = self.weight
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise InputError(f"kd.weight (lambda) is {weight!r}; give a number")
        if not 0.0 <= weight <= 1.0:
            raise InputError(f"kd.weight (lambda) is {weight}; give one in [0, 1]")
        super().__post_init__()
        if self.ctc_weight is None:
            # The dataclass is frozen, so the default is set this way.
            object.__setattr__(self, "ctc_weight", 1.0 - self.weight)
        else:
            self.check_number("ctc_weight", self.ctc_weight)
        self.check_one_of("target", TARGETS)
        kinds: Dict[str, Type[Checked]] = {**_OWN_KEYS, "teacher": TeacherConfig}
        for key, kind in kinds.items():
            part = getattr(self, key)
            if part is not None and not isinstance(part, kind):
                object.__setattr__(self, key, kind.from_dict(part))
        self._read_terms()
        if self.weight == self.ctc_weight == 0 and not self.parts:
            raise InputError(
                "kd.weight and kd.ctc_weight are both 0, and nothing else is to be "
                "learned: give one of them"
            )
        self._check_ctc_norm()
        if not (self.uses_ctc or self.needs_teacher or self.nbest is not None):
            raise InputError(
                "kd has no CTC, no teacher and no n-best lists, so nothing says what "
                "the output shall be: give kd.ctc_weight"
            )

    def _read_terms(self) -> None:
        if not isinstance(self.terms, Mapping):
            raise InputError(
                f"kd.terms is {self.terms!r}; give a mapping of loss terms"
            )
        read = {}
        for name, conf in self.terms.items():
            if name not in PART_CHOICES or name in _OWN_KEYS:
                added = [key for key in PART_CHOICES if key not in _OWN_KEYS]
                raise InputError(
                    f"unknown loss term {name!r} in kd.terms; added are: "
                    f"{', '.join(added) or 'none'}"
                )
            kind = PART_CHOICES[name]
            read[name] = conf if isinstance(conf, kind) else kind.from_dict(conf)
        object.__setattr__(self, "terms", read)

    @property
    def parts(self) -> Dict[str, Any]:
        """Configurations of all loss terms except CTC and ``frames``, by name."""
        own = {key: getattr(self, key) for key in _OWN_KEYS}
        return {**{k: v for k, v in own.items() if v is not None}, **self.terms}

    def _check_ctc_norm(self) -> None:
        if self.ctc_norm is None:
            return
        inside = self.inter is not None and self.inter.ctc_weight > 0
        if not (self.uses_ctc or inside):
            raise InputError(
                f"kd.ctc_norm is {self.ctc_norm!r}, but with {self.ctc_key} there is "
                "no CTC loss to normalise: remove kd.ctc_norm"
            )
        self.check_one_of("ctc_norm", CTC_NORMS)

    def labels_for(self) -> Optional[str]:
        """Describe the setting, other than CTC, that needs transcripts, or None."""
        if self.target == "occupancies":
            return "kd.target 'occupancies'"
        return super().labels_for()

    @property
    def uses_ctc(self) -> bool:
        """True if the last layer has a CTC loss."""
        return bool(self.ctc_weight > 0)

    @property
    def needs_labels(self) -> bool:
        """True if training reads ``text``."""
        return self.label_reader is not None

    @property
    def label_reader(self) -> Optional[str]:
        """Description of the setting that needs transcripts, or None."""
        if self.uses_ctc:
            return f"{self.ctc_key} keeps the CTC loss"
        readers = (part.labels_for() for part in (self, *self.parts.values()))
        reader = next((reader for reader in readers if reader), None)
        return reader and f"{reader} needs labels"

    @property
    def ctc_key(self) -> str:
        """The key that sets the CTC weight, and its value, for errors."""
        if self.ctc_weight == 1.0 - self.weight:
            return f"kd.weight {self.weight:g}"
        return f"kd.ctc_weight {self.ctc_weight:g}"

    @property
    def without_labels(self) -> str:
        """Advice on training without transcripts, for errors."""
        if not self.uses_ctc:
            return ", or remove it from kd"
        if self.weight > 0:
            return ", or set kd.weight: 1, without ctc_weight"
        if self.nbest is not None:
            return ", or set kd.ctc_weight: 0, as conf/kd/nbest_label_free.yaml does"
        return "; a training without a teacher cannot do without them"

    @property
    def needs_teacher(self) -> bool:
        """True if training uses a teacher's posteriors or states."""
        return self.weight > 0 or any(p.needs_teacher for p in self.parts.values())

    @property
    def online(self) -> bool:
        """True if the teacher runs in the training step."""
        return self.teacher is not None and bool(self.teacher.mode == "online")

    @property
    def reads_cache(self) -> bool:
        """True if training reads cached posteriors."""
        return self.needs_teacher and not self.online


_OWN_KEYS: Dict[str, Type[Checked]] = {
    "inter": InterConfig,
    "views": ViewsConfig,
    "feature": FeatureConfig,
    "nbest": NBestConfig,
}

# Configuration classes of the loss terms, by name; added terms are registered here.
PART_CHOICES: Dict[str, Type[Checked]] = dict(_OWN_KEYS)


def own_parameters() -> Tuple[str, ...]:
    """Return the prefixes of parameters that only a student in training has."""
    return tuple(prefix for kind in PART_CHOICES.values() for prefix in kind.parameters)
