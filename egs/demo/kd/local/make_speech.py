#!/usr/bin/env python3
"""Make one set of the demo corpus: synthetic noisy commands spoken by eSpeak NG.

The set is written as a Kaldi data directory plus 16 kHz mono wav files. The same
options give the same bytes, whatever the number of jobs is: every speaker has a random
generator of its own and is rendered by a fresh process, since eSpeak NG carries state
from one utterance to the next. Voice variants, and hence speakers, and sentences of the
train, valid and test sets are disjoint.
"""

import argparse
import itertools
import json
import logging
import multiprocessing
import shutil
import sys
import zlib
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from espeak import SAMPLE_RATE, DemoError, Espeak, Signal, Voice, unit_power

MARKER = ".made_with"  # holds the options; its folder is complete
ACCENTS = [
    "en-us",
    "en-us-nyc",
    "en",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
]
VARIANTS = {
    "train": "m1 m2 m3 m4 f1 f2 f3 Alex Annie Andy Denis Diogo Mario Michael benjamin"
    " edward linda robert shelby steph",
    "valid": "m6 f4 belinda max",
    "test": "m7 m8 f5 david rob travis",
    "unlabeled": "m5 Henrique Reed adam aunty caleb iven4 marcelo pablo",
}
# Share of the sentences, out of 10 buckets, that each set may draw from.
BUCKETS = {"train": (0, 7), "valid": (7, 8), "test": (8, 9), "unlabeled": (9, 10)}

SLOTS = {
    "count": "TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE",
    "day": "MONDAY TUESDAY FRIDAY SUNDAY",
    "device": "LIGHT RADIO HEATER FAN",
    "digit": "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE",
    "hour": "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN ELEVEN TWELVE",
    "minute": "FIFTEEN THIRTY FORTY FIFTY",
    "name": "ANNA HANNAH JOHN JOAN TIM KIM",
    "place": "BOSTON AUSTIN DOVER DENVER LONDON",
    "room": "KITCHEN BEDROOM BATHROOM GARAGE",
    "state": "ON OFF",
    "vehicle": "BUS TRAIN",
}
TEMPLATES = (
    "TURN {state} THE {device} IN THE {room}",
    "TURN {state} THE {device} AT {hour} {minute}",
    "CALL {name} ON {day} AT {hour} {minute}",
    "CALL {digit} {digit} {digit} {digit} {digit}",
    "BOOK {count} SEATS TO {place} ON {day}",
    "THE {vehicle} TO {place} LEAVES AT {hour} {minute}",
    "WAKE {name} AT {hour} {minute}",
    "MEET {name} IN {place} AT {hour} {minute}",
)


@dataclass(frozen=True)
class Speaker:
    """A speaker with all that is to be said by it."""

    voice: Voice
    seed: list[int]
    sentences: dict[str, str]


def draw_voice(rng: np.random.Generator, name: str) -> Voice:
    """Draw the prosody of a voice."""
    rate, pitch, span = rng.integers((150, 30, 30), (206, 71, 81))
    return Voice(name, int(rate), int(pitch), int(span))


def draw_sentences(rng: np.random.Generator, subset: str, number: int) -> list[str]:
    """Draw sentences of a set, distinct as long as the grammar has new ones."""
    low, high = BUCKETS[subset]
    slots = {slot: words.split() for slot, words in SLOTS.items()}
    sentences: list[str] = []
    for attempt in itertools.count():
        if len(sentences) == number:
            break
        parts = str(rng.choice(TEMPLATES)).split()
        sentence = " ".join(
            str(rng.choice(slots[part[1:-1]])) if part[0] == "{" else part
            for part in parts
        )
        is_new = sentence not in sentences or attempt > 200 * number
        if is_new and low <= zlib.crc32(sentence.encode()) % 10 < high:
            sentences.append(sentence)
    return sentences


