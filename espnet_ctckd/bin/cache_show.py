"""Plot the cached posteriors of an utterance over time.

The upper plot is a heat map of the token probabilities; tokens that are improbable in
all frames are left out. The lower plot shows the probability of blank and the frames
that a selector takes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple

import numpy as np
import yaml

from espnet_ctckd.bin.cli import parser, positive, run
from espnet_ctckd.choices import InputError, check_options, look_up
from espnet_ctckd.data.files import atomic_path

if TYPE_CHECKING:
    from espnet_ctckd.cache.reader import CacheMeta
    from espnet_ctckd.posteriors import FramePosteriors

# Tokens below this probability in all frames are not drawn.
_LIKELY = 0.05


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Plot the posteriors."""
    p = parser(__doc__)
    p.add_argument("utterance", help="name of the utterance")
    p.add_argument("--cache", required=True, help="folder of the cache")
    p.add_argument("--selector", default="symmetric", help="see model_conf.kd.selector")
    p.add_argument(
        "--selector_conf",
        default="{}",
        help="options of the selector (YAML), e.g. {n: 1}",
    )
    p.add_argument("--most", type=positive, default=25, help="maximum number of tokens")
    p.add_argument("--output", help="picture to write (default: <utterance>.png)")
    args = p.parse_args(cmd)
    path = Path(args.output or f"{args.utterance.replace(os.sep, '_')}.png")
    from matplotlib.backend_bases import FigureCanvasBase

    from espnet_ctckd.cache.statistics import Cached

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:] not in kinds:
        raise InputError(f"--output is {path}; give one of {', '.join(sorted(kinds))}")
    cache = Cached(args.cache)
    meta, posteriors = cache.meta, cache.say(args.utterance)
    chosen = _selected(posteriors, args)
    draw(meta, args.utterance, posteriors, chosen, args.most, path)
    spikes = " ".join(meta.token_list[token] for token in _spikes(posteriors))
    print(
        f"{args.utterance}: {len(chosen)} frames, {int(posteriors.nonblank().sum())} "
        f"not blank, {int(chosen.sum())} selected; spikes: {spikes}"
    )
    print(f"written: {path}")


def _selected(posteriors: FramePosteriors, args: argparse.Namespace) -> np.ndarray:
    """Return which frames the selector takes (U,), bool."""
    from espnet_ctckd.select import SELECTOR_CHOICES

    options = yaml.safe_load(args.selector_conf) or {}
    if args.selector == "symmetric":
        options = {"n": 1, **options}
    choice = look_up("selector", args.selector, SELECTOR_CHOICES)
    check_options("selector", args.selector, choice.fn, options)
    weights = choice.fn(posteriors, 1, **options)  # (1, U)
    return np.asarray(weights[0] > 0)


def _spikes(posteriors: FramePosteriors) -> List[int]:
    """Return the tokens of the spikes: the best path without blanks and repeats."""
    best = posteriors.argmax()[0].tolist()
    return [
        token
        for token, before in zip(best, [posteriors.blank, *best])
        if token not in (posteriors.blank, before)
    ]


def likeliest(
    posteriors: FramePosteriors, tokens: int, most: int
) -> Tuple[Any, List[int]]:
    """Return the most probable non-blank tokens and their probabilities.

    Args:
        posteriors: posteriors of one utterance.
        tokens: V.
        most: maximum number of tokens.

    Returns:
        Probabilities (tokens, U) and the tokens, ordered by the frame of their peak.
    """
    probs = posteriors.dense(tokens)[0]  # (U, V)
    peak, when = probs.max(0)
    peak[posteriors.blank] = -1.0
    best = peak.topk(min(most, tokens - 1)).indices
    best = best[peak[best] >= min(_LIKELY, float(peak.max()))]
    order = best[when[best].argsort(descending=True)]
    return probs[:, order].T.numpy(), order.tolist()


def draw(
    meta: CacheMeta,
    utt: str,
    posteriors: FramePosteriors,
    chosen: np.ndarray,
    most: int,
    path: Path,
) -> None:
    """Write the plot to a file.

    Args:
        meta: metadata of the cache.
        utt: name of the utterance.
        posteriors: posteriors of the utterance.
        chosen: frames that the selector takes (U,), bool.
        most: maximum number of tokens.
        path: PNG, PDF or SVG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    probs, tokens = likeliest(posteriors, len(meta.token_list), most)
    shift = float(meta.frame_shift / meta.rate)
    frames = probs.shape[1]
    seconds = frames * shift
    figure = Figure(figsize=(max(8.0, min(2.0 * seconds, 40.0)), 6.0))
    FigureCanvasAgg(figure)
    above, below = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]}
    )
    above.imshow(
        probs,
        aspect="auto",
        origin="lower",
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0, seconds, -0.5, len(tokens) - 0.5),
    )
    above.set_yticks(range(len(tokens)), [meta.token_list[token] for token in tokens])
    spikes = posteriors.nonblank()[0].numpy()
    best = posteriors.argmax()[0].tolist()
    time = (np.arange(frames) + 0.5) * shift
    for frame in np.nonzero(spikes)[0]:
        if best[frame] in tokens:
            above.plot(time[frame], tokens.index(best[frame]), "r.", markersize=4)
    above.set_title(f"{utt}: token probabilities; red: best token of a frame")
    blank = posteriors.log_blank()[0].exp().numpy()
    below.step(
        np.append(time - shift / 2, seconds),
        np.append(blank, blank[-1]),
        where="post",
        color="grey",
        label="blank",
    )
    below.fill_between(
        np.append(time - shift / 2, seconds),
        np.append(chosen, chosen[-1]).astype(float),
        step="post",
        alpha=0.3,
        color="tab:red",
        label="selected",
    )
    below.set_ylim(0, 1.05)
    below.set_xlabel("seconds")
    below.legend(loc="upper right", fontsize="small")
    figure.tight_layout()
    with atomic_path(path) as partial:
        figure.savefig(partial, format=path.suffix.lstrip(".") or "png", dpi=120)


if __name__ == "__main__":
    run(main)
