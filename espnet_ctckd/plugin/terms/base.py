"""A term of the student's loss."""

from typing import Any, ClassVar, Dict, Optional, Tuple, Type

import torch
from torch import Tensor

from espnet_ctckd.config import Checked, FrameConfig, KDConfig
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.plugin.batch import Batch, EncoderOutput


class Term:
    """A term of the student's loss.

    What a training needs follows from the configuration of its terms (`Checked`):
    transcripts from ``labels_for``, a teacher from ``needs_teacher``, and the prefixes
    of parameters that are dropped at export from ``parameters``.

    Args:
        name: of the term in `TERM_CHOICES`.
        config: ``model_conf.kd``.
        model: the student, an `ESPnetCTCKDModel`.

    Attributes:
        config_class: of its part of ``model_conf.kd``; None where it has the keys of
            ``kd`` itself.
        data: names of the data that only this term reads, beside ``text`` and
            ``teacher``.
        doubles: whether each utterance of a training batch is seen twice.
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
        """Whether the configuration asks for the term."""
        return self.config is not None

    @property
    def frame_config(self) -> Optional[FrameConfig]:
        """The configuration of its distance between frames, if it has one."""
        return self.config if isinstance(self.config, FrameConfig) else None

    @property
    def selects(self) -> bool:
        """Whether it learns from selected frames of the teacher's posteriors."""
        return False

    @property
    def reads_logits(self) -> bool:
        """Whether it reads the last layer's logits of all frames."""
        return False

    def modules(self) -> Dict[str, torch.nn.Module]:
        """The modules that the student gets for it, by attribute."""
        return {}

    def alone(self, epoch: int) -> bool:
        """Whether it is the only term, with weight 1, in an epoch of the training."""
        return False

    def check(self, batch: Batch) -> None:
        """Refuse a batch that lacks what the term reads.

        Raises:
            InputError: the batch lacks it.
        """

    def weigh(self, loss: Tensor) -> Tensor:
        """The weighted loss of the term."""
        weighted: Tensor = self.config.weight * loss
        return weighted

    def combine(self, total: Tensor, loss: Tensor) -> Tensor:
        """Add the term.

        Args:
            total: of the terms before it.
            loss: of the term, as `forward` returns it.

        Returns:
            The total with the term.
        """
        return total + self.weigh(loss)

    def forward(
        self, batch: Batch, encoded: EncoderOutput, stats: Dict[str, Any]
    ) -> Optional[Tensor]:
        """Compute the loss of a batch.

        Args:
            batch: what the student's ``forward`` is given.
            encoded: the encoder's output.
            stats: statistics, to which the term adds its own.

        Returns:
            The loss without its weight; None where the batch has nothing for it.
        """
        raise NotImplementedError

    @property
    def objective(self) -> KDObjective:
        """The distance between frames that `frame_config` describes."""
        objective: KDObjective = self.model.objectives[self.name]
        return objective
