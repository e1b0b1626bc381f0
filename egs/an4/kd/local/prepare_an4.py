#!/usr/bin/env python3
"""Makes the data directories of CMU AN4: train, valid, test, and two halves of train.

Takes the tree of .wav files and the one of .sph files, and fetches CMU's archive of
the latter where no folder is given. The set valid is some of the training speakers,
women and men by turns; the others are train. Every other speaker of train is
train_half; the rest is train_withheld, which has no transcripts: for what audio without
them is worth.
"""

import argparse
import os
import re
import shutil
import sys
import tarfile
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPException
from itertools import chain, groupby, zip_longest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "utils"))
from kaldi_dir import (
    DataError,
    Utterance,
    check_pairs,
    collect,
    run_main,
    write_kaldi_dirs,
)

URL = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"
TRANSCRIPTION = "etc/an4_{}.transcription"
LANGUAGE_MODEL = "etc/an4.lm"
AUDIO_DIRS = {"train": "wav/an4_clstk", "test": "wav/an4test_clstk"}
# "<s> YES </s> (an251-fash-b)"; the test set has no <s> and </s>
LINE = re.compile(r"(?:<s>)?\s*(\S.*?)\s*(?:</s>)?\s*\((\w+)-(\w+)-(\w+)\)")


def find_corpus(folder: Path) -> Path:
    """Finds the folder of etc/ and wav/: the one given, or an4/ in it.

    Raises:
        DataError: Neither is one.
    """
    for root in (folder, folder / "an4"):
        needed = [TRANSCRIPTION.format(name) for name in AUDIO_DIRS]
        if all((root / name).exists() for name in (*needed, *AUDIO_DIRS.values())):
            return Path(os.path.abspath(root))
    raise DataError(
        f"got {folder}, expected a folder with {TRANSCRIPTION.format('{train,test}')} "
        "and wav/{an4_clstk,an4test_clstk} in it or in its an4/, "
        "give AN4's folder by --an4 or in db.sh"
    )


