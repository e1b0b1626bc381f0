#!/usr/bin/env python3
"""Downloads an n-gram model and the lexicon of LibriSpeech (OpenSLR 11).

A file appears under its name when it is whole; what is there is not fetched again.
"""

import argparse
import gzip
import os
import shutil
import sys
import urllib.error
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "utils"))
from kaldi_dir import DataError, run_main

URL = "https://www.openslr.org/resources/11"
# Gigabytes of the models, unpacked, about.
MODELS = {
    "3-gram.pruned.3e-7": 0.1,
    "3-gram.pruned.1e-7": 0.2,
    "3-gram": 2.3,
    "4-gram": 4.3,
}
LEXICON = "librispeech-lexicon.txt"


def fetch(url: str, target: Path) -> None:
    """Downloads a file, unpacked where it is packed with gzip.

    Raises:
        DataError: It can't be downloaded, or is damaged.
    """
    partial = target.with_name(f".{target.name}.part")
    print(f"Downloading {url} to {target}", flush=True)
    try:
        with urllib.request.urlopen(url, timeout=60) as said, open(partial, "wb") as f:
            packed = url.endswith(".gz")
            shutil.copyfileobj(gzip.GzipFile(fileobj=said) if packed else said, f)
            f.flush()
            os.fsync(f.fileno())
    except (
        OSError, EOFError, zlib.error, HTTPException, urllib.error.URLError,
    ) as error:  # fmt: skip
        partial.unlink(missing_ok=True)
        raise DataError(
            f"got a failed download of {url} ({error}), expected the file, run this "
            f"again, or fetch it by hand to {target}"
        ) from error
    os.replace(partial, target)


def check_model(path: Path) -> None:
    """Checks that an ARPA file is whole.

    Raises:
        DataError: It does not end as such a file does.
    """
    with open(path, "rb") as f:
        f.seek(max(0, path.stat().st_size - 100))
        if not f.read().rstrip().endswith(b"\\end\\"):
            raise DataError(
                f"got a language model {path} without \\end\\, expected it as its "
                "last line, remove the file and run this again"
            )


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--download_dir", type=Path, default=Path("downloads/lm"))
    parser.add_argument("--url", default=URL, help=f"folder on a server ({URL})")
    args = parser.parse_args()
    folder = args.download_dir
    folder.mkdir(parents=True, exist_ok=True)
    model, lexicon = folder / f"{args.model}.arpa", folder / LEXICON
    free = shutil.disk_usage(folder).free / 1e9
    if not model.exists() and free < MODELS[args.model]:
        raise DataError(
            f"got {free:.1f} GB free on the disk of {folder}, expected "
            f"{MODELS[args.model]} GB for {args.model}, free some or change "
            "--download_dir"
        )
    if not lexicon.exists():
        fetch(f"{args.url}/{LEXICON}", lexicon)
    if not model.exists():
        fetch(f"{args.url}/{args.model}.arpa.gz", model)
    check_model(model)
    print(f"{model}, {lexicon}")


if __name__ == "__main__":
    run_main(main)
