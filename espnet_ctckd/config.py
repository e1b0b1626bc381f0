"""``model_conf.kd`` of a training configuration, checked when it is read."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, List, Mapping, Optional, Sequence, Tuple, Type

from espnet_ctckd.choices import Choice, InputError
from espnet_ctckd.frame_config import Checked, FrameConfig
from espnet_ctckd.losses import FEATURE_LOSS_CHOICES

CTC_NORMS = ("batch", "token")
HEADS = ("separate", "shared")
INTER_TARGETS = ("teacher", "self")
TARGETS = ("posteriors", "occupancies")
COMBINATIONS = ("mean", "sum")
TEACHER_MODES = ("cached", "online")
NBEST_WEIGHTS = ("posterior", "uniform", "best", "accuracy")


@dataclass(frozen=True, kw_only=True)
class InterConfig(FrameConfig):
    """``model_conf.kd.inter``: losses at intermediate layers of the encoder.

    At each layer of ``encoder_conf.interctc_layer_idx`` a head gives logits, whose loss
    is ctc_weight CTC + kd_weight distance.

    Attributes:
        weight: w of the heads' loss. A number, or two, as ``[0.3, 0.7]``: then it is
            the share of the training that is over, kept between the two.
        ctc_weight: of CTC at a head.
        kd_weight: of the distance at a head.
        target: ``teacher``, or ``self``: the student's own last layer, which gets no
            gradient from it.
        head: ``separate``: an output layer for each, dropped at export; ``shared``:
            the student's own.
        combine: ``mean`` or ``sum`` of the heads.
        convex: (1 - w) of the last layer's loss instead of all of it.
    """

    place: ClassVar[str] = "kd.inter"

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
        """What of it reads the transcripts, or None."""
        if self.ctc_weight > 0:
            return f"kd.inter.ctc_weight {self.ctc_weight}"
        return super().labels_for()

    def weight_at(self, progress: float) -> float:
        """The weight w.

        Args:
            progress: share of the training that is over, in [0, 1].
        """
        if not isinstance(self.weight, (list, tuple)):
            return float(self.weight)
        return float(min(max(progress, self.weight[0]), self.weight[-1]))


@dataclass(frozen=True, kw_only=True)
class ViewsConfig(FrameConfig):
    """``model_conf.kd.views``: two views of each utterance that learn from each other.

    In training each utterance is seen twice, with masks of its own. All other losses
    are means over both; the distance of each view to the other, which gets no
    gradient from it, is added.

    Attributes:
        weight: alpha, of the mean of both distances.
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

    A linear layer, dropped at export, takes the last layer's states to the teacher's
    size; their distance is added to the other losses.

    Attributes:
        weight: of the distance; 0 after ``alone_epochs`` only.
        size: of the teacher's states, D.
        alone_epochs: in as many first epochs it is the only loss, with weight 1.
    """

    place: ClassVar[str] = "kd.feature"
    losses: ClassVar[Mapping[str, Choice]] = FEATURE_LOSS_CHOICES

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


@dataclass(frozen=True, kw_only=True)
class NBestConfig(Checked):
    """``model_conf.kd.nbest``: the teacher's best hypotheses as transcripts.

    The CTC losses of the hypotheses, weighted, are added to the other losses.

    Attributes:
        weight: of their sum.
        hypotheses: N, at most so many of each list are used.
        weights: of an utterance's hypotheses, adding up to 1: ``posterior``, the
            teacher's probabilities p^scale; ``uniform``; ``best``, the first alone;
            ``accuracy``, the softmax of scale times the share of right tokens, held
            against the transcript.
        scale: 0 makes the weights uniform, a large one takes the best.
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
        """What of it reads the transcripts, or None."""
        return "kd.nbest.weights 'accuracy'" if self.weights == "accuracy" else None


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Checked):
    """``model_conf.kd.teacher``: whether the teacher runs in the training step.

    Attributes:
        mode: ``cached``: its posteriors come with the data; ``online``: it hears, in
            each step, the audio that the student hears, augmented or not.
        teacher_type: its kind, as of ``dump_teacher``; read online only.
        teacher: folder, id or name, likewise.
        teacher_conf: options of its kind, likewise.
        dtype: that it computes in, likewise: float32, bfloat16 or float16.
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
            is no CTC and nothing reads ``text``.
        ctc_weight: of CTC, where it is not 1 - lambda.
        ctc_norm: ``batch`` divides the CTC loss by the utterances, as ESPnet does;
            ``token`` by the labels, as the paper's authors do. None is ``batch``.
        target: ``posteriors`` of the teacher, or ``occupancies``: these, given the
            transcript.
        inter: `InterConfig`, or the mapping that holds it; None is none.
        views: `ViewsConfig`, or the mapping that holds it; None is none.
        feature: `FeatureConfig`, or the mapping that holds it; None is none.
        nbest: `NBestConfig`, or the mapping that holds it; None is none.
        teacher: `TeacherConfig`, or the mapping that holds it; None is ``cached``.
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

    def __post_init__(self) -> None:
        weight = self.weight
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise InputError(f"kd.weight (lambda) is {weight!r}; give a number")
        if not 0.0 <= weight <= 1.0:
            raise InputError(f"kd.weight (lambda) is {weight}; give one in [0, 1]")
        super().__post_init__()
        if self.ctc_weight is None:
            # A frozen dataclass is completed here.
            object.__setattr__(self, "ctc_weight", 1.0 - self.weight)
        else:
            self.check_number("ctc_weight", self.ctc_weight)
        self.check_one_of("target", TARGETS)
        for key, kind in (*_PARTS, _TEACHER):
            part = getattr(self, key)
            if part is not None and not isinstance(part, kind):
                object.__setattr__(self, key, kind.from_dict(part))
        if self.weight == self.ctc_weight == 0 and not self._parts:
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

    @property
    def _parts(self) -> List[Any]:
        return [part for part in (getattr(self, key) for key, _ in _PARTS) if part]

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
        """What of it reads the transcripts beside CTC, or None."""
        if self.target == "occupancies":
            return "kd.target 'occupancies'"
        return super().labels_for()

    @property
    def uses_ctc(self) -> bool:
        """Whether the last layer learns from the transcripts by CTC."""
        return bool(self.ctc_weight > 0)

    @property
    def needs_labels(self) -> bool:
        """Whether training reads ``text``."""
        return self.label_reader is not None

    @property
    def label_reader(self) -> Optional[str]:
        """What reads the transcripts, in words, or None."""
        if self.uses_ctc:
            return f"{self.ctc_key} keeps the CTC loss"
        readers = (part.labels_for() for part in (self, *self._parts))
        reader = next((reader for reader in readers if reader), None)
        return reader and f"{reader} needs labels"

    @property
    def ctc_key(self) -> str:
        """The key that says whether there is CTC, and its value, for errors."""
        if self.ctc_weight == 1.0 - self.weight:
            return f"kd.weight {self.weight:g}"
        return f"kd.ctc_weight {self.ctc_weight:g}"

    @property
    def without_labels(self) -> str:
        """How a training would do without transcripts, for errors."""
        if not self.uses_ctc:
            return ", or remove it from kd"
        if self.weight > 0:
            return ", or set kd.weight: 1, without ctc_weight"
        if self.nbest is not None:
            return ", or set kd.ctc_weight: 0, as conf/kd/nbest_label_free.yaml does"
        return "; a training without a teacher cannot do without them"

    @property
    def needs_teacher(self) -> bool:
        """Whether training learns from a teacher's posteriors or states."""
        if self.weight > 0 or self.feature is not None:
            return True
        return self.inter is not None and self.inter.target == "teacher"

    @property
    def online(self) -> bool:
        """Whether the teacher runs in the training step."""
        return self.teacher is not None and bool(self.teacher.mode == "online")

    @property
    def reads_cache(self) -> bool:
        """Whether training reads cached posteriors."""
        return self.needs_teacher and not self.online


_TEACHER: Tuple[str, Type[Checked]] = ("teacher", TeacherConfig)
_PARTS: Sequence[Tuple[str, Type[Checked]]] = (
    ("inter", InterConfig),
    ("views", ViewsConfig),
    ("feature", FeatureConfig),
    ("nbest", NBestConfig),
)
