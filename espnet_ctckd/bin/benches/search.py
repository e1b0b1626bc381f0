"""Measure on this machine how fast a set is decoded, and how well.

All searches see the same posteriors: ours, each with Blank Collapse at several
thresholds, and torchaudio's search with a lexicon where there is one. Then all of the
way, from audio to text: ours, and ESPnet's own search with CTC alone. Contenders take
turns in every round; ratios are medians over the rounds, word error rates beside them.
"""

import argparse
import itertools
import logging
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from espnet2.bin.asr_inference import Speech2Text

from espnet_ctckd.bin.cli import device
from espnet_ctckd.bin.flags import search_of
from espnet_ctckd.cache.plan import Unheard
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.batches import batch_by_length
from espnet_ctckd.data.files import shorten
from espnet_ctckd.data.kaldi import read_wav_scp
from espnet_ctckd.decode.lexicon import SPACE, Lexicon
from espnet_ctckd.decode.recogniser import Recogniser
from espnet_ctckd.decode.search import Search, SearchConfig
from espnet_ctckd.evaluation.score import (
    Normalization,
    error_rate,
    read_references,
)
from espnet_ctckd.evaluation.timing import quartiles, take_turns

# Utterances that are searched side by side, as in a batch of decode.
_AT_ONCE = 20
THRESHOLDS = (1.0, 0.999, 0.99, 0.9)
Decoder = Callable[[], Dict[str, str]]


