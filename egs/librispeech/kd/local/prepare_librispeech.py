#!/usr/bin/env python3
"""Makes data directories of the parts of LibriSpeech, as ESPnet names them.

One for each part (train_clean_100, dev_clean, ...), and the combined ones of which all
parts are wanted: the training set, and dev (dev_clean + dev_other). With --mini:
train_mini, dev_mini (some last chapters of train-clean-100, about a tenth) and
test_mini (test-other).
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "utils"))
from download_librispeech import (
    DEV_PARTS,
    MINI_PARTS,
    TRAIN_SETS,
    find_part,
    get_parser,
    needed_parts,
)
from kaldi_dir import (
    DataError,
    Utterance,
    check_pairs,
    collect,
    run_main,
    write_kaldi_dirs,
)


def read_transcripts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields (utterance id, words) of the transcripts of a part."""
    for path in folder.glob("*/*/*.trans.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            utt_id, _, text = line.strip().partition(" ")
            if text:
                yield utt_id, text.upper()


def read_part(roots: list[Path], part: str, mini: bool = False) -> list[Utterance]:
    """Reads the utterances of a part; the speaker is <speaker>-<chapter>.

    Raises:
        DataError: The part is nowhere, or audio and transcripts do not match.
    """
    folder, _ = find_part(roots, part, mini)
    if folder is None:
        raise DataError(
            f"got no {part} in {' or '.join(map(str, roots))}, expected its .flac "
            "files, run local/download_librispeech.py or correct the folder"
        )
    texts = collect(read_transcripts(folder), f"transcripts of {folder}")
    files = ((path.stem, path) for path in folder.glob("*/*/*.flac"))
    audio = collect(files, f"files of {folder}")
    check_pairs(audio, texts, folder)
    return [
        Utterance(utt_id, utt_id.rpartition("-")[0], audio[utt_id], texts[utt_id])
        for utt_id in sorted(texts)
    ]


def hold_out(utterances: list[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Splits off about a tenth of the utterances, in whole chapters where possible.

    From the last chapter to the first, each is held out that does not bring more than
    a fifth of the utterances, until there is a tenth. Where all chapters are longer
    than that, the last tenth of the last one is held out.
    """
    chapters = defaultdict(list)
    for utt in utterances:
        chapters[utt.speaker].append(utt)
    tenth = len(utterances) / 10
    held: list[Utterance] = []
    for speaker in sorted(chapters, reverse=True):
        if len(held) < tenth and len(held) + len(chapters[speaker]) <= 2 * tenth:
            held += chapters[speaker]
    held = held or chapters[max(chapters)][-max(1, round(tenth)) :]
    held_ids = {utt.utt_id for utt in held}
    return [utt for utt in utterances if utt.utt_id not in held_ids], held


def make_sets(roots: list[Path], parts: list[str]) -> dict[str, list[Utterance]]:
    """Makes one set of each part, and the combined ones."""
    read = {part: read_part(roots, part) for part in parts}
    sets = {part.replace("-", "_"): utterances for part, utterances in read.items()}
    for name, members in {**TRAIN_SETS, "dev": DEV_PARTS}.items():
        if read.keys() >= set(members):
            sets[name] = [utt for part in members for utt in read[part]]
    return sets


def make_mini_sets(roots: list[Path]) -> dict[str, list[Utterance]]:
    """Makes train_mini and its first half, dev_mini and test_mini."""
    train, dev = hold_out(read_part(roots, MINI_PARTS[0], mini=True))
    test = read_part(roots, MINI_PARTS[1], mini=True)
    half = train[: len(train) // 2]
    return {
        "train_mini": train,
        "train_mini_half": half,
        "dev_mini": dev,
        "test_mini": test,
    }


def main() -> None:
    """Runs the script."""
    parser = get_parser(__doc__)
    parser.add_argument(
        "--data_dir",
        type=Path,
        default=Path("data"),
        help="where the data directories are written",
    )
    args = parser.parse_args()
    roots = [*args.corpus_dir, args.download_dir]
    sets = make_mini_sets(roots) if args.mini else make_sets(roots, needed_parts(args))
    write_kaldi_dirs({args.data_dir / name: utts for name, utts in sets.items()})


if __name__ == "__main__":
    run_main(main)
