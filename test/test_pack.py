"""Packed students, unpacked by ESPnet's own code where this package is not."""

import datetime
import json
import os
import shutil
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import torch
from espnet2.main_funcs.pack_funcs import unpack
from test_train import flags

from espnet_ctckd.bin import export_student, pack, score
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.models.checkpoint import load_weights
from espnet_ctckd.plugin.task import CTCKDTask

# Decodes where espnet_ctckd cannot be imported.
ALONE = """
import json, sys
sys.modules["espnet_ctckd"] = None
import soundfile
from espnet2.bin.asr_inference import Speech2Text
model = Speech2Text(**json.loads(sys.argv[1]), ctc_weight=1.0, beam_size=1)
for path in sys.argv[2:]:
    print("said:", model(soundfile.read(path)[0].astype("float32"))[0][0])
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory, tiny_data, tiny_cache):
    """A training's, with statistics of the features."""
    folder = tmp_path_factory.mktemp("pack")
    given = flags(folder, tiny_data, tiny_cache, tiny.KD)
    stats = folder / "stats"
    collect = [*given, "--collect_stats", "true", "--output_dir", stats]
    CTCKDTask.main(cmd=[str(c) for c in collect])
    mvn = ["--normalize", "global_mvn", "--normalize_conf"]
    return [*given, *mvn, f"stats_file={stats / 'train/feats_stats.npz'}"]


def where(command):
    """The flags of a command that say which data."""
    return [
        part
        for flag, value in pairwise(command)
        if str(flag).startswith(("--train_", "--valid_"))
        for part in (flag, value)
    ]


@pytest.fixture(scope="module")
def experiment(command, tiny_data):
    CTCKDTask.main(cmd=command)
    exp = Path(command[command.index("--output_dir") + 1])
    given = ["--asr_train_config", exp / "config.yaml"]
    given += ["--asr_model_file", exp / "valid.cer_ctc.ave.pth"]
    assert tiny.call(export_student, *given, "--output_dir", exp / "export")[0] == 0
    test = exp / "decode_ctckd/test"
    test.mkdir(parents=True)
    (test / "text").write_text(tiny_data.text.read_text())
    given = ["--ref", tiny_data.text, "--hyp", test / "text"]
    assert tiny.call(score, *given)[0] == 0
    return exp


def said(paths, data, cwd):
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(paths), *data.wavs().values()],
        capture_output=True, text=True, check=False, cwd=cwd,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return [line for line in ran.stdout.splitlines() if line.startswith("said:")]


def test_a_zip_is_all_that_another_machine_needs(experiment, tiny_data, tmp_path):
    (tmp_path / "RESULTS.md").write_text("# RESULTS\n")
    given = ["--experiment", experiment, "--output", tmp_path / "packed.zip"]
    given += ["--results", tmp_path / "RESULTS.md", "--data", "tones"]
    given += ["--resumable"]
    here = os.getcwd()
    assert tiny.call(pack, *given, "--license", "cc0-1.0")[0] == 0
    assert os.getcwd() == here
    names = zipfile.ZipFile(tmp_path / "packed.zip").namelist()
    assert not [n for n in names if n.startswith("/") or ".." in n]
    assert {"README.md", "RESULTS.md", "meta.yaml", "exp/exp/tokens.txt"} <= set(names)
    assert "exp/exp/training/train.yaml" in names
    moved = experiment.rename(experiment.with_name("gone"))  # of the other machine
    try:
        paths = unpack(tmp_path / "packed.zip", tmp_path / "there")
        found = said(paths, tiny_data, tmp_path)
    finally:
        moved.rename(experiment)
    export = experiment / "export"
    files = {"asr_train_config": str(export / "config.yaml")}
    files["asr_model_file"] = str(export / "model.pth")
    assert found == said(files, tiny_data, tmp_path)
    card = (tmp_path / "there/README.md").read_text()
    assert "license: cc0-1.0" in card
    assert "- training data: tones" in card
    assert "- licence of the teacher: not stated" in card
    assert "| test (decode_ctckd) | 0.0 | 0.0 - 0.0 | 0.0 |" in card
    assert len(read_scp(tiny_data.text)) == len(found)


