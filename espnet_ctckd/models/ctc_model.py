"""An ESPnet model as a plain CTC model: from waveforms to log-probabilities."""

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
    """The CTC branch of an ESPnet model that takes audio, for inference.

    Args:
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        device: ``cpu`` or ``cuda``.
        task: of ESPnet, from `task_of`.

    Attributes:
        config_file: ``config.yaml`` of the training.
        model: the ESPnet model, in eval mode.
        args: arguments of the training.
        device: ``cpu`` or ``cuda``.
        tokens: V.
        blank: index of the blank.
        token_type: of ESPnet: how tokens make words.
        rate: samples per second.
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
        """Samples from one output frame to the next."""
        return measure_frame_shift(self.model)

    @cached_property
    def shortest(self) -> int:
        """The fewest samples that give a frame."""
        return shortest_input(self.model)

    @property
    def bpemodel(self) -> Optional[Path]:
        """The file of the model's word pieces, if it is there."""
        path = self.args.bpemodel and Path(self.args.bpemodel)
        return path if path and path.is_file() else None

    def scaled(self, audio: Sequence[Tensor]) -> List[Tensor]:
        """Waveforms (S,) at the volume and on the device of the model."""
        return [scale_peak(each, self.volume).to(self.device) for each in audio]

    @torch.no_grad()
    def encode(self, audio: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Encode utterances, each as if it were alone.

        Args:
            audio: waveforms (S,) in [-1, 1], of any lengths.

        Returns:
            Encoder output (B, T, dim) and lengths (B,).
        """
        return encode(self.model, self.scaled(audio))

    @torch.no_grad()
    def project(self, states: Tensor) -> Tensor:
        """Log-probabilities (B, T, V) of encoder output (B, T, dim), in float32."""
        with torch.autocast(states.device.type, enabled=False):
            logits: Tensor = self.model.ctc.ctc_lo(states.float())
            return logits.log_softmax(-1)

    def log_probs(self, audio: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Log-probabilities of utterances, each as if it were alone.

        Args:
            audio: waveforms (S,) in [-1, 1], of any lengths.

        Returns:
            (B, T, V) and lengths (B,).
        """
        states, lengths = self.encode(audio)
        return self.project(states), lengths


def count_parameters(model: ESPnetASRModel) -> int:
    """Parameters that CTC decoding uses: an attention decoder is left out."""
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if not name.startswith(("decoder.", "joint_network."))
    )
