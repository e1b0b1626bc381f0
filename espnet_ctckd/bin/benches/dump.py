"""Measure the speed of a dump on this machine.

A dump, including the files, is compared with the teacher's forward pass on the same
batches and on single utterances. The contenders take turns in every round; ratios are
medians over the rounds.
"""

import argparse
import logging
import statistics
import tempfile
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_ctckd.bin.cli import device, naming
from espnet_ctckd.bin.flags import teacher_of
from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.plan import make_plan
from espnet_ctckd.cache.writer import dump
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.evaluation.timing import Contenders, quartiles, take_turns


def bench(args: argparse.Namespace) -> None:
    """Measure, and print tables."""
    teacher = teacher_of(args, device(args))
    logging.getLogger().setLevel(logging.ERROR)  # no progress messages of the dump
    plan = make_plan(
        args.wav_scp,
        teacher.rate,
        teacher.shortest,
        args.batch_seconds,
        teacher.longest,
    )
    with naming(kept="--top_k"):
        codec = Codec(len(teacher.token_list), args.top_k or None)
    audio = [
        [torch.from_numpy(read_audio(u.name, u.path, plan.rate)) for u in batch]
        for shard in plan.shards
        for batch in shard
    ]
    batches = [
        (pad_sequence(b, True), torch.tensor([len(a) for a in b])) for b in audio
    ]

    def in_batches() -> None:
        for speech, lengths in batches:
            teacher.posteriors(speech, lengths)

    def one_by_one() -> None:
        for batch in audio:
            for speech in batch:
                teacher.posteriors(speech.unsqueeze(0), torch.tensor([len(speech)]))

    def dumped() -> None:
        with tempfile.TemporaryDirectory() as folder:
            dump(teacher, plan, codec, Path(folder), args.batch_seconds)

    contenders: Contenders = {
        "teacher alone, in batches": in_batches,
        "dump": dumped,
        "teacher alone, one by one": one_by_one,
    }
    times = take_turns(contenders, args.rounds)
    spoken = sum(u.samples for u in plan.utterances) / plan.rate
    print(
        f"\n{len(plan.utterances)} utterances, {spoken:.0f} s, top_k {args.top_k}, "
        f"{torch.get_num_threads()} threads"
    )
    print(
        f"{'':34}{'times real time':>16}{'of the teacher alone':>22}{'quartiles':>16}"
    )
    for name in contenders:
        shares = [
            a / b for a, b in zip(times["teacher alone, in batches"], times[name])
        ]
        low, middle, high = quartiles(shares)
        print(
            f"{name:34}{spoken / statistics.median(times[name]):16.1f}{middle:22.2f}"
            f"{f'{low:.2f} - {high:.2f}':>16}"
        )
