"""One command a file: ``python -m espnet_ctckd.bin.<name> --help``."""

import argparse
import logging
import sys
from typing import Callable, Optional, Sequence

from espnet_ctckd.choices import InputError

Main = Callable[[Optional[Sequence[str]]], None]


def run(main: Main) -> None:
    """Run a command; a mistake of the user, or a disk that refuses, is one line.

    Args:
        main: takes the arguments, or None for those of the command line.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    try:
        main(None)
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or 'while writing'}")


def _fail(message: str) -> None:
    line = " ".join(part.strip() for part in message.splitlines())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(1)


def parser(description: Optional[str]) -> argparse.ArgumentParser:
    """An argument parser that shows defaults."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
