"""The report page: tables, charts and utterances of systems, in one HTML file."""

import base64
import json
import logging
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from importlib import resources
from statistics import fmean
from typing import Any, DefaultDict, Dict, List, Mapping, Optional, Sequence, Tuple

import jinja2

from espnet_ctckd.evaluation.experiments import CURVES, Result, System, without_seed
from espnet_ctckd.evaluation.score import bootstrap_interval
from espnet_ctckd.report.charts import densities, lines
from espnet_ctckd.report.spikes import COLUMNS, Comparison

Key = Tuple[str, str]  # decoding and set

_CAPTIONS = {
    ("valid", "cer_ctc"): "Character errors on the dev set, greedy, as a share",
    ("valid", "loss_kd"): "Distance to the teacher on the dev set, without lambda",
    ("valid", "loss_ctc"): "CTC loss on the dev set",
    ("valid", "blank_student"): "Share of frames whose argmax is blank, dev set",
    (
        "valid",
        "spikes_missed",
    ): "Share of the teacher's spikes missed, dev set",
    (
        "valid",
        "spikes_inserted",
    ): "Spikes inserted, per spike of the teacher, dev set",
    (
        "valid",
        "spike_offset",
    ): "Mean delay of the spikes in frames, dev set",
    ("train", "loss"): "Training loss, weighted as configured",
    ("train", "kd_selected"): "Share of frames that the selector takes",
}
_HEADS = [
    "system",
    "teacher",
    "selector",
    "lambda",
    "labels",
    "parameters",
    "WER %",
    "interval",
    "difference to best",
    "CER %",
    "RTF",
    "cache",
]
_TEXT_HEADS = (
    "system",
    "teacher",
    "selector",
    "labels",
    "interval",
    "difference to best",
)


