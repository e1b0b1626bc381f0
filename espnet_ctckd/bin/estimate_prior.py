"""Estimate the prior of each token: the mean of a teacher's posteriors over a cache.

The output is for model_conf.kd.prior_file: blank frames are then found after the prior
is removed. The tail mass of top-K posteriors is spread evenly over the other tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Sequence

import numpy as np

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_write
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.data.progress import Progress

if TYPE_CHECKING:
    from espnet_ctckd.cache.reader import CacheMeta
    from espnet_ctckd.cache.record import DecodedRecord

# Floor of the prior, so that the logarithm is finite.
_LEAST = 1e-30


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Estimate the prior."""
    p = parser(__doc__)
    p.add_argument("--cache", required=True, help="folder of the cache")
    p.add_argument("--output", required=True, help="file to write")
    args = p.parse_args(cmd)
    from espnet_ctckd.cache.reader import read_meta

    meta = read_meta(args.cache)
    prior = estimate(meta)  # (V,)
    others = [i for i in np.argsort(-prior, kind="stable") if i != meta.blank]
    order = [meta.blank, *others]
    lines = [f"{meta.token_list[i]} {np.log(max(prior[i], _LEAST))!s}\n" for i in order]
    with atomic_write(args.output) as f:
        f.writelines(lines)
    print(
        f"{args.output}: {len(prior)} tokens from {meta.frames} frames; blank "
        f"{prior[meta.blank]:.3f}, then "
        + ", ".join(f"{meta.token_list[i]} {prior[i]:.3f}" for i in order[1:6])
    )


def estimate(meta: CacheMeta) -> np.ndarray:
    """Compute the mean of the posteriors over all frames.

    Args:
        meta: metadata of the cache.

    Returns:
        Probabilities (V,), float64.
    """
    from espnet_ctckd.cache.reader import SCP

    total = np.zeros(len(meta.token_list))
    done = 0
    with Progress(meta.frames, "frames") as bar:
        for utt, place in read_scp(meta.folder / SCP).items():
            record = meta.read(utt, place)
            total += _sum_of(record, len(meta.token_list))
            done += len(record.log_probs)
            bar.update(len(record.log_probs))
    if done != meta.frames:
        raise InputError(
            f"{meta.folder} has {done} frames; {meta.frames} were written. Delete it "
            "and dump the teacher again"
        )
    return total / meta.frames  # type: ignore[no-any-return]


def _sum_of(record: DecodedRecord, tokens: int) -> np.ndarray:
    """Sum the posteriors of an utterance over its frames (V,)."""
    probs, ids = np.exp(record.log_probs, dtype=np.float64), record.ids  # (U, K)
    if ids is None:
        return probs.sum(0)  # type: ignore[no-any-return]
    tail = (1.0 - probs.sum(1, keepdims=True)).clip(min=0.0)  # (U, 1)
    share = tail / (tokens - ids.shape[1])
    total = np.full(tokens, share.sum())
    np.add.at(total, ids, probs - share)
    return total


if __name__ == "__main__":
    run(main)
