"""Teachers from ESPnet: the CTC branch of ASR models, and OWSM-CTC."""

import hashlib
import re
from dataclasses import replace
from importlib import metadata
from typing import Dict, List, Optional, Sequence, Tuple, Type

import torch
from espnet2.tasks.abs_task import AbsTask
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.s2t_ctc import S2TTask
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, sha256, shorten
from espnet_ctckd.models.checkpoint import load_config
from espnet_ctckd.models.ctc_model import CTCModel
from espnet_ctckd.models.espnet import task_of
from espnet_ctckd.models.probe import frames_per_shift, least_samples
from espnet_ctckd.models.zoo import find_model
from espnet_ctckd.posteriors import FramePosteriors

# OWSM's special tokens, and those among them that stand for speech.
_SPECIAL = re.compile(r"<[^<>]+>")
_SPOKEN = ("<unk>", "<space>")
# Batch size of OWSM-CTC in utterances of 30 s.
_BATCH_SIZE = 8


def spoken_tokens(token_list: Sequence[str], blank: int) -> List[int]:
    """Select the blank and the tokens of OWSM that stand for speech.

    Args:
        token_list: tokens of the model.
        blank: index of the blank among them.

    Returns:
        Their indices.
    """
    return [
        index
        for index, token in enumerate(token_list)
        if index == blank or token in _SPOKEN or not _SPECIAL.fullmatch(token)
    ]