@dataclass
class Content:
    """Content of the page besides the systems.

    Attributes:
        title: title of the page.
        made: date and version of the page.
        spikes: system -> comparison of its spikes with the teacher's.
        compared: descriptions of the utterances that were compared.
        selected: description of a selector -> share of the teacher's frames that it
            takes, of each utterance.
        utterances: utterances to browse.
        notes: reasons for missing content.
        without_data: reason why there are no utterances.
    """

    title: str
    made: str
    spikes: Dict[str, Comparison] = field(default_factory=dict)
    compared: List[str] = field(default_factory=list)
    selected: DefaultDict[str, List[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    utterances: List[Dict[str, Any]] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    without_data: str = ""

    def note(self, text: str) -> None:
        """Add the reason for missing content to the page and to the log."""
        if text not in self.notes:
            logging.warning(text)
            self.notes.append(text)

    def add_spikes(self, name: str, compared: Comparison) -> None:
        """Add the comparison of a set to that of a system."""
        known = self.spikes.get(name)
        self.spikes[name] = compared if known is None else known + compared


def render(systems: Sequence[System], content: Content) -> str:
    """Render the page.

    Args:
        systems: systems to compare.
        content: other content of the page.

    Returns:
        Self-contained HTML.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = resources.files(__package__).joinpath("page.html")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    keys = sorted({key for system in systems for key in system.results})
    listed = json.dumps(content.utterances, ensure_ascii=False, separators=(",", ":"))
    compressed = zlib.compress(listed.encode(), 9)
    return template.render(
        title=content.title,
        made=content.made,
        summary=[_summarize(key, systems) for key in keys],
        tables=[_results(key, systems) for key in keys],
        seeds=[table for key in keys if (table := _over_seeds(key, systems))],
        legend=[
            {"number": i, "name": s.name}
            for i, s in enumerate(systems)
            if s.curves or s.name in content.spikes
        ],
        curves=_curves(systems),
        blank=_blank(systems, content),
        utterances=bool(content.utterances),
        without_data=content.without_data,
        cost=_cost(systems),
        provenance=[
            {"name": s.name, "rows": list(s.provenance.items())} for s in systems
        ],
        data=base64.b64encode(compressed).decode(),
        notes=list(dict.fromkeys(content.notes)),
    )


def _wer(system: System, key: Key) -> float:
    return system.results[key].totals["wer"].rate


def best_of(key: Key, systems: Sequence[System]) -> Optional[System]:
    """Return the student with the lowest word error rate, or None."""
    students = [s for s in systems if key in s.results and not s.is_teacher]
    return min(students, key=lambda s: _wer(s, key), default=None)


def against(result: Result, other: Result) -> Tuple[float, float]:
    """Return the 95 % interval of the difference of two WERs, in points."""
    return bootstrap_interval([result.folder / "wer.tsv"], [other.folder / "wer.tsv"])


def _summarize(key: Key, systems: Sequence[System]) -> str:
    best = best_of(key, systems)
    parts = []
    if best is not None:
        parts.append(
            f"the best student is {best.name} with {_wer(best, key):.1f} % WER"
        )
        alike = [
            s.name
            for s in systems
            if s is not best and not s.is_teacher and key in s.results
            if _within(against(s.results[key], best.results[key]))
        ]
        if alike:
            listed = ", ".join(alike[:4]) + (", …" if len(alike) > 4 else "")
            parts.append(f"{listed}: the difference is within noise on this set")
        plain = best_of(key, [s for s in systems if s.learns_from_nobody])
        if plain is not None and plain is not best:
            low, high = against(plain.results[key], best.results[key])
            parts.append(
                f"the best student without distillation, {plain.name}, has "
                f"{_wer(plain, key):.1f} %, {low:.1f} to {high:.1f} points more"
            )
    for teacher in systems:
        if teacher.is_teacher and key in teacher.results:
            parts.append(f"the teacher {teacher.name} has {_wer(teacher, key):.1f} %")
    return f"{key[1]} ({key[0]}): {'; '.join(parts)}."


def _within(interval: Tuple[float, float]) -> bool:
    return interval[0] <= 0.0 <= interval[1]


def _cell(shown: str, value: object = None, left: bool = False) -> Dict[str, Any]:
    return {"shown": shown, "value": shown if value is None else value, "left": left}


def _number(value: Optional[float], form: str) -> Dict[str, Any]:
    return _cell("", "") if value is None else _cell(format(value, form), value)


def _results(key: Key, systems: Sequence[System]) -> Dict[str, Any]:
    best = best_of(key, systems)
    rows: List[Dict[str, Any]] = []
    for system in systems:
        if key not in system.results:
            continue
        result = system.results[key]
        low, high = result.interval
        difference, middle = "", 0.0
        if best is not None and system is not best:
            ends = against(result, best.results[key])
            middle = fmean(ends)
            difference = "{}{:+.1f} to {:+.1f}".format("≈ " * _within(ends), *ends)
        settings = system.settings
        cer = result.totals["cer"].rate if "cer" in result.totals else None
        millions = system.parameters and system.parameters / 1e6
        megabytes = None if system.cache is None else system.cache / 1e6
        cells = [
            _cell(system.name, left=True),
            _cell(settings.get("teacher", ""), left=True),
            _cell(settings.get("selector", ""), left=True),
            _cell(settings.get("lambda", "")),
            _cell(settings.get("labels", ""), left=True),
            {**_number(millions, ".2f"), "shown": f"{millions:.2f} M"}
            if millions
            else _cell("", ""),
            _number(_wer(system, key), ".1f"),
            _cell(f"{low:.1f} - {high:.1f}", low, left=True),
            _cell(difference, middle, left=True),
            _number(cer, ".1f"),
            _number(result.rtf, ".4f"),
            {**_number(megabytes, ".1f"), "shown": f"{megabytes:.1f} MB"}
            if megabytes is not None
            else _cell("", ""),
        ]
        kind = "teacher" if system.is_teacher else "best" * (system is best)
        rows.append({"kind": kind, "cells": cells})
    rows.sort(key=lambda row: (row["kind"] != "teacher", row["cells"][6]["value"]))
    heads = [{"name": name, "text": name in _TEXT_HEADS} for name in _HEADS]
    return {"name": f"{key[1]}, {key[0]}", "heads": heads, "rows": rows}


def _over_seeds(key: Key, systems: Sequence[System]) -> Optional[Dict[str, Any]]:
    """Return the table of systems that differ only in their seed (``_seed<n>``)."""
    groups: DefaultDict[str, List[Result]] = defaultdict(list)
    for system in systems:
        if key in system.results:
            groups[without_seed(system.name)].append(system.results[key])
    rows = []
    for name, results in groups.items():
        if len(results) < 2:
            continue
        rates = [result.totals["wer"].rate for result in results]
        ends = bootstrap_interval([result.folder / "wer.tsv" for result in results])
        cells = [_cell(name), _cell(" ".join(f"{rate:.1f}" for rate in rates))]
        cells += [_number(fmean(rates), ".1f"), _cell("{:.1f} - {:.1f}".format(*ends))]
        rows.append(cells)
    if not rows:
        return None
    rows.sort(key=lambda cells: cells[2]["value"])
    heads = ["system", "WER % by seed", "mean", "interval of the mean"]
    return {"name": f"{key[1]}, {key[0]}, over seeds", "heads": heads, "rows": rows}


def _curves(systems: Sequence[System]) -> List[Dict[str, str]]:
    charts = []
    for key in CURVES:
        series = [
            (i, s.name, s.curves[key]) for i, s in enumerate(systems) if key in s.curves
        ]
        svg = lines(series, "updates", key[1])
        if svg:
            charts.append({"svg": svg, "caption": _CAPTIONS[key]})
    return charts


def _blank(systems: Sequence[System], content: Content) -> Optional[Dict[str, Any]]:
    if not content.spikes:
        return None
    numbered = [
        (i, s, content.spikes[s.name])
        for i, s in enumerate(systems)
        if s.name in content.spikes
    ]
    rows = []
    for _, system, compared in numbered:
        summary = compared.summary()
        cells = [_number(summary[key], ".1f") for key in COLUMNS]
        rows.append([_cell(system.name), *cells])
    offsets = [(i, s.name, c.offsets) for i, s, c in numbered if not s.is_teacher]
    runs = [(i, s.name, c.runs) for i, s, c in numbered]
    drawn = {
        "Offset of the spikes": densities(
            offsets, -260, 260, 13, "ms later than the teacher's"
        ),
        "Duration of blank between spikes": densities(runs, 0, 1000, 20, "ms of blank"),
    }
    charts = [{"svg": svg, "caption": name} for name, svg in drawn.items() if svg]
    means = {name: fmean(shares) for name, shares in content.selected.items()}
    shares = sorted(means.items(), key=lambda item: item[1])
    return {
        "heads": ["system", *COLUMNS.values()],
        "rows": rows,
        "charts": charts,
        "of": " and ".join(content.compared),
        "selected": [(name, f"{100 * share:.1f}") for name, share in shares],
    }


def _cost(systems: Sequence[System]) -> Dict[str, Any]:
    heads = list(dict.fromkeys(name for s in systems for name in s.costs))
    rows = [
        [_cell(s.name), *(_cell(s.costs.get(name, "")) for name in heads)]
        for s in systems
        if s.costs
    ]
    return {"heads": ["system", *heads], "rows": rows}


def spread(values: Mapping[str, Any], most: int) -> Dict[str, Any]:
    """Return at most so many entries of a mapping, evenly spread."""
    step = max(1, -(-len(values) // most))
    return dict(list(values.items())[::step])
