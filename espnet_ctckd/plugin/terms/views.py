"""Two views of each utterance that learn from each other."""

from typing import Any, Dict, Optional

from torch import Tensor

from espnet_ctckd.config import ViewsConfig
from espnet_ctckd.plugin.batch import Batch, EncoderOutput
from espnet_ctckd.plugin.terms.base import Term
from espnet_ctckd.posteriors import FramePosteriors


class ViewsTerm(Term):
    """Mean of the distances of each view from the other (CR-CTC).

    References:
        Yao et al., CR-CTC: Consistency Regularization on CTC for Improved Speech
        Recognition (2024), https://arxiv.org/abs/2410.05101
    """

    config_class = ViewsConfig
    doubles = True

    @property
    def reads_logits(self) -> bool:
        """True if the term reads the last layer's logits of all frames."""
        return True

    def forward(
        self, batch: Batch, encoded: EncoderOutput, stats: Dict[str, Any]
    ) -> Optional[Tensor]:
        """Compute the loss of a batch."""
        if not self.model.training:
            return None
        views = encoded.all_logits.chunk(2)  # (B, T, V) each
        lengths = encoded.lengths.chunk(2)[0]
        labels = None if batch.text_lengths is None else batch.text_lengths.chunk(2)[0]
        total = views[0].new_zeros(())
        for student, other in (views, views[::-1]):
            log_probs = other.detach().float().log_softmax(-1)  # (B, T, V)
            teacher = FramePosteriors(log_probs, lengths, self.model.blank_id)
            distance, _ = self.objective(student, lengths, teacher, labels)
            total = total + 0.5 * distance
        stats["loss_views"] = total.detach()
        return total