def plan(
    subset: str, num_speakers: int, num_utts: int, seed: int
) -> dict[str, Speaker]:
    """Draw the speakers of a set and share the sentences out among them."""
    set_seed = [seed, zlib.crc32(subset.encode())]
    rng = np.random.default_rng(set_seed)
    pairs = itertools.product(ACCENTS, VARIANTS[subset].split())
    names = rng.permutation([f"{accent}+{variant}" for accent, variant in pairs])
    sentences = draw_sentences(rng, subset, num_utts)
    speakers = {}
    for index in range(min(num_speakers, num_utts)):
        speaker = f"{subset}{index + 1:03d}"
        voice = draw_voice(rng, str(names[index % len(names)]))
        own = sentences[index::num_speakers]
        utts = {f"{speaker}-{n + 1:04d}": text for n, text in enumerate(own)}
        speakers[speaker] = Speaker(voice, [*set_seed, index], utts)
    return speakers


def draw_noise(
    rng: np.random.Generator, kind: str, length: int, babble: list[Signal]
) -> Signal:
    """Draw noise of a kind (white, pink, hum or babble) and unit power."""
    if kind == "babble":
        return unit_power(
            sum(
                (np.roll(np.resize(s, length), rng.integers(length)) for s in babble),
                np.zeros(length),
            )
        )
    if kind == "hum":
        mains = float(rng.choice((50.0, 60.0)))
        phase = 2 * np.pi * mains * np.arange(length) / SAMPLE_RATE
        shifts = rng.uniform(0, 2 * np.pi, 12)
        harmonics = [np.sin(k * phase + s) / k for k, s in enumerate(shifts, 1)]
        return unit_power(np.sum(harmonics, axis=0))
    noise = rng.standard_normal(length)
    if kind == "pink":
        spectrum = np.fft.rfft(noise)
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
        noise = np.fft.irfft(spectrum, length)
    return unit_power(noise)


def add_noise(rng: np.random.Generator, speech: Signal, babble: list[Signal]) -> Signal:
    """Pad speech, add noise at 8 to 25 dB SNR and set a random level."""
    padded = np.pad(speech, rng.integers(800, 4000, size=2))
    kind = str(rng.choice(("white", "pink", "hum", "babble")))
    noise = draw_noise(rng, kind, len(padded), babble)
    noisy = unit_power(padded + noise * 10 ** (-rng.uniform(8, 25) / 20))
    noisy *= 10 ** (rng.uniform(-34, -18) / 20)
    return noisy * min(1.0, 0.95 / float(np.abs(noisy).max()))


def render(espeak: Espeak, speaker: Speaker, others: list[str], folder: Path) -> None:
    """Write the utterances of one speaker; run in a process of its own."""
    rng = np.random.default_rng(speaker.seed)
    espeak.set_seed(zlib.crc32(repr(speaker.seed).encode()))
    texts = list(speaker.sentences.values())
    babble = [
        espeak.speak(draw_voice(rng, str(name)), str(rng.choice(texts)))
        for name in rng.choice(others, size=6)
    ]
    for utt, text in speaker.sentences.items():
        noisy = add_noise(rng, espeak.speak(speaker.voice, text), babble)
        soundfile.write(folder / f"{utt}.wav", noisy, SAMPLE_RATE, subtype="PCM_16")


def render_all(speakers: dict[str, Speaker], folder: Path, num_jobs: int) -> None:
    """Write the utterances of all speakers, num_jobs speakers at a time."""
    espeak = Espeak()
    names = sorted({speaker.voice.name for speaker in speakers.values()})
    for speaker in speakers.values():
        espeak.set_voice(speaker.voice)
    context = multiprocessing.get_context("fork")
    running: dict[Any, tuple[str, ForkProcess]] = {}
    waiting = list(speakers.items())
    while waiting or running:
        while waiting and len(running) < num_jobs:
            name, speaker = waiting.pop(0)
            others = [other for other in names if other != speaker.voice.name] or names
            arguments = (espeak, speaker, others, folder)
            process = context.Process(target=render, args=arguments, daemon=True)
            process.start()
            running[process.sentinel] = (name, process)
        for sentinel in wait(list(running)):
            name, process = running.pop(sentinel)
            process.join()
            if process.exitcode != 0:
                raise DemoError(
                    f"the process of speaker {name} ended with exit code"
                    f" {process.exitcode}; expected 0; see above, then run this again"
                )