def read_transcripts(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (utterance id, words) of a transcription file.

    Raises:
        DataError: A line is not a transcript.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = LINE.fullmatch(line.strip())
        if match is not None:
            yield to_utt_id("-".join(match.groups()[1:])), match[1].upper()
        elif line.strip():
            raise DataError(
                f"got {line.strip()!r} in {path}, line {number}, expected words and "
                "then (name-speaker-b), correct the line or fetch the corpus anew"
            )


def find_audio(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields (utterance id, file) of the .wav files, or else of the .sph files.

    Raises:
        DataError: There are neither.
    """
    files = list(folder.glob("*/*.wav")) or list(folder.glob("*/*.sph"))
    if not files:
        raise DataError(
            f"got no .wav and no .sph files in {folder}/<speaker>, expected either, "
            "give AN4's folder of wav or sphere files by --an4"
        )
    for path in files:
        yield to_utt_id(path.stem), path


def to_utt_id(name: str) -> str:
    """Puts the speaker first: an251-fash-b is fash-an251-b."""
    parts = name.split("-")
    return "-".join([parts[1], parts[0], *parts[2:]]) if len(parts) > 2 else name


def read_set(root: Path, name: str) -> list[Utterance]:
    """Reads the utterances of AN4's train or test."""
    transcription = root / TRANSCRIPTION.format(name)
    texts = collect(read_transcripts(transcription), f"lines of {transcription}")
    folder = root / AUDIO_DIRS[name]
    audio = collect(find_audio(folder), f"files of {folder}")
    check_pairs(audio, texts, folder)
    return [
        Utterance(utt_id, utt_id.split("-")[0], audio[utt_id], texts[utt_id])
        for utt_id in texts
    ]


def choose_dev_speakers(speakers: set[str], number: int) -> set[str]:
    """Chooses the held-out speakers: the first women and men (f..., m...) by turns.

    Raises:
        DataError: There are too few speakers.
    """
    if not 0 < number < len(speakers):
        raise DataError(
            f"got {number} held-out speakers, expected 1 to {len(speakers) - 1} of "
            f"the {len(speakers)} training speakers, change --dev_speakers"
        )
    sexes = [list(group) for _, group in groupby(sorted(speakers), lambda s: s[0])]
    turns = chain.from_iterable(zip_longest(*sexes))
    return set([speaker for speaker in turns if speaker is not None][:number])


def fetch(download_dir: Path, url: str) -> Path:
    """Downloads and unpacks the archive, unless that is done; returns its folder.

    Raises:
        DataError: It can't be downloaded or unpacked.
    """
    corpus = download_dir / "an4"
    archive = download_dir / "an4_sphere.tar.gz"
    if not corpus.exists():
        if not archive.exists():
            download(url, archive)
        unpack(archive, corpus)
    return corpus


def download(url: str, archive: Path) -> None:
    """Downloads a file by way of a .part file, renamed when it is whole."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(archive.name + ".part")
    print(f"Downloading {url} to {archive}")
    try:
        with urllib.request.urlopen(url, timeout=60) as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            expected = source.headers["Content-Length"]
        if expected is not None and part.stat().st_size != int(expected):
            raise OSError(f"{part.stat().st_size} of {expected} bytes came")
    except (OSError, ValueError, HTTPException) as error:
        raise DataError(
            f"got a failed download of {url} ({error}), expected AN4's archive, fetch "
            f"it by hand, put it at {archive} or unpack it and pass --an4 <its folder>"
        ) from error
    part.rename(archive)


def unpack(archive: Path, corpus: Path) -> None:
    """Unpacks the archive beside the corpus's place and renames it when whole."""
    temporary = corpus.with_name(f".{corpus.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        (temporary / "an4").rename(corpus)
    except (tarfile.TarError, EOFError, OSError, TypeError, zlib.error) as error:
        raise DataError(
            f"got {archive}, which can't be unpacked ({error}), expected a .tar.gz "
            "that holds an4/, remove it and run this again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_language_model(root: Path, path: Path) -> None:
    """Writes AN4's n-gram model as KenLM reads it: without what stands before it."""
    source = root / LANGUAGE_MODEL
    if not source.exists():
        return
    lines = source.read_text(encoding="utf-8").splitlines()
    begin = lines.index("\\data\\")
    kept = [
        line.replace("<UNK>", "<unk>").replace("\t ", "\t") for line in lines[begin:]
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)


def get_parser() -> argparse.ArgumentParser:
    """Builds the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--an4",
        type=Path,
        help="AN4's folder, or the one that holds an4/; downloaded where not given",
    )
    parser.add_argument(
        "--download_dir",
        type=Path,
        default=Path("downloads"),
        help="where the download is put and unpacked",
    )
    parser.add_argument("--url", default=URL, help="archive to download (64 MB)")
    parser.add_argument(
        "--fetch_only",
        action="store_true",
        help="find or download the corpus and prepare nothing",
    )
    parser.add_argument(
        "--dev_speakers",
        type=int,
        default=8,
        help="training speakers held out as valid, women and men by turns",
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        default=Path("data"),
        help="where the sets are written",
    )
    return parser


def main() -> None:
    """Runs the script."""
    args = get_parser().parse_args()
    root = find_corpus(args.an4 or fetch(args.download_dir, args.url))
    if args.fetch_only:
        return
    write_language_model(root, args.data_dir / "lm.arpa")
    train, test = read_set(root, "train"), read_set(root, "test")
    held_out = choose_dev_speakers({utt.speaker for utt in train}, args.dev_speakers)
    valid = [utt for utt in train if utt.speaker in held_out]
    train = [utt for utt in train if utt.speaker not in held_out]
    half = set(sorted({utt.speaker for utt in train})[::2])
    withheld = [replace(u, text=None) for u in train if u.speaker not in half]
    write_kaldi_dirs(
        {
            args.data_dir / "train": train,
            args.data_dir / "train_half": [u for u in train if u.speaker in half],
            args.data_dir / "train_withheld": withheld,
            args.data_dir / "valid": valid,
            args.data_dir / "test": test,
        }
    )


if __name__ == "__main__":
    run_main(main)
