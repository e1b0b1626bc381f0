"""Train a sentencepiece model, and write its token list in ESPnet's order.

Writes <output_dir>/bpe.model and tokens.txt: <blank> first, <unk> second, <sos/eos>
last.
"""

import io
from pathlib import Path
from typing import Optional, Sequence

from espnet_ctckd.bin.cli import parser, positive, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_path, atomic_write
from espnet_ctckd.data.kaldi import read_scp

_SPECIAL = ("<unk>", "<s>", "</s>")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Train the model."""
    p = parser(__doc__)
    p.add_argument("--text", required=True, help="Kaldi text")
    p.add_argument("--output_dir", required=True, help="folder to write")
    p.add_argument("--vocab_size", type=positive, required=True, help="tokens")
    p.add_argument("--model_type", default="unigram", help="unigram or bpe")
    args = p.parse_args(cmd)
    trained = io.BytesIO()
    import sentencepiece

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(read_scp(args.text).values()),
            model_writer=trained,
            vocab_size=args.vocab_size,
            model_type=args.model_type,
            character_coverage=1.0,
            minloglevel=1,
        )
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"cannot train a model of {args.vocab_size} tokens on {args.text}: "
            f"{str(error).splitlines()[0]}. A small corpus wants a smaller --nbpe"
        ) from None
    folder = Path(args.output_dir)
    with atomic_path(folder / "bpe.model") as partial:
        partial.write_bytes(trained.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    own = [piece for piece in pieces if piece not in _SPECIAL]
    with atomic_write(folder / "tokens.txt") as f:
        f.writelines(f"{t}\n" for t in ["<blank>", "<unk>", *own, "<sos/eos>"])


if __name__ == "__main__":
    run(main)
