"""Recognise audio piece by piece with a streaming ESPnet model, greedily.

Writes <output_dir>/text, /token, /emissions (for each token: it, the second it was said
at, and the second at which it was known) and /decode.json (real-time factor, latency).
"""

import json
import logging
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import torch

from espnet_ctckd.bin import (
    add_device,
    add_max_bad_share,
    add_model,
    device,
    parser,
    positive,
    run,
)
from espnet_ctckd.cache.plan import Unheard
from espnet_ctckd.checkpoint import load_config
from espnet_ctckd.containers import UnusableAudioError
from espnet_ctckd.data import (
    read_audio,
    read_wav_scp,
    write_beside,
    write_scp,
)
from espnet_ctckd.decode.stream import Emission, StreamingDecoder, latency
from espnet_ctckd.spelling import text_maker

_SAY_EVERY = 5.0  # seconds


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Decode a set."""
    p = parser(__doc__)
    add_model(p)
    p.add_argument("--output_dir", required=True, help="folder of the results")
    p.add_argument(
        "--chunk_ms", type=positive, default=40, help="audio that comes in at a time"
    )
    add_max_bad_share(p)
    add_device(p)
    args = p.parse_args(cmd)
    decoder = StreamingDecoder(args.asr_train_config, args.asr_model_file, device(args))
    chunk = max(args.chunk_ms * decoder.rate // 1000, 1)
    found: Dict[str, List[Emission]] = {}
    seconds, samples, told = 0.0, 0, time.monotonic()
    wavs = read_wav_scp(args.wav_scp)
    unheard = Unheard(args.max_bad_share)
    for utt, path in wavs.items():
        try:
            speech = torch.from_numpy(read_audio(utt, path, decoder.rate))
        except UnusableAudioError as error:
            unheard.note_bad(utt, str(error), args.wav_scp, len(wavs))
            found[utt] = []
            continue
        start = time.perf_counter()
        found[utt] = list(decoder.decode(speech, chunk))
        seconds += time.perf_counter() - start
        samples += len(speech)
        if time.monotonic() - told > _SAY_EVERY:
            told = time.monotonic()
            left = seconds / len(found) * (len(wavs) - len(found))
            logging.info(f"{len(found)} of {len(wavs)} utterances, {left:.0f} s left")
    _write(Path(args.output_dir), found, decoder, args.asr_train_config)
    audio = samples / decoder.rate
    rtf = seconds / audio if audio else 0.0
    wait = latency([emission for each in found.values() for emission in each])
    summary = {
        "audio_seconds": audio,
        "compute_seconds": seconds,
        "rtf": rtf,
        "utterances": len(found) - len(unheard.bad),
        "unusable": len(unheard.bad),
        "parameters": decoder.parameters,
        "chunk_ms": args.chunk_ms,
        "latency_seconds": wait,
    }
    with write_beside(Path(args.output_dir) / "decode.json") as f:
        json.dump(summary, f, indent=1)
    print(
        f"{len(found)} utterances, RTF {rtf:.4f}, a token is known "
        f"{1000 * wait:.0f} ms after its frame: {args.output_dir}/text"
    )


def _write(
    folder: Path,
    found: Dict[str, List[Emission]],
    decoder: StreamingDecoder,
    config_file: str,
) -> None:
    conf = load_config(config_file)
    text = text_maker(conf["token_type"], conf.get("bpemodel"), decoder.token_list)
    said = {u: [decoder.token_list[e.token] for e in each] for u, each in found.items()}
    times = {
        utt: json.dumps(
            [
                [token, round(e.spoken, 3), round(e.heard, 3)]
                for token, e in zip(said[utt], each)
            ],
            ensure_ascii=False,
        )
        for utt, each in found.items()
    }
    write_scp(folder / "token", ((u, " ".join(tokens)) for u, tokens in said.items()))
    write_scp(folder / "emissions", times.items())
    write_scp(folder / "text", ((u, text(t)) for u, t in said.items()))


if __name__ == "__main__":
    run(main)
