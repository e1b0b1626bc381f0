"""Settings, scores, learning curves and costs, read from experiment folders."""

import itertools
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from espnet_ctckd.cache.reader import META, SPEED, hashes_of
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import (
    file_crc32,
    folder_size,
    read_json,
    read_report,
    shorten,
)
from espnet_ctckd.evaluation.score import Counts, Score, bootstrap_interval, read_score
from espnet_ctckd.models.checkpoint import load_config

# TensorBoard scalars that are drawn, in this order, as (phase, name).
CURVES = (
    ("valid", "cer_ctc"),
    ("valid", "loss_kd"),
    ("valid", "loss_ctc"),
    ("valid", "blank_student"),
    ("valid", "spikes_missed"),
    ("valid", "spikes_inserted"),
    ("valid", "spike_offset"),
    ("train", "loss"),
    ("train", "kd_selected"),
)
Curve = List[Tuple[float, float]]


@dataclass(frozen=True)
class Result:
    """The scored result of one decoding of a set.

    Attributes:
        decoding: name of the decoding's folder.
        folder: folder of the set.
        score: totals of the set.
        interval: 95 % interval of the word error rate, in percent.
        rtf: real-time factor, or None if it was not measured.
    """

    decoding: str
    folder: Path
    score: Score
    interval: Tuple[float, float]
    rtf: Optional[float]

    @property
    def totals(self) -> Dict[str, Counts]:
        """Unit -> counts."""
        return self.score.totals


@dataclass(frozen=True, eq=False)
class System:
    """An experiment.

    Attributes:
        name: name of the folder.
        folder: folder of the experiment.
        is_teacher: True for a teacher.
        settings: entries of the results table: teacher, selector, lambda and so on.
        parameters: number of parameters of the model.
        cache: size of the teacher's cache in bytes.
        results: (decoding, set) -> result.
        curves: (phase, name) -> updates and values.
        costs: entries of the cost table.
        provenance: versions, hashes and commands.
        selector: name and options of the selector; None without distillation.
        learned_from: hashes of the teacher whose cache was used.
    """

    name: str
    folder: Path
    is_teacher: bool
    settings: Dict[str, str]
    parameters: Optional[int]
    cache: Optional[int]
    results: Dict[Tuple[str, str], Result]
    curves: Dict[Tuple[str, str], Curve]
    costs: Dict[str, str]
    provenance: Dict[str, str]
    selector: Optional[Tuple[str, Dict[str, Any]]] = field(default=None)
    learned_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def learns_from_nobody(self) -> bool:
        """True for a student that is trained with the CTC loss only."""
        return not self.is_teacher and self.settings.get("selector") == ""


def without_seed(name: str) -> str:
    """Return the name of a system without ``_seed<n>``."""
    return re.sub(r"_seed\d+$", "", name)


def find_systems(folders: Sequence[Path]) -> Tuple[List[Path], List[str]]:
    """Find experiments among folders, or directly below them.

    Args:
        folders: folders of experiments, or folders that contain these.

    Returns:
        The experiments with scores, teachers first; and the names of experiments
        without scores.

    Raises:
        InputError: no experiment has scores, or two have the same name.
    """
    found: Dict[str, Path] = {}
    without: List[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}")
        inside = [folder] if _scored(folder) else sorted(folder.iterdir())
        for each in filter(Path.is_dir, inside):
            if _scored(each):
                known = found.setdefault(each.resolve().name, each)
                if known.resolve() != each.resolve():
                    raise InputError(
                        f"{known} and {each} have one name, by which the page tells "
                        "systems apart: rename one of the folders"
                    )
            elif _has(each, "train.log") or any(each.glob("*.pth")):
                without.append(each.name)
    if not found:
        raise InputError(
            f"{shorten([str(f) for f in folders])}: no experiment with scores "
            "(<experiment>/<decoding>/<set>/score.json); decode and score first"
        )
    order = sorted(found, key=lambda name: (not is_named_teacher(found[name]), name))
    return [found[name] for name in order], without


def unscored_sets(folder: Path) -> List[Path]:
    """Return the sets of an experiment that were decoded but not scored.

    Args:
        folder: folder of the experiment.
    """
    decoded = (path.parent for path in sorted(folder.glob("*/*/decode.json")))
    return [path for path in decoded if not _has(path, "score.json")]


