"""Count the errors of a decoded set: WER, CER, and TER where a BPE model is given.

Writes <output_dir>/score.json (totals), wer.tsv, cer.tsv, ter.tsv (utterances), and
with --utt2spk wer.speakers.tsv and so on. --case and --remove apply to references and
hypotheses, and are written with the scores. References without words and empty
hypotheses count as in sclite: as insertions and deletions.
"""

from pathlib import Path
from typing import Callable, Dict, Optional, Sequence

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.bin.flags import add_normalization, normalization_of
from espnet_ctckd.data.files import read_report
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.evaluation.score import (
    read_references,
    score,
    warn_unspelled,
    write_scores,
)

# Percent of the characters of the references that are in no hypothesis, where it is not
# known what the model can output.
_UNUSUAL = 1.0


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Score a set."""
    p = parser(__doc__)
    p.add_argument("--ref", required=True, help="Kaldi text of the references")
    p.add_argument("--hyp", required=True, help="Kaldi text that was decoded")
    p.add_argument("--output_dir", help="folder of the scores; the hypotheses' own")
    p.add_argument("--bpemodel", help="sentencepiece model, for TER")
    p.add_argument("--utt2spk", help="to count by speaker, too")
    add_normalization(p)
    args = p.parse_args(cmd)
    folder = Path(args.output_dir or Path(args.hyp).parent)
    splits: Dict[str, Callable[[str], Sequence[str]]] = {"wer": str.split, "cer": list}
    if args.bpemodel:
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=args.bpemodel)
        splits["ter"] = lambda text: model.encode(text, out_type=str)
    normalization = normalization_of(args)
    references = read_references(args.ref, normalization)
    hypotheses = read_scp(args.hyp)
    info = read_report(Path(args.hyp).parent / "decode.json")
    if "characters" in info:
        warn_unspelled(references, str(info["characters"]), normalization)
    else:
        found = "".join(sorted(set().union(*hypotheses.values())))
        missing = "that are in no hypothesis"
        warn_unspelled(references, found, normalization, missing, _UNUSUAL)
    counted = {
        unit: score(args.ref, args.hyp, split, normalization)
        for unit, split in splits.items()
    }
    texts = (args.ref, args.hyp)
    totals = write_scores(folder, counted, normalization, args.utt2spk, texts)
    for unit, c in totals.items():
        print(
            f"{unit.upper()} {c.rate:.2f} % ({c.errors} of {c.units}: "
            f"{c.substitutions} sub, {c.deletions} del, {c.insertions} ins)"
        )
    wordless = sum(not words for words in references.values())
    empty = sum(not normalization(text) for text in hypotheses.values())
    if wordless or empty:
        print(
            f"of {len(references)} utterances, {wordless} have no words in the "
            f"reference, and {empty} none in the hypothesis"
        )


if __name__ == "__main__":
    run(main)
