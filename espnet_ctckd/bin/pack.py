"""Pack an exported student for ESPnet's model zoo, with a model card.

The zip contains the plain student with its statistics and BPE model, tokens.txt,
README.md (the model card, also for Hugging Face), and the files of --results and
--report. The ModelDownloader of espnet_model_zoo unpacks it; decoding needs only
ESPnet. --resumable adds the state of the training (model: ctckd, the optimizer, and
the epochs to be averaged), so that the training can be resumed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

import numpy as np
import yaml

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_path, read_report

if TYPE_CHECKING:
    from espnet_ctckd.evaluation.experiments import Result, System

GOING_ON = """
To resume its training, install espnet_ctckd and the ESPnet that it was trained with
({version}), unpack the zip, and run in its folder:

```sh
python -m espnet_ctckd.bin.asr_train --config exp/{name}/training/train.yaml \\
    --output_dir exp/{name}/training --max_epoch <more than before> \\
    <--train_data_path_and_name_and_type, --train_shape_file and the like, of your data>
```

To start a new training from these weights, give another --output_dir and
`--init_param exp/{name}/model.pth`.
"""
# Training arguments that hold only on the machine of the training; for data, suffixes.
HERE = {"config", "output_dir", "init_param", "ngpu"}
DATA = ("_data_path_and_name_and_type", "_shape_file")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Pack a student."""
    p = parser(__doc__)
    p.add_argument("--experiment", required=True, help="folder that holds export/")
    p.add_argument("--output", required=True, help="zip to write")
    p.add_argument(
        "--resumable", action="store_true", help="add the state of the training"
    )
    p.add_argument("--results", help="RESULTS.md")
    p.add_argument("--report", help="report.html")
    p.add_argument("--data", default="not stated", help="training data")
    p.add_argument("--data_license", default="not stated", help="licence of the data")
    p.add_argument(
        "--teacher_license", default="not stated", help="licence of the teacher"
    )
    p.add_argument("--license", default="not stated", help="licence of this model")
    args = p.parse_args(cmd)
    experiment, output = Path(args.experiment), Path(args.output).resolve()
    export = experiment / "export"
    if not (export / "model.pth").exists():
        raise InputError(
            f"{export} holds no exported model: run "
            "`python -m espnet_ctckd.bin.export_student`"
        )
    for path in filter(None, (args.results, args.report)):
        if not Path(path).is_file():
            raise InputError(f"there is no file {path} to pack")
    from espnet_ctckd.evaluation.experiments import read_system
    from espnet_ctckd.models.checkpoint import load_config
    from espnet_ctckd.models.espnet import load_espnet_model

    load_espnet_model(export / "config.yaml", export / "model.pth")
    system = read_system(experiment, None)
    with tempfile.TemporaryDirectory() as made:
        root, inside = Path(made), Path("exp", system.name)
        conf = load_config(export / "config.yaml")
        option = _gather(conf, root, inside)
        shutil.copyfile(export / "model.pth", root / inside / "model.pth")
        (root / inside / "tokens.txt").write_text(
            "".join(f"{token}\n" for token in conf["token_list"]), encoding="utf-8"
        )
        option.append(inside / "tokens.txt")
        for path, name in ((args.results, "RESULTS.md"), (args.report, "report.html")):
            if path:
                shutil.copyfile(path, root / name)
                option.append(name)
        if args.resumable:
            option += _resumable(experiment, root, inside / "training")
        (root / "README.md").write_text(card(system, vars(args)), encoding="utf-8")
        option.append(Path("README.md"))
        with atomic_path(output) as partial:
            _pack(root, inside, option, partial)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")


