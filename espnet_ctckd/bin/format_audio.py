"""Check the audio of a data folder, and write anew what is not as training needs it.

Files that are mono, of the wanted rate and whole are named as they are; copies are
written of perturbed speed only. Start it N times with --job 1 to N to share the work;
give it again without --job to join the parts.
"""

from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import soundfile

from espnet_ctckd.bin import parser, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import audio_info, beside, read_audio, read_scp, write_scp

COPIED = ("text", "utt2spk", "spk2utt")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Format a folder."""
    p = parser(__doc__)
    p.add_argument("--input_dir", required=True, help="Kaldi data folder")
    p.add_argument("--output_dir", required=True, help="folder to write")
    p.add_argument("--fs", type=int, default=16000, help="samples per second")
    p.add_argument("--audio_format", default="flac", help="of files that are written")
    p.add_argument("--job", type=int, default=0, help="which part; 0: join the parts")
    p.add_argument("--num_jobs", type=int, default=1, help="how many parts there are")
    args = p.parse_args(cmd)
    source, target = Path(args.input_dir), Path(args.output_dir)
    if args.job:
        _format_part(source, target, args)
    else:
        _join(source, target, args.num_jobs)


def _format_part(source: Path, target: Path, args) -> None:  # type: ignore
    wavs = read_scp(source / "wav.scp")
    path = source / "utt2speed"
    speeds = read_scp(path) if path.exists() else {}
    lines: List[Tuple[str, str]] = []
    lengths: List[Tuple[str, int]] = []
    for utt in list(wavs)[args.job - 1 :: args.num_jobs]:
        speed = float(speeds.get(utt, 1.0))
        if speed == 1.0:
            name, samples = wavs[utt], audio_info(utt, wavs[utt], args.fs)
        else:
            name = str(target / "audio" / f"{utt}.{args.audio_format}")
            samples = write_perturbed(utt, wavs[utt], name, speed, args.fs)
        lines.append((utt, name))
        lengths.append((utt, samples))
    write_scp(target / f"wav.{args.job}.scp", lines)
    write_scp(target / f"utt2num_samples.{args.job}", lengths)


def write_perturbed(utt: str, path: str, name: str, speed: float, fs: int) -> int:
    """Write an utterance played faster or slower, and return its samples."""
    # Here, because they take seconds to import, and most folders do without.
    import torch
    import torchaudio

    samples = torch.from_numpy(read_audio(utt, path, fs))  # (S,)
    faster, _ = torchaudio.functional.speed(samples, fs, speed)
    kind = Path(name).suffix[1:].upper()
    with beside(name) as partial:
        try:
            soundfile.write(partial, faster.clamp(-1, 1).numpy(), fs, format=kind)
        except soundfile.LibsndfileError as error:
            raise InputError(
                f"{name} cannot be written; is the disk full? ({error})"
            ) from None
    return len(faster)


def _join(source: Path, target: Path, num_jobs: int) -> None:
    joined: Dict[str, Dict[str, str]] = {"wav.scp": {}, "utt2num_samples": {}}
    parts = []
    for job in range(1, num_jobs + 1):
        for name, part in (
            ("wav.scp", f"wav.{job}.scp"),
            ("utt2num_samples", f"utt2num_samples.{job}"),
        ):
            path = target / part
            parts.append(path)
            # Of more jobs than utterances, the last have nothing to do.
            if not path.exists() or path.stat().st_size > 0:
                joined[name].update(read_scp(path))
    wanted = read_scp(source / "wav.scp")
    if set(joined["wav.scp"]) != set(wanted):
        raise InputError(
            f"{target} has {len(joined['wav.scp'])} utterances, {source} "
            f"{len(wanted)}: the data changed under the jobs; run the stage again"
        )
    for name in COPIED:
        if (source / name).exists():
            write_scp(target / name, read_scp(source / name).items())
    for name, entries in joined.items():
        write_scp(target / name, entries.items())
    for path in parts:
        path.unlink()


if __name__ == "__main__":
    run(main)
