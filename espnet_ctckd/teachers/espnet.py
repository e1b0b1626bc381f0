"""Teachers that ESPnet trained: the CTC branch of ASR models, and OWSM-CTC."""

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

# Tokens for what is not spoken, as OWSM writes them, and those of the kind that are.
_SPECIAL = re.compile(r"<[^<>]+>")
_SPOKEN = ("<unk>", "<space>")
# Utterances that OWSM-CTC hears at once.
_TOGETHER = 8


def spoken_tokens(token_list: Sequence[str], blank: int) -> List[int]:
    """Those of OWSM's tokens that stand for something said, and the blank.

    Args:
        token_list: of the model.
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

    Hybrid models give those of their CTC branch.

    Args:
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        device: where it computes.

    Attributes:
        batching: as of `Teacher`.

    Raises:
        InputError: it cannot be loaded, has no CTC branch, or takes features instead
            of audio.
    """

    batching = "single"
    _task: Type[AbsTask] = ASRTask
    batching = "single"

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
        """Find out its frame shift and limits."""
        self.frame_shift = self._model.frame_shift
        self.shortest = self._model.shortest
        self.longest: Optional[int] = None

    @torch.no_grad()
    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Frame posteriors of a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V), dense, and the states (B, U, D) that they come from.
        """
        audio = [row[:size] for row, size in zip(speech, lengths.tolist())]
        states, lengths = self._encode(audio)
        log_probs = self._model.project(states)
        return FramePosteriors(log_probs, lengths, self.blank, states=states)

    def _encode(self, audio: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        return self._model.encode(audio)

    def describe(self) -> Dict[str, str]:
        """Provenance: kind, files, hashes and the version of ESPnet."""
        described = {"type": "espnet", "espnet": metadata.version("espnet")}
        for name, path in self._files.items():
            described[name] = str(path)
            described[f"{name}_sha256"] = sha256(path)
        return described


class OWSMCTCTeacher(EspnetTeacher):
    """CTC posteriors of OWSM-CTC, or any model of ESPnet's task ``s2t_ctc``.

    It hears audio padded to the length that it was trained with, 30 s, and what it
    says of the padding is left out. Its first two frames stand for the language and
    the task that it is told, and are left out, too. Tokens for languages, tasks and
    times (``<...>``) are none that a student says: their mass is the blank's.

    Args:
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        device: where it computes.
        language: that is spoken, e.g. ``eng``; it guesses where it is told none.
        task: ``asr``, or ``st_deu`` for what it says in another language.

    Raises:
        InputError: as `EspnetTeacher`, or it does not know the language or task.

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
        return int(self._hear(speech, lengths)[1])

    def _hear(self, speech: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Encoder output (B, U, dim) and lengths (B,), without the prompt's frames."""
        batch, device = speech.size(0), speech.device
        nothing = torch.full((batch, 1), self._model.model.na, device=device)
        prefix = self._prefix.to(device).expand(batch, -1)
        states, lengths = self._model.model.encode(
            speech,
            lengths,
            nothing,
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
        # Padded so far, a batch of short utterances would be far larger than it was.
        states = torch.cat(
            [
                self._hear(part, torch.full_like(lengths[: len(part)], self.longest))[0]
                for part in torch.split(speech, _TOGETHER)
            ]
        )
        # Frames that begin within the audio: strided layers floor once in all.
        frames = (lengths - self.shortest) * self.frame_shift.denominator
        frames = frames // self.frame_shift.numerator + 1
        return states[:, : int(frames.max())], frames

    @torch.no_grad()
    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Frame posteriors of a batch, as `EspnetTeacher.posteriors`."""
        said = super().posteriors(speech, lengths)
        log_probs = said.log_probs[..., self._spoken]  # (B, U, V)
        log_probs[..., self.blank] = said.log_probs[..., self._silent].logsumexp(-1)
        return replace(said, log_probs=log_probs)

    def describe(self) -> Dict[str, str]:
        """Provenance, with what it is told."""
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
    """Open a model of ESPnet, of the task that its configuration is of.

    Args:
        source: folder, zip or tag, as `find_model` takes it; None where the files are
            given.
        device: where it computes.
        config_file: ``config.yaml`` of the training.
        model_file: weights.
        language: of OWSM-CTC.
        task: of OWSM-CTC.

    Returns:
        The teacher.

    Raises:
        InputError: it cannot be loaded, or is none that has CTC posteriors.
    """
    if source is not None:
        config_file, model_file = find_model(source)
    if config_file is None or model_file is None:
        raise InputError(
            "an ESPnet teacher is a folder, zip or tag (`source`), or a configuration "
            "and weights (`config_file` and `model_file`)"
        )
    told = {"language": language, "task": task}
    given = {key: value for key, value in told.items() if value is not None}
    if task_of(load_config(config_file)) is S2TTask:
        return OWSMCTCTeacher(config_file, model_file, device, **given)
    if given:
        raise InputError(
            f"the teacher {config_file} takes no {' or '.join(given)}: only OWSM-CTC "
            "(s2t_ctc) is told that"
        )
    return EspnetTeacher(config_file, model_file, device)
