"""Decode audio greedily in chunks with a streaming ESPnet model.

Writes <output_dir>/text, /token, /emissions (of each token: the token, the time of its
spike and the time of its output, both in seconds) and /decode.json (real-time factor,
latency).
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence

from espnet_ctckd.bin.cli import (
    add_device,
    add_max_bad_share,
    add_model,
    device,
    parser,
    positive,
    run,
)
from espnet_ctckd.cache.plan import Unheard, list_audio
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.containers import UnusableAudioError
from espnet_ctckd.data.files import atomic_write
from espnet_ctckd.data.kaldi import write_scp
from espnet_ctckd.data.progress import Progress
from espnet_ctckd.evaluation.score import spelled_by

if TYPE_CHECKING:
    from espnet_ctckd.decode.streaming import Emission, StreamingDecoder


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Decode a set."""
    p = parser(__doc__)
    add_model(p)
    p.add_argument("--output_dir", required=True, help="folder of the results")
    p.add_argument("--chunk_ms", type=positive, default=40, help="chunk of audio in ms")
    add_max_bad_share(p)
    add_device(p)
    args = p.parse_args(cmd)
    import torch

    from espnet_ctckd.decode.streaming import StreamingDecoder, latency
    from espnet_ctckd.models.checkpoint import load_config

    decoder = StreamingDecoder(args.asr_train_config, args.asr_model_file, device(args))
    chunk = max(args.chunk_ms * decoder.rate // 1000, 1)
    found: Dict[str, List[Emission]] = {}
    seconds, samples = 0.0, 0
    unheard = Unheard(args.max_bad_share, args.wav_scp)
    utterances = list_audio(
        args.wav_scp, decoder.rate, decoder.shortest, unheard=unheard
    )
    with Progress(len(utterances), "utterances") as bar:
        for utterance in utterances:
            utt = utterance.name
            bar.update()
            try:
                audio = read_audio(utt, utterance.path, decoder.rate)
            except UnusableAudioError as error:  # damaged behind its header
                unheard.note_bad({utt: str(error)})
                continue
            start = time.perf_counter()
            found[utt] = list(decoder.decode(torch.from_numpy(audio), chunk))
            seconds += time.perf_counter() - start
            samples += len(audio)
    decoded, duration = len(found), samples / decoder.rate
    found.update((utt, []) for utt in unheard.names)
    conf = load_config(args.asr_train_config)
    _write(Path(args.output_dir), found, decoder, conf)
    rtf = seconds / duration if duration else 0.0
    wait = latency([emission for each in found.values() for emission in each])
    summary = {
        "audio_seconds": duration,
        "compute_seconds": seconds,
        "rtf": rtf,
        "utterances": decoded,
        "too_short": len(unheard.short),
        "unusable": len(unheard.bad),
        "parameters": decoder.parameters,
        "chunk_ms": args.chunk_ms,
        "latency_seconds": None if math.isnan(wait) else wait,
        "characters": spelled_by(decoder.token_list, conf["token_type"]),
    }
    with atomic_write(Path(args.output_dir) / "decode.json") as f:
        json.dump(summary, f, indent=1, ensure_ascii=False)
    delay = "no token" if math.isnan(wait) else f"latency {1000 * wait:.0f} ms"
    print(f"{len(found)} utterances, RTF {rtf:.4f}, {delay}: {args.output_dir}/text")


def _write(
    folder: Path,
    found: Dict[str, List[Emission]],
    decoder: StreamingDecoder,
    conf: Mapping[str, Any],
) -> None:
    from espnet_ctckd.data.spelling import text_maker

    text = text_maker(conf["token_type"], conf.get("bpemodel"), decoder.token_list)
    named = {
        utt: [decoder.token_list[e.token] for e in each] for utt, each in found.items()
    }
    times = {
        utt: json.dumps(
            [
                [token, round(e.spoken, 3), round(e.heard, 3)]
                for token, e in zip(named[utt], each)
            ],
            ensure_ascii=False,
        )
        for utt, each in found.items()
    }
    write_scp(folder / "token", ((u, " ".join(tokens)) for u, tokens in named.items()))
    write_scp(folder / "emissions", times.items())
    write_scp(
        folder / "text", ((u, " ".join(text(t).split())) for u, t in named.items())
    )


if __name__ == "__main__":
    run(main)
