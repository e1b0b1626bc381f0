"""Evaluate a teacher from its cached posteriors.

Decodes the cached posteriors greedily and scores them against the transcripts. A
teacher whose word error rate is above --max_wer is refused, after the table is printed.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet_ctckd.bin.cli import amount, parser, run
from espnet_ctckd.bin.flags import add_normalization, normalization_of
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_write
from espnet_ctckd.data.kaldi import read_scp, read_token_list, write_scp
from espnet_ctckd.evaluation.score import (
    read_references,
    score,
    spelled_by,
    warn_unspelled,
    write_scores,
)

if TYPE_CHECKING:
    from espnet_ctckd.cache.reader import CacheMeta
    from espnet_ctckd.cache.record import DecodedRecord


@dataclass
class TeacherStats:
    """Statistics of a teacher's posteriors, summed over a set.

    Attributes:
        frames: number of frames.
        seconds: duration of the audio in seconds.
        blank: number of frames whose best token is blank.
        spikes: number of spikes.
        entropy: sum of the frame entropies in nats.
    """

    frames: int = 0
    seconds: float = 0.0
    blank: int = 0
    spikes: int = 0
    entropy: float = 0.0


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Evaluate a teacher."""
    p = parser(__doc__)
    p.add_argument("--cache", required=True, help="cache of the set")
    p.add_argument("--text", required=True, help="transcripts of the set")
    p.add_argument("--token_list", required=True, help="token list of the student")
    p.add_argument("--token_type", default="char", help="token type of the student")
    p.add_argument("--bpemodel", help="sentencepiece model of the student")
    p.add_argument("--output_dir", required=True, help="folder of the results")
    p.add_argument(
        "--max_wer",
        type=amount,
        default=math.inf,
        help="maximum word error rate in percent",
    )
    add_normalization(p)
    args = p.parse_args(cmd)
    from espnet_ctckd.cache.reader import read_meta, read_unheard
    from espnet_ctckd.data.spelling import text_maker

    meta = read_meta(args.cache)
    tokens = read_token_list(args.token_list)
    from espnet_ctckd.tokens import DROPPED, map_tokens

    index = map_tokens(meta.token_list, meta.blank, tokens, 0, f"cache {meta.folder}")
    index = list(range(len(tokens))) if index is None else index
    if args.token_type == "bpe" and not args.bpemodel:
        raise InputError("--token_type is bpe: give --bpemodel")
    make_text = text_maker(args.token_type, args.bpemodel, tokens)
    stats, hypotheses = decode_cache(meta)
    text: Dict[str, str] = {}
    named: Dict[str, List[str]] = {}
    for utt, ids in hypotheses.items():
        matched = [index[i] for i in ids if index[i] != DROPPED]
        named[utt] = [tokens[i] for i in matched]
        text[utt] = " ".join(make_text(named[utt]).split())
    for utt in read_unheard(meta.folder):
        text.setdefault(utt, "")  # an empty hypothesis
    normalization = normalization_of(args)
    references = read_references(args.text, normalization)
    folder = Path(args.output_dir)
    write_scp(folder / "token", ((u, " ".join(t)) for u, t in named.items()))
    write_scp(folder / "text", text.items())
    warn_unspelled(references, spelled_by(tokens, args.token_type), normalization)
    splits: Dict[str, Callable[[str], Sequence[str]]] = {"wer": str.split, "cer": list}
    counted = {
        unit: score(args.text, folder / "text", split, normalization)
        for unit, split in splits.items()
    }
    texts = (args.text, folder / "text")
    totals = write_scores(folder, counted, normalization, texts=texts)
    with atomic_write(folder / "teacher.json") as f:
        json.dump(asdict(stats), f, indent=1)
    wer, cer = totals["wer"].rate, totals["cer"].rate
    print(_table(stats, wer, cer, totals["cer"].units))
    if wer > args.max_wer:
        raise InputError(
            f"the teacher has a word error rate of {wer:.1f} % on {args.text}, and at "
            f"most {args.max_wer:g} % is asked for (--max_wer). Take a teacher for "
            "this data, or see above whether it spells as the transcripts do"
        )


def decode_cache(meta: CacheMeta) -> Tuple[TeacherStats, Dict[str, List[int]]]:
    """Decode a cache greedily.

    Args:
        meta: metadata of the cache.

    Returns:
        Statistics of the posteriors, and the token ids of each utterance.
    """
    from espnet_ctckd.cache.reader import SCP
    from espnet_ctckd.paths import find_spikes

    stats, hypotheses = TeacherStats(), {}
    for utt, place in read_scp(meta.folder / SCP).items():
        record = meta.read(utt, place)
        best = record.log_probs.argmax(1)
        if record.ids is not None:
            best = record.ids[np.arange(len(best)), best]
        spikes = find_spikes(best.tolist(), meta.blank)
        hypotheses[utt] = [spike.token for spike in spikes]
        stats.frames += len(best)
        stats.seconds += record.audio.samples / meta.rate
        stats.blank += int((best == meta.blank).sum())
        stats.spikes += len(spikes)
        stats.entropy += _entropy(record, len(meta.token_list))
    return stats, hypotheses


def _entropy(record: DecodedRecord, tokens: int) -> float:
    """Sum the frame entropies in nats; the tail mass is assumed to be uniform."""
    log_p = record.log_probs.astype(np.float64)
    p = np.exp(log_p)
    entropy = -(p * log_p).sum()
    if record.ids is not None:
        tail = (1 - p.sum(1)).clip(min=1e-30)
        entropy -= (tail * np.log(tail / (tokens - p.shape[1]))).sum()
    return float(entropy)


def _table(stats: TeacherStats, wer: float, cer: float, characters: int) -> str:
    rows = [
        ("word error rate", f"{wer:.1f} %", "target of a label-free student"),
        ("character error rate", f"{cer:.1f} %", ""),
        (
            "blank frames",
            f"{100 * stats.blank / max(stats.frames, 1):.1f} %",
            "best token is blank; selectors leave out some of these frames",
        ),
        (
            "entropy",
            f"{stats.entropy / max(stats.frames, 1):.3f} nats per frame",
            "0: the posteriors add nothing to the hypothesis",
        ),
        (
            "spikes",
            f"{stats.spikes / stats.seconds:.1f} per second",
            f"transcripts: {characters / stats.seconds:.1f} characters per second",
        ),
    ]
    return "\n".join(
        f"{name:<22}{value:<22}{why}".rstrip() for name, value, why in rows
    )


if __name__ == "__main__":
    run(main)
