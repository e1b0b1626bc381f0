"""Distance between the last layer's posteriors and the teacher's."""

from typing import Any, Dict, Optional

from torch import Tensor

from espnet_ctckd.evaluation.spikes import spike_rates
from espnet_ctckd.losses.sequence import occupancies
from espnet_ctckd.plugin.batch import Batch, EncoderOutput
from espnet_ctckd.plugin.terms.base import Term
from espnet_ctckd.posteriors import FramePosteriors, blank_padding


class FramesTerm(Term):
    """Frame-wise distance between the last layer and the teacher.

    References:
        Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based
        Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503
    """

    @property
    def selects(self) -> bool:
        """True if the term learns from selected frames of the teacher's posteriors."""
        # Occupation probabilities are not the teacher's plain posteriors.
        return self.kd.weight > 0 and self.kd.target == "posteriors"

    def forward(
        self, batch: Batch, encoded: EncoderOutput, stats: Dict[str, Any]
    ) -> Optional[Tensor]:
        """Compute the loss of a batch."""
        teacher = batch.teacher
        if teacher is None:
            return None
        if self.kd.target == "occupancies":
            assert batch.text is not None
            assert batch.text_lengths is not None
            teacher = occupancies(teacher, batch.text, batch.text_lengths)
        distance: Tensor
        distance, kd_stats = self.objective(
            encoded.states if encoded.logits is None else encoded.logits,
            encoded.lengths,
            teacher,
            labels=batch.text_lengths,
            head=self.model.ctc.ctc_lo if encoded.logits is None else None,
        )
        stats.update(kd_stats, loss_kd=distance.detach())
        if not self.model.training:
            stats.update(self._spikes(encoded, batch.teacher))
        return distance

    def _spikes(
        self, encoded: EncoderOutput, teacher: Optional[FramePosteriors]
    ) -> Dict[str, Tensor]:
        """Compute the rates of spikes that differ from the teacher's."""
        assert teacher is not None
        theirs = blank_padding(teacher).argmax().tolist()  # (B, U)
        ours = encoded.all_logits.argmax(-1).tolist()  # (B, T)
        ends = encoded.lengths.tolist()
        paths = [(a, b[:end]) for a, b, end in zip(theirs, ours, ends)]
        rates = spike_rates(paths, self.model.blank_id, float(self.kd.ratio))
        return {name: encoded.states.new_tensor(rate) for name, rate in rates.items()}
