"""Greedy decoding of audio as it comes in, with ESPnet's contextual-block encoders."""

import math
from dataclasses import dataclass
from typing import Any, Iterator, List

import torch
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.encoder.contextual_block_transformer_encoder import (
    ContextualBlockTransformerEncoder,
)
from espnet2.bin.asr_inference_streaming import Speech2TextStreaming
from torch import Tensor

from espnet_ctckd.checkpoint import load_weights
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import Pathlike
from espnet_ctckd.decode.recognise import count_parameters
from espnet_ctckd.espnet_model import load_espnet_model, measure_frame_shift


@dataclass(frozen=True)
class Emission:
    """A token, and when it was said and known.

    Attributes:
        token: its index.
        spoken: seconds from the start to the frame that it was found at.
        heard: seconds of audio that had come in when it was.
    """

    token: int
    spoken: float
    heard: float


class StreamingDecoder:
    """Decodes audio in pieces, each as soon as it is there.

    Args:
        config_file: ``config.yaml`` of a model with a contextual-block encoder.
        model_file: weights.
        device: where it computes.

    Attributes:
        token_list: V tokens.
        rate: samples per second.
        parameters: of the model, as far as CTC decoding uses it.

    Raises:
        InputError: the model is no such one.

    References:
        Tsunoo, Kashiwagi, Watanabe, Streaming Transformer ASR with Blockwise
        Synchronous Beam Search (2020), https://arxiv.org/abs/2006.14941
    """

    def __init__(
        self, config_file: Pathlike, model_file: Pathlike, device: str = "cpu"
    ) -> None:
        model, args = load_espnet_model(config_file, model_file, device)
        kinds = (ContextualBlockConformerEncoder, ContextualBlockTransformerEncoder)
        if not isinstance(model.encoder, kinds):
            raise InputError(
                f"the encoder of {config_file} is {args.encoder!r}, which hears all of "
                "an utterance: only contextual_block_conformer and "
                "contextual_block_transformer decode a stream"
            )
        # ESPnet's own cuts the features of the pieces; its search is not used.
        self._stock = Speech2TextStreaming(
            str(config_file), device=device, ctc_weight=1.0
        )
        self._stock.asr_model.load_state_dict(load_weights(model_file, device))
        self._blank = model.blank_id
        self.token_list: List[str] = list(model.token_list)
        self.rate = int(args.frontend_conf.get("fs", 16000))
        self.parameters = count_parameters(model)
        self._shift = float(measure_frame_shift(model)) / self.rate

    @torch.inference_mode()
    def decode(self, speech: Tensor, chunk: int) -> Iterator[Emission]:
        """Decode one utterance.

        Args:
            speech: (S,), in [-1, 1].
            chunk: samples that come in at a time; the last time, the rest comes, too.

        Yields:
            The tokens, as soon as they are known.
        """
        stock, model = self._stock, self._stock.asr_model
        cut: Any = None
        states: Any = None
        last, frame = self._blank, 0
        pieces = max(len(speech) // chunk, 1)
        for i in range(pieces):
            final = i == pieces - 1
            end = len(speech) if final else (i + 1) * chunk
            feats, lengths, cut = stock.apply_frontend(
                speech[i * chunk : end], cut, is_final=final
            )
            if feats is None:
                continue
            hidden, _, states = model.encoder(
                feats, lengths, states, is_final=final, infer_mode=True
            )  # (1, T', dim)
            for token in model.ctc.ctc_lo(hidden).argmax(-1)[0].tolist():
                if token not in (last, self._blank):
                    yield Emission(token, frame * self._shift, end / self.rate)
                last, frame = token, frame + 1


def latency(emissions: List[Emission]) -> float:
    """Mean seconds from the frame of a token to its being known; NaN where none is."""
    waits = [emission.heard - emission.spoken for emission in emissions]
    return math.fsum(waits) / len(waits) if waits else math.nan
