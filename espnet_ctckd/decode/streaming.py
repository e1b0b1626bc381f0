"""Streaming greedy decoding with ESPnet's contextual-block encoders."""

import math
from dataclasses import dataclass
from typing import Any, Iterator, List, Sequence, Tuple

import torch
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.encoder.contextual_block_transformer_encoder import (
    ContextualBlockTransformerEncoder,
)
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.utterance_mvn import UtteranceMVN
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike
from espnet_ctckd.models.ctc_model import CTCModel


@dataclass(frozen=True)
class Emission:
    """A decoded token, with its time and the time of its output.

    Attributes:
        token: token index.
        spoken: time of the token's frame, in seconds from the start.
        heard: seconds of audio that had been received when the token was output.
    """

    token: int
    spoken: float
    heard: float


class StreamingDecoder:
    """Decodes audio piece by piece, as it is received.

    Args:
        config_file: ``config.yaml`` of a model with a contextual-block encoder.
        model_file: weights of the model.
        device: device of the computation.

    Attributes:
        token_list: V tokens.
        rate: sample rate in Hz.
        parameters: number of the model's parameters that CTC decoding uses.
        shortest: smallest number of samples that gives one frame.

    Raises:
        InputError: the model cannot decode a stream.

    References:
        Tsunoo, Kashiwagi, Watanabe, Streaming Transformer ASR with Blockwise
        Synchronous Beam Search (2020), https://arxiv.org/abs/2006.14941
    """

    def __init__(
        self, config_file: Pathlike, model_file: Pathlike, device: str = "cpu"
    ) -> None:
        ctc = CTCModel(config_file, model_file, device)
        model, args = ctc.model, ctc.args
        kinds = (ContextualBlockConformerEncoder, ContextualBlockTransformerEncoder)
        if not isinstance(model.encoder, kinds):
            raise InputError(
                f"the encoder of {config_file} is {args.encoder!r}, which hears all of "
                "an utterance: only contextual_block_conformer and "
                "contextual_block_transformer decode a stream"
            )
        if isinstance(model.normalize, UtteranceMVN):
            raise InputError(
                f"{config_file} has normalize: utterance_mvn, which needs all of an "
                "utterance: train a student that streams with global_mvn"
            )
        if ctc.volume is not None:
            raise InputError(
                f"{config_file} has speech_volume_normalize, which needs all of an "
                "utterance: train a student that streams without"
            )
        self._model = model
        self._pieces = _FeaturePieces(model, str(config_file))
        self.shortest, self.rate = ctc.shortest, ctc.rate
        self._blank, self.token_list = ctc.blank, ctc.tokens
        self.parameters = ctc.parameters
        self._shift = float(ctc.frame_shift) / self.rate

    @torch.inference_mode()
    def decode(self, speech: Tensor, chunk: int) -> Iterator[Emission]:
        """Decode one utterance.

        Args:
            speech: (S,), in [-1, 1].
            chunk: number of samples of a piece; the last piece also has the rest.

        Yields:
            The tokens, as soon as they are known; none if the audio is too short for
            a frame.
        """
        model, states = self._model, None
        if len(speech) < self.shortest:
            return
        last, frame = self._blank, 0
        pieces = max(len(speech) // chunk, 1)
        ends = [*((i + 1) * chunk for i in range(pieces - 1)), len(speech)]
        for end, feats in self._pieces(speech, ends):
            final = end == len(speech)
            if feats.size(1) == 0 and not final:
                continue
            lengths = torch.tensor([feats.size(1)], device=feats.device)
            hidden, _, states = model.encoder(
                feats, lengths, states, is_final=final, infer_mode=True
            )  # (1, T', dim)
            for token in model.ctc.ctc_lo(hidden).argmax(-1)[0].tolist():
                if token not in (last, self._blank):
                    yield Emission(token, frame * self._shift, end / self.rate)
                last, frame = token, frame + 1


class _FeaturePieces:
    """Normalised features of audio that is received piece by piece.

    The features of all pieces are equal to those of the whole utterance: a frame is
    computed once all samples under its window have been received.
    """

    def __init__(self, model: Any, where: str) -> None:
        frontend = model.frontend
        if not isinstance(frontend, DefaultFrontend) or not frontend.apply_stft:
            raise InputError(
                f"{where} has another front-end than `default` with apply_stft, which "
                "is the only one that decodes a stream"
            )
        if model.preencoder is not None or model.postencoder is not None:
            raise InputError(
                f"{where} has a preencoder or a postencoder, which are not run on "
                "streams: train a student that streams without"
            )
        self._model, stft = model, frontend.stft
        self._hop, self._size = int(stft.hop_length), int(stft.n_fft)
        self._center = bool(stft.center)
        # Samples from the start of a frame's hop to the end of its window.
        self._reach = -(-int(stft.win_length) // 2) if self._center else self._size

    def __call__(
        self, speech: Tensor, ends: Sequence[int]
    ) -> Iterator[Tuple[int, Tensor]]:
        """Iterate over the new features (1, F, dim) for each end of a piece.

        Args:
            speech: (S,).
            ends: number of samples received after each piece.
        """
        device = next(self._model.parameters()).device
        done = 0
        for end in ends:
            frames = self._frames(end, final=end == len(speech))
            # Start early enough that samples before the segment have no effect.
            first = max(0, done - -(-self._size // self._hop))
            segment = speech[first * self._hop : end].unsqueeze(0).to(device)
            if frames > done:
                lengths = torch.tensor([segment.size(1)], device=device)
                feats, lengths = self._model._extract_feats(segment, lengths)
                feats = feats[:, done - first : frames - first]
                if self._model.normalize is not None:
                    lengths = torch.tensor([feats.size(1)], device=device)
                    feats, _ = self._model.normalize(feats, lengths)
            else:
                size = self._model.frontend.output_size()
                feats = torch.zeros(1, 0, size, device=device)
            yield end, feats
            done = max(done, frames)

    def _frames(self, samples: int, final: bool) -> int:
        """Return the number of frames that do not depend on later samples."""
        if final and self._center:
            return samples // self._hop + 1
        # The transform reflects half of its size at the end of a segment.
        if samples <= self._size // 2 or samples < self._reach:
            return 0
        return (samples - self._reach) // self._hop + 1


def latency(emissions: List[Emission]) -> float:
    """Return the mean delay from a token's frame to its output in seconds, or NaN."""
    waits = [emission.heard - emission.spoken for emission in emissions]
    return math.fsum(waits) / len(waits) if waits else math.nan
