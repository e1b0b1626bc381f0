"""Print a cache's teacher, contents and size.

With --packings, compress a dense cache with many settings, and print for each its size
and its KL divergence from the dense posteriors.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from espnet_ctckd.bin.cli import parser, positive, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import folder_size
from espnet_ctckd.data.kaldi import read_scp

if TYPE_CHECKING:
    from espnet_ctckd.cache.codec import Codec
    from espnet_ctckd.cache.reader import CacheMeta

TOP_K = (4, 8, 16, 32)
STEPS = (0.125, 0.25, 0.5)
MIN_KL_GAINS = (5e-5, 2e-4, 1e-3, 5e-3)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Print the description of a cache."""
    p = parser(__doc__)
    p.add_argument("--cache", required=True, help="folder of the cache")
    p.add_argument("--packings", action="store_true", help="try compression settings")
    p.add_argument(
        "--utterances", type=positive, default=200, help="utterances for --packings"
    )
    args = p.parse_args(cmd)
    from espnet_ctckd.cache.reader import read_meta

    meta = read_meta(args.cache)
    for name, value in describe(meta):
        print(f"{name:<16}{value}")
    if args.packings:
        print()
        print("\n".join(compare_packings(meta, args.utterances)))


def describe(meta: CacheMeta) -> Iterator[Tuple[str, str]]:
    """Describe a cache.

    Args:
        meta: metadata of the cache.

    Yields:
        Names and values of the description.
    """
    teacher = meta.teacher
    shift = float(meta.frame_shift / meta.rate)
    hours = meta.frames * shift / 3600
    size = folder_size(meta.folder)
    codec = meta.codec
    compression = "all tokens of a frame, float32"
    if codec.kept is not None:
        compression = (
            f"top {codec.kept} tokens of a frame, quantization step {codec.step} nats, "
            f"KL gain of a token at least {codec.worth:g} nats"
        )
    if codec.selector is not None:
        options = dict(codec.selector_conf)
        compression += f", only frames of the selector {codec.selector} {options}"
    yield "teacher", f"{teacher['type']} {teacher.get('source', teacher.get('config'))}"
    yield "tokens", f"{codec.tokens}, blank {meta.token_list[meta.blank]!r}"
    yield "frames", f"{meta.frames} of {1000 * shift:g} ms: {hours:.2f} hours"
    yield "utterances", str(meta.utterances)
    states = f", states of {codec.states} dimensions" if codec.states else ""
    yield "compression", compression + states
    yield (
        "size",
        f"{size / 2**20:.1f} MiB, {size / max(meta.frames, 1):.2f} bytes per frame",
    )
    yield "1000 hours", f"would take {size / hours * 1000 / 1e9:.2f} GB"


def compare_packings(meta: CacheMeta, utterances: int) -> List[str]:
    """Compress a dense cache with many settings.

    Args:
        meta: metadata of the cache.
        utterances: number of utterances to compress, evenly spread.

    Returns:
        Lines of a table.

    Raises:
        InputError: the cache is not dense.
    """
    import torch

    from espnet_ctckd.cache.codec import Codec
    from espnet_ctckd.cache.reader import SCP

    if meta.codec.kept is not None:
        raise InputError(
            f"{meta.folder} is packed already; --packings wants one that was dumped "
            "without --top_k"
        )
    scp = read_scp(meta.folder / SCP)
    posteriors = [
        meta.read(utt, scp[utt]).log_probs
        for utt in list(scp)[:: max(1, len(scp) // utterances)]
    ]
    frames = sum(map(len, posteriors))
    seconds = frames * float(meta.frame_shift / meta.rate)
    lines = [
        f"{'top_k':>6}{'step':>8}{'worth':>9}{'bytes per frame':>17}"
        f"{'GB for 1000 h':>15}{'KL, nats per frame':>20}"
    ]
    for top_k, step, gain in itertools.product(TOP_K, STEPS, MIN_KL_GAINS):
        if not 1 < top_k < meta.codec.tokens:
            continue
        codec = Codec(meta.codec.tokens, top_k, step, gain)
        size, lost = 0, 0.0
        for log_probs in posteriors:
            record = codec.encode(torch.from_numpy(log_probs), meta.blank)
            size += len(record)
            lost += divergence(log_probs, codec, record, meta.blank)
        lines.append(
            f"{top_k:>6}{step:>8g}{gain:>9g}{size / frames:>17.2f}"
            f"{size / seconds * 3.6e6 / 1e9:>15.2f}{lost / frames:>20.1e}"
        )
    return lines


def divergence(log_p: np.ndarray, codec: Codec, record: bytes, blank: int) -> float:
    """Sum over frames of KL(dense posteriors (U, V) ‖ posteriors of the record)."""
    top, ids, _ = codec.decode(record, blank)
    assert ids is not None
    log_p, top = log_p.astype(np.float64), top.astype(np.float64)
    tail = (1 - np.exp(top).sum(1, keepdims=True)).clip(min=1e-30)
    log_q = np.repeat(np.log(tail / (codec.tokens - top.shape[1])), codec.tokens, 1)
    np.put_along_axis(log_q, ids, top, 1)
    return float((np.exp(log_p) * (log_p - log_q)).sum())


if __name__ == "__main__":
    run(main)
