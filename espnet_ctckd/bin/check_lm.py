"""Check that decoding can read a language model and a word list."""

import importlib
from typing import Optional, Sequence

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.choices import InputError


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Check the files."""
    p = parser(__doc__)
    p.add_argument("--lm", required=True, help="ARPA, gzipped or not, or KenLM binary")
    p.add_argument("--words", help="word list (default: words of --lm)")
    args = p.parse_args(cmd)
    for library in ("flashlight.lib.text.decoder.kenlm", "kenlm"):
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise InputError(
                "decoding with a language model needs flashlight-text and kenlm "
                f"({error}): pip install 'espnet_ctckd[lm]'"
            ) from None
    from espnet_ctckd.decode.language_model import check_lm, read_words

    check_lm(args.lm)
    source = args.words or args.lm
    words = read_words(source)
    if not words:
        raise InputError(f"{source} has no words")
    print(f"{args.lm} can be read; {len(words)} words in {source}")


if __name__ == "__main__":
    run(main)
