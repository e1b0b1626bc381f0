"""An ESPnet front-end of Hugging Face models, with pooling of the output frames."""

import copy
from typing import Any, Optional, Tuple

import humanfriendly
import torch
from espnet2.asr.frontend.huggingface import HuggingFaceFrontend
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.models.pretrained import (
    load_pretrained,
    mask_of,
    output_lengths,
    transformers_library,
)
from espnet_ctckd.posteriors import length_mask


class CTCKDHuggingFaceFrontend(HuggingFaceFrontend):
    """ESPnet's front-end of Hugging Face models, with max pooling over time.

    ESPnet 202511 takes the lengths in samples for lengths in frames; here, as in
    ESPnet 202611, the model computes the lengths in frames. Weights are loaded as
    float32, and a checkpoint that lacks weights is refused. Models that take no
    attention mask process the padding of a batch as audio, as in their own training.

    Args:
        model: id on the hub, or a folder.
        pool: number of frames merged into one by max pooling: 2 turns a frame shift of
            20 ms into 40 ms. An incomplete last group is dropped.
        fs: sample rate in Hz.
        download_dir: folder for downloads from the hub.
        load_pretrained: start from the weights of ``model`` instead of random ones.

    Raises:
        InputError: the model takes no audio, cannot be loaded or lacks weights, or
            ``pool`` is not a whole number >= 1.

    References:
        Hsu et al., HuBERT: Self-Supervised Speech Representation Learning by Masked
        Prediction of Hidden Units (2021), https://arxiv.org/abs/2106.07447
        Pooled before the head as in Hilmes, Rossenbach, Schlüter, Analyzing the
        Importance of Blank for CTC-Based Knowledge Distillation (2025),
        https://arxiv.org/abs/2506.01503
    """

    def __init__(
        self,
        model: str,
        pool: int = 1,
        fs: Any = 16000,
        download_dir: Optional[str] = None,
        load_pretrained: bool = True,
    ) -> None:
        # ESPnet's constructor is skipped: it leaves missing weights random.
        super(HuggingFaceFrontend, self).__init__()
        if isinstance(pool, bool) or not isinstance(pool, int) or pool < 1:
            raise InputError(
                f"frontend_conf.pool is {pool!r}; give a whole number >= 1"
            )
        self.pool = pool
        self.encoder, self.processor = _open(model, download_dir, load_pretrained)
        self.pretrained_params = copy.deepcopy(self.encoder.state_dict())
        rate = humanfriendly.parse_size(fs) if isinstance(fs, str) else fs
        if rate != self.processor.sampling_rate:
            raise InputError(
                f"frontend_conf.fs is {fs}, and {model} takes "
                f"{self.processor.sampling_rate} samples per second: set that"
            )
        self._size = self._probe(model)

    def _probe(self, model: str) -> int:
        """Measure the feature size on 1 s of silence; refuse models without frames."""
        wanted = "give HuBERT, wav2vec 2.0, WavLM, W2V-BERT or alike"
        rate = self.processor.sampling_rate
        training = self.encoder.training
        try:
            with torch.no_grad():
                self.encoder.eval()
                states, lengths = self._encode(
                    torch.zeros(1, rate), torch.tensor([rate])
                )
        except InputError:
            raise
        # Models without audio input raise errors of their own.
        except Exception as error:
            raise InputError(
                f"frontend_conf.model is {model}, a {type(self.encoder).__name__}, "
                f"which does not take audio ({error}): {wanted}"
            ) from None
        self.encoder.train(training)
        if not 0 <= states.size(1) - int(lengths) <= 1:
            raise InputError(
                f"frontend_conf.model is {model}, which outputs {states.size(1)} "
                f"frames of 1 s and counts {int(lengths)}: {wanted}"
            )
        return states.size(2)

    def output_size(self) -> int:
        """Return the size of the features."""
        return self._size

    def _encode(self, inputs: Tensor, input_lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Compute last hidden states (B, T, dim) and lengths (B,) of audio (B, S)."""
        audio = [x[:n].cpu().numpy() for x, n in zip(inputs, input_lengths)]
        features = self.processor(
            audio,
            return_tensors="pt",
            sampling_rate=self.processor.sampling_rate,
            padding=True,
        ).to(inputs.device)
        mask = mask_of(features)
        if "input_features" not in features:
            counted = input_lengths
        elif mask is not None:
            counted = mask.sum(-1)
        else:
            raise InputError(
                f"frontend_conf.model is a {type(self.encoder).__name__}, which takes "
                "features, and its feature extractor gives no mask of them: the frames "
                "of an utterance are not known"
            )
        lengths = output_lengths(self.encoder, counted)
        if lengths is None:
            raise InputError(
                f"frontend_conf.model is a {type(self.encoder).__name__}, which does "
                "not take audio: give HuBERT, wav2vec 2.0, WavLM, W2V-BERT or alike"
            )
        states = self.encoder(**features).last_hidden_state  # (B, T, dim)
        return states, lengths.to(states.device)

    def forward(self, inputs: Tensor, input_lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Compute the features of a batch.

        Args:
            inputs: audio (B, S).
            input_lengths: (B,).

        Returns:
            Features (B, T, dim) and lengths (B,).
        """
        states, lengths = self._encode(inputs, input_lengths)
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


def _open(model: str, download_dir: Optional[str], pretrained: bool) -> Tuple[Any, Any]:
    """Open the encoder and its feature extractor."""
    library = transformers_library("front-ends of Hugging Face")
    where = f"frontend_conf.model is {model}"
    try:
        processor = library.AutoFeatureExtractor.from_pretrained(
            model, cache_dir=download_dir
        )
        if pretrained:
            encoder = load_pretrained(
                library.AutoModel, model, where, cache_dir=download_dir
            )
        else:
            config = library.AutoConfig.from_pretrained(model, cache_dir=download_dir)
            encoder = library.AutoModel.from_config(config, dtype=torch.float32)
    except InputError:
        raise
    # The libraries raise many types of errors for damaged or unknown files.
    except Exception as error:
        raise InputError(
            f"{where}, which cannot be loaded as a model of audio: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}. Give the id of "
            "one on the hub (and check the network), or a folder that save_pretrained "
            "has written"
        ) from None
    # For some model types, the library's model without a head includes the CTC head.
    if hasattr(encoder, "ctc_head"):
        encoder = encoder.encoder
    return encoder, processor
