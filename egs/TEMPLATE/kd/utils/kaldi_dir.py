"""Kaldi data directories: what every corpus's data preparation shares."""

import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class DataError(Exception):
    """The corpus is not what the recipe needs; the message says what to do."""


@dataclass(frozen=True)
class Utterance:
    """One line of each file of a data directory.

    Attributes:
        utt_id: Utterance id; begins with the speaker.
        speaker: Speaker id.
        audio: Audio file.
        text: Transcript, or None in a set without transcripts.
    """

    utt_id: str
    speaker: str
    audio: Path
    text: str | None = None


def name_some(names: Iterable[str], most: int = 5) -> str:
    """Names the first few of some ids, and says how many there are in all."""
    ordered = sorted(names)
    more = ", ..." if len(ordered) > most else ""
    return f"{len(ordered)} ({', '.join(ordered[:most])}{more})"


def collect(pairs: Iterable[tuple[str, T]], what: str) -> dict[str, T]:
    """Makes a dict of (id, value) pairs in which no id may come twice.

    Raises:
        DataError: An id came twice.
    """
    values: dict[str, T] = {}
    doubled = set()
    for key, value in pairs:
        if key in values:
            doubled.add(key)
        values[key] = value
    if doubled:
        raise DataError(
            f"got ids that come twice among the {what}: {name_some(doubled)}, "
            "expected each id once, remove or rename the doubled ones"
        )
    return values


def check_pairs(audio: Mapping[str, T], texts: Mapping[str, str], where: Path) -> None:
    """Checks that every transcript has its audio and every audio its transcript.

    Raises:
        DataError: Some have not.
    """
    no_text, no_audio = audio.keys() - texts.keys(), texts.keys() - audio.keys()
    parts = [f"audio without transcript: {name_some(no_text)}"] if no_text else []
    parts += [f"transcripts without audio: {name_some(no_audio)}"] if no_audio else []
    if parts:
        raise DataError(
            f"got {', '.join(parts)} in {where}, expected one transcript for each "
            "audio file, complete the corpus (an interrupted copy?) and run this again"
        )


def write_kaldi_dirs(sets: Mapping[Path, Iterable[Utterance]]) -> None:
    """Writes data directories: wav.scp, text, utt2spk, spk2utt, sorted by bytes.

    All of them are built beside their places first and renamed when all are whole,
    so that neither half a directory nor half of the sets stays in place.

    Args:
        sets: The utterances of each directory.

    Raises:
        DataError: An empty set, a doubled id, or a place taken by something else.
    """
    built = [(path, *_build(path, list(utts))) for path, utts in sets.items()]
    for path, temporary, _ in built:
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    for path, _, summary in built:
        print(f"{path}: {summary}")


def run_main(main: Callable[[], None]) -> None:
    """Runs a script; an error becomes one line on stderr and exit status 1."""
    try:
        main()
    except (DataError, OSError, UnicodeError) as error:
        name = Path(sys.argv[0]).name
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def _build(path: Path, utterances: list[Utterance]) -> tuple[Path, str]:
    """Builds one directory beside its place; returns where, and a summary."""
    _check_set(path, utterances)
    by_id = collect(((u.utt_id, u) for u in utterances), f"utterances of {path}")
    ordered = [by_id[utt_id] for utt_id in sorted(by_id)]
    spk2utt = defaultdict(list)
    for utt in ordered:
        spk2utt[utt.speaker].append(utt.utt_id)
    files = {
        "wav.scp": [f"{u.utt_id} {u.audio}" for u in ordered],
        "text": [f"{u.utt_id} {u.text}" for u in ordered if u.text is not None],
        "utt2spk": [f"{u.utt_id} {u.speaker}" for u in ordered],
        "spk2utt": [f"{s} {' '.join(ids)}" for s, ids in sorted(spk2utt.items())],
    }
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, lines in files.items():
        if lines:
            (temporary / name).write_text(
                "\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape"
            )
    return temporary, f"{len(ordered)} utterances, {len(spk2utt)} speakers"


def _check_set(path: Path, utterances: list[Utterance]) -> None:
    """Checks that a set can be written, and written there."""
    if not utterances:
        raise DataError(f"got no utterance for {path}, expected some, check the corpus")
    if path.exists() and any(path.iterdir()) and not (path / "wav.scp").exists():
        raise DataError(
            f"got {path}, which exists and is not a data directory (no wav.scp), "
            "expected a free place, give another one or remove it"
        )
    broken = [repr(str(u.audio)) for u in utterances if "\n" in str(u.audio)]
    if broken:
        raise DataError(
            f"got a line break in file names: {name_some(broken)}, expected none, "
            "rename the files"
        )
