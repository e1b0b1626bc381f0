"""Recognise audio with the CTC branch of any ESPnet ASR model.

Greedily, by prefix beam search, or with a lexicon and an n-gram language model; blank
runs may be collapsed before the search. Writes <output_dir>/text, /token and
/decode.json (real-time factor, parameters); with --nbest above 1 /nbest, a line of JSON
an utterance: scores and texts; with --ctm /ctm: utterance, channel, start and duration
in seconds, word and confidence. Of audio that is too short for a frame, or cannot be
read, the hypothesis is empty; /decode.json counts both.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

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
from espnet_ctckd.data.kaldi import write_beside, write_scp
from espnet_ctckd.decode.lexicon import read_lexicon
from espnet_ctckd.decode.recogniser import Recognised, Recogniser, recognise
from espnet_ctckd.decode.registry import DECODER_CHOICES
from espnet_ctckd.decode.search import SearchConfig
from espnet_ctckd.evaluation.score import spelled_by


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Decode a set."""
    p = parser(__doc__)
    add_model(p)
    p.add_argument("--output_dir", required=True, help="folder of the results")
    p.add_argument("--ctm", action="store_true", help="say when each word is said")
    p.add_argument(
        "--search_processes", type=count, default=0, help="beside this one; 0: none"
    )
    add_max_bad_share(p)
    add_search(p)
    add_compute(p)
    args = configured(p, cmd)
    config = search_of(args)
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)  # or say so at once
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


def output_characters(model: Recogniser, config: SearchConfig) -> str:
    """The characters that can be in a hypothesis, as `spelled_by` gives them."""
    if config.lexicon is None:
        return spelled_by(model.tokens, model.token_type)
    return spelled_by(read_lexicon(config.lexicon, model.tokens))


def write(
    found: Recognised, folder: Path, config: SearchConfig, characters: str
) -> None:
    """Write the results of a set, and which characters can be in it; the text last."""
    for name in ("nbest", "ctm"):  # of another search, which did more
        (folder / name).unlink(missing_ok=True)
    write_scp(folder / "token", ((u, " ".join(t)) for u, t in found.tokens.items()))
    if found.nbest:
        lines = {
            utt: json.dumps([[round(s, 3), t] for s, t in each], ensure_ascii=False)
            for utt, each in found.nbest.items()
        }
        write_scp(folder / "nbest", lines.items())
    if found.words:
        with write_beside(folder / "ctm") as f:
            for utt, words in sorted(found.words.items()):
                f.writelines(
                    f"{utt} 1 {w.start:.2f} {w.duration:.2f} {w.word} "
                    f"{w.confidence:.3f}\n"
                    for w in words
                )
    with write_beside(folder / "decode.json") as f:
        told = {"search": vars(config), "characters": characters}
        json.dump({**found.summary(), **told}, f, indent=1, ensure_ascii=False)
    write_scp(folder / "text", found.text.items())


def add_search(p: argparse.ArgumentParser) -> None:
    """Add the flags of the search, and --config, a YAML file that may hold them."""
    p.add_argument("--config", help="YAML of these flags; the command line wins")
    g = p.add_argument_group("search")
    default: Dict[str, Any] = vars(SearchConfig())
    helps = {
        "nbest": "hypotheses an utterance",
        "blank_collapse": "threshold of Blank Collapse, as 0.999; 1: off",
        "beam": "hypotheses that are followed",
        "tokens_per_frame": "most probable tokens of a frame that are tried",
        "beam_threshold": "of lexicon: nats behind the best that are still followed",
        "lexicon": "of lexicon: file of words and their tokens",
        "lm": "of lexicon: n-gram model of KenLM, ARPA or binary",
        "lm_scale": "of lexicon: factor of its log-probability",
        "word_score": "of lexicon: added for each word",
        "silence_score": "of lexicon: added for each space",
        "prior_file": "of prefix_beam and lexicon: as estimate_prior writes it",
        "prior_scale": "how much of the prior is taken out",
    }
    methods = list(DECODER_CHOICES)
    g.add_argument("--method", choices=methods, default=default["method"], help="how")
    for name, text in helps.items():
        kind = str if default[name] is None else type(default[name])
        g.add_argument(f"--{name}", type=kind, default=default[name], help=text)


def search_of(args: argparse.Namespace) -> SearchConfig:
    """The search that the flags ask for."""
    return SearchConfig(**{name: getattr(args, name) for name in vars(SearchConfig())})


if __name__ == "__main__":
    run(main)
