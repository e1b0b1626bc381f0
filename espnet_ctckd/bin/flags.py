"""Groups of flags that several commands share.

This module does not import torch or ESPnet before a command line is parsed. It repeats
names and defaults of the library's registries and configurations; a test compares them.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Dict, Sequence, Tuple

import yaml

from espnet_ctckd.bin.cli import naming
from espnet_ctckd.choices import InputError

if TYPE_CHECKING:
    from espnet_ctckd.decode.search import SearchConfig
    from espnet_ctckd.evaluation.score import Normalization
    from espnet_ctckd.teachers import Teacher

# Keys of espnet_ctckd.teachers.TEACHER_CHOICES.
TEACHER_TYPES = ("espnet", "huggingface", "torchaudio", "python", "ensemble")
# espnet_ctckd.teachers.precision.DTYPES.
DTYPES = ("float32", "bfloat16", "float16")
# Fields of espnet_ctckd.decode.search.SearchConfig but `method`: type, default, help.
SEARCH: Dict[str, Tuple[type, Any, str]] = {
    "nbest": (int, 1, "hypotheses per utterance"),
    "blank_collapse": (float, 1.0, "threshold of Blank Collapse, e.g. 0.999; 1: off"),
    "beam": (int, 20, "beam size in hypotheses"),
    "tokens_per_frame": (int, 20, "most probable tokens of a frame that are expanded"),
    "beam_threshold": (
        float,
        25.0,
        "of lexicon: maximum distance from the best hypothesis in nats",
    ),
    "lexicon": (str, None, "of lexicon: file of words and their tokens"),
    "lm": (str, None, "of lexicon: n-gram model of KenLM, ARPA or binary"),
    "lm_scale": (float, 1.0, "of lexicon: scale of the language model"),
    "word_score": (float, 0.0, "of lexicon: score added per word"),
    "silence_score": (float, 0.0, "of lexicon: score added per space"),
    "prior_file": (
        str,
        None,
        "of prefix_beam and lexicon: prior written by estimate_prior",
    ),
    "prior_scale": (float, 0.0, "scale of the prior"),
}


def add_teacher(p: argparse.ArgumentParser) -> None:
    """Add the flags that name a teacher."""
    p.add_argument(
        "--teacher_type", default="espnet", help=f"one of {', '.join(TEACHER_TYPES)}"
    )
    p.add_argument(
        "--teacher",
        help="folder or tag of an ESPnet model; id or folder of a Hugging Face model; "
        "bundle of torchaudio; package.module:factory; YAML of an ensemble",
    )
    p.add_argument(
        "--teacher_conf",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the teacher type",
    )
    p.add_argument("--teacher_config", help="config.yaml of an ESPnet model")
    p.add_argument("--teacher_model", help="weights of an ESPnet model")


def teacher_of(
    args: argparse.Namespace, device: str, dtype: str = "float32"
) -> Teacher:
    """Open the teacher that the flags of `add_teacher` name.

    Args:
        args: the parsed command line.
        device: where the teacher computes.
        dtype: one of `DTYPES`.

    Returns:
        The teacher.

    Raises:
        InputError: the flags are contradictory, or the teacher cannot be opened.
    """
    options = _read_options(args.teacher_conf)
    files = [f for f in (args.teacher_config, args.teacher_model) if f]
    if files and args.teacher_type != "espnet":
        raise InputError(
            f"--teacher_config and --teacher_model are of --teacher_type espnet, and "
            f"it is {args.teacher_type}: give --teacher"
        )
    if files and args.teacher:
        raise InputError(
            f"both --teacher {args.teacher} and {files[0]} say which teacher: give "
            "--teacher, or --teacher_config and --teacher_model"
        )
    for name in ("config", "model"):
        if getattr(args, f"teacher_{name}"):
            options[f"{name}_file"] = getattr(args, f"teacher_{name}")
    from espnet_ctckd.teachers import open_teacher

    with naming(
        source="--teacher",
        config_file="--teacher_config",
        model_file="--teacher_model",
    ):
        return open_teacher(args.teacher_type, args.teacher, device, options, dtype)


def _read_options(given: Sequence[str]) -> Dict[str, Any]:
    """Parse options ``key=value`` with values in YAML.

    Args:
        given: options of the command line.

    Returns:
        Key -> value.

    Raises:
        InputError: an option is not of this form.
    """
    options = {}
    for option in given:
        key, separator, value = option.partition("=")
        if not key.isidentifier() or not separator:
            raise InputError(f"--teacher_conf is {option!r}; give KEY=VALUE")
        options[key] = yaml.safe_load(value)
    return options


def add_search(p: argparse.ArgumentParser) -> None:
    """Add the flags of the search, and --config for a YAML file with flags."""
    p.add_argument(
        "--config", help="YAML of these flags; the command line overrides it"
    )
    g = p.add_argument_group("search")
    g.add_argument(
        "--method",
        default="greedy",
        help="greedy, prefix_beam, lexicon, or another of DECODER_CHOICES",
    )
    for name, (kind, default, text) in SEARCH.items():
        g.add_argument(f"--{name}", type=kind, default=default, help=text)


def search_of(args: argparse.Namespace) -> SearchConfig:
    """Return the search configuration of the flags of `add_search`."""
    from espnet_ctckd.decode.search import SearchConfig

    return SearchConfig(**{name: getattr(args, name) for name in ("method", *SEARCH)})


def add_normalization(p: argparse.ArgumentParser) -> None:
    """Add the flags of the text normalization before scoring."""
    p.add_argument(
        "--case",
        choices=("keep", "upper", "lower"),
        default="keep",
        help="letter case for scoring",
    )
    p.add_argument("--remove", default="", help='characters to remove, e.g. ".,?!"')
    p.add_argument(
        "--unicode",
        choices=("keep", "nfc", "nfkc"),
        default="nfc",
        help="Unicode normal form; nfkc also converts full-width letters",
    )


def normalization_of(args: argparse.Namespace) -> Normalization:
    """Return the normalization of the flags of `add_normalization`."""
    from espnet_ctckd.evaluation.score import Normalization

    return Normalization(args.case, args.remove, args.unicode)