def write_data_dir(
    folder: Path, audio_dir: Path, speakers: dict[str, Speaker], with_text: bool
) -> None:
    """Write wav.scp, utt2spk, spk2utt and, if wanted, text."""
    folder.mkdir(parents=True)
    utts = {u: (s, t) for s, v in speakers.items() for u, t in v.sentences.items()}
    files = {
        "wav.scp": {utt: f"{audio_dir / utt}.wav" for utt in utts},
        "utt2spk": {utt: speaker for utt, (speaker, _) in utts.items()},
        "spk2utt": {s: " ".join(sorted(v.sentences)) for s, v in speakers.items()},
    }
    if with_text:
        files["text"] = {utt: text for utt, (_, text) in utts.items()}
    for name, table in files.items():
        lines = [f"{key} {value}\n" for key, value in sorted(table.items())]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def is_complete(folders: list[Path], made_with: str) -> bool:
    """Tell whether a set is complete; raise DemoError where another's folder is."""
    found = [folder for folder in folders if folder.exists()]
    for folder in found:
        if not (folder / MARKER).is_file():
            raise DemoError(
                f"found {folder}, not made by this script (it has no {MARKER});"
                " expected no such folder; move it away or use another --audio_dir or"
                " --data_dir"
            )
    texts = [(folder / MARKER).read_text(encoding="utf-8") for folder in found]
    return texts == [made_with] * len(folders)


def publish(folders: list[Path]) -> None:
    """Move the finished folders to their places, away with those of before."""
    for folder in reversed(folders):
        if folder.exists():
            folder.rename(folder.with_name(f".{folder.name}.old"))
    for folder in folders:
        folder.with_name(f".{folder.name}.tmp").rename(folder)
        shutil.rmtree(folder.with_name(f".{folder.name}.old"), ignore_errors=True)


def make_set(args: argparse.Namespace) -> None:
    """Make a set beside its place and move it there once it is complete."""
    audio_dir, data_dir = args.audio_dir / args.subset, args.data_dir / args.subset
    options = {k: str(v) for k, v in vars(args).items() if k != "nj"}
    here = Path(__file__)
    code = here.read_bytes() + here.with_name("espeak.py").read_bytes()
    options["script"] = f"{zlib.crc32(code):08x}"
    made_with = json.dumps(options, sort_keys=True) + "\n"
    if is_complete([audio_dir, data_dir], made_with):
        logging.info("%s is already complete, nothing to do", data_dir)
        return
    if data_dir.exists():
        logging.info("%s was made with other options, making it anew", data_dir)
    for folder, ending in itertools.product((audio_dir, data_dir), ("tmp", "old")):
        shutil.rmtree(folder.with_name(f".{folder.name}.{ending}"), ignore_errors=True)
    new_audio, new_data = (d.with_name(f".{d.name}.tmp") for d in (audio_dir, data_dir))
    new_audio.mkdir(parents=True)
    speakers = plan(args.subset, args.num_speakers, args.num_utts, args.seed)
    render_all(speakers, new_audio, args.nj)
    write_data_dir(new_data, audio_dir, speakers, args.subset != "unlabeled")
    for folder in (new_audio, new_data):
        (folder / MARKER).write_text(made_with, encoding="utf-8")
    publish([audio_dir, data_dir])
    logging.info(
        "%s: %d utterances of %d speakers", data_dir, args.num_utts, len(speakers)
    )


def positive(value: str) -> int:
    """Parse a positive number."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected 1 or more")
    return number


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--subset", choices=sorted(VARIANTS), required=True)
    parser.add_argument("--num_speakers", type=positive, required=True)
    parser.add_argument("--num_utts", type=positive, required=True)
    parser.add_argument("--audio_dir", type=Path, default=Path("downloads/demo"))
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nj", type=positive, default=2, help="number of processes")
    return parser


def main() -> None:
    """Run the command line."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s (%(filename)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    try:
        make_set(get_parser().parse_args())
    except DemoError as error:
        sys.exit(f"{Path(__file__).name}: error: {error}")


if __name__ == "__main__":
    main()