def is_named_teacher(folder: Path) -> bool:
    """Return True if an experiment has a teacher's name, as the recipes give it."""
    return folder.resolve().name.split("_")[0] == "teacher"


def _scored(folder: Path) -> bool:
    return any(folder.glob("*/*/score.json"))


def read_system(folder: Path, teacher: Optional[Path]) -> System:
    """Read an experiment.

    Args:
        folder: folder of the experiment.
        teacher: folder of the teacher's experiment, if its name does not show it.

    Raises:
        InputError: a file of the experiment is damaged.
    """
    conf = load_config(folder / "config.yaml") if _has(folder, "config.yaml") else {}
    results = {}
    for path in sorted(folder.glob("*/*/score.json")):
        decoding, subset = path.parts[-3:-1]
        results[decoding, subset] = Result(
            decoding,
            path.parent,
            read_score(path.parent),
            bootstrap_interval([path.with_name("wer.tsv")]),
            read_report(path.with_name("decode.json")).get("rtf"),
        )
    kd = (conf.get("model_conf") or {}).get("kd") or {}
    cache = _cache_of(conf)
    meta = _read_meta(cache)
    size = folder_size(cache) if cache is not None and meta is not None else None
    curves = read_curves(folder / "tensorboard")
    chosen = teacher is not None and folder.resolve() == teacher.resolve()
    is_teacher = chosen or is_named_teacher(folder)
    return System(
        name=folder.resolve().name,
        folder=folder,
        is_teacher=is_teacher,
        settings={} if is_teacher else _settings(conf, kd, meta),
        parameters=_parameters(results),
        cache=size,
        results=results,
        curves={key: curve for key, curve in curves.items() if key in CURVES},
        costs={**_costs(curves), **_cache_costs(cache, meta, size)},
        provenance=_provenance(folder, conf, meta),
        selector=(kd["selector"], kd.get("selector_conf") or {})
        if kd.get("selector") and kd.get("weight", 0) > 0
        else None,
        learned_from={} if meta is None else hashes_of(meta["teacher"]),
    )


def _has(folder: Path, name: str) -> bool:
    return (folder / name).exists()


def _settings(
    conf: Mapping[str, Any], kd: Mapping[str, Any], meta: Optional[Mapping[str, Any]]
) -> Dict[str, str]:
    """Return the settings by which students differ."""
    if not conf:
        return {}
    data = conf.get("train_data_path_and_name_and_type") or []
    labels = any(name == "text" for _, name, _ in data)
    weight = kd.get("weight")
    settings: Dict[str, str] = {"labels": "yes" if labels and weight != 1 else "no"}
    more = [key for key in ("inter", "nbest", "views", "feature") if kd.get(key)]
    if not kd or (weight == 0 and not more):
        return {**settings, "selector": "", "lambda": "0" if kd else ""}
    options = kd.get("selector_conf") or {}
    listed = ", ".join(f"{k} {v}" for k, v in options.items())
    selector = f"{kd.get('selector')}{f' ({listed})' if listed else ''}"
    loss = [] if kd.get("loss") == "kl" else [str(kd.get("loss"))]
    settings["selector"] = ", ".join([selector] * (weight != 0) + loss + more)
    settings["lambda"] = f"{weight:g}"
    if meta is not None:
        settings["teacher"] = _short(meta["teacher"])
    elif _cache_of(conf) is not None:
        settings["teacher"] = f"({_cache_of(conf)} is not found from here)"
    elif (kd.get("teacher") or {}).get("mode") == "online":
        settings["teacher"] = f"{kd['teacher'].get('teacher')}, online"
    return settings


def _short(teacher: Mapping[str, Any]) -> str:
    source = str(teacher.get("source") or teacher.get("config") or "")
    parts = [part for part in Path(source).parts if part not in ("export", "..")]
    named = [part for part in parts if not part.endswith(".yaml")]
    return named[-1] if named else str(teacher.get("type", ""))


def _cache_of(conf: Mapping[str, Any]) -> Optional[Path]:
    data = conf.get("train_data_path_and_name_and_type") or []
    paths = [Path(path).parent for path, name, _ in data if name == "teacher"]
    return paths[0] if paths else None


def _read_meta(cache: Optional[Path]) -> Optional[Dict[str, Any]]:
    """Read ``meta.json`` of a cache; None if the cache was removed."""
    if cache is None or not (cache / META).exists():
        return None
    found = read_json(cache / META, "dump the teacher again")
    teacher, frames = found.get("teacher"), found.get("frames")
    if not isinstance(teacher, dict) or type(frames) is not int or frames < 1:
        raise InputError(
            f"{cache / META} is damaged (its teacher or its number of frames is "
            "missing or wrong): dump the teacher again"
        )
    return found


