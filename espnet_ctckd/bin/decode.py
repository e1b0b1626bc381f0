"""Recognise audio with the CTC branch of any ESPnet ASR model, greedily.

Writes <output_dir>/text, /token and /decode.json (real-time factor, parameters).
"""

import json
from pathlib import Path
from typing import Optional, Sequence

from espnet_ctckd.bin import add_compute, device, parser, run
from espnet_ctckd.data import write_beside, write_scp
from espnet_ctckd.decode.recognise import recognise


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Decode a set."""
    p = parser(__doc__)
    p.add_argument("--asr_train_config", required=True, help="config.yaml of the model")
    p.add_argument("--asr_model_file", required=True, help="weights of the model")
    p.add_argument("--wav_scp", required=True, help="Kaldi's list of audio files")
    p.add_argument("--output_dir", required=True, help="folder of the results")
    add_compute(p)
    args = p.parse_args(cmd)
    found = recognise(
        args.asr_train_config,
        args.asr_model_file,
        args.wav_scp,
        args.batch_seconds,
        device(args),
    )
    folder = Path(args.output_dir)
    write_scp(folder / "token", ((u, " ".join(t)) for u, t in found.tokens.items()))
    with write_beside(folder / "decode.json") as f:
        json.dump(found.summary(), f, indent=1)
    write_scp(folder / "text", found.text.items())
    print(
        f"{len(found.text)} utterances, RTF {found.speed.rtf:.4f} on "
        f"{found.speed.device}, {found.speed.threads} threads: {folder / 'text'}"
    )


if __name__ == "__main__":
    run(main)
