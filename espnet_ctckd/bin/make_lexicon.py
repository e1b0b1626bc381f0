"""Spell words in the tokens of a model: the lexicon of decode --method lexicon.

The words are the first column of a file: a word list, a pronunciation dictionary, or
the unigrams of an n-gram model in ARPA format. A model of phonemes needs a lexicon of
pronunciations instead, in the same format: the word, and its tokens.
"""

import re
from pathlib import Path
from typing import List, Optional, Sequence

from espnet2.text.build_tokenizer import build_tokenizer

from espnet_ctckd.bin import parser, run
from espnet_ctckd.checkpoint import load_config
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import read_lines, shorten, write_beside
from espnet_ctckd.decode.lexicon import KENLM_BINARY, spell
from espnet_ctckd.spelling import check_splits

# A second pronunciation of a word, as CMU's dictionaries mark it.
_VARIANT = re.compile(r"\(\d+\)$")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Make a lexicon."""
    p = parser(__doc__)
    p.add_argument("--words", required=True, help="word list, dictionary, or ARPA file")
    p.add_argument("--asr_train_config", required=True, help="config.yaml of the model")
    p.add_argument("--output", required=True, help="lexicon to write")
    args = p.parse_args(cmd)
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
            "that of the model?"
        )
    with write_beside(args.output) as f:
        f.writelines(f"{line}\n" for line in lines)
    print(f"{args.output}: {len(lines)} of {len(words)} words are spelled")


def read_words(path: str) -> List[str]:
    """The words of a list, a dictionary or an ARPA file, each once.

    Args:
        path: the file.

    Returns:
        Words in their order, without ``<s>`` and the like.

    Raises:
        InputError: it is missing, or not text.
    """
    if Path(path).is_file():
        with open(path, "rb") as f:
            if f.read(len(KENLM_BINARY)) == KENLM_BINARY:
                raise InputError(
                    f"{path} is a binary language model of KenLM, whose words cannot "
                    "be read: give the words as a list, a dictionary or an ARPA file"
                )
    lines, column = read_lines(path, "list of words"), 0
    if "\\1-grams:" in lines:
        begin = lines.index("\\1-grams:") + 1
        end = next(
            (i for i in range(begin, len(lines)) if lines[i].startswith("\\")),
            len(lines),
        )
        lines, column = lines[begin:end], 1
    found = [line.split()[column] for line in lines if len(line.split()) > column]
    plain = [_VARIANT.sub("", word) for word in found]
    return list(dict.fromkeys(w for w in plain if not re.fullmatch(r"<.*>", w)))


if __name__ == "__main__":
    run(main)
