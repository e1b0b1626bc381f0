"""Spell words in the tokens of a model: the lexicon of decode --method lexicon.

The words are the first column of a file: a word list, a pronunciation dictionary, or
the unigrams of an n-gram model in ARPA format; any of them may be gzipped. A model of
phonemes needs a lexicon of pronunciations instead, in the same format: the word, and
its tokens.
"""

from typing import Optional, Sequence

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_write, shorten


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Make a lexicon."""
    p = parser(__doc__)
    p.add_argument("--words", required=True, help="word list, dictionary, or ARPA file")
    p.add_argument("--asr_train_config", required=True, help="config.yaml of the model")
    p.add_argument("--output", required=True, help="lexicon to write")
    args = p.parse_args(cmd)
    from espnet2.text.build_tokenizer import build_tokenizer

    from espnet_ctckd.data.spelling import check_splits
    from espnet_ctckd.decode.language_model import read_words
    from espnet_ctckd.decode.lexicon import spell
    from espnet_ctckd.models.checkpoint import load_config

    conf = load_config(args.asr_train_config)
    check_splits(
        conf["token_list"],
        conf["token_type"],
        conf.get("bpemodel"),
        f"words are spelled in the tokens of {args.asr_train_config}",
        "; or decode without a lexicon",
    )
    tokenizer = build_tokenizer(conf["token_type"], bpemodel=conf.get("bpemodel"))
    words = read_words(args.words)
    lines = spell(words, tokenizer.text2tokens, conf["token_list"])
    if not lines:
        raise InputError(
            f"none of the {len(words)} words of {args.words} can be spelled in the "
            f"tokens of {args.asr_train_config}, e.g. {shorten(words)}: is their case "
            "that of the model, and their Unicode form (NFC, NFD)?"
        )
    with atomic_write(args.output) as f:
        f.writelines(f"{line}\n" for line in lines)
    print(f"{args.output}: {len(lines)} of {len(words)} words are spelled")


if __name__ == "__main__":
    run(main)
