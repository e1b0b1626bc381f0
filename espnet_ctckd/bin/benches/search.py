"""Measure speed and word error rate of decoding on this machine.

The first table compares searches of the same posteriors: the searches of this package,
each with Blank Collapse at several thresholds, and torchaudio's search if a lexicon is
given. The second table compares decoding from audio to text with ESPnet's own search
with CTC only. The contenders take turns in every round; ratios are medians over the
rounds.
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

# Utterances that are searched in parallel, as in a batch of decode.
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
    posteriors, audio_seconds = _posteriors(
        model, args.wav_scp, args.batch_seconds, unheard
    )
    logging.getLogger().setLevel(logging.ERROR)
    print(
        f"{len(posteriors)} utterances, {audio_seconds:.0f} s of audio, "
        f"{torch.get_num_threads()} threads, beam {given.beam}"
    )
    bench_searches(model, posteriors, audio_seconds, given, references, args.rounds)
    if args.espnet_utterances:
        # ESPnet's search fails at unusable audio and at references without words.
        usable = [utt for utt in wavs if len(posteriors[utt]) and references[utt]]
        step = max(1, len(usable) // args.espnet_utterances)
        few = {utt: wavs[utt] for utt in usable[::step]}
        bench_espnet(model, few, given, references, args)


def _posteriors(
    model: Recogniser, wav_scp: str, batch_seconds: float, unheard: Unheard
) -> Tuple[Dict[str, np.ndarray], float]:
    """Compute log-probabilities (U, V) of each utterance and the total seconds."""
    posteriors, samples = {}, 0
    for batch, log_probs, lengths, _ in model.hear(wav_scp, batch_seconds, unheard):
        for i, utterance in enumerate(batch):
            posteriors[utterance.name] = log_probs[i, : int(lengths[i])].cpu().numpy()
            samples += utterance.samples
    if not samples:
        raise InputError(f"{wav_scp} has no audio to decode")
    for utt in unheard.names:
        posteriors[utt] = np.zeros((0, len(model.tokens)), np.float32)
    return posteriors, samples / model.rate


def bench_searches(
    model: Recogniser,
    posteriors: Dict[str, np.ndarray],
    audio_seconds: float,
    given: SearchConfig,
    references: Dict[str, str],
    rounds: int,
) -> None:
    """Compare searches of the same posteriors.

    Args:
        model: model that computed the posteriors.
        posteriors: log-probabilities (U, V) of each utterance.
        audio_seconds: total duration of the audio in seconds.
        given: search of the command line, whose beams and scales are used.
        references: transcript of each utterance.
        rounds: number of rounds; the median is reported.
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
            decoders[label] = _ours(
                model, search, posteriors, config.lexicon is not None
            )
            frames = sum(count for _, count in search(list(posteriors.values())))
            shares[label] = 100 * frames / sum(map(len, posteriors.values()))
            first[label] = name
    if given.lexicon is not None:
        decoders["lexicon, torchaudio"] = _torchaudio(model, posteriors, given)
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
    model: Recogniser, search: Search, posteriors: Dict[str, np.ndarray], by_words: bool
) -> Decoder:
    def decode() -> Dict[str, str]:
        texts = {}
        for first in range(0, len(posteriors), _AT_ONCE):
            some = dict(itertools.islice(posteriors.items(), first, first + _AT_ONCE))
            for utt, (found, _) in zip(some, search(list(some.values()))):
                texts[utt] = model.text(found[0], by_words)
        return texts

    return decode


def _torchaudio(
    model: Recogniser, posteriors: Dict[str, np.ndarray], given: SearchConfig
) -> Decoder:
    """Return torchaudio's search, with word ends as in the searches of this package."""
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
        for utt, log_probs in posteriors.items():
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
    """Compare decoding from audio to text with ESPnet, which decodes single utterances.

    Args:
        model: model to decode with.
        wavs: audio file of each utterance.
        given: search of the command line, whose beam is used.
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
                waveforms = [torch.from_numpy(audio[utt]) for utt in batch]
                log_probs, lengths = model.say(waveforms)
                rows = zip(log_probs.cpu().numpy(), lengths.tolist())
                parts = [row[:n] for row, n in rows]
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
    """Return the seconds of each decoder in each round, and its texts."""
    texts: Dict[str, Dict[str, str]] = {}

    def noting(label: str) -> Callable[[], object]:
        return lambda: texts.update({label: decoders[label]()})

    return take_turns({label: noting(label) for label in decoders}, rounds), texts
