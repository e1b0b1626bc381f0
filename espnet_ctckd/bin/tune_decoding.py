"""Tune the scales of a search on a dev set, for decode --config.

The model runs once; the search runs with every combination of the given scales. Prints
the word error rates, and writes the flags of the best combination to a YAML file, with
which the test sets are decoded.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Dict, Mapping, Optional, Sequence

import yaml

from espnet_ctckd.bin.cli import (
    add_compute,
    add_max_bad_share,
    add_model,
    configured,
    count,
    device,
    parser,
    run,
)
from espnet_ctckd.bin.flags import (
    add_normalization,
    add_search,
    normalization_of,
    search_of,
)
from espnet_ctckd.cache.plan import Unheard
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_write, shorten
from espnet_ctckd.data.kaldi import read_wav_scp
from espnet_ctckd.data.progress import Progress
from espnet_ctckd.evaluation.score import (
    Normalization,
    error_rate,
    read_references,
    warn_unspelled,
)

if TYPE_CHECKING:
    from espnet_ctckd.decode.pool import Asked, SearchPool
    from espnet_ctckd.decode.recogniser import BatchPosteriors, Recogniser
    from espnet_ctckd.decode.search import SearchConfig

TUNED = ("lm_scale", "prior_scale", "word_score")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Tune a search."""
    p = parser(__doc__)
    add_model(p)
    p.add_argument("--text", required=True, help="transcripts of the dev set")
    p.add_argument("--output", required=True, help="YAML to write")
    p.add_argument(
        "--search_processes", type=count, default=0, help="additional processes"
    )
    for name in TUNED:
        p.add_argument(f"--{name}s", type=float, nargs="+", help="values to try")
    add_max_bad_share(p)
    add_normalization(p)
    add_search(p)
    add_compute(p)
    args = configured(p, cmd)
    for name, has, wants in (
        ("lm_scales", args.lm, "--lm"),
        ("word_scores", args.method == "lexicon", "--method lexicon"),
    ):
        if getattr(args, name) and not has:
            raise InputError(f"--{name} goes with {wants}, which is not given")
    grid = {name: getattr(args, f"{name}s") or [getattr(args, name)] for name in TUNED}
    args.prior_scale = max(grid["prior_scale"])
    base = search_of(args)
    points = [dict(zip(grid, point)) for point in itertools.product(*grid.values())]
    configs = [at(base, point) for point in points]
    normalization = normalization_of(args)
    references = read_references(args.text, normalization)
    apart = sorted(set(read_wav_scp(args.wav_scp)) ^ set(references))
    if apart:
        raise InputError(
            f"{len(apart)} utterances are in one of {args.wav_scp} and {args.text} "
            f"only: {shorten(apart)}"
        )
    from espnet_ctckd.decode.characters import output_characters
    from espnet_ctckd.decode.pool import SearchPool
    from espnet_ctckd.decode.recogniser import Recogniser

    model = Recogniser(args.asr_train_config, args.asr_model_file, device(args))
    search = model.search(base)
    characters = output_characters(model, base)
    warn_unspelled(references, characters, normalization)
    unheard = Unheard(args.max_bad_share, args.wav_scp)
    batches = list(model.hear(args.wav_scp, args.batch_seconds, unheard))
    wers = []
    with Progress(len(configs), "searches") as bar:
        for config in configs:
            pool = SearchPool(search.at(config), args.search_processes)
            texts = search_all(model, batches, pool)
            wers.append(_error_rate(references, texts, normalization))
            bar.update()
    best = min(range(len(configs)), key=lambda i: wers[i])
    print("".join(f"{name:>14}" for name in (*TUNED, "WER %")))
    for number, (point, wer) in enumerate(zip(points, wers)):
        mark = "  <- best" if number == best else ""
        print("".join(f"{point[name]:>14g}" for name in TUNED) + f"{wer:>14.2f}{mark}")
    at_edge = [
        name
        for name, values in grid.items()
        if len(values) > 1
        and points[best][name] in (min(values), max(values))
        and (points[best][name] != 0 or name == "word_score")
    ]
    if at_edge:
        print(f"the best is at the edge of --{'s, --'.join(at_edge)}s: try beyond it")
    with atomic_write(args.output) as f:
        chosen = {k: v for k, v in asdict(configs[best]).items() if v is not None}
        yaml.safe_dump(chosen, f, sort_keys=False, allow_unicode=True)
    print(f"written: {args.output}")


def _error_rate(
    references: Mapping[str, str], texts: Mapping[str, str], normalize: Normalization
) -> float:
    """Return the WER in percent; the hypothesis of unusable audio is empty."""
    hypotheses = {utt: normalize(texts.get(utt, "")) for utt in references}
    return error_rate(references, hypotheses)


def at(base: SearchConfig, point: Dict[str, float]) -> SearchConfig:
    """Return the search at a point of the grid; without a prior if its scale is 0."""
    if point["prior_scale"] == 0:
        return replace(base, **point, prior_file=None)  # type: ignore[arg-type]
    return replace(base, **point)  # type: ignore[arg-type]


def search_all(
    model: Recogniser, batches: Sequence[BatchPosteriors], pool: SearchPool
) -> Dict[str, str]:
    """Search the posteriors of a set, and return the texts.

    Args:
        model: model that computed the posteriors.
        batches: posteriors of the set.
        pool: search processes, which are closed at the end.
    """
    asked: Dict[str, Asked] = {}
    for batch in batches:
        answers = pool.ask(batch.log_probs, batch.lengths)
        asked.update(zip((u.name for u in batch.batch), answers))
    by_words = pool.search.config.lexicon is not None
    texts = {}
    for utt, answer in asked.items():
        (best, *_), _ = pool.answer(answer)
        texts[utt] = model.text(best, by_words)
    pool.close()
    return texts


if __name__ == "__main__":
    run(main)
