"""Remove utterances that are unusable for training, by length, audio or transcript.

Prints their number, and writes their names and the reasons to <output_dir>/removed.
Utterances without words count as bad; more of them than --max_bad_share are refused.
With --asr_config, also removes transcripts that need more frames than the student has,
or that its tokens cannot spell; flags of asr_train may follow, the same as for the
training. With --cache, also removes utterances that were left out of the cache.
Several --input_dir are joined; text is written if all of them have it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Optional, Sequence

from espnet_ctckd.bin.cli import (
    add_max_bad_share,
    add_student,
    amount,
    parser,
    positive,
    run,
    seconds,
    student_flags,
)
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import shorten
from espnet_ctckd.data.kaldi import (
    SPEEDS,
    UNUSABLE,
    limit_bad,
    read_scp,
    refuse_same,
    refuse_segments,
    write_scp,
)

if TYPE_CHECKING:
    from espnet_ctckd.cache.check import Student

Files = Dict[str, Dict[str, str]]

REQUIRED = ("wav.scp", "utt2num_samples")
FILES = (*REQUIRED, "utt2spk", "text", SPEEDS)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Filter one or more folders into one."""
    p = parser(__doc__)
    p.add_argument("--input_dir", required=True, action="append", help="data folder")
    p.add_argument("--output_dir", required=True, help="folder to write")
    p.add_argument("--fs", type=positive, default=16000, help="samples per second")
    p.add_argument("--min_wav_duration", type=amount, default=0.1, help="seconds")
    p.add_argument("--max_wav_duration", type=seconds, default=20.0, help="seconds")
    add_max_bad_share(p)
    p.add_argument("--cache", help="cache of the teacher for these utterances")
    add_student(p)
    args, theirs = p.parse_known_args(cmd)
    folders = [Path(folder) for folder in args.input_dir]
    target = Path(args.output_dir)
    if args.min_wav_duration > args.max_wav_duration:
        raise InputError(
            f"--min_wav_duration is {args.min_wav_duration:g}, above "
            f"--max_wav_duration {args.max_wav_duration:g}: nothing would be kept"
        )
    refuse_same(folders, target)
    files = _read(folders)
    removed = _beyond(files, args.fs, args.min_wav_duration, args.max_wav_duration)
    removed.update(_unusable(folders))
    bad = _wordless(files)
    flags = student_flags(p, args, theirs)
    if flags:
        # Imported here, because the import takes seconds and is rarely needed.
        from espnet_ctckd.plugin.student import build_student

        student, _, _ = build_student(flags)
        bad = {**_unfit(files, student), **bad}
    if args.cache:
        bad = {**_unheard(files, Path(args.cache)), **bad}
    bad = {utt: why for utt, why in bad.items() if utt not in removed}
    removed.update(bad)
    total = len(files["wav.scp"])
    if len(removed) == total:
        raise InputError(
            f"nothing of {', '.join(args.input_dir)} is left: "
            f"{next(iter(removed.values()))}. Change --min_wav_duration or "
            "--max_wav_duration, or mend the data"
        )
    write_scp(target / "removed", removed.items())
    where = ", ".join(args.input_dir)
    # Speed-perturbed copies count as one utterance.
    sources = _sources(files)
    few = {sources.get(utt, utt): why for utt, why in bad.items()}
    spoken = len({sources.get(utt, utt) for utt in files["wav.scp"]})
    limit_bad(few, spoken, args.max_bad_share, where, target / "removed")
    for name, entries in files.items():
        usable = [(utt, rest) for utt, rest in entries.items() if utt not in removed]
        write_scp(target / name, usable)
    print(f"{target}: {total - len(removed)} of {total} utterances kept")
    for utt, why in list(removed.items())[:5]:
        print(f"  removed {utt}: {why}")
    if len(removed) > 5:
        print(f"  … {len(removed)} in all, listed in {target / 'removed'}")


def _read(folders: Sequence[Path]) -> Files:
    """Join the files that all folders have or must have, and the speeds of any."""
    having = {name: [f for f in folders if (f / name).exists()] for name in FILES}
    names = [n for n in FILES if n in REQUIRED or len(having[n]) == len(folders)]
    files: Files = {name: {} for name in names}
    for folder in folders:
        refuse_segments(folder / "wav.scp")
        for name in names:
            entries = read_scp(folder / name)
            twice = [utt for utt in entries if utt in files[name]]
            if twice:
                raise InputError(
                    f"{folder / name} has utterances that another folder has, too: "
                    f"{shorten(twice)}; give them other ids"
                )
            files[name].update(entries)
    speeds = [read_scp(folder / SPEEDS) for folder in having[SPEEDS]]
    if speeds:
        files[SPEEDS] = {utt: speed for part in speeds for utt, speed in part.items()}
    return files


def _beyond(files: Files, rate: int, shortest: float, longest: float) -> Dict[str, str]:
    """Return utterances whose length is out of range, with the reason."""
    removed: Dict[str, str] = {}
    for utt, samples in files["utt2num_samples"].items():
        length = int(samples) / rate
        if int(samples) and not shortest <= length <= longest:
            removed[utt] = f"{length:.2f} s is not within {shortest} to {longest} s"
    return removed


def _unusable(folders: Sequence[Path]) -> Dict[str, str]:
    """Return utterances that format_audio found unusable, with the reason."""
    found: Dict[str, str] = {}
    for folder in folders:
        path = folder / UNUSABLE
        if path.exists() and path.stat().st_size > 0:
            found.update(read_scp(path))
    return found


def _wordless(files: Files) -> Dict[str, str]:
    """Return utterances without a transcript, with the reason, if there is text."""
    text = files.get("text")
    if text is None:
        return {}
    return {
        utt: "no words" if utt in text else "no line in text"
        for utt in files["wav.scp"]
        if not text.get(utt)
    }


def _unfit(files: Files, student: Student) -> Dict[str, str]:
    """Return utterances that a student cannot be trained on, with the reason."""
    text = files.get("text", {})
    found = {
        utt: student.misfit(int(samples), text.get(utt))
        for utt, samples in files["utt2num_samples"].items()
    }
    return {utt: why for utt, why in found.items() if why is not None}


def _unheard(files: Files, cache: Path) -> Dict[str, str]:
    """Return utterances that were left out of a cache, with the reason."""
    from espnet_ctckd.cache.reader import SCP, read_meta, read_unheard

    found = {utt: f"the teacher: {why}" for utt, why in read_unheard(cache).items()}
    cached = read_scp(read_meta(cache).folder / SCP)
    lacks = [utt for utt in files["wav.scp"] if utt not in cached and utt not in found]
    if lacks:
        raise InputError(
            f"the cache {cache} lacks {len(lacks)} of {len(files['wav.scp'])} "
            f"utterances: {shorten(lacks)}. Dump the teacher for this data"
        )
    return {utt: found[utt] for utt in files["wav.scp"] if utt not in cached}


def _sources(files: Files) -> Dict[str, str]:
    """Map speed-perturbed copies to their source utterances."""
    return {
        utt: re.sub("^sp[^-]+-", "", utt)
        for utt, speed in files.get(SPEEDS, {}).items()
        if float(speed) != 1.0
    }


if __name__ == "__main__":
    run(main)
