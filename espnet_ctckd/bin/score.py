"""Count the errors of a decoded set: WER, CER, and TER where a BPE model is given.

Writes <output_dir>/score.json (totals) and wer.tsv, cer.tsv, ter.tsv (utterances).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence

from espnet_ctckd.bin import parser, run
from espnet_ctckd.data import write_beside
from espnet_ctckd.score import score, write_counts


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Score a set."""
    p = parser(__doc__)
    p.add_argument("--ref", required=True, help="Kaldi text of the references")
    p.add_argument("--hyp", required=True, help="Kaldi text that was decoded")
    p.add_argument("--output_dir", help="folder of the scores; the hypotheses' own")
    p.add_argument("--bpemodel", help="sentencepiece model, for TER")
    args = p.parse_args(cmd)
    folder = Path(args.output_dir or Path(args.hyp).parent)
    splits: Dict[str, Callable[[str], Sequence[str]]] = {"wer": str.split, "cer": list}
    if args.bpemodel:
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=args.bpemodel)
        splits["ter"] = lambda text: model.encode(text, out_type=str)
    totals = {
        unit: write_counts(folder, unit, score(args.ref, args.hyp, split))
        for unit, split in splits.items()
    }
    with write_beside(folder / "score.json") as f:
        json.dump({unit: asdict(counts) for unit, counts in totals.items()}, f)
    for unit, c in totals.items():
        print(
            f"{unit.upper()} {c.rate:.2f} % ({c.errors} of {c.units}: "
            f"{c.substitutions} sub, {c.deletions} del, {c.insertions} ins)"
        )


if __name__ == "__main__":
    run(main)
