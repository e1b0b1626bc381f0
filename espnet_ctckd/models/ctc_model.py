"""The CTC branch of an ESPnet model, from waveforms to log-probabilities."""

from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Type

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.abs_task import AbsTask
from espnet2.tasks.asr import ASRTask
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike
from espnet_ctckd.models.espnet import (
    encode,
    load_espnet_model,
    measure_frame_shift,
    sample_rate,
    scale_peak,
    shortest_input,
    volume_of,
)
from espnet_ctckd.tokens import type_of_words


class CTCModel:
    """Inference with the CTC branch of an ESPnet model that takes audio.

    Args:
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        device: ``cpu`` or ``cuda``.
        task: ESPnet task, see `task_of`.

    Attributes:
        config_file: ``config.yaml`` of the training.
        model: the ESPnet model, in eval mode.
        args: arguments of the training.
        device: ``cpu`` or ``cuda``.
        tokens: V tokens.
        blank: index of the blank.
        token_type: ESPnet's token type, for joining tokens to words.
        rate: sample rate in Hz.
        volume: peak to which each utterance is scaled, or None.
        parameters: number of parameters that CTC decoding uses.

    Raises:
        InputError: the model cannot be loaded, has no CTC branch, or takes features.
    """

    def __init__(
        self,
        config_file: Pathlike,
        model_file: Pathlike,
        device: str = "cpu",
        task: Type[AbsTask] = ASRTask,
    ) -> None:
        self.model, self.args = load_espnet_model(config_file, model_file, device, task)
        self.config_file, self.device = config_file, device
        if self.model.ctc is None:
            raise InputError(f"{config_file} has no CTC branch: give a model with one")
        if self.args.input_size is not None:
            raise InputError(
                f"{config_file} takes features (input_size {self.args.input_size}): "
                "give a model that takes audio"
            )
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.tokens: List[str] = list(self.model.token_list)
        self.blank: int = self.model.blank_id
        self.token_type = type_of_words(self.args.token_type, self.tokens)
        self.rate, self.volume = sample_rate(self.args), volume_of(self.args)
        self.parameters = count_parameters(self.model)

    @cached_property
    def frame_shift(self) -> Fraction:
        """The frame shift of the output in samples."""
        return measure_frame_shift(self.model)

    @cached_property
    def shortest(self) -> int:
        """The minimum number of samples for one output frame."""
        return shortest_input(self.model)

    @property
    def bpemodel(self) -> Optional[Path]:
        """The file of the model's sentencepiece model, if it exists."""
        path = self.args.bpemodel and Path(self.args.bpemodel)
        return path if path and path.is_file() else None

    def scaled(self, audio: Sequence[Tensor]) -> List[Tensor]:
        """Scale waveforms (S,) to the model's volume, on its device."""
        return [scale_peak(each, self.volume).to(self.device) for each in audio]

    @torch.no_grad()
    def encode(self, audio: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Encode utterances independently of the batch.

        Args:
            audio: waveforms (S,) in [-1, 1], of any lengths.

        Returns:
            Encoder output (B, T, dim) and lengths (B,).
        """
        return encode(self.model, self.scaled(audio))

    @torch.no_grad()
    def project(self, states: Tensor) -> Tensor:
        """Compute log-probabilities (B, T, V) of states (B, T, dim), in float32."""
        with torch.autocast(states.device.type, enabled=False):
            logits: Tensor = self.model.ctc.ctc_lo(states.float())
            return logits.log_softmax(-1)

    def log_probs(self, audio: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Compute log-probabilities of utterances independently of the batch.

        Args:
            audio: waveforms (S,) in [-1, 1], of any lengths.

        Returns:
            Log-probabilities (B, T, V) and lengths (B,).
        """
        states, lengths = self.encode(audio)
        return self.project(states), lengths


def count_parameters(model: ESPnetASRModel) -> int:
    """Count the parameters used by CTC decoding, without an attention decoder."""
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if not name.startswith(("decoder.", "joint_network."))
    )
