"""Losses at intermediate layers of the encoder."""

import functools
from typing import Any, Callable, Dict, Optional

import torch
from torch import Tensor

from espnet_ctckd.config import InterConfig
from espnet_ctckd.plugin.batch import Batch, EncoderOutput
from espnet_ctckd.plugin.terms.base import Term
from espnet_ctckd.plugin.terms.ctc import ctc_of, norm_ctc
from espnet_ctckd.posteriors import FramePosteriors


class InterTerm(Term):
    """CTC loss and distance to the teacher at heads of intermediate layers."""

    config_class = InterConfig

    @property
    def selects(self) -> bool:
        """True if the term learns from selected frames of the teacher's posteriors."""
        return self.config.target == "teacher" and bool(self.config.kd_weight > 0)

    @property
    def reads_logits(self) -> bool:
        """True if the term reads the last layer's logits of all frames."""
        return bool(self.config.target == "self")

    def modules(self) -> Dict[str, torch.nn.Module]:
        """Return the heads, unless they share the student's output layer."""
        if self.config.head != "separate":
            return {}
        encoder, tokens = self.model.encoder, self.model.vocab_size
        heads = {
            str(layer): torch.nn.Linear(encoder.output_size(), tokens)
            for layer in encoder.interctc_layer_idx
        }
        return {"inter_heads": torch.nn.ModuleDict(heads)}

    def combine(self, total: Tensor, loss: Tensor) -> Tensor:
        """Add the term; if ``convex``, the other terms get one minus its weight."""
        weight = self.config.weight_at(self.model.progress)
        rest = 1.0 - weight if self.config.convex else 1.0
        combined: Tensor = rest * total + weight * loss
        return combined

    def forward(
        self, batch: Batch, encoded: EncoderOutput, stats: Dict[str, Any]
    ) -> Optional[Tensor]:
        """Compute the loss of a batch."""
        config, teacher, lengths = self.config, batch.teacher, encoded.lengths
        if config.target == "self":
            own = encoded.all_logits.detach().float().log_softmax(-1)  # (B, T, V)
            teacher = FramePosteriors(own, lengths, self.model.blank_id)
        losses = []
        for layer, states in encoded.layers:  # (B, T, dim)
            to_logits = self._head(layer)
            head: Optional[Callable[[Tensor], Tensor]] = to_logits
            loss = states.new_zeros(())
            if config.ctc_weight > 0:
                states, head = to_logits(states), None  # (B, T, V)
                ctc = ctc_of(self.model, states, batch, lengths).sum()
                ctc = norm_ctc(self.kd.ctc_norm, ctc, batch)
                stats[f"loss_ctc_layer{layer}"] = ctc.detach()
                loss = loss + config.ctc_weight * ctc
            if config.kd_weight > 0:
                assert teacher is not None
                distance, _ = self.objective(
                    states, lengths, teacher, labels=batch.text_lengths, head=head
                )
                stats[f"loss_kd_layer{layer}"] = distance.detach()
                loss = loss + config.kd_weight * distance
            losses.append(loss)
        stacked = torch.stack(losses)
        return stacked.mean() if config.combine == "mean" else stacked.sum()

    def _head(self, layer: int) -> Callable[[Tensor], Tensor]:
        """Return the function from an intermediate layer's states to logits."""
        model = self.model
        if hasattr(model.encoder, "lower_logits"):
            return functools.partial(
                model.encoder.lower_logits, ctc_lo=model.ctc.ctc_lo
            )
        shared = self.config.head == "shared"
        head: torch.nn.Module = (
            model.ctc.ctc_lo if shared else model.inter_heads[str(layer)]
        )
        return head
