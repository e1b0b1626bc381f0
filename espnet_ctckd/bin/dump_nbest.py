"""Decode n-best lists from the cached posteriors of one or several teachers.

The lists of several caches of the same utterances are merged into one weighted list.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from espnet_ctckd.bin.cli import parser, positive, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_write, shorten
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.data.progress import Progress

if TYPE_CHECKING:
    from espnet_ctckd.cache.reader import CacheMeta
    from espnet_ctckd.cache.record import Audio
    from espnet_ctckd.posteriors import FramePosteriors


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Dump n-best lists."""
    p = parser(__doc__)
    p.add_argument("--cache", action="append", required=True, help="folder of a cache")
    p.add_argument(
        "--weight",
        action="append",
        type=float,
        help="weight of each cache (default: equal)",
    )
    p.add_argument("--output_dir", required=True, help="folder to write")
    p.add_argument("--nbest", type=positive, default=5, help="hypotheses per teacher")
    p.add_argument("--beam", type=positive, default=20, help="beam size of the search")
    args = p.parse_args(cmd)
    if args.beam < args.nbest:
        raise InputError(f"--beam {args.beam} finds no {args.nbest} hypotheses")
    from espnet_ctckd.cache.check import check_files, check_listed
    from espnet_ctckd.cache.nbest import META, NBEST, join, read_nbest_meta, to_line
    from espnet_ctckd.cache.reader import SCP, UTT2AUDIO, UTT2FRAMES, read_meta
    from espnet_ctckd.decode.nbest import nbest_of

    metas = [read_meta(cache) for cache in args.cache]
    weights = _weights(args.weight, len(metas))
    scps = [read_scp(meta.folder / SCP) for meta in metas]
    for meta, scp in zip(metas, scps):
        names = (UTT2AUDIO, UTT2FRAMES)
        lists = {n: entry for n, entry in meta.files.items() if n in names}
        check_files(meta, lists)
        check_listed(meta, scp)
    _check_alike(metas, scps)
    audio = _audio(metas)
    folder = Path(args.output_dir)
    described = _describe(metas, weights, len(scps[0]), args)
    if (folder / META).exists():
        if read_nbest_meta(folder / NBEST) != described:
            raise InputError(
                f"{folder} holds n-best lists of other caches, --nbest or --beam: "
                "delete it, or choose another --output_dir"
            )
        logging.info(f"{folder} is finished, and left as it is")
        return
    known = best = 0.0
    from espnet_ctckd.tokens import espnet_names

    named = [espnet_names(meta.token_list) for meta in metas]
    with (
        atomic_write(folder / NBEST) as f,
        Progress(len(scps[0]), "utterances") as bar,
    ):
        for utt in scps[0]:
            found = [
                nbest_of(_read(meta, utt, scp[utt]), tokens, args.beam, args.nbest)
                for meta, scp, tokens in zip(metas, scps, named)
            ]
            hypotheses = join(found, weights)
            f.write(f"{utt} {to_line(utt, audio[utt], hypotheses)}\n")
            known += len(hypotheses)
            best += hypotheses[0][1]
            bar.update()
    with atomic_write(folder / META) as f:
        json.dump(described, f, indent=1, ensure_ascii=False)
        f.write("\n")
    total = len(scps[0])
    print(
        f"{folder / NBEST}: {total} utterances, {known / total:.1f} hypotheses each, "
        f"mean probability of the best {best / total:.2f}"
    )


def _describe(
    metas: Sequence[CacheMeta],
    weights: Sequence[float],
    utterances: int,
    args: argparse.Namespace,
) -> Dict[str, Any]:
    """Return the metadata of the lists."""
    from espnet_ctckd.cache.nbest import FORMAT

    return {
        "format": FORMAT,
        "teachers": [
            {"cache": str(m.folder), "weight": w, "key": m.records.key, **m.teacher}
            for m, w in zip(metas, weights)
        ],
        "utterances": utterances,
        "nbest": args.nbest,
        "beam": args.beam,
    }


def _audio(metas: Sequence[CacheMeta]) -> Dict[str, Audio]:
    """Return the audio of each utterance; it must be the same in all caches."""
    from espnet_ctckd.cache.reader import read_audio_list

    audio = [read_audio_list(meta) for meta in metas]
    for meta, other in zip(metas[1:], audio[1:]):
        apart = [utt for utt in other if other[utt] != audio[0].get(utt)]
        if apart:
            raise InputError(
                f"the audio of {metas[0].folder} and {meta.folder} differs in "
                f"{len(apart)} utterances: {shorten(apart)}. Dump all teachers for the "
                "same data"
            )
    return audio[0]


def _weights(given: Optional[Sequence[float]], number: int) -> List[float]:
    weights = list(given or [1.0] * number)
    if len(weights) != number:
        raise InputError(f"{len(weights)} --weight for {number} --cache; give each one")
    total = sum(weights)
    if min(weights) < 0 or not 0 < total < float("inf"):
        raise InputError(
            f"--weight is {weights}; give numbers of at least 0, and one above"
        )
    return [weight / total for weight in weights]


def _check_alike(metas: Sequence[CacheMeta], scps: Sequence[Dict[str, str]]) -> None:
    for meta in metas:
        if meta.codec.selector is not None:
            raise InputError(
                f"the cache {meta.folder} has only selected frames (--selector "
                f"{meta.codec.selector}): dump the teacher without --selector"
            )
    for meta, scp in zip(metas[1:], scps[1:]):
        apart = sorted(set(scp) ^ set(scps[0]))
        if apart:
            raise InputError(
                f"{len(apart)} utterances are in one of the caches {metas[0].folder} "
                f"and {meta.folder} only: {shorten(apart)}. Dump all teachers for the "
                "same data"
            )
        apart = sorted(set(meta.token_list) ^ set(metas[0].token_list))
        if apart:
            raise InputError(
                f"{len(apart)} tokens are in one of the caches {metas[0].folder} and "
                f"{meta.folder} only: {shorten(apart)}. Take teachers of the same "
                "tokens"
            )


def _read(meta: CacheMeta, utt: str, place: str) -> FramePosteriors:
    import torch

    from espnet_ctckd.posteriors import FramePosteriors

    record = meta.read(utt, place)
    return FramePosteriors(
        torch.from_numpy(record.log_probs).unsqueeze(0),
        torch.tensor([len(record.log_probs)]),
        meta.blank,
        None if record.ids is None else torch.from_numpy(record.ids).unsqueeze(0),
    )


if __name__ == "__main__":
    run(main)