def _parameters(results: Mapping[Tuple[str, str], Result]) -> Optional[int]:
    for result in results.values():
        number = read_report(result.folder / "decode.json").get("parameters")
        if number is not None:
            return int(number)
    return None


def read_curves(folder: Path) -> Dict[Tuple[str, str], Curve]:
    """Read the scalars that a training wrote for TensorBoard.

    Args:
        folder: folder with ``train`` and ``valid``.

    Returns:
        (phase, name) -> updates and values; for ``train`` one value per epoch.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: Dict[Tuple[str, str], Curve] = {}
    for phase in ("train", "valid"):
        if not any(folder.glob(f"{phase}/events.*")):
            continue
        events = EventAccumulator(str(folder / phase), size_guidance={"scalars": 0})
        events.Reload()
        for name in events.Tags()["scalars"]:
            # A resumed training has written some values twice.
            values = {event.step: event.value for event in events.Scalars(name)}
            found[phase, name] = sorted(values.items())
    ends = {step for step, _ in found.get(("valid", "loss"), [])}
    return {
        (phase, name): [p for p in curve if phase == "valid" or p[0] in ends] or curve
        for (phase, name), curve in found.items()
    }


def _costs(curves: Mapping[Tuple[str, str], Curve]) -> Dict[str, str]:
    """Return the time of a training, per step and in total."""

    def middle(name: str) -> Optional[float]:
        values = [value for _, value in curves.get(("train", name), [])]
        return statistics.median(values) if values else None

    step, reading, teacher = map(middle, ("train_time", "iter_time", "teacher_seconds"))
    costs = {}
    if step is not None:
        updates = curves["train", "train_time"][-1][0]
        costs["ms a step"] = f"{1000 * step:.0f}"
        costs["updates"] = f"{updates:.0f}"
        costs["minutes"] = f"{step * updates / 60:.1f}"
        epochs = len(curves.get(("valid", "loss"), [])) or 1
        costs["seconds an epoch"] = f"{step * updates / epochs:.0f}"
    if step is not None and reading is not None:
        costs["reading %"] = f"{100 * reading / step:.1f}"
    if step is not None and teacher is not None:
        costs["teacher %"] = f"{100 * teacher / step:.0f}"
    return costs


def _cache_costs(
    cache: Optional[Path], meta: Optional[Mapping[str, Any]], size: Optional[int]
) -> Dict[str, str]:
    """Return the size of a cache, and the speed of its dump if it is known."""
    if cache is None or meta is None or size is None:
        return {}
    costs = {"cache MB": f"{size / 1e6:.1f}"}
    costs["bytes a frame"] = f"{size / meta['frames']:.1f}"
    speeds = [read_report(path) for path in sorted(cache.glob(SPEED.format("*")))]
    if speeds:
        speed = statistics.median(each["audio"] / each["seconds"] for each in speeds)
        costs["dump, times real time, a job"] = f"{speed:.0f}"
    return costs


def _provenance(
    folder: Path, conf: Mapping[str, Any], meta: Optional[Mapping[str, Any]]
) -> Dict[str, str]:
    """Return versions, hashes and the command of a training."""
    origin = {}
    if conf.get("version"):
        origin["espnet"] = str(conf["version"])
    if conf.get("seed") is not None:
        origin["seed"] = str(conf["seed"])
    for name in ("export/model.pth", "config.yaml"):
        if _has(folder, name):
            origin[f"{name} (crc32)"] = f"{file_crc32(folder / name):08x}"
    if meta is not None:
        origin.update({f"teacher: {k}": str(v) for k, v in meta["teacher"].items()})
    if _has(folder, "run.sh"):
        script = (folder / "run.sh").read_text(encoding="utf-8").splitlines()
        origin["command"] = " ".join(
            line for line in script if not line.startswith("#")
        )
    if _has(folder, "train.log"):
        with open(folder / "train.log", encoding="utf-8", errors="replace") as log:
            head = itertools.islice(log, 20)
            begun = [line for line in head if line.startswith("# Started at ")]
        if begun:
            origin["begun"] = begun[0].removeprefix("# Started at ").strip()
    return origin
