"""Write one page, report.html, on which a person sees what distillation did.

Takes folders of experiments, or one that holds them. The page needs no network: results
with intervals, learning curves, what the blank does, utterances to look at and listen
to, costs, and where everything comes from. --data and a teacher that lies there as an
exported ESPnet model make the parts about blanks and utterances.
"""

import datetime
import logging
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from espnet_ctckd import __version__
from espnet_ctckd.bin import parser, positive, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import read_scp, write_beside, write_scp
from espnet_ctckd.report.page import Content, render, spread
from espnet_ctckd.report.spikes import KnownSpikes
from espnet_ctckd.report.systems import System, find_systems, read_system
from espnet_ctckd.report.utterances import Model, diff, look_at, worst
from espnet_ctckd.score import read_errors


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Write the page."""
    p = parser(__doc__)
    p.add_argument("experiments", nargs="+", help="folders, e.g. exp")
    p.add_argument(
        "--teacher", help="folder of its experiment (default: the only teacher_...)"
    )
    p.add_argument("--data", help="folder that holds <set>/wav.scp and <set>/text")
    p.add_argument(
        "--utterances", type=positive, default=12, help="to browse, of each set"
    )
    p.add_argument(
        "--spike_utterances",
        type=positive,
        default=300,
        help="of each set, evenly spread, in which spikes are compared",
    )
    p.add_argument("--title", default="Distillation", help="of the page")
    p.add_argument("--output", help="file (default: report.html in the first folder)")
    args = p.parse_args(cmd)
    folders = find_systems([Path(folder) for folder in args.experiments])
    teacher = _teacher(folders, args.teacher)
    systems = [read_system(folder, teacher) for folder in folders]
    now = datetime.datetime.now().astimezone()
    content = Content(args.title, f"{now:%Y-%m-%d %H:%M}, espnet_ctckd {__version__}")
    if args.data is None:
        content.without_data = "No --data was given, so no model was run."
    else:
        _run_models(content, systems, teacher, args)
    output = Path(args.output or Path(args.experiments[0]) / "report.html")
    page = render(systems, content)
    with write_beside(output) as f:
        f.write(page)
    print(f"{output}: {len(systems)} systems, {len(page.encode()) / 1e6:.1f} MB")


def _teacher(folders: Sequence[Path], given: Optional[str]) -> Optional[Path]:
    if given is not None:
        if not Path(given).is_dir():
            raise InputError(f"--teacher: there is no folder {given}")
        return Path(given)
    found = [f for f in folders if f.resolve().name.startswith("teacher_")]
    return found[0] if len(found) == 1 else None


def _run_models(
    content: Content, systems: Sequence[System], teacher: Optional[Path], args: Any
) -> None:
    """What needs the models: spikes, and utterances."""
    exported = [s for s in systems if (s.folder / "export/model.pth").exists()]
    if not exported:
        content.without_data = "None of the folders has an exported model (export/)."
        return
    sets = sorted({name for s in exported for _, name in s.results})
    total = Progress(len(sets) * (len(exported) + args.utterances))
    for subset in sets:
        folder = Path(args.data) / subset
        if not (folder / "wav.scp").exists():
            logging.warning(f"{folder} has no wav.scp: {subset} is in the tables alone")
            continue
        wavs = read_scp(folder / "wav.scp")
        if teacher is not None and (teacher / "export/model.pth").exists():
            with tempfile.TemporaryDirectory() as made:
                some = Path(made) / "wav.scp"
                write_scp(some, spread(wavs, args.spike_utterances).items())
                spikes = KnownSpikes(teacher, str(some))
                for system in exported:
                    compared = spikes.of(system.folder, f"spikes.{subset}.json")
                    if system.name in content.spikes:
                        compared = content.spikes[system.name] + compared
                    content.spikes[system.name] = compared
                    total.step(f"spikes of {system.name}")
        for shown in _utterances(content, subset, folder, exported, teacher, args):
            total.step(shown)


class Progress:
    """Says how far it is, and when it will end."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done, self._begun = steps, 0, time.monotonic()

    def step(self, what: str) -> None:
        """One more is done."""
        self._done += 1
        left = (time.monotonic() - self._begun) / self._done
        logging.info(
            f"{self._done} of {self._steps}: {what}, "
            f"{left * max(self._steps - self._done, 0):.0f} s left"
        )


def _utterances(
    content: Content,
    subset: str,
    folder: Path,
    systems: Sequence[System],
    teacher: Optional[Path],
    args: Any,
) -> Iterator[str]:
    """Add the worst utterances of a set, and say their names."""
    wavs, references = read_scp(folder / "wav.scp"), read_scp(folder / "text")
    decoding = _usual_decoding(systems, subset)
    texts, errors = {}, defaultdict(list)
    for system in systems:
        result = system.results.get((decoding, subset))
        if result is None:
            continue
        texts[system.name] = read_scp(result.folder / "text")
        if not system.is_teacher:
            for utt, number in read_errors(result.folder / "wer.tsv").items():
                errors[utt].append(number)
    models = [
        Model.open(s.name, s.folder / "export", s.selector)
        for s in systems
        if s.name in texts
    ]
    ours = next((m for m, s in _pairs(models, systems) if s.is_teacher), None)
    taken: Dict[str, List[float]] = defaultdict(list)
    for utt in worst(references, errors, args.utterances):
        looked = look_at(utt, wavs[utt], models, ours)
        for selector, share in looked.pop("shares").items():
            taken[selector].append(share)
        content.utterances.append(
            {
                **looked,
                "set": subset,
                "name": utt,
                "errors": sum(errors[utt]),
                "reference": references[utt],
                "systems": [
                    (s.name, "teacher" if s.is_teacher else "student")
                    for _, s in _pairs(models, systems)
                ],
                "said": {n: diff(references[utt], t[utt]) for n, t in texts.items()},
            }
        )
        yield utt
    for selector, shares in taken.items():
        content.selected[selector] = 100.0 * float(np.mean(shares))


def _pairs(
    models: Sequence[Model], systems: Sequence[System]
) -> List[Tuple[Model, System]]:
    named = {s.name: s for s in systems}
    return [(m, named[m.name]) for m in models]


def _usual_decoding(systems: Sequence[System], subset: str) -> str:
    """The decoding of a set that most systems have."""
    found = [d for s in systems for d, name in s.results if name == subset]
    return max(sorted(set(found)), key=found.count)


if __name__ == "__main__":
    run(main)
