"""The teacher's n-best hypotheses as transcripts."""

from typing import Any, Dict, Optional

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.config import NBestConfig
from espnet_ctckd.losses.sequence import hypotheses_loss
from espnet_ctckd.plugin.batch import Batch, EncoderOutput
from espnet_ctckd.plugin.terms.base import Term


class NBestTerm(Term):
    """Weighted sum of the CTC losses of the teacher's hypotheses."""

    config_class = NBestConfig
    data = ("nbest",)

    @property
    def reads_logits(self) -> bool:
        """True if the term reads the last layer's logits of all frames."""
        return True

    def check(self, batch: Batch) -> None:
        """Refuse a batch without hypotheses."""
        if batch.hypotheses is None:
            raise InputError(
                "the batch has no nbest, and kd.nbest learns from it: give e.g. "
                "--train_data_path_and_name_and_type <folder>/nbest,nbest,text, and "
                "the same for --valid_data_path_and_name_and_type"
            )

    def forward(
        self, batch: Batch, encoded: EncoderOutput, stats: Dict[str, Any]
    ) -> Optional[Tensor]:
        """Compute the loss of a batch."""
        assert batch.hypotheses is not None
        with torch.autocast(encoded.states.device.type, enabled=False):
            log_probs = encoded.all_logits.float().log_softmax(-1)  # (B, T, V)
            loss = hypotheses_loss(log_probs, encoded.lengths, batch.hypotheses, 0)
        stats["loss_nbest"] = loss.detach()
        return loss