def test_the_model_zoo_unpacks_it(experiment, tmp_path):
    zoo = pytest.importorskip("espnet_model_zoo.downloader")
    given = ["--experiment", experiment, "--output", tmp_path / "packed.zip"]
    assert tiny.call(pack, *given)[0] == 0
    downloader = zoo.ModelDownloader(str(tmp_path / "zoo"))
    paths = downloader.unpack_local_file(str(tmp_path / "packed.zip"))
    assert set(paths) >= {"asr_train_config", "asr_model_file"}


def test_what_cannot_be_packed_is_refused(experiment, tmp_path):
    status, stderr = tiny.call(
        pack, "--experiment", tmp_path, "--output", tmp_path / "x.zip"
    )
    assert status == 1
    assert "holds no exported model" in tiny.the_error(stderr)
    given = ["--experiment", experiment, "--output", tmp_path / "x.zip"]
    moved = (experiment / "checkpoint.pth").rename(tmp_path / "checkpoint.pth")
    try:
        status, stderr = tiny.call(pack, *given, "--resumable")
    finally:
        moved.rename(experiment / "checkpoint.pth")
    assert "checkpoint.pth is missing or cut short" in tiny.the_error(stderr)
    assert not (tmp_path / "x.zip").exists()


def test_what_is_broken_is_not_packed(experiment, tmp_path):
    given = ["--output", tmp_path / "x.zip", "--resumable", "--experiment"]
    for name, change, message in (
        ("export/model.pth", lambda p: p.write_bytes(p.read_bytes()[:5000]), "whole"),
        ("checkpoint.pth", lambda p: p.write_bytes(b""), "missing or cut short"),
        ("1epoch.pth", lambda p: p.unlink(), "there is no model file"),
        ("1epoch.pth", lambda p: p.write_bytes(p.read_bytes()[:999]), "whole file"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(experiment, copy)
        change(copy / name)
        status, stderr = tiny.call(pack, *given, copy)
        assert status == 1
        assert message in tiny.the_error(stderr), name
        assert not (tmp_path / "x.zip").exists()
        shutil.rmtree(copy)


def test_a_training_goes_on_from_its_zip(
    experiment, command, tiny_data, tmp_path, monkeypatch
):
    """As one that never stopped: the same weights, averaged over epochs of both."""
    whole = tmp_path / "whole"
    shutil.copytree(experiment, whole)
    data = [*command, "--max_epoch", 3, "--resume", "true", "--output_dir", whole]
    CTCKDTask.main(cmd=[str(flag) for flag in data])

    given = ["--experiment", experiment, "--output", tmp_path / "packed.zip"]
    assert tiny.call(pack, *given, "--resumable")[0] == 0
    there = tmp_path / "there"
    zipfile.ZipFile(tmp_path / "packed.zip").extractall(there)
    monkeypatch.chdir(there)
    # Also where numbers of numpy are not read.
    with torch.serialization.safe_globals([datetime.timedelta]):
        torch.load("exp/exp/training/checkpoint.pth", weights_only=True)
    moved = experiment.rename(experiment.with_name("gone"))  # of the other machine
    try:
        training = Path("exp/exp/training")
        card = (there / "README.md").read_text()
        assert f"--config {training}/train.yaml" in card
        told = ["--config", training / "train.yaml", "--output_dir", training]
        told += ["--max_epoch", 3, *where(command)]
        CTCKDTask.main(cmd=[str(flag) for flag in told])
    finally:
        moved.rename(experiment)
    name = "valid.cer_ctc.ave.pth"
    found, wanted = load_weights(there / training / name), load_weights(whole / name)
    before = load_weights(experiment / name)
    assert set(found) == set(wanted)
    for key, weight in wanted.items():
        assert torch.equal(found[key], weight), key
    assert any(not torch.equal(before[key], weight) for key, weight in found.items())
