"""Leave out utterances that are too long, too short, or without words.

Prints how many, and writes which and why to <output_dir>/removed. Give several
--input_dir to join them; text is written if all of them have it.
"""

from pathlib import Path
from typing import Dict, Optional, Sequence

from espnet_ctckd.bin import parser, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import read_scp, shorten, write_scp

Files = Dict[str, Dict[str, str]]

REQUIRED = ("wav.scp", "utt2num_samples")
FILES = (*REQUIRED, "utt2spk", "text")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Filter one or more folders into one."""
    p = parser(__doc__)
    p.add_argument("--input_dir", required=True, action="append", help="data folder")
    p.add_argument("--output_dir", required=True, help="folder to write")
    p.add_argument("--fs", type=int, default=16000, help="samples per second")
    p.add_argument("--min_wav_duration", type=float, default=0.1, help="seconds")
    p.add_argument("--max_wav_duration", type=float, default=20.0, help="seconds")
    args = p.parse_args(cmd)
    files = _read([Path(folder) for folder in args.input_dir])
    removed = _unusable(files, args.fs, args.min_wav_duration, args.max_wav_duration)
    target = Path(args.output_dir)
    for name, entries in files.items():
        kept = [(utt, rest) for utt, rest in entries.items() if utt not in removed]
        if not kept:
            raise InputError(
                f"nothing of {', '.join(args.input_dir)} is left: "
                f"{next(iter(removed.values()))}. Change --min_wav_duration or "
                "--max_wav_duration"
            )
        write_scp(target / name, kept)
    write_scp(target / "removed", removed.items())
    total = len(files["wav.scp"])
    print(f"{target}: {total - len(removed)} of {total} utterances kept")
    for utt, why in list(removed.items())[:5]:
        print(f"  removed {utt}: {why}")
    if len(removed) > 5:
        print(f"  … {len(removed)} in all, listed in {target / 'removed'}")


def _read(folders: Sequence[Path]) -> Files:
    """Join the files that all folders have, or must have."""
    names = [
        name
        for name in FILES
        if name in REQUIRED or all((folder / name).exists() for folder in folders)
    ]
    files: Files = {name: {} for name in names}
    for folder in folders:
        for name in names:
            entries = read_scp(folder / name)
            twice = [utt for utt in entries if utt in files[name]]
            if twice:
                raise InputError(
                    f"{folder / name} has utterances that another folder has, too: "
                    f"{shorten(twice)}; give them other ids"
                )
            files[name].update(entries)
    return files


def _unusable(
    files: Files, rate: int, shortest: float, longest: float
) -> Dict[str, str]:
    """Utterances to leave out, and why."""
    text = files.get("text")
    lacks = [u for u in files["wav.scp"] if text is not None and u not in text]
    if lacks:
        raise InputError(
            f"text has no line for {len(lacks)} utterances: {shorten(lacks)}. "
            "Transcribe them or remove them from wav.scp"
        )
    removed: Dict[str, str] = {}
    for utt, samples in files["utt2num_samples"].items():
        seconds = int(samples) / rate
        if not shortest <= seconds <= longest:
            removed[utt] = f"{seconds:.2f} s is not within {shortest} to {longest} s"
        elif text is not None and not text[utt]:
            removed[utt] = "no words"
    return removed


if __name__ == "__main__":
    run(main)
