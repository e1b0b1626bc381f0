"""Recognise audio with the CTC branch of any ESPnet ASR model, greedily.

Writes <output_dir>/text, /token and /decode.json (real-time factor, parameters).
"""

import json
from pathlib import Path
from typing import Optional, Sequence

import torch

from espnet_ctckd.bin import parser, run
from espnet_ctckd.data import write_beside, write_scp
from espnet_ctckd.decode.recognise import recognise


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Decode a set."""
    p = parser(__doc__)
    p.add_argument("--asr_train_config", required=True, help="config.yaml of the model")
    p.add_argument("--asr_model_file", required=True, help="weights of the model")
    p.add_argument("--wav_scp", required=True, help="Kaldi's list of audio files")
    p.add_argument("--output_dir", required=True, help="folder of the results")
    p.add_argument(
        "--batch_seconds", type=float, default=60.0, help="audio of a batch, padded"
    )
    p.add_argument("--ngpu", type=int, default=0, help="1 computes on a GPU (untested)")
    p.add_argument("--num_threads", type=int, default=1, help="threads of the CPU")
    args = p.parse_args(cmd)
    torch.set_num_threads(args.num_threads)
    found = recognise(
        args.asr_train_config,
        args.asr_model_file,
        args.wav_scp,
        args.batch_seconds,
        "cuda" if args.ngpu else "cpu",
    )
    folder = Path(args.output_dir)
    with write_beside(folder / "decode.json") as f:
        json.dump(found.summary(), f, indent=1)
    write_scp(folder / "token", ((u, " ".join(t)) for u, t in found.tokens.items()))
    write_scp(folder / "text", found.text.items())
    print(
        f"{len(found.text)} utterances, RTF {found.speed.rtf:.4f} on "
        f"{found.speed.device}, {found.speed.threads} threads: {folder / 'text'}"
    )


if __name__ == "__main__":
    run(main)
