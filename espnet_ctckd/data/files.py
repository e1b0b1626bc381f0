"""Reading of files with clear errors, and atomic writing."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import zlib
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterator,
    Sequence,
    TextIO,
    Union,
)

from espnet_ctckd.choices import InputError

Pathlike = Union[str, Path]


# The first bytes of a gzip file.
_GZIP = b"\x1f\x8b"


def shorten(names: Sequence[str], most: int = 5) -> str:
    """Join the first few of many names, for an error message."""
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed}, … ({len(names)} in all)"


def file_crc32(path: Pathlike) -> int:
    """Return the CRC-32 checksum of a file."""
    crc = 0
    with open(path, "rb") as f:
        while block := f.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def sha256(path: Pathlike) -> str:
    """Return the SHA-256 hash of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Pathlike, advice: str) -> Dict[str, Any]:
    """Read a JSON object from a file that may be damaged.

    Args:
        path: the file.
        advice: what to do about a damaged file, for the error.

    Returns:
        Its keys and values.

    Raises:
        InputError: the file is not JSON, not an object, or nested too deeply.
        OSError: the file is missing or cannot be read.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): {advice}") from None
    if not isinstance(found, dict):
        raise InputError(
            f"{path} is damaged: it holds no mapping. To mend it, {advice}"
        )
    return found


def read_report(path: Pathlike) -> Dict[str, Any]:
    """Read the JSON report of a command, if there is one.

    Args:
        path: the report, e.g. ``decode.json``.

    Returns:
        Its keys and values; empty if there is no such file.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return read_json(path, "remove it")
    except FileNotFoundError:
        return {}


def folder_size(path: Pathlike) -> int:
    """Return the size of a folder and its subfolders in bytes."""
    return sum(p.stat().st_size for p in Path(path).rglob("*") if p.is_file())


@contextlib.contextmanager
def open_text(path: Pathlike, what: str, errors: str = "strict") -> Iterator[TextIO]:
    """Open UTF-8 text, gzipped or not, for reading.

    Args:
        path: the file; gzip is recognised by the first bytes, not by the name.
        what: description of the file, for the error.
        errors: handling of encoding errors, see `open`.

    Yields:
        The open file.

    Raises:
        InputError: the file is missing, a folder, not readable, a damaged gzip file
            or not text; raised on opening or while reading.
    """
    try:
        with open(path, "rb") as plain:
            zipped = plain.peek(2)[:2] == _GZIP
            source: Any = gzip.GzipFile(fileobj=plain) if zipped else plain
            with io.TextIOWrapper(source, "utf-8", errors) as f:
                yield f
    except FileNotFoundError:
        raise InputError(f"there is no {what} {path}") from None
    except IsADirectoryError:
        raise InputError(f"the {what} {path} is a folder; give a file") from None
    except PermissionError:
        raise InputError(
            f"the {what} {path} cannot be read: you have no permission to"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"the {what} {path} is a gzip file that is damaged or cut short ({error}): "
            "fetch or write it again"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"the {what} {path} is not UTF-8 text: {error}") from None


@contextlib.contextmanager
def atomic_path(path: Pathlike) -> Iterator[Path]:
    """Provide a temporary path that is renamed to the final one on success.

    Args:
        path: the file to write.

    Yields:
        A temporary path in the same folder; it is removed on failure.

    Raises:
        InputError: `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None:  # the error of a full disk names no file
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(path: Pathlike) -> Iterator[TextIO]:
    """Open a text file for writing that is renamed to its final path on success.

    Args:
        path: the file to write.

    Yields:
        The open temporary file, in the same folder.
    """
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as f:
        yield f
        f.flush()
        os.fsync(f.fileno())
