"""Files: read with one clear error, written whole or not at all."""

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


# What a gzip file begins with.
_GZIP = b"\x1f\x8b"


def shorten(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names, for an error message."""
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed}, … ({len(names)} in all)"


def file_crc32(path: Pathlike) -> int:
    """Checksum of a file."""
    crc = 0
    with open(path, "rb") as f:
        while block := f.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def sha256(path: Pathlike) -> str:
    """Hash of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Pathlike, advice: str) -> Dict[str, Any]:
    """Read a JSON object from a file that may have been written by anyone.

    Args:
        path: the file.
        advice: what to do about a damaged one, for the error.

    Returns:
        Its keys and values.

    Raises:
        InputError: it is not JSON, or not an object, or nested too deeply.
        OSError: it is missing, or cannot be read.
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


def read_told(path: Pathlike) -> Dict[str, Any]:
    """Read what a command has told of its work, in JSON.

    Args:
        path: as ``decode.json``.

    Returns:
        Its keys and values; none where there is no such file.

    Raises:
        InputError: it is damaged.
    """
    try:
        return read_json(path, "remove it")
    except FileNotFoundError:
        return {}


def folder_size(path: Pathlike) -> int:
    """Bytes of the files in a folder, and in those below it."""
    return sum(p.stat().st_size for p in Path(path).rglob("*") if p.is_file())


@contextlib.contextmanager
def open_text(path: Pathlike, what: str, errors: str = "strict") -> Iterator[TextIO]:
    """Open UTF-8 text, gzipped or not, for reading.

    Args:
        path: the file; gzip is told by its first bytes, whatever its name.
        what: it is, for the error.
        errors: of the encoding, as `open` takes them.

    Yields:
        The open file.

    Raises:
        InputError: it is missing, a folder, not to be read, a damaged gzip file, or not
            text; while it is read, too.
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
    """A name to write a file to that gets its own only when whole.

    Args:
        path: the file to write.

    Yields:
        Another name in the same folder, which is gone afterwards.

    Raises:
        InputError: there is a folder of that name.
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
        if error.filename is None:  # a full disk does not say which file
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(path: Pathlike) -> Iterator[TextIO]:
    """Open a text file for writing that appears under its name only when whole.

    Args:
        path: the file to write.

    Yields:
        The open file, of another name in the same folder.
    """
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as f:
        yield f
        f.flush()
        os.fsync(f.fileno())
