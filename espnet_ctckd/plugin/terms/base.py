"""Base class of the terms of the student's loss."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Dict, Optional, Tuple, Type

import torch
from torch import Tensor

from espnet_ctckd.config import Checked, FrameConfig, KDConfig
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.plugin.batch import Batch, EncoderOutput


class Term(ABC):
    """A term of the student's loss.

    The configuration of a term (`Checked`) defines the term's requirements:
    transcripts by ``labels_for``, a teacher by ``needs_teacher``, and the prefixes of
    parameters that are dropped at export by ``parameters``.

    Args:
        name: name of the term in `TERM_CHOICES`.
        config: ``model_conf.kd``.
        model: the student, an `ESPnetCTCKDModel`.

    Attributes:
        config_class: class of the term's part of ``model_conf.kd``; None if the term is
            configured by the keys of ``kd`` itself.
        data: names of the data that only this term reads, other than ``text`` and
            ``teacher``.
        doubles: True if a training batch contains each utterance twice.
    """

    config_class: ClassVar[Optional[Type[Checked]]] = None
    data: ClassVar[Tuple[str, ...]] = ()
    doubles: ClassVar[bool] = False

    def __init__(self, name: str, config: KDConfig, model: Any) -> None:
        self.name, self.kd, self.model = name, config, model
        self.config: Any = config
        if self.config_class is not None:
            self.config = config.parts.get(name)

    @property
    def asked(self) -> bool:
        """True if the configuration asks for the term."""
        return self.config is not None

    @property
    def frame_config(self) -> Optional[FrameConfig]:
        """The configuration of the term's distance between frames, or None."""
        return self.config if isinstance(self.config, FrameConfig) else None

    @property
    def selects(self) -> bool:
        """True if the term learns from selected frames of the teacher's posteriors."""
        return False

    @property
    def reads_logits(self) -> bool:
        """True if the term reads the last layer's logits of all frames."""
        return False

    def modules(self) -> Dict[str, torch.nn.Module]:
        """Return the modules that the term adds to the student, by attribute."""
        return {}

    def alone(self, epoch: int) -> bool:
        """Return True if the term is the only one, with weight 1, in an epoch."""
        return False

    def check(self, batch: Batch) -> None:  # noqa: B027 (most terms check nothing)
        """Refuse a batch that lacks what the term reads.

        Raises:
            InputError: the batch lacks it.
        """

    def weigh(self, loss: Tensor) -> Tensor:
        """Return the weighted loss of the term."""
        weighted: Tensor = self.config.weight * loss
        return weighted

    def combine(self, total: Tensor, loss: Tensor) -> Tensor:
        """Add the term.

        Args:
            total: loss of the preceding terms.
            loss: loss of the term, from `forward`.

        Returns:
            The total including the term.
        """
        return total + self.weigh(loss)

    @abstractmethod
    def forward(
        self, batch: Batch, encoded: EncoderOutput, stats: Dict[str, Any]
    ) -> Optional[Tensor]:
        """Compute the loss of a batch.

        Args:
            batch: input of the student's ``forward``.
            encoded: output of the encoder.
            stats: statistics, to which the term adds its own.

        Returns:
            The unweighted loss, or None if the term does not apply to the batch.
        """

    @property
    def objective(self) -> KDObjective:
        """The distance between frames that `frame_config` describes."""
        objective: KDObjective = self.model.objectives[self.name]
        return objective
