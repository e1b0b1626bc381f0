"""Check the audio of a data folder, and convert files that training cannot read.

All files are read completely. Intact mono files of the wanted sample rate are listed
unchanged; copies are written for speed perturbation, and of files whose headers lack
the length. Unusable utterances are listed in <output_dir>/unusable, one per line, and
remain in wav.scp. To share the work, start N jobs with --job 1 to N; then run once more
without --job to join the parts.
"""

from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet_ctckd.bin.cli import add_max_bad_share, count, parser, positive, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import UnknownLengthError, decode_audio, read_audio
from espnet_ctckd.data.containers import UnusableAudioError
from espnet_ctckd.data.files import atomic_path
from espnet_ctckd.data.kaldi import (
    SPEEDS,
    UNUSABLE,
    limit_bad,
    read_scp,
    read_wav_scp,
    refuse_all_bad,
    refuse_same,
    write_scp,
)

COPIED = ("text", "utt2spk", "spk2utt", SPEEDS)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Format a folder."""
    p = parser(__doc__)
    p.add_argument("--input_dir", required=True, help="Kaldi data folder")
    p.add_argument("--output_dir", required=True, help="folder to write")
    p.add_argument("--fs", type=positive, default=16000, help="samples per second")
    p.add_argument("--audio_format", default="flac", help="format of written files")
    p.add_argument("--job", type=count, default=0, help="which part; 0: join the parts")
    p.add_argument(
        "--num_jobs", type=positive, default=1, help="how many parts there are"
    )
    add_max_bad_share(p)
    args = p.parse_args(cmd)
    source, target = Path(args.input_dir), Path(args.output_dir)
    refuse_same([source], target)
    if args.job > args.num_jobs:
        raise InputError(f"--job is {args.job}; give one from 0 to {args.num_jobs}")
    if args.job:
        _format_part(source, target, args)
    else:
        _join(source, target, args.num_jobs, args.max_bad_share)


def _format_part(source: Path, target: Path, args) -> None:  # type: ignore
    wavs = read_wav_scp(source / "wav.scp")
    path = source / SPEEDS
    speeds = read_scp(path) if path.exists() else {}
    lines: List[Tuple[str, str]] = []
    lengths: List[Tuple[str, int]] = []
    bad: List[Tuple[str, str]] = []
    for utt in list(wavs)[args.job - 1 :: args.num_jobs]:
        speed, name, samples = float(speeds.get(utt, 1.0)), wavs[utt], 0
        try:
            # Read the whole file: damage is not visible in the header, and ESPnet
            # reads only a part of a file of unknown length.
            known = True
            try:
                audio = read_audio(utt, name, args.fs)
            except UnknownLengthError:
                audio, known = decode_audio(utt, name, args.fs), False
            samples = len(audio)
            if speed != 1.0 or not known:
                name = str(target / "audio" / f"{utt}.{args.audio_format}")
                samples = write_copy(audio, name, speed, args.fs)
        except UnusableAudioError as error:
            bad.append((utt, str(error)))
        lines.append((utt, name))
        lengths.append((utt, samples))
    write_scp(target / f"{UNUSABLE}.{args.job}", bad)
    write_scp(target / f"wav.{args.job}.scp", lines)
    write_scp(target / f"utt2num_samples.{args.job}", lengths)


def write_copy(samples: np.ndarray, name: str, speed: float, fs: int) -> int:
    """Write audio (S,) at another speed, and return the number of samples."""
    import soundfile

    if speed != 1.0:
        # Imported here, because the imports take seconds and are rarely needed.
        import torch
        import torchaudio

        faster, _ = torchaudio.functional.speed(torch.from_numpy(samples), fs, speed)
        samples = faster.numpy()
    kind = Path(name).suffix[1:].upper()
    with atomic_path(name) as partial:
        try:
            soundfile.write(partial, samples.clip(-1, 1), fs, format=kind)
        except soundfile.LibsndfileError as error:
            raise InputError(
                f"{name} cannot be written; is the disk full? ({error})"
            ) from None
    return len(samples)


def _join(source: Path, target: Path, num_jobs: int, max_bad_share: float) -> None:
    names = ("wav.scp", "utt2num_samples", UNUSABLE)
    joined: Dict[str, Dict[str, str]] = {name: {} for name in names}
    parts = []
    for job in range(1, num_jobs + 1):
        for name, part in (
            ("wav.scp", f"wav.{job}.scp"),
            ("utt2num_samples", f"utt2num_samples.{job}"),
            (UNUSABLE, f"{UNUSABLE}.{job}"),
        ):
            path = target / part
            parts.append(path)
            # With more jobs than utterances, the last parts are empty; most lists of
            # unusable files are empty, too.
            if not path.exists() or path.stat().st_size > 0:
                joined[name].update(read_scp(path))
    wanted = read_wav_scp(source / "wav.scp")
    if set(joined["wav.scp"]) != set(wanted):
        raise InputError(
            f"{target} has {len(joined['wav.scp'])} utterances, {source} "
            f"{len(wanted)}: the data changed under the jobs; run the stage again"
        )
    bad = joined[UNUSABLE]
    write_scp(target / UNUSABLE, bad.items())
    for why in bad.values():
        print(f"  unusable: {why}")
    # Speed-perturbed copies count as one file.
    files = {wanted[utt]: utt for utt in bad}
    few = {utt: bad[utt] for utt in files.values()}
    total = len(set(wanted.values()))
    refuse_all_bad(few, total, source, target / UNUSABLE)
    limit_bad(few, total, max_bad_share, source, target / UNUSABLE)
    for name in COPIED:
        if (source / name).exists():
            write_scp(target / name, read_scp(source / name).items())
    for name, entries in joined.items():
        write_scp(target / name, entries.items())
    for path in parts:
        path.unlink()


if __name__ == "__main__":
    run(main)
