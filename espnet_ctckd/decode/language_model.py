"""Words and checks of n-gram language model files for KenLM."""

import itertools
import os
import re
from pathlib import Path
from typing import Iterator, List, TextIO

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, open_text

# First bytes of a binary language model of KenLM, and the supported version.
_BINARY = b"mmap lm http://kheafield.com/code"
_VERSION = b" format version 5\n"
_ONE_GRAMS, _END = "\\1-grams:", "\\end\\"
# Number of bytes at the end of a file that are searched for its last line.
_TAIL = 4096
# Marks another pronunciation of a word in CMU's dictionaries.
_VARIANT = re.compile(r"\(\d+\)$")


def is_binary(path: Pathlike) -> bool:
    """Return True if a file is a binary language model of KenLM, of any version."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as f:
        return f.read(len(_BINARY)) == _BINARY


def check_lm(path: Pathlike) -> None:
    """Refuse a language model that KenLM cannot read, without loading it.

    Checks the unigrams and the end of an ARPA file, which is unpacked if it is
    gzipped; and the version of a binary file.

    Args:
        path: ARPA file, gzipped or not, or a binary of KenLM.

    Raises:
        InputError: the file is missing, unreadable, cut short, or of another format.
    """
    if not os.path.exists(path):
        raise InputError(f"there is no language model {path}")
    if os.path.isfile(path) and not os.access(path, os.R_OK):
        raise _unreadable(path, "you have no permission to read it")
    if is_binary(path):
        with open(path, "rb") as f:
            head = f.read(len(_BINARY) + len(_VERSION))[len(_BINARY) :]
        if head != _VERSION:
            found = head.split(b"\n")[0].decode(errors="replace").strip()
            raise _unreadable(
                path,
                f"it is a binary of another version of KenLM ({found}, expected "
                f"{_VERSION.decode().strip()}): build it again from its ARPA file",
            )
        return
    # Errors in the encoding of the words are left to KenLM.
    for _ in _unigrams(path, "replace"):
        pass


def read_words(path: Pathlike) -> List[str]:
    """Read the distinct words of a list, a dictionary or an ARPA file.

    Args:
        path: the file, gzipped or not.

    Returns:
        Words in the order of the file, without ``<s>`` and the like.

    Raises:
        InputError: the file is missing, not text, a damaged ARPA file, or a binary
            language model.
    """
    if is_binary(path):
        raise InputError(
            f"{path} is a binary language model of KenLM, whose words cannot be read: "
            "give the words as a list, a dictionary or the ARPA file that it was built "
            "from (--words; of kd.sh: --lexicon)"
        )
    if _is_arpa(path):
        found = list(_unigrams(path))
    else:
        with open_text(path, "list of words") as f:
            found = [line.split()[0] for line in f if line.strip()]
    plain = [_VARIANT.sub("", word) for word in found]
    return list(dict.fromkeys(w for w in plain if not re.fullmatch(r"<.*>", w)))


def _is_arpa(path: Pathlike) -> bool:
    with open_text(path, "list of words", "replace") as f:
        return _first_line(f) == "\\data\\"


def _first_line(lines: Iterator[str]) -> str:
    """Return the first line that is not blank."""
    return next((line.strip() for line in lines if line.strip()), "")


def _unigrams(path: Pathlike, errors: str = "strict") -> Iterator[str]:
    """Iterate over the unigrams of an ARPA file, and check its end after the last.

    Raises:
        InputError: the file is damaged, or is not an ARPA file.
    """
    with open_text(path, "language model", errors) as f:
        first = _first_line(f)
        if not first:
            raise _unreadable(path, "it is empty")
        if first != "\\data\\":
            raise _unreadable(
                path,
                f"its first line is {first[:30]!r}, where that of an ARPA file is "
                "\\data\\. It wants ARPA, gzipped or not, or its own binary format",
            )
        header = list(itertools.takewhile(lambda line: line.strip() != _ONE_GRAMS, f))
        counts = [
            re.fullmatch(r"ngram\s+1\s*=\s*(\d+)", line.strip()) for line in header
        ]
        wanted = next((int(count[1]) for count in counts if count), 0)
        for number in range(1, wanted + 1):
            fields = next(f, "").rstrip("\n").split("\t")
            word = fields[1].strip() if len(fields) > 1 else ""
            if not word or not _is_number(fields[0]):
                raise _unreadable(
                    path,
                    f"line {number} of its {wanted} unigrams is no number, tab and "
                    "word: it is cut short, damaged, or has blanks for tabs. It "
                    "wants ARPA with tabs after probabilities",
                )
            yield word
        if not wanted:
            raise _unreadable(path, "it has no line `ngram 1=<its unigrams>`")
        if _last_line(path, f) != _END:
            raise _unreadable(
                path,
                "its end (\\end\\) is missing: it is cut short. Fetch it again",
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _last_line(path: Pathlike, rest: TextIO) -> str:
    """Return the last line of a file that is not blank.

    Args:
        path: the file.
        rest: the open file; its remaining lines are read if it is gzipped.
    """
    with open(path, "rb") as f:
        zipped = f.read(2) == b"\x1f\x8b"
        f.seek(max(0, os.path.getsize(path) - _TAIL))
        tail: List[str] = f.read().decode(errors="replace").splitlines()
    if zipped:
        tail = [""]
        for line in rest:
            if line.strip():
                tail[0] = line
    return next((line.strip() for line in reversed(tail) if line.strip()), "")


def _unreadable(path: Pathlike, why: str) -> InputError:
    return InputError(f"KenLM cannot read the language model {path}: {why}")


def kenlm_error(path: Pathlike, error: Exception) -> InputError:
    """Return the error of KenLM for an unreadable file, without its source lines."""
    source = r"^\S+\.(cc|hh):\d+ in .*? threw \w+( because `.*?')?\.\s*"
    reason = re.sub(source, "", " ".join(str(error).split()))
    return _unreadable(
        path,
        f"{reason}. It wants ARPA with tabs after probabilities, or its own binary "
        "format",
    )
