#!/usr/bin/env python3
"""Finds the needed parts of LibriSpeech, and downloads those that are nowhere.

A part is unpacked beside its place and moved there when whole. Its archive, whose
checksum torchaudio compares, is removed after that.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "utils"))
from kaldi_dir import DataError, run_main


class Part(NamedTuple):
    """Size of a part of the corpus.

    Attributes:
        gigabytes: Size of the archive, and about that of the unpacked files.
        utterances: Number of utterances.
    """

    gigabytes: float
    utterances: int


PARTS = {
    "dev-clean": Part(0.4, 2703),
    "dev-other": Part(0.4, 2864),
    "test-clean": Part(0.4, 2620),
    "test-other": Part(0.4, 2939),
    "train-clean-100": Part(6.4, 28539),
    "train-clean-360": Part(23.1, 104014),
    "train-other-500": Part(30.6, 148688),
}
TRAIN_SETS = {
    "train_clean_100": ["train-clean-100"],
    "train_clean_460": ["train-clean-100", "train-clean-360"],
    "train_960": ["train-clean-100", "train-clean-360", "train-other-500"],
}
DEV_PARTS = ["dev-clean", "dev-other"]
MINI_PARTS = ["train-clean-100", "test-other"]


def needed_parts(args: argparse.Namespace) -> list[str]:
    """Lists the parts that the options ask for.

    Raises:
        DataError: One of --parts is not a part.
    """
    if args.mini:
        return MINI_PARTS
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        raise DataError(
            f"got {' '.join(unknown)}, expected some of {' '.join(PARTS)}, "
            "change --parts"
        )
    train_set = args.train_set or ("" if args.parts else "train_clean_100")
    parts = args.parts or [*DEV_PARTS, "test-clean", "test-other"]
    return list(dict.fromkeys([*TRAIN_SETS.get(train_set, []), *parts]))


def find_part(
    roots: Iterable[Path], part: str, mini: bool = False
) -> tuple[Path | None, int]:
    """Finds the folder of a part: of several the one with the most utterances.

    Args:
        roots: Folders that hold LibriSpeech/, or are that folder.
        part: Name of the part.
        mini: Of several, take the first.

    Returns:
        The folder, or None where there is none, and its number of utterances.
    """
    found = []
    for folder in (f / part for root in roots for f in (root / "LibriSpeech", root)):
        number = sum(1 for _ in folder.glob("*/*/*.flac"))
        if number:
            found.append((Path(os.path.abspath(folder)), number))
    if not found:
        return None, 0
    return found[0] if mini else max(found, key=lambda item: item[1])


def missing_parts(args: argparse.Namespace) -> list[str]:
    """Lists the parts to download.

    Raises:
        DataError: A given folder is not there, or a part is there but not whole.
    """
    for root in args.corpus_dir:
        if not root.is_dir():
            raise DataError(
                f"got {root}, which is not a folder, expected the one that holds "
                "LibriSpeech/, correct --librispeech or db.sh"
            )
    missing = []
    for part in needed_parts(args):
        folder, number = find_part(
            [*args.corpus_dir, args.download_dir], part, args.mini
        )
        if folder is None:
            missing.append(part)
        elif number < PARTS[part].utterances and not args.mini:
            raise DataError(
                f"got {number} utterances in {folder}, expected "
                f"{PARTS[part].utterances}, complete or remove that folder, or "
                "give --mini true to run on what is there"
            )
    return missing


def check_space(parts: list[str], download_dir: Path) -> None:
    """Checks that the parts, and the archive of the largest, fit on the disk.

    Raises:
        DataError: They do not.
    """
    sizes = [PARTS[part].gigabytes for part in parts]
    needed = sum(sizes) + max(sizes)
    folder = Path(os.path.abspath(download_dir))
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free < needed:
        raise DataError(
            f"got {free:.1f} GB free on the disk of {download_dir}, expected "
            f"{needed:.1f} GB for {' '.join(parts)}, free some or change --download_dir"
        )


def download(part: str, download_dir: Path) -> None:
    """Downloads, checks and unpacks a part.

    torchaudio takes any folder of the part's name for whole, so it works in a folder
    of its own. The archive there is a whole one, for torchaudio renames it after
    comparing the checksum; unpacked files may be from a run that was cut off.

    Raises:
        DataError: It can't be downloaded or unpacked.
    """
    staging = download_dir / f".{part}.tmp"
    staging.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(staging / "LibriSpeech", ignore_errors=True)
    for cut_off in staging.glob("*.partial"):
        cut_off.unlink()
    print(f"Downloading {part} ({PARTS[part].gigabytes} GB) to {download_dir}")
    try:
        from torchaudio.datasets import LIBRISPEECH

        LIBRISPEECH(staging, url=part, download=True)
    except (ImportError, OSError, HTTPException, RuntimeError, TarError) as error:
        raise DataError(
            f"got a failed download of LibriSpeech's {part} ({error}), expected "
            f"https://www.openslr.org/resources/12/{part}.tar.gz, run this again, or "
            "fetch and unpack it by hand and pass --librispeech <its folder>"
        ) from error
    corpus = download_dir / "LibriSpeech"
    corpus.mkdir(exist_ok=True)
    for path in (staging / "LibriSpeech").iterdir():
        if path.name == part or not (corpus / path.name).exists():
            path.rename(corpus / path.name)
    shutil.rmtree(staging)


def get_parser(description: str) -> argparse.ArgumentParser:
    """Builds the command line that finding and preparing the parts share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--corpus_dir",
        type=Path,
        nargs="*",
        default=[],
        help="folders to look for the parts in: LibriSpeech/ or what holds it",
    )
    parser.add_argument(
        "--download_dir",
        type=Path,
        default=Path("downloads"),
        help="folder to look in after those, and to download to",
    )
    parser.add_argument(
        "--parts",
        nargs="*",
        default=[],
        help="parts wanted beside those of the training set; "
        "none: both dev and both test parts",
    )
    parser.add_argument(
        "--train_set",
        choices=list(TRAIN_SETS),
        help="training set; without it: none where --parts is given, "
        "else train_clean_100",
    )
    parser.add_argument(
        "--mini",
        action="store_true",
        help=f"run on what is there of {' and '.join(MINI_PARTS)}, however little",
    )
    return parser


def main() -> None:
    """Runs the script."""
    args = get_parser(__doc__).parse_args()
    missing = missing_parts(args)
    if missing and args.mini and args.corpus_dir:
        raise DataError(
            f"got no {' and no '.join(missing)} in "
            f"{' or '.join(str(root) for root in args.corpus_dir)}, expected at least "
            "a few speakers of it for --mini true, correct --librispeech or db.sh"
        )
    if missing:
        check_space(missing, args.download_dir)
    for part in missing:
        download(part, args.download_dir)


if __name__ == "__main__":
    run_main(main)
