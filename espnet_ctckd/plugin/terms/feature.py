"""Distance between the last layer's states and the teacher's."""

from typing import Any, Dict, Optional

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.config import FeatureConfig
from espnet_ctckd.plugin.batch import Batch, EncoderOutput
from espnet_ctckd.plugin.terms.base import Term


class FeatureTerm(Term):
    """Distance between the projected states of the last layer and the teacher's."""

    config_class = FeatureConfig

    @property
    def selects(self) -> bool:
        """True if the term learns from selected frames of the teacher's posteriors."""
        return True

    def modules(self) -> Dict[str, torch.nn.Module]:
        """Return the projection to the size of the teacher's states."""
        size = self.model.encoder.output_size()
        return {"feature_projection": torch.nn.Linear(size, self.config.size)}

    def alone(self, epoch: int) -> bool:
        """Return True if the term is the only one, with weight 1, in an epoch."""
        return epoch <= int(self.config.alone_epochs)

    def check(self, batch: Batch) -> None:
        """Refuse a batch without teacher states of the configured size."""
        states = batch.teacher.states if batch.teacher is not None else None
        size = 0 if states is None else states.size(-1)
        if size != self.config.size:
            raise InputError(
                f"the teacher's states have {size} dimensions, and "
                f"kd.feature.size is {self.config.size}"
            )

    def forward(
        self, batch: Batch, encoded: EncoderOutput, stats: Dict[str, Any]
    ) -> Optional[Tensor]:
        """Compute the loss of a batch."""
        assert batch.teacher is not None
        distance: Tensor
        distance, _ = self.objective(
            encoded.states,
            encoded.lengths,
            batch.teacher,
            labels=batch.text_lengths,
            head=self.model.feature_projection,
        )
        stats["loss_feature"] = distance.detach()
        return distance
