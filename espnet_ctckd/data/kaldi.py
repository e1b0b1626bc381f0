"""Kaldi lists, and checks of data folders."""

from collections import Counter
from pathlib import Path
from typing import (
    Dict,
    Iterable,
    List,
    Mapping,
    Sequence,
    Tuple,
)

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, atomic_write, open_text, shorten

# File in a data folder that lists the utterances with unusable audio.
UNUSABLE = "unusable"
# File in a data folder with speed-perturbed copies: the speed of each utterance.
SPEEDS = "utt2speed"


def read_lines(path: Pathlike, what: str) -> List[str]:
    """Read the lines of a text file; only a line feed ends a line, as in ESPnet.

    Args:
        path: the file, gzipped or not.
        what: description of the file, for the error.

    Raises:
        InputError: see `open_text`; or the file begins with a byte order mark.
    """
    with open_text(path, what) as f:
        lines = [line.rstrip("\n") for line in f]
    if lines and lines[0].startswith("\ufeff"):
        raise InputError(
            f"the {what} {path} begins with a byte order mark, which would be taken "
            "for a part of the first name; write it as UTF-8 without one"
        )
    return lines


def read_scp(path: Pathlike) -> Dict[str, str]:
    """Read a Kaldi file of two columns.

    Args:
        path: each line is ``<utterance> <rest>``; the rest may be empty.

    Returns:
        Utterance -> rest, in the order of the file.

    Raises:
        InputError: the file is missing or empty, or has an utterance twice.
    """
    entries: Dict[str, str] = {}
    for number, line in enumerate(read_lines(path, "file"), 1):
        fields = line.split(maxsplit=1)
        if not fields:
            raise InputError(f"{path}:{number} is an empty line; remove it")
        if fields[0] in entries:
            raise InputError(
                f"{path}:{number} has the utterance {fields[0]!r} a second time; each "
                "must stand there once"
            )
        entries[fields[0]] = fields[1].rstrip() if len(fields) > 1 else ""
    if not entries:
        raise InputError(f"{path} is empty; it should have a line for each utterance")
    return entries


def read_wav_scp(path: Pathlike) -> Dict[str, str]:
    """Read a Kaldi list of audio files, one file per utterance.

    Args:
        path: ``wav.scp``.

    Returns:
        Utterance -> file, in the order of the list.

    Raises:
        InputError: see `read_scp`; or the folder has ``segments``.
    """
    refuse_segments(path)
    return read_scp(path)


def refuse_segments(path: Pathlike) -> None:
    """Refuse a ``wav.scp`` whose recordings ``segments`` divides into utterances."""
    segments = Path(path).parent / "segments"
    if segments.exists():
        raise InputError(
            f"{segments} says which parts of the recordings of {path} are utterances, "
            "and segments are not read here: write each utterance to a file of its "
            "own, name these in wav.scp and remove segments"
        )


def refuse_same(sources: Sequence[Path], target: Path) -> None:
    """Refuse to overwrite the data folders that are read.

    Raises:
        InputError: ``--output_dir`` is one of ``--input_dir``.
    """
    for source in sources:
        if source.resolve() == target.resolve():
            raise InputError(
                f"--output_dir is {target}, which is read (--input_dir), and would be "
                "overwritten: choose another folder"
            )


def limit_bad(
    bad: Mapping[str, str], total: int, percent: float, where: object, listed: Pathlike
) -> None:
    """Refuse data with too many unusable utterances.

    Args:
        bad: utterance -> reason.
        total: number of all utterances.
        percent: maximum share of unusable utterances in percent; one is always
            accepted, unless this is 0.
        where: the data, for the error.
        listed: the file that lists all unusable utterances.

    Raises:
        InputError: there are more; the error names the first few.
    """
    allowed = max(1.0, percent / 100 * total) if percent > 0 else 0.0
    if len(bad) > allowed:
        few = "; ".join(f"{utt}: {why}" for utt, why in list(bad.items())[:5])
        raise InputError(
            f"{len(bad)} of {total} utterances of {where} cannot be used, which is "
            f"more than --max_bad_share {percent:g} %: {few}. {listed} lists all: mend "
            "or remove them, or raise --max_bad_share"
        )


def refuse_all_bad(
    bad: Mapping[str, str], total: int, where: object, listed: Pathlike
) -> None:
    """Refuse data without usable utterances, regardless of the accepted share.

    Args:
        bad: utterance -> reason.
        total: number of utterances that are considered.
        where: the data, for the error.
        listed: the file that lists all unusable utterances.

    Raises:
        InputError: all are unusable; the error names the first few.
    """
    if bad and len(bad) >= total:
        few = "; ".join(f"{utt}: {why}" for utt, why in list(bad.items())[:5])
        raise InputError(
            f"none of {total} utterances of {where} can be used: {few}. {listed} lists "
            "all: mend or replace them"
        )


def write_scp(path: Pathlike, entries: Iterable[Tuple[str, object]]) -> None:
    """Write a Kaldi file of two columns atomically, sorted by bytes."""
    lines = sorted(f"{utt} {rest}\n".encode() for utt, rest in entries)
    with atomic_write(path) as f:
        f.writelines(line.decode() for line in lines)


def read_token_list(path: Pathlike) -> List[str]:
    """Read a token list, one token per line.

    Args:
        path: file in the format of ESPnet's ``--token_list``.

    Returns:
        V tokens.

    Raises:
        InputError: the file is missing or empty, or has a token twice.
    """
    tokens = read_lines(path, "token list")
    if not tokens:
        raise InputError(f"the token list {path} is empty")
    twice = [token for token, count in Counter(tokens).items() if count > 1]
    if twice:
        raise InputError(f"the token list {path} has tokens twice: {shorten(twice)}")
    return tokens
