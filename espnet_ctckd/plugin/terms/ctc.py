"""CTC on the transcripts."""

from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.plugin.batch import Batch, EncoderOutput
from espnet_ctckd.plugin.terms.base import Term
from espnet_ctckd.reduce import sum_over_processes


class CTCTerm(Term):
    """ESPnet's CTC loss, with optional CTC losses of intermediate layers."""

    frame_config = None

    @property
    def asked(self) -> bool:
        """True if the configuration asks for the term."""
        return self.kd.uses_ctc

    @property
    def reads_logits(self) -> bool:
        """True if the term reads the last layer's logits of all frames."""
        return self._of_logits

    @property
    def _of_logits(self) -> bool:
        """True if ESPnet's CTC loss can be computed from the plain logits.

        With a dropout rate, ESPnet's CTC applies dropout to the output layer's input,
        even in evaluation.
        """
        ctc = self.model.ctc
        plain = ctc.ctc_type in ("builtin", "builtin2")
        return plain and bool(ctc.dropout_rate == 0.0)

    def weigh(self, loss: Tensor) -> Tensor:
        """Return the weighted loss of the term."""
        weighted: Tensor = self.kd.ctc_weight * loss
        return weighted

    def forward(
        self, batch: Batch, encoded: EncoderOutput, stats: Dict[str, Any]
    ) -> Optional[Tensor]:
        """Compute the loss of a batch."""
        model = self.model
        assert batch.text is not None
        assert batch.text_lengths is not None
        text = batch.text[:, : int(batch.text_lengths.max())]
        text = text.masked_fill(text == -1, model.ignore_id)
        labels = (text, batch.text_lengths)
        if self._of_logits:
            logits = encoded.all_logits
            loss = ctc_of(model, logits, batch, encoded.lengths).to(encoded.states)
            rate = model.error_rate(logits, text)
        else:
            loss, rate = model._calc_ctc_loss(encoded.states, encoded.lengths, *labels)
        stats["cer_ctc"] = rate
        if model.interctc_weight != 0.0 and encoded.layers:
            total = loss.new_zeros(())
            for layer, states in encoded.layers:
                given = self._aux_labels(layer, batch) or labels
                inner, rate = model._calc_ctc_loss(states, encoded.lengths, *given)
                stats[f"loss_interctc_layer{layer}"] = inner.detach()
                stats[f"cer_interctc_layer{layer}"] = rate
                total = total + inner
            mean = total / len(encoded.layers)
            loss = (1 - model.interctc_weight) * loss + model.interctc_weight * mean
        ctc = norm_ctc(self.kd.ctc_norm, loss.sum(), batch)
        stats["loss_ctc"] = ctc.detach()
        return ctc

    def _aux_labels(self, layer: int, batch: Batch) -> Optional[Tuple[Tensor, Tensor]]:
        """Return the labels (B, N) and lengths (B,) of ``aux_ctc`` for a layer."""
        name = (self.model.aux_ctc or {}).get(str(layer))
        if name is None:
            return None
        if name not in batch.more:
            raise InputError(
                f"model_conf.aux_ctc learns {name!r} at the layer {layer}, and the "
                "batch does not have it: give it with "
                "--train_data_path_and_name_and_type, and for --valid_…"
            )
        return batch.more[name], batch.more[f"{name}_lengths"]


def ctc_of(model: Any, logits: Tensor, batch: Batch, lengths: Tensor) -> Tensor:
    """Compute ESPnet's CTC loss from logits.

    Args:
        model: the student.
        logits: (B, T, V).
        batch: a batch with labels.
        lengths: number of frames (B,).
    """
    assert batch.text is not None
    assert batch.text_lengths is not None
    labels = torch.cat([t[:n] for t, n in zip(batch.text, batch.text_lengths)])
    loss: Tensor = model.ctc.loss_fn(
        logits.transpose(0, 1), labels, lengths, batch.text_lengths
    )
    return loss


def norm_ctc(norm: Optional[str], ctc: Tensor, batch: Batch) -> Tensor:
    """Normalise the CTC loss according to ``ctc_norm``.

    Args:
        norm: ``ctc_norm``.
        ctc: CTC loss, the mean over the utterances.
        batch: a batch with labels.
    """
    if norm != "token":
        return ctc
    assert batch.text_lengths is not None
    utterances = batch.text_lengths.new_tensor(batch.text_lengths.numel())
    counts = torch.stack([batch.text_lengths.sum(), utterances]).double()
    labels, everyone = sum_over_processes(counts)
    normed: Tensor = ctc * (everyone / labels).to(ctc)
    return normed
