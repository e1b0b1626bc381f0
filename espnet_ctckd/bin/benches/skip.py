"""Measure time and word error rate of layer skipping on this machine.

A student with encoder: ctckd_skip_conformer decodes a set at several thresholds, which
need no further training; other models, such as a Conformer without skipping and a
shallow Conformer, decode the same set. The models take turns in every round. The time
of front-end, encoder and output layer is relative to the first --other; ratios are
medians over the rounds.
"""

import argparse
import itertools
import logging
import statistics
from pathlib import Path
from typing import Dict, Optional, Sequence

import torch

from espnet_ctckd.bin.cli import device
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.decode.greedy import greedy
from espnet_ctckd.decode.recogniser import Read, Recogniser
from espnet_ctckd.decode.search import Hypothesis
from espnet_ctckd.evaluation.score import error_rate
from espnet_ctckd.evaluation.timing import quartiles, take_turns
from espnet_ctckd.models.skip_encoder import CTCKDSkipConformerEncoder


def bench(args: argparse.Namespace) -> None:
    """Measure, and print tables."""
    where = device(args)
    logging.getLogger().setLevel(logging.ERROR)
    model = Recogniser(args.asr_train_config, args.asr_model_file, where)
    if not isinstance(model.model.encoder, CTCKDSkipConformerEncoder):
        raise InputError(
            f"{args.asr_train_config} has no encoder: ctckd_skip_conformer to try "
            "thresholds on"
        )
    batches = list(model.read(args.wav_scp, args.batch_seconds))
    contenders: Dict[str, _Decoding] = {}
    for folder in args.other:
        files = (Path(folder, "config.yaml"), Path(folder, "model.pth"))
        contenders[folder] = _Decoding(Recogniser(*files, where), batches)
        if contenders[folder].model.rate != model.rate:
            raise InputError(
                f"the sample rate of {folder} is not {model.rate} Hz, the student's"
            )
    for threshold, k in itertools.product(args.thresholds, args.neighbours):
        label = f"skipping, {threshold:g}, {k} neighbours"
        contenders[label] = _Skipping(model, batches, threshold, k)
    times = take_turns(contenders, args.rounds)
    spoken = sum(u.samples for batch, _ in batches for u in batch) / model.rate
    print(
        f"{len(contenders[args.other[0]].texts)} utterances, {spoken:.0f} s of audio, "
        f"batches of {args.batch_seconds:g} s, {torch.get_num_threads()} threads"
    )
    references, first = read_scp(args.text), times[args.other[0]]
    width = max(map(len, contenders)) + 2
    print(
        f"{'encoder':{width}}{'s of audio a s':>15}{'of the first':>14}"
        f"{'quartiles':>16}{'skipped %':>11}{'WER %':>8}"
    )
    for label, each in contenders.items():
        low, middle, high = quartiles([a / b for a, b in zip(times[label], first)])
        share = "" if each.skipped is None else f"{100 * each.skipped:.1f}"
        print(
            f"{label:{width}}{spoken / statistics.median(times[label]):15.0f}"
            f"{middle:14.2f}{f'{low:.2f} - {high:.2f}':>16}{share:>11}"
            f"{error_rate(references, each.texts):8.2f}"
        )


class _Decoding:
    """Greedy decoding of a set by a model, and the decoded texts."""

    def __init__(self, model: Recogniser, batches: Sequence[Read]) -> None:
        self.model, self.batches = model, batches
        self.texts: Dict[str, str] = {}
        self.skipped: Optional[float] = None

    def __call__(self) -> None:
        for batch, audio in self.batches:
            log_probs, lengths = self.model.say(audio)
            found = greedy(log_probs, lengths, self.model.blank)
            for utterance, tokens in zip(batch, found):
                hypothesis = Hypothesis(tuple(tokens), (), 0.0)
                self.texts[utterance.name] = self.model.text(hypothesis, False)


class _Skipping(_Decoding):
    """Greedy decoding with layer skipping at a threshold."""

    def __init__(
        self, model: Recogniser, batches: Sequence[Read], threshold: float, k: int
    ) -> None:
        super().__init__(model, batches)
        self._threshold, self._neighbours = threshold, k

    def __call__(self) -> None:
        encoder = self.model.model.encoder
        encoder.skip_threshold = self._threshold
        encoder.skip_neighbours = self._neighbours
        encoder.frames = encoder.frames_run = 0
        super().__call__()
        self.skipped = 1.0 - encoder.frames_run / encoder.frames
