"""Recognise a list of audio files with the CTC branch of an ESPnet model."""

import logging
import time
from dataclasses import asdict, dataclass
from typing import Dict, List

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.text.build_tokenizer import build_tokenizer

from espnet_ctckd.cache.writer import make_plan
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import Pathlike, read_audio
from espnet_ctckd.decode.greedy import greedy
from espnet_ctckd.teachers.espnet import (
    encode,
    load_espnet_model,
    sample_rate,
    shortest_input,
)


@dataclass(frozen=True)
class Speed:
    """What a recognition took.

    Attributes:
        audio_seconds: length of all audio.
        compute_seconds: wall time of front-end, encoder and search; files are read
            before and written after.
        rtf: compute_seconds / audio_seconds.
        utterances: how many.
        parameters: of the model, as far as CTC decoding uses it.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU.
    """

    audio_seconds: float
    compute_seconds: float
    rtf: float
    utterances: int
    parameters: int
    device: str
    threads: int


@dataclass(frozen=True)
class Recognised:
    """Result for a set: tokens and text of each utterance, and the time it took."""

    tokens: Dict[str, List[str]]
    text: Dict[str, str]
    speed: Speed

    def summary(self) -> Dict[str, object]:
        """The speed, for a JSON file."""
        return asdict(self.speed)


def recognise(
    config_file: Pathlike,
    model_file: Pathlike,
    wav_scp: str,
    batch_seconds: float,
    device: str,
) -> Recognised:
    """Decode greedily, in batches by length.

    Args:
        config_file: ``config.yaml`` of a model with a CTC branch, ours or not.
        model_file: weights.
        wav_scp: Kaldi's list of audio files.
        batch_seconds: audio of a batch, padding included.
        device: ``cpu`` or ``cuda``.

    Returns:
        Tokens, text and speed.

    Raises:
        InputError: model or audio cannot be used.
    """
    model, args = load_espnet_model(config_file, model_file, device)
    if model.ctc is None:
        raise InputError(f"{config_file} has no CTC branch to decode")
    if args.input_size is not None:
        raise InputError(
            f"{config_file} takes features (input_size {args.input_size}); only "
            "models that take audio are decoded here"
        )
    tokenizer = build_tokenizer(args.token_type, bpemodel=args.bpemodel)
    plan = make_plan(wav_scp, sample_rate(args), shortest_input(model), batch_seconds)
    tokens: Dict[str, List[str]] = {}
    text: Dict[str, str] = {}
    seconds, samples = 0.0, 0
    for batch in (batch for shard in plan.shards for batch in shard):
        audio = [torch.from_numpy(read_audio(u.name, u.path, plan.rate)) for u in batch]
        samples += sum(len(a) for a in audio)
        start = time.perf_counter()
        found = _decode_batch(model, audio, device)
        seconds += time.perf_counter() - start
        for utterance, ids in zip(batch, found):
            named = [model.token_list[i] for i in ids]
            tokens[utterance.name] = named
            text[utterance.name] = tokenizer.tokens2text(named)
        logging.info(
            f"{len(text)} of {len(plan.utterances)} utterances, RTF "
            f"{seconds * plan.rate / samples:.4f}"
        )
    duration = samples / plan.rate
    speed = Speed(
        audio_seconds=duration,
        compute_seconds=seconds,
        rtf=seconds / duration,
        utterances=len(text),
        parameters=count_parameters(model),
        device=device,
        threads=torch.get_num_threads(),
    )
    return Recognised(tokens, text, speed)


def count_parameters(model: ESPnetASRModel) -> int:
    """Parameters that CTC decoding uses: an attention decoder is left out."""
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if not name.startswith(("decoder.", "joint_network."))
    )


@torch.inference_mode()
def _decode_batch(
    model: ESPnetASRModel, audio: List[torch.Tensor], device: str
) -> List[List[int]]:
    speech = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True)  # (B, S)
    lengths = torch.tensor([len(a) for a in audio])
    encoder_out, lengths = encode(model, speech.to(device), lengths.to(device))
    return greedy(model.ctc.ctc_lo(encoder_out), lengths, model.blank_id)
