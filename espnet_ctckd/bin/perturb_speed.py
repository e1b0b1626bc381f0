"""Add speed-perturbed copies to a data folder, as separate utterances.

Writes <output_dir>/{wav.scp,text,utt2spk} with the ids `sp<factor>-<id>`, and
utt2speed, from which format_audio changes the audio. Factor 1.0 does not change the id.
"""

import math
from pathlib import Path
from typing import Dict, Optional, Sequence

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.kaldi import (
    SPEEDS,
    read_scp,
    read_wav_scp,
    refuse_same,
    write_scp,
)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Perturb the speed of a data folder."""
    p = parser(__doc__)
    p.add_argument("--input_dir", required=True, help="Kaldi data folder")
    p.add_argument("--output_dir", required=True, help="folder to write")
    p.add_argument("--factors", required=True, help='e.g. "0.9 1.0 1.1"')
    args = p.parse_args(cmd)
    source, target = Path(args.input_dir), Path(args.output_dir)
    refuse_same([source], target)
    factors = args.factors.split()
    if not factors:
        raise InputError('--factors is empty; give numbers, e.g. "0.9 1.0 1.1"')
    speeds: Dict[str, float] = {}
    for factor in factors:
        speeds[_prefix(factor)] = _speed(factor)
    for name in ("wav.scp", "text", "utt2spk"):
        if not (source / name).exists():
            continue
        entries = read_scp(source / name)
        write_scp(
            target / name,
            (
                (prefix + utt, prefix + rest if name == "utt2spk" else rest)
                for prefix in speeds
                for utt, rest in entries.items()
            ),
        )
    utts = read_wav_scp(source / "wav.scp")
    write_scp(
        target / SPEEDS, ((pre + u, s) for pre, s in speeds.items() for u in utts)
    )
    print(f"{target}: {len(utts) * len(speeds)} utterances, speeds {args.factors}")


def _speed(factor: str) -> float:
    try:
        speed = float(factor)
    except ValueError:
        speed = 0.0
    if not 0.0 < speed < math.inf:
        raise InputError(f"--factors has {factor!r}; give numbers above 0")
    return speed


def _prefix(factor: str) -> str:
    return "" if _speed(factor) == 1.0 else f"sp{factor}-"


if __name__ == "__main__":
    run(main)
