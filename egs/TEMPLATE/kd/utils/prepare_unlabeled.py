#!/usr/bin/env python3
"""Makes a data directory without transcripts from a folder of audio files.

Whether they can be used is for format_audio to find, as with every other set.
"""

import argparse
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kaldi_dir import DataError, Utterance, run_main, write_kaldi_dirs

SUFFIXES = {".flac", ".wav", ".ogg", ".opus", ".mp3"}


def find_audio(audio_dir: Path) -> Iterator[Path]:
    """Yields the audio files below a folder; follows links, skips hidden files."""
    seen = set()
    for folder, subfolders, names in os.walk(audio_dir, followlinks=True):
        seen.add(os.path.realpath(folder))
        subfolders[:] = [
            name
            for name in sorted(subfolders)
            if name[0] != "." and os.path.realpath(Path(folder, name)) not in seen
        ]
        for name in sorted(names):
            if name[0] != "." and Path(name).suffix.lower() in SUFFIXES:
                yield Path(folder, name)


def make_utterances(paths: list[Path], audio_dir: Path) -> list[Utterance]:
    """Gives each file an id from its relative path, and its first folder as speaker.

    Files whose paths give the same id get a hash of the path appended, so that an id
    depends on nothing but the names of the files.
    """
    relative = [path.relative_to(audio_dir) for path in paths]
    ids = [_safe("-".join(path.with_suffix("").parts)) for path in relative]
    count = Counter(ids)
    utterances = []
    for name, path in zip(ids, relative, strict=True):
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
        utt_id = name if count[name] == 1 else f"{name}-{digest}"
        speaker = _safe(path.parts[0]) if len(path.parts) > 1 else utt_id
        utterances.append(Utterance(utt_id, speaker, audio_dir / path))
    return utterances


def _safe(name: str) -> str:
    """Replaces what an id may not hold: blanks and all but letters, digits, _ . -."""
    return re.sub(r"[^\w.-]", "_", name)


def get_parser() -> argparse.ArgumentParser:
    """Builds the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--audio_dir",
        type=Path,
        required=True,
        help="folder of .flac, .wav, .ogg, .opus or .mp3 files at any depth; "
        "its first-level folders are taken as the speakers",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("data/unlabeled"),
        help="data directory to write: wav.scp, utt2spk, spk2utt and no text",
    )
    return parser


def main() -> None:
    """Runs the script."""
    args = get_parser().parse_args()
    audio_dir = Path(os.path.abspath(args.audio_dir))
    paths = list(find_audio(audio_dir))
    if not paths:
        raise DataError(
            f"got no audio file below {audio_dir}, expected a folder of "
            f"{' '.join(sorted(SUFFIXES))} files, check --audio_dir"
        )
    write_kaldi_dirs({args.output_dir: make_utterances(paths, audio_dir)})


if __name__ == "__main__":
    run_main(main)
