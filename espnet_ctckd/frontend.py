"""HuBERT, wav2vec 2.0 and WavLM in front of ESPnet's CTC head, at 20 or 40 ms."""

from typing import Any, Tuple

import torch
from espnet2.asr.frontend.huggingface import HuggingFaceFrontend
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import length_mask


class CTCKDHuggingFaceFrontend(HuggingFaceFrontend):
    """ESPnet's front end of Hugging Face models, with pooled frames.

    ESPnet 202511 takes samples for frames; here, as in 202611, the model itself says
    how many frames an utterance has. Models that want no attention mask hear the
    padding of a batch, as in their own training.

    Args:
        model: id on the hub, or a folder.
        pool: so many frames become one, by the maximum of each feature. 2 makes 40 ms
            of 20; frames that do not fill the last one are left out.
        **kwargs: of ESPnet's: ``fs``, ``download_dir``, ``load_pretrained``.

    Raises:
        InputError: the model takes no audio, or ``pool`` is not at least 1.

    References:
        Hsu et al., HuBERT: Self-Supervised Speech Representation Learning by Masked
        Prediction of Hidden Units (2021), https://arxiv.org/abs/2106.07447
        Pooled before the head as in Hilmes, Rossenbach, Schlüter, Analyzing the
        Importance of Blank for CTC-Based Knowledge Distillation (2025),
        https://arxiv.org/abs/2506.01503
    """

    def __init__(self, model: str, pool: int = 1, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        if not hasattr(self.encoder, "_get_feat_extract_output_lengths"):
            raise InputError(
                f"frontend_conf.model is {model}, a {type(self.encoder).__name__}, "
                "which does not take audio: give HuBERT, wav2vec 2.0, WavLM or alike"
            )
        if isinstance(pool, bool) or not isinstance(pool, int) or pool < 1:
            raise InputError(
                f"frontend_conf.pool is {pool!r}; give a whole number >= 1"
            )
        self.pool = pool

    def forward(self, inputs: Tensor, input_lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Features of a batch.

        Args:
            inputs: audio (B, S).
            input_lengths: (B,).

        Returns:
            Features (B, T, dim) and lengths (B,).
        """
        audio = [x[:n].cpu().numpy() for x, n in zip(inputs, input_lengths)]
        given = self.processor(
            audio,
            return_tensors="pt",
            sampling_rate=self.processor.sampling_rate,
            padding=True,
        ).to(inputs.device)
        states = self.encoder(**given).last_hidden_state  # (B, T, dim)
        lengths = self.encoder._get_feat_extract_output_lengths(input_lengths)
        if self.pool > 1:
            padded = ~length_mask(lengths, states.size(1)).unsqueeze(-1)
            states = states.masked_fill(padded, torch.finfo(states.dtype).min)
            states = torch.nn.functional.max_pool1d(
                states.transpose(1, 2), self.pool
            ).transpose(1, 2)
            lengths = lengths // self.pool
        states = states[:, : int(lengths.max())]
        inside = length_mask(lengths, states.size(1)).unsqueeze(-1)
        return states.masked_fill(~inside, 0.0), lengths
