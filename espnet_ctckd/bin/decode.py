"""Decode audio with the CTC branch of any ESPnet ASR model.

The search is greedy, a prefix beam search, or a search with a lexicon and an n-gram
language model, with optional Blank Collapse. Writes <output_dir>/text, /token and
/decode.json (real-time factor, parameters); with --nbest above 1 also /nbest, one line
of JSON per utterance with scores and texts; with --ctm also /ctm: utterance, channel,
start and duration in seconds, word and confidence. The hypothesis of audio that is too
short or unreadable is empty; /decode.json counts both kinds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Sequence

from espnet_ctckd.bin.cli import (
    add_compute,
    add_max_bad_share,
    add_model,
    configured,
    count,
    device,
    parser,
    run,
)
from espnet_ctckd.bin.flags import add_search, search_of
from espnet_ctckd.data.files import atomic_write
from espnet_ctckd.data.kaldi import write_scp

if TYPE_CHECKING:
    from espnet_ctckd.decode.recogniser import Recognised
    from espnet_ctckd.decode.search import SearchConfig


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Decode a set."""
    p = parser(__doc__)
    add_model(p)
    p.add_argument("--output_dir", required=True, help="folder of the results")
    p.add_argument("--ctm", action="store_true", help="write the times of the words")
    p.add_argument(
        "--search_processes", type=count, default=0, help="additional processes"
    )
    add_max_bad_share(p)
    add_search(p)
    add_compute(p)
    args = configured(p, cmd)
    config = search_of(args)
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)  # fail early
    from espnet_ctckd.decode.characters import output_characters
    from espnet_ctckd.decode.recogniser import Recogniser, recognise

    model = Recogniser(args.asr_train_config, args.asr_model_file, device(args))
    found = recognise(
        model,
        args.wav_scp,
        args.batch_seconds,
        config,
        args.search_processes,
        args.ctm,
        args.max_bad_share,
    )
    characters = output_characters(model, config)
    write(found, Path(args.output_dir), config, characters)
    speed = found.speed
    print(
        f"{speed.utterances} utterances{speed.unheard()}, RTF {speed.rtf:.4f} on "
        f"{speed.device}, {speed.threads} threads: {args.output_dir}/text"
    )


def write(
    found: Recognised, folder: Path, config: SearchConfig, characters: str
) -> None:
    """Write the results of a set and the model's characters; the text is last."""
    for name in ("nbest", "ctm"):  # stale files of an earlier search
        (folder / name).unlink(missing_ok=True)
    write_scp(folder / "token", ((u, " ".join(t)) for u, t in found.tokens.items()))
    if found.nbest:
        lines = {
            utt: json.dumps([[round(s, 3), t] for s, t in each], ensure_ascii=False)
            for utt, each in found.nbest.items()
        }
        write_scp(folder / "nbest", lines.items())
    if found.words:
        with atomic_write(folder / "ctm") as f:
            for utt, words in sorted(found.words.items()):
                f.writelines(
                    f"{utt} 1 {w.start:.2f} {w.duration:.2f} {w.word} "
                    f"{w.confidence:.3f}\n"
                    for w in words
                )
    with atomic_write(folder / "decode.json") as f:
        info = {"search": vars(config), "characters": characters}
        json.dump({**found.summary(), **info}, f, indent=1, ensure_ascii=False)
    write_scp(folder / "text", found.text.items())


if __name__ == "__main__":
    run(main)