def bench(args: argparse.Namespace) -> None:
    """Measure, and print tables."""
    given = search_of(args)
    model = Recogniser(args.asr_train_config, args.asr_model_file, device(args))
    references = read_references(args.text, Normalization(unicode="keep"))
    wavs = read_wav_scp(args.wav_scp)
    lacks = [utt for utt in wavs if utt not in references]
    if lacks:
        raise InputError(f"{args.text} has no transcript of {shorten(lacks)}")
    unheard = Unheard(args.max_bad_share, args.wav_scp)
    said, audio_seconds = _posteriors(model, args.wav_scp, args.batch_seconds, unheard)
    logging.getLogger().setLevel(logging.ERROR)
    print(
        f"{len(said)} utterances, {audio_seconds:.0f} s of audio, "
        f"{torch.get_num_threads()} threads, beam {given.beam}"
    )
    bench_searches(model, said, audio_seconds, given, references, args.rounds)
    if args.espnet_utterances:
        # ESPnet's own stops at what cannot be heard, and at what has no words to count.
        heard = [utt for utt in wavs if len(said[utt]) and references[utt]]
        step = max(1, len(heard) // args.espnet_utterances)
        few = {utt: wavs[utt] for utt in heard[::step]}
        bench_espnet(model, few, given, references, args)


def _posteriors(
    model: Recogniser, wav_scp: str, batch_seconds: float, unheard: Unheard
) -> Tuple[Dict[str, np.ndarray], float]:
    """Log-probabilities (U, V) of each utterance, and the seconds of all."""
    said, samples = {}, 0
    for batch, log_probs, lengths, _ in model.hear(wav_scp, batch_seconds, unheard):
        for i, utterance in enumerate(batch):
            said[utterance.name] = log_probs[i, : int(lengths[i])].cpu().numpy()
            samples += utterance.samples
    if not samples:
        raise InputError(f"{wav_scp} has no audio to decode")
    for utt in unheard.names:
        said[utt] = np.zeros((0, len(model.tokens)), np.float32)
    return said, samples / model.rate


def bench_searches(
    model: Recogniser,
    said: Dict[str, np.ndarray],
    audio_seconds: float,
    given: SearchConfig,
    references: Dict[str, str],
    rounds: int,
) -> None:
    """Searches of the same posteriors.

    Args:
        model: that has said them.
        said: log-probabilities (U, V) of each utterance.
        audio_seconds: of all.
        given: what the command line asks for, of which beams and scales are taken.
        references: transcript of each utterance.
        rounds: of which the median is.
    """
    plain = SearchConfig(beam=given.beam, tokens_per_frame=given.tokens_per_frame)
    bases = {"greedy": plain, "prefix_beam": replace(plain, method="prefix_beam")}
    if given.lexicon is not None:
        bases["lexicon"] = given
    decoders: Dict[str, Decoder] = {}
    shares: Dict[str, float] = {}
    first: Dict[str, str] = {}
    for name, base in bases.items():
        for theta in THRESHOLDS:
            config = replace(base, blank_collapse=theta)
            search = model.search(config)
            label = name if theta == 1.0 else f"{name}, collapse {theta:g}"
            decoders[label] = _ours(model, search, said, config.lexicon is not None)
            frames = sum(count for _, count in search(list(said.values())))
            shares[label] = 100 * frames / sum(map(len, said.values()))
            first[label] = name
    if given.lexicon is not None:
        decoders["lexicon, torchaudio"] = _torchaudio(model, said, given)
        shares["lexicon, torchaudio"], first["lexicon, torchaudio"] = 100.0, "lexicon"
    times, texts = decode_in_turns(decoders, rounds)
    print(
        f"{'search of the same posteriors':30}{'s of audio a s':>15}"
        f"{'times faster':>14}{'quartiles':>16}{'frames %':>10}{'WER %':>8}"
    )
    for label in decoders:
        ratios = [a / b for a, b in zip(times[first[label]], times[label])]
        low, middle, high = quartiles(ratios)
        print(
            f"{label:30}{audio_seconds / statistics.median(times[label]):15.0f}"
            f"{middle:14.2f}{f'{low:.2f} - {high:.2f}':>16}{shares[label]:10.1f}"
            f"{error_rate(references, texts[label]):8.2f}"
        )


def _ours(
    model: Recogniser, search: Search, said: Dict[str, np.ndarray], by_words: bool
) -> Decoder:
    def decode() -> Dict[str, str]:
        texts = {}
        for first in range(0, len(said), _AT_ONCE):
            some = dict(itertools.islice(said.items(), first, first + _AT_ONCE))
            for utt, (found, _) in zip(some, search(list(some.values()))):
                texts[utt] = model.text(found[0], by_words)
        return texts

    return decode


def _torchaudio(
    model: Recogniser, said: Dict[str, np.ndarray], given: SearchConfig
) -> Decoder:
    """Torchaudio's search, with the words ended as ours are."""
    from torchaudio.models.decoder import ctc_decoder

    assert given.lexicon is not None
    space = SPACE in model.tokens
    lexicon = Lexicon(model.tokens, model.blank, given.lexicon, given.lm)
    lines = [
        " ".join([word, *way, *([SPACE] if space else [])])
        for word, ways in lexicon.spellings.items()
        for way in ways
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lexicon")
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        decoder = ctc_decoder(
            str(path),
            model.tokens,
            lm=given.lm,
            beam_size=given.beam,
            beam_size_token=min(given.tokens_per_frame, len(model.tokens)),
            beam_threshold=given.beam_threshold,
            lm_weight=given.lm_scale,
            word_score=given.word_score,
            sil_score=given.silence_score,
            blank_token=model.tokens[model.blank],
            sil_token=SPACE if space else model.tokens[model.blank],
        )
    end = torch.full((1, len(model.tokens)), -1e4)
    if space:
        end[0, model.tokens.index(SPACE)] = 0.0

    def decode() -> Dict[str, str]:
        texts = {}
        for utt, log_probs in said.items():
            if not len(log_probs):
                texts[utt] = ""
                continue
            emissions = torch.from_numpy(log_probs).float()
            if space:
                emissions = torch.cat([emissions, end])
            found = decoder(emissions.unsqueeze(0))[0]
            texts[utt] = " ".join(found[0].words) if found else ""
        return texts

    return decode


def bench_espnet(
    model: Recogniser,
    wavs: Dict[str, str],
    given: SearchConfig,
    references: Dict[str, str],
    args: Any,
) -> None:
    """From audio to text: ESPnet an utterance after the other, ours in batches.

    Args:
        model: to decode with.
        wavs: audio file of each utterance.
        given: what the command line asks for, of which the beam is taken.
        references: transcript of each utterance.
        args: the command line.
    """
    audio = {utt: read_audio(utt, path, model.rate) for utt, path in wavs.items()}
    by_length = sorted(audio, key=lambda utt: len(audio[utt]))
    batches = batch_by_length(
        by_length, lambda utt: len(audio[utt]), args.batch_seconds * model.rate
    )
    stock = Speech2Text(
        args.asr_train_config,
        args.asr_model_file,
        ctc_weight=1.0,
        beam_size=given.beam,
        device=device(args),
    )

    def espnet() -> Dict[str, str]:
        return {utt: stock(speech)[0][0] for utt, speech in audio.items()}

    def ours(config: SearchConfig) -> Decoder:
        search = model.search(config)

        def decode() -> Dict[str, str]:
            texts = {}
            for batch in batches:
                heard = [torch.from_numpy(audio[utt]) for utt in batch]
                log_probs, lengths = model.say(heard)
                said = log_probs.cpu().numpy()
                parts = [row[:n] for row, n in zip(said, lengths.tolist())]
                for utt, (found, _) in zip(batch, search(parts)):
                    texts[utt] = model.text(found[0], by_words=False)
            return texts

        return decode

    decoders: Dict[str, Decoder] = {
        "espnet2.bin.asr_inference": espnet,
        "prefix_beam": ours(SearchConfig(method="prefix_beam", beam=given.beam)),
        "greedy": ours(SearchConfig()),
    }
    times, texts = decode_in_turns(decoders, 1)
    spoken = sum(map(len, audio.values())) / model.rate
    print(
        f"\n{f'audio to text, {len(audio)} utterances, {spoken:.0f} s':45}"
        f"{'s of audio a s':>15}{'times faster':>14}{'WER %':>8}"
    )
    for label in decoders:
        (seconds,) = times[label]
        print(
            f"{label:45}{spoken / seconds:15.1f}"
            f"{times['espnet2.bin.asr_inference'][0] / seconds:14.1f}"
            f"{error_rate(references, texts[label]):8.2f}"
        )


def decode_in_turns(
    decoders: Dict[str, Decoder], rounds: int
) -> Tuple[Dict[str, List[float]], Dict[str, Dict[str, str]]]:
    """Seconds of each in each round, and what it has decoded."""
    texts: Dict[str, Dict[str, str]] = {}

    def noting(label: str) -> Callable[[], object]:
        return lambda: texts.update({label: decoders[label]()})

    return take_turns({label: noting(label) for label in decoders}, rounds), texts