class EspnetTeacher:
    """CTC posteriors of an ESPnet ASR model.

    Of hybrid models, the CTC branch is used.

    Args:
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        device: device of the model.

    Attributes:
        batching: see `Teacher`.

    Raises:
        InputError: the model cannot be loaded, has no CTC branch, or takes features
            instead of audio.
    """

    batching = "single"
    _task: Type[AbsTask] = ASRTask

    def __init__(
        self, config_file: Pathlike, model_file: Pathlike, device: str = "cpu"
    ) -> None:
        self._model = CTCModel(config_file, model_file, device, self._task)
        self._device = device
        self._files: Dict[str, Pathlike] = {
            "config": config_file,
            "weights": model_file,
        }
        self.token_list: List[str] = self._model.tokens
        self.blank: int = self._model.blank
        self.state_size: int = self._model.model.encoder.output_size()
        path = self._model.bpemodel
        self.bpemodel: Optional[bytes] = path.read_bytes() if path else None
        self.rate: int = self._model.rate
        self._measure()

    def _measure(self) -> None:
        """Measure the frame shift and the minimum and maximum input length."""
        self.frame_shift = self._model.frame_shift
        self.shortest = self._model.shortest
        self.longest: Optional[int] = None

    @torch.no_grad()
    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Compute the frame posteriors of a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V), dense, with the hidden states (B, U, D).
        """
        audio = [row[:size] for row, size in zip(speech, lengths.tolist())]
        states, lengths = self._encode(audio)
        log_probs = self._model.project(states)
        return FramePosteriors(log_probs, lengths, self.blank, states=states)

    def _encode(self, audio: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        return self._model.encode(audio)

    def describe(self) -> Dict[str, str]:
        """Return the provenance: kind, files, hashes and version of ESPnet."""
        described = {"type": "espnet", "espnet": metadata.version("espnet")}
        for name, path in self._files.items():
            described[name] = str(path)
            described[f"{name}_sha256"] = sha256(path)
        return described


class OWSMCTCTeacher(EspnetTeacher):
    """CTC posteriors of OWSM-CTC, or of any model of ESPnet's task ``s2t_ctc``.

    Audio is padded to the length of the training, 30 s, and the output frames of the
    padding are dropped. The first two frames stand for the language and task of the
    prompt, and are also dropped. The probability of tokens for languages, tasks and
    times (``<...>``), which a student does not have, is added to the blank.

    Args:
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        device: device of the model.
        language: spoken language, e.g. ``eng``; ``nolang`` lets the model guess.
        task: ``asr``, or e.g. ``st_deu`` for translation to German.

    Raises:
        InputError: see `EspnetTeacher`; or the language or task is unknown.

    References:
        Peng et al., OWSM-CTC: An Open Encoder-Only Speech Foundation Model for Speech
        Recognition, Translation, and Language Identification (2024),
        https://arxiv.org/abs/2402.12654
    """

    _task = S2TTask

    def __init__(
        self,
        config_file: Pathlike,
        model_file: Pathlike,
        device: str = "cpu",
        language: str = "nolang",
        task: str = "asr",
    ) -> None:
        self._prompt = (language, task)
        super().__init__(config_file, model_file, device)

    def _measure(self) -> None:
        every = self.token_list
        for name in self._prompt:
            if f"<{name}>" not in every:
                known = [t[1:-1] for t in every if _SPECIAL.fullmatch(t)]
                raise InputError(
                    f"the teacher {self._files['config']} knows no language or task "
                    f"{name!r}; it knows {shorten(known, 300)}"
                )
        self._prefix = torch.tensor([[every.index(f"<{n}>") for n in self._prompt]])
        self._spoken = spoken_tokens(every, self.blank)
        self._silent = sorted({*range(len(every))} - {*self._spoken} | {self.blank})
        self.token_list = [every[index] for index in self._spoken]
        self.blank = self._spoken.index(self.blank)
        conf = getattr(self._model.args, "preprocessor_conf", None) or {}
        self.longest = int(self.rate * conf.get("speech_length", 30))
        self.frame_shift = frames_per_shift(self._frames)
        self.shortest = least_samples(self._frames)

    @torch.no_grad()
    def _frames(self, samples: int) -> int:
        speech = torch.zeros(1, samples, device=self._device)
        lengths = torch.tensor([samples], device=self._device)
        return int(self._encode_batch(speech, lengths)[1])

    def _encode_batch(self, speech: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Encode audio without the prompt's frames: (B, U, dim) and lengths (B,)."""
        batch, device = speech.size(0), speech.device
        no_text = torch.full((batch, 1), self._model.model.na, device=device)
        prefix = self._prefix.to(device).expand(batch, -1)
        states, lengths = self._model.model.encode(
            speech,
            lengths,
            no_text,
            torch.ones_like(lengths),
            prefix,
            torch.full_like(lengths, prefix.size(1)),
        )
        if isinstance(states, tuple):
            states = states[0]
        return states[:, prefix.size(1) :], lengths - prefix.size(1)

    def _encode(self, audio: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        assert self.longest is not None
        speech = pad_sequence(self._model.scaled(audio), batch_first=True)  # (B, S)
        lengths = torch.tensor([len(each) for each in audio], device=speech.device)
        if speech.size(1) > self.longest:
            raise InputError(
                f"an utterance has {speech.size(1) / self.rate:g} s, and the teacher "
                f"{self._files['config']} hears {self.longest / self.rate:g} s at "
                "most: segment the audio"
            )
        speech = torch.nn.functional.pad(speech, (0, self.longest - speech.size(1)))
        # Padding to 30 s makes batches of short utterances far larger: split them.
        states = torch.cat(
            [
                self._encode_batch(
                    part, torch.full_like(lengths[: len(part)], self.longest)
                )[0]
                for part in torch.split(speech, _BATCH_SIZE)
            ]
        )
        # Frames that begin within the audio; strided layers round down only once.
        frames = (lengths - self.shortest) * self.frame_shift.denominator
        frames = frames // self.frame_shift.numerator + 1
        return states[:, : int(frames.max())], frames

    @torch.no_grad()
    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Compute the frame posteriors of a batch, see `EspnetTeacher.posteriors`."""
        full = super().posteriors(speech, lengths)
        log_probs = full.log_probs[..., self._spoken]  # (B, U, V)
        log_probs[..., self.blank] = full.log_probs[..., self._silent].logsumexp(-1)
        return replace(full, log_probs=log_probs)

    def describe(self) -> Dict[str, str]:
        """Return the provenance, with the prompt."""
        return {
            **super().describe(),
            "prompt": " ".join(self._prompt),
            "prompt_sha256": hashlib.sha256(repr(self._prompt).encode()).hexdigest(),
        }


def open_espnet(
    source: Optional[str] = None,
    *,
    device: str = "cpu",
    config_file: Optional[Pathlike] = None,
    model_file: Optional[Pathlike] = None,
    language: Optional[str] = None,
    task: Optional[str] = None,
) -> EspnetTeacher:
    """Open an ESPnet model as a teacher, by the task of its configuration.

    Args:
        source: folder, zip or tag, see `find_model`; None if the files are given.
        device: device of the model.
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        language: language for OWSM-CTC.
        task: task for OWSM-CTC.

    Returns:
        The teacher.

    Raises:
        InputError: the model cannot be loaded, or has no CTC posteriors.
    """
    if source is not None:
        config_file, model_file = find_model(source)
    if config_file is None or model_file is None:
        raise InputError(
            "an ESPnet teacher is a folder, zip or tag (`source`), or a configuration "
            "and weights (`config_file` and `model_file`)"
        )
    options = {"language": language, "task": task}
    given = {key: value for key, value in options.items() if value is not None}
    if task_of(load_config(config_file)) is S2TTask:
        return OWSMCTCTeacher(config_file, model_file, device, **given)
    if given:
        raise InputError(
            f"the teacher {config_file} takes no {' or '.join(given)}: only OWSM-CTC "
            "(s2t_ctc) has such an option"
        )
    return EspnetTeacher(config_file, model_file, device)
