"""Compare spikes and blank frames of models with their teacher's.

A model is a cache of posteriors, or with --wav_scp a folder with config.yaml and
model.pth of export_student; all models use the same audio. The spikes of an utterance
are aligned by their tokens with minimum edit distance; the offset of a matched spike is
its first frame minus the first frame of the teacher's spike.
"""

import json
from dataclasses import asdict
from typing import Optional, Sequence

from espnet_ctckd.bin.cli import naming, parser, run
from espnet_ctckd.data.files import atomic_write
from espnet_ctckd.data.kaldi import read_wav_scp


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Compare, and print a table."""
    p = parser(__doc__)
    p.add_argument("--teacher", required=True, help="cache or folder of the teacher")
    p.add_argument("--wav_scp", help="Kaldi's list of audio files, for model folders")
    p.add_argument("--output", help="file to write the counts to (JSON)")
    p.add_argument("models", nargs="+", help="caches or folders of the models")
    args = p.parse_args(cmd)
    wavs = None if args.wav_scp is None else read_wav_scp(args.wav_scp)
    from espnet_ctckd.report.spikes import COLUMNS, compare, open_source, read_spikes

    with naming(wavs="--wav_scp"):
        teacher = open_source(args.teacher, wavs)
    expected = dict(read_spikes(teacher, teacher))
    found = {}
    for model in (args.teacher, *args.models):
        with naming(wavs="--wav_scp"):
            source = open_source(model, wavs)
        found[str(model)] = compare(expected, teacher, source)
    width = max(len(name) for name in found)
    print(" " * width + "".join(f"{column:>13}" for column in COLUMNS.values()))
    for name, comparison in found.items():
        row = comparison.summary()
        cells = (row[key] for key in COLUMNS)
        print(
            f"{name:{width}}"
            + "".join(f"{'-' if c is None else format(c, '.1f'):>13}" for c in cells)
        )
    if args.output:
        with atomic_write(args.output) as f:
            json.dump({name: asdict(c) for name, c in found.items()}, f)


if __name__ == "__main__":
    run(main)
