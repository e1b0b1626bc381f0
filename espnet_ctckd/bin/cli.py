"""Shared code of the commands ``python -m espnet_ctckd.bin.<name>``, one per file."""

import argparse
import contextlib
import logging
import math
import re
import sys
import warnings
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import yaml

from espnet_ctckd.choices import InputError

Main = Callable[[Optional[Sequence[str]]], None]


def run(main: Main) -> None:
    """Run a command; print user errors and file-system errors as one line.

    Args:
        main: takes the arguments, or None for the arguments of the command line.
    """
    # ESPnet's own code triggers this warning in every command.
    warnings.filterwarnings("ignore", "`torch.cuda.amp", FutureWarning)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    try:
        main(None)
    except InputError as error:
        _fail(str(error))
    except yaml.YAMLError as error:
        _fail(f"the configuration is not YAML: {error}")
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or 'while writing'}")


@contextlib.contextmanager
def naming(**flags: str) -> Iterator[None]:
    """Replace parameter names in backticks by flags in errors of the library.

    Args:
        flags: parameter -> flag.

    Raises:
        InputError: the error with the names of the flags.
    """
    try:
        yield
    except InputError as error:

        def flag(found: re.Match[str]) -> str:
            return flags.get(found[1], found[0])

        error.args = (re.sub(r"`(\w+)`", flag, str(error)),)
        raise


def _fail(message: str) -> None:
    line = " ".join(part.strip() for part in message.splitlines())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(1)


def parser(description: Optional[str]) -> argparse.ArgumentParser:
    """Return an argument parser whose help shows defaults."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def configured(
    p: argparse.ArgumentParser, cmd: Optional[Sequence[str]]
) -> argparse.Namespace:
    """Parse a command line and the flags of its YAML file --config.

    Args:
        p: a parser with ``--config``.
        cmd: the command line, which overrides the file.

    Raises:
        InputError: the file is missing or invalid.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    path = early.parse_known_args(cmd)[0].config
    if path is None:
        return p.parse_args(cmd)
    conf = _read_flags(path)
    takes = {action.dest: action for action in p._actions}
    for key, value in conf.items():
        if key not in takes:
            raise InputError(f"{path} has the key {key!r}, which is no flag here")
        action = takes[key]
        if value is None and action.default is not None:
            raise InputError(f"{path} has the key {key!r} without a value")
        if action.nargs == 0 and not isinstance(value, bool):
            raise InputError(f"{path}: {key} cannot be {value!r}; give true or false")
        if action.nargs != 0 and value is not None:
            kind = action.type or str
            try:
                conf[key] = (
                    [kind(str(v)) for v in value]  # type: ignore[operator]
                    if isinstance(value, list)
                    else kind(str(value))  # type: ignore[operator]
                )
            except (ValueError, argparse.ArgumentTypeError):
                raise InputError(f"{path}: {key} cannot be {value!r}") from None
        action.required = False
    p.set_defaults(**conf)
    return p.parse_args(cmd)


def _read_flags(path: str) -> Dict[str, Any]:
    """Read the mapping of a configuration file."""
    try:
        with open(path, encoding="utf-8") as f:
            conf = yaml.safe_load(f) or {}
    except FileNotFoundError:
        raise InputError(f"there is no configuration {path}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(conf, dict):
        raise InputError(f"{path} holds no mapping of flags")
    return conf


def positive(text: str) -> int:
    """Parse an integer of at least 1, for a flag."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def seconds(text: str) -> float:
    """Parse a number above 0, for a flag."""
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def count(text: str) -> int:
    """Parse an integer of at least 0, for a flag."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return number


def amount(text: str) -> float:
    """Parse a finite number of at least 0, for a flag."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return number


def percent(text: str) -> float:
    """Parse a number from 0 to 100, for a flag."""
    number = float(text)
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 100")
    return number


def add_model(p: argparse.ArgumentParser) -> None:
    """Add the flags of the model and its input audio."""
    p.add_argument("--asr_train_config", required=True, help="config.yaml of the model")
    p.add_argument("--asr_model_file", required=True, help="weights of the model")
    p.add_argument("--wav_scp", required=True, help="Kaldi's list of audio files")


def add_compute(p: argparse.ArgumentParser) -> None:
    """Add the flags of the batch size and the device."""
    p.add_argument(
        "--batch_seconds", type=seconds, default=60.0, help="audio per batch in seconds"
    )
    add_device(p)


def add_student(p: argparse.ArgumentParser) -> None:
    """Add the flags that define a student by its training configuration."""
    p.add_argument("--asr_config", help="training configuration of the student")
    p.add_argument("--token_list", help="token list of the student")
    p.add_argument("--token_type", default="bpe", help="token type of the student")
    p.add_argument("--bpemodel", help="sentencepiece model of the student")


def student_flags(
    p: argparse.ArgumentParser, args: argparse.Namespace, more: Sequence[str]
) -> List[str]:
    """Convert the flags of `add_student` to flags of asr_train.

    Args:
        p: the command's parser.
        args: the parsed arguments.
        more: the unparsed arguments, which are flags of asr_train.

    Returns:
        The flags; an empty list without ``--asr_config``.
    """
    if not args.asr_config:
        if more:
            p.error(f"{more[0]} is unknown, or is read with --asr_config only")
        if args.token_list:
            p.error("--token_list is read with --asr_config only: give both")
        return []
    if not args.token_list:
        p.error("--asr_config needs --token_list")
    if args.token_type == "bpe" and not args.bpemodel:
        p.error("--token_type bpe needs --bpemodel; for characters: char")
    flags = ["--config", args.asr_config, *more]
    flags += ["--token_list", args.token_list, "--token_type", args.token_type]
    flags += ["--normalize", "none"]
    return flags + (["--bpemodel", args.bpemodel] if args.bpemodel else [])


def add_max_bad_share(p: argparse.ArgumentParser, default: float = 1.0) -> None:
    """Add the flag of the maximum share of unusable utterances."""
    p.add_argument(
        "--max_bad_share",
        type=percent,
        default=default,
        help="maximum percentage of unusable utterances; one utterance is always "
        "tolerated, unless it is 0",
    )


def add_device(p: argparse.ArgumentParser) -> None:
    """Add the flags of the device."""
    p.add_argument("--num_threads", type=positive, default=1, help="CPU threads")
    add_gpu(p)


def add_gpu(p: argparse.ArgumentParser) -> None:
    """Add the flag of the number of GPUs."""
    p.add_argument(
        "--ngpu",
        type=int,
        default=0,
        choices=(0, 1),
        help="number of GPUs, 0 or 1 (GPU untested)",
    )


def device(args: argparse.Namespace) -> str:
    """Set the number of threads, and return the device of the flags.

    Raises:
        InputError: there is no GPU.
    """
    import torch

    torch.set_num_threads(args.num_threads)
    if args.ngpu and not torch.cuda.is_available():
        raise InputError("--ngpu is 1, but there is no usable GPU here: give --ngpu 0")
    return "cuda" if args.ngpu else "cpu"
