#!/usr/bin/env python3
"""Replaces the words of data/<set>/text by phonemes, as the package hama says them.

pip install hama onnxruntime. A word is looked up once; case does not matter to it.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "utils"))
from kaldi_dir import DataError, run_main


def to_phonemes(text: str, known: dict[str, list[str]], model: object) -> list[str]:
    """Says the phonemes of a transcript, word by word."""
    phonemes = []
    for word in text.lower().split():
        if word not in known:
            said = model.predict(word)  # type: ignore[attr-defined]
            known[word] = [a.phoneme for a in said.alignments if a.phoneme.strip()]
        phonemes += known[word]
    return phonemes


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dirs", nargs="+", type=Path, help="data/<set> ...")
    args = parser.parse_args()
    try:
        import hama
    except ImportError as error:
        raise DataError(
            f"found no hama ({error}), expected it for --phonemes true: pip install "
            "hama onnxruntime"
        ) from None
    model, known = hama.G2PModel(), {}
    for folder in args.data_dirs:
        path = folder / "text"
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            utt, _, words = line.partition(" ")
            phonemes = to_phonemes(words, known, model)
            if not phonemes:
                raise DataError(
                    f"found no phonemes for utterance {utt} ({words!r}), expected "
                    f"some, remove it from {folder}"
                )
            lines.append(f"{utt} {' '.join(phonemes)}\n")
        partial = path.with_name(".text.part")
        partial.write_text("".join(lines), encoding="utf-8")
        os.replace(partial, path)
        print(f"{path}: {len(lines)} utterances in phonemes")


if __name__ == "__main__":
    run_main(main)
