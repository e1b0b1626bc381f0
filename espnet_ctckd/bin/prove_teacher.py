"""Prove a teacher by what it says in its cache: is it good for this data?

Decodes the cached posteriors greedily and holds them against the transcripts; a teacher
that is worse than --max_wer is refused, with the table.
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
    """What a teacher does on a set, added up.

    Attributes:
        frames: in all.
        seconds: of audio.
        blank: frames that stand for the blank.
        spikes: runs of frames that stand for another token.
        entropy: of the posteriors, in nats, over all frames.
    """

    frames: int = 0
    seconds: float = 0.0
    blank: int = 0
    spikes: int = 0
    entropy: float = 0.0


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Prove a teacher."""
    p = parser(__doc__)
    p.add_argument("--cache", required=True, help="cache of the set")
    p.add_argument("--text", required=True, help="its transcripts")
    p.add_argument("--token_list", required=True, help="token list of the student")
    p.add_argument("--token_type", default="char", help="of the student")
    p.add_argument("--bpemodel", help="sentencepiece model of the student")
    p.add_argument("--output_dir", required=True, help="folder of the results")
    p.add_argument(
        "--max_wer", type=amount, default=math.inf, help="percent that it may have"
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
    sayings, said = listen(meta)
    text: Dict[str, str] = {}
    named: Dict[str, List[str]] = {}
    for utt, ids in said.items():
        kept = [index[i] for i in ids if index[i] != DROPPED]
        named[utt] = [tokens[i] for i in kept]
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
        json.dump(asdict(sayings), f, indent=1)
    wer, cer = totals["wer"].rate, totals["cer"].rate
    print(_table(sayings, wer, cer, totals["cer"].units))
    if wer > args.max_wer:
        raise InputError(
            f"the teacher has a word error rate of {wer:.1f} % on {args.text}, and at "
            f"most {args.max_wer:g} % is asked for (--max_wer). Take a teacher for "
            "this data, or see above whether it spells as the transcripts do"
        )


def listen(meta: CacheMeta) -> Tuple[TeacherStats, Dict[str, List[int]]]:
    """Read a cache.

    Args:
        meta: what it says of itself.

    Returns:
        What the teacher does, and the token ids that it says of each utterance.
    """
    from espnet_ctckd.cache.reader import SCP
    from espnet_ctckd.paths import find_spikes

    sayings, said = TeacherStats(), {}
    for utt, place in read_scp(meta.folder / SCP).items():
        opened = meta.read(utt, place)
        best = opened.log_probs.argmax(1)
        if opened.ids is not None:
            best = opened.ids[np.arange(len(best)), best]
        spikes = find_spikes(best.tolist(), meta.blank)
        said[utt] = [spike.token for spike in spikes]
        sayings.frames += len(best)
        sayings.seconds += opened.audio.samples / meta.rate
        sayings.blank += int((best == meta.blank).sum())
        sayings.spikes += len(spikes)
        sayings.entropy += _entropy(opened, len(meta.token_list))
    return sayings, said


def _entropy(said: DecodedRecord, tokens: int) -> float:
    """Sum over the frames, in nats; what is not kept is taken as even."""
    log_p = said.log_probs.astype(np.float64)
    p = np.exp(log_p)
    entropy = -(p * log_p).sum()
    if said.ids is not None:
        rest = (1 - p.sum(1)).clip(min=1e-30)
        entropy -= (rest * np.log(rest / (tokens - p.shape[1]))).sum()
    return float(entropy)


def _table(sayings: TeacherStats, wer: float, cer: float, characters: int) -> str:
    rows = [
        ("word error rate", f"{wer:.1f} %", "what a label-free student is drawn to"),
        ("character error rate", f"{cer:.1f} %", ""),
        (
            "blank frames",
            f"{100 * sayings.blank / max(sayings.frames, 1):.1f} %",
            "what the selection is about",
        ),
        (
            "entropy",
            f"{sayings.entropy / max(sayings.frames, 1):.3f} nats a frame",
            "0: it says no more than its transcript",
        ),
        (
            "spikes",
            f"{sayings.spikes / sayings.seconds:.1f} a second",
            f"the transcripts have {characters / sayings.seconds:.1f} characters",
        ),
    ]
    return "\n".join(
        f"{name:<22}{value:<22}{why}".rstrip() for name, value, why in rows
    )


if __name__ == "__main__":
    run(main)
