"""The benchmarks of `espnet_ctckd.bin.bench`, one per file, and their flags."""

import argparse
import importlib
import sys
from typing import Callable, Dict, NamedTuple, Optional, Sequence

from espnet_ctckd.bin.cli import (
    add_compute,
    add_gpu,
    add_max_bad_share,
    add_model,
    configured,
    count,
    parser,
    positive,
)
from espnet_ctckd.bin.flags import DTYPES, add_search, add_teacher


class Bench(NamedTuple):
    """A benchmark.

    Attributes:
        module: module in this package, whose ``bench(args)`` measures and prints.
        text: description of the measurement.
        add_flags: adds the flags of the benchmark to a parser.
    """

    module: str
    text: str
    add_flags: Callable[[argparse.ArgumentParser], None]


def _add_train(p: argparse.ArgumentParser) -> None:
    _add_rounds(p, 7)
    p.add_argument(
        "--utterances", type=positive, default=4, help="utterances per batch"
    )
    p.add_argument(
        "--online",
        nargs="*",
        default=["float32"],
        choices=DTYPES,
        help="of train: number types of the online teacher (half precision takes "
        "minutes on a CPU without such arithmetic)",
    )
    p.add_argument(
        "--num_threads", type=positive, help="CPU threads (default: PyTorch's)"
    )
    p.add_argument("--seed", type=count, default=0)
    add_gpu(p)


def _add_dump(p: argparse.ArgumentParser) -> None:
    add_teacher(p)
    p.add_argument("--wav_scp", required=True, help="Kaldi's list of audio files")
    p.add_argument("--top_k", type=count, default=16, help="0: all")
    _add_rounds(p, 7)
    add_compute(p)


def _add_search(p: argparse.ArgumentParser) -> None:
    add_model(p)
    p.add_argument("--text", required=True, help="transcripts")
    _add_rounds(p, 3)
    p.add_argument(
        "--espnet_utterances",
        type=count,
        default=10,
        help="utterances that ESPnet's own search decodes, evenly spread; 0: none",
    )
    add_max_bad_share(p)
    add_search(p)
    add_compute(p)


def _add_skip(p: argparse.ArgumentParser) -> None:
    add_model(p)
    p.add_argument("--text", required=True, help="transcripts")
    p.add_argument(
        "--other",
        required=True,
        action="append",
        help="folder of an exported model; may be repeated; ratios are to the first",
    )
    p.add_argument(
        "--thresholds", type=float, nargs="+", default=[1.1, 0.999, 0.99, 0.95, 0.9]
    )
    p.add_argument("--neighbours", type=count, nargs="+", default=[1])
    _add_rounds(p, 5)
    add_compute(p)


def _add_rounds(p: argparse.ArgumentParser, default: int) -> None:
    p.add_argument(
        "--rounds",
        type=positive,
        default=default,
        help="number of rounds; the median is reported",
    )


BENCHES: Dict[str, Bench] = {
    "train": Bench(
        "train",
        "a training step of a Conformer of 18 M parameters on utterances of 20 s, "
        "distilled from cached posteriors or from an online teacher of the same size, "
        "against the step of the same student with plain CTC",
        _add_train,
    ),
    "objective": Bench(
        "train",
        "the distance only, forward and backward, with 5000 tokens and a fifth of the "
        "frames selected, against straightforward PyTorch code, with the peak of the "
        "allocated memory",
        _add_train,
    ),
    "dump": Bench(
        "dump",
        "a dump, including the files, against the teacher's forward pass on the same "
        "batches and on single utterances",
        _add_dump,
    ),
    "search": Bench(
        "search",
        "decoding: searches of the same posteriors, each with Blank Collapse at "
        "several thresholds, and torchaudio's search if a lexicon is given; then from "
        "audio to text, against ESPnet's own search with CTC only",
        _add_search,
    ),
    "skip": Bench(
        "skip",
        "layer skipping: a student with encoder: ctckd_skip_conformer at several "
        "thresholds, which need no further training, against other models, such as a "
        "Conformer without skipping",
        _add_skip,
    ),
}
# Old names, until 0.4.
_RENAMED = {"step": "train"}


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Measure, and print tables."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--what", nargs="?")
    given = early.parse_known_args(cmd)[0].what
    what = _RENAMED.get(given, given)
    if what != given:
        _warn(f"--what {given} is deprecated until 0.4: give --what {what}")
    p = parser(_describe(what))
    p.add_argument(
        "--what",
        choices=list(BENCHES),
        type=lambda text: _RENAMED.get(text, text),
        required=True,
        help="what is measured; `--what NAME --help` lists the flags of each",
    )
    if what in BENCHES:
        BENCHES[what].add_flags(p)
    has_config = any(action.dest == "config" for action in p._actions)
    args = configured(p, cmd) if has_config else p.parse_args(cmd)
    bench = importlib.import_module(f"{__name__}.{BENCHES[args.what].module}").bench
    bench(args)


def _describe(what: Optional[str]) -> str:
    turns = (
        "All contenders take turns in every round; ratios are medians over the rounds."
    )
    if what in BENCHES:
        return f"Measure on this machine {BENCHES[what].text}. {turns}"
    each = "; ".join(f"{name}: {bench.text}" for name, bench in BENCHES.items())
    return f"Measure speed on this machine. {turns} {each}."


def main_deprecated(name: str, what: str, cmd: Optional[Sequence[str]]) -> None:
    """Run a benchmark under its former command name, with a warning.

    Args:
        name: former name of the command.
        what: name of the benchmark.
        cmd: the flags, or None for the flags of the command line.
    """
    _warn(f"{name} is deprecated until 0.4: call `bench --what {what}`")
    main(["--what", what, *(sys.argv[1:] if cmd is None else cmd)])


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