def _gather(
    conf: Dict[str, Any], root: Path, folder: Path, name: str = "config.yaml"
) -> List[Any]:
    """Copy the files of a configuration, and write it with their paths in the zip."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    option: List[Any] = []
    kd = (conf.get("model_conf") or {}).get("kd") or {}
    named = (
        (conf, "bpemodel"),
        (conf.get("normalize_conf"), "stats_file"),
        (kd, "prior_file"),
    )
    for owner, key in named:
        if owner and owner.get(key):
            source = Path(owner[key])
            if not source.exists():
                raise InputError(
                    f"there is no {source}, which the configuration names as {key}"
                )
            shutil.copyfile(source, root / folder / source.name)
            owner[key] = str(folder / source.name)
            option.append(folder / source.name)
    with open(root / folder / name, "w", encoding="utf-8") as f:
        yaml.safe_dump(conf, f, allow_unicode=True, sort_keys=False)
    return option


def _resumable(experiment: Path, root: Path, folder: Path) -> List[Any]:
    """Copy the state of a training, and its arguments except local paths."""
    import torch

    from espnet_ctckd.models.checkpoint import load_config, load_weights
    from espnet_ctckd.plugin.task import CTCKDTask
    from espnet_ctckd.plugin.trainer import read_checkpoint

    state = read_checkpoint(experiment / "checkpoint.pth")
    known = {action.dest for action in CTCKDTask.get_parser()._actions}
    conf = {
        key: value
        for key, value in load_config(experiment / "config.yaml").items()
        if key in known - HERE and not key.endswith(DATA)
    }
    # Not named config.yaml, whose keys asr_train does not all accept.
    option = _gather({**conf, "resume": True}, root, folder, "train.yaml")
    epochs = _averaged(conf, state["reporter"])
    for epoch in epochs:
        load_weights(experiment / f"{epoch}epoch.pth")
        shutil.copyfile(
            experiment / f"{epoch}epoch.pth", root / folder / f"{epoch}epoch.pth"
        )
    # Some versions of ESPnet do not read NumPy numbers in a checkpoint.
    state["reporter"] = _plain(state["reporter"])
    torch.save(state, root / folder / "checkpoint.pth")
    names = ["train.yaml", "checkpoint.pth", *(f"{e}epoch.pth" for e in epochs)]
    return [*option, *(folder / name for name in names)]


def _averaged(conf: Dict[str, Any], reported: Dict[str, Any]) -> List[int]:
    """Return the epochs that ESPnet may average at the end of the training."""
    from espnet2.train.reporter import Reporter

    reporter = Reporter()
    reporter.load_state_dict(reported)
    nbest = conf["keep_nbest_models"]
    most = max(nbest) if isinstance(nbest, list) else nbest
    found = {int(reported["epoch"])}
    for phase, name, mode in conf["best_model_criterion"]:
        if reporter.has(phase, name):
            found.update(reporter.sort_epochs(phase, name, mode)[:most])
    return sorted(found)


def _plain(values: Any) -> Any:
    """Convert NumPy numbers in a nested mapping to Python numbers."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return values.item() if isinstance(values, np.generic) else values


def _pack(root: Path, inside: Path, option: Sequence[Any], output: Path) -> None:
    """Pack the files with ESPnet, by paths relative to the working directory."""
    from espnet2.main_funcs.pack_funcs import pack

    before = Path.cwd()
    os.chdir(root)
    try:
        pack(
            files={"asr_model_file": inside / "model.pth"},
            yaml_files={"asr_train_config": inside / "config.yaml"},
            option=option,
            outpath="packed.zip",
        )
        shutil.copyfile("packed.zip", output)
    finally:
        os.chdir(before)


def _search(result: Result) -> str:
    """Return the search method for the model card, if it is known and not greedy."""
    search = read_report(result.folder / "decode.json").get("search", {})
    method = search.get("method", "greedy")
    return "" if method == "greedy" else f", {method}"


def card(system: System, info: Dict[str, Any]) -> str:
    """Return the model card.

    Args:
        system: the student.
        info: ``data``, ``data_license``, ``teacher_license``, ``license`` and
            ``resumable``.

    Returns:
        Markdown with Hugging Face's metadata at the top.
    """
    head = {
        "tags": ["espnet", "audio", "automatic-speech-recognition", "ctc"],
        "library_name": "espnet",
    }
    if info["license"] != "not stated":
        head["license"] = info["license"]
    rows = [
        f"| {subset} ({decoding}{_search(result)}) | {result.totals['wer'].rate:.1f} | "
        f"{result.interval[0]:.1f} - {result.interval[1]:.1f} | "
        f"{result.totals['cer'].rate:.1f} |"
        for (decoding, subset), result in system.results.items()
    ]
    facts = {
        "teacher": system.settings.get("teacher", ""),
        "learned from": system.settings.get("selector", ""),
        "lambda": system.settings.get("lambda", ""),
        "transcripts": system.settings.get("labels", ""),
        "parameters": f"{system.parameters}" if system.parameters else "",
        "training data": info["data"],
        "licence of the data": info["data_license"],
        "licence of the teacher": info["teacher_license"],
        "licence of this model": info["license"],
    }
    listed = "\n".join(f"- {key}: {value}" for key, value in facts.items() if value)
    table = "\n".join(rows) or "| not measured | | | |"
    version = system.provenance.get("espnet", "unknown")
    going_on = GOING_ON.format(name=system.name, version=version)
    going_on = going_on if info["resumable"] else ""
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# {system.name}

A CTC speech recogniser, distilled with espnet_ctckd. It is a plain ESPnet model:

```python
from espnet2.bin.asr_inference import Speech2Text
model = Speech2Text.from_pretrained("<this model>", ctc_weight=1.0)
text, *_ = model(speech)[0]
```

{listed}

| test set | WER % | 95 % interval | CER % |
|---|---|---|---|
{table}

The interval is a bootstrap over the test utterances. The search is that of
espnet_ctckd.bin.decode, greedy unless stated otherwise. ESPnet's own beam search is
slower; `Speech2Text(..., beam_size=1)` is closest to greedy search. RESULTS.md and
report.html, if included, have more details.
{going_on}"""


if __name__ == "__main__":
    run(main)
