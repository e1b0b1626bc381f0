"""Configurations of foreign models: what they name is not opened, or refused."""

import pickle
import shutil

import pytest
import tiny
import torch
import yaml

from espnet_ctckd.bin import decode, dump_teacher, export_student
from espnet_ctckd.models.espnet import load_espnet_model, sample_rate


class Pickled:
    def __reduce__(self):
        return print, ("run",)


def changed(tmp_path, model, **changes):
    """The model, with other values in its configuration."""
    conf = yaml.safe_load(model.config.read_text())
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({**conf, **changes}))
    shutil.copy(model.weights, folder / "model.pth")
    return tiny.Model(folder / "config.yaml", folder / "model.pth")


def flags_of(model, data, out):
    flags = ["--asr_train_config", model.config, "--asr_model_file", model.weights]
    return [*flags, "--wav_scp", data.wav_scp, "--output_dir", out]


def test_the_file_that_kd_names_is_not_opened(tmp_path, tiny_data):
    student = tiny.write_model(tmp_path / "student", tiny.KD)
    conf = yaml.safe_load(student.config.read_text())["model_conf"]
    model = changed(tmp_path, student, model_conf={**conf, "kd": "/etc/passwd"})
    for name, given in (("own", student), ("foreign_kd", model)):
        flags = flags_of(given, tiny_data, tmp_path / name)
        status, stderr = tiny.call(decode, *flags)
        assert status == 0, stderr
        flags = tiny.dump_args(given, tiny_data, tmp_path / f"{name}_cache")
        status, stderr = tiny.call(dump_teacher, *flags)
        assert status == 0, stderr
        flags = flags_of(given, tiny_data, tmp_path / f"{name}_export")
        status, stderr = tiny.call(export_student, *flags[:4], *flags[6:])
        assert status == 0, stderr
    texts = [(tmp_path / n / "text").read_text() for n in ("own", "foreign_kd")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bpemodel": "/dev/zero"}, ["bpemodel", "/dev/zero"]),
        ({"bpemodel": 3}, ["bpemodel", "3"]),
        (
            {"normalize": "global_mvn", "normalize_conf": {"stats_file": "/dev/zero"}},
            ["normalize_conf.stats_file", "/dev/zero"],
        ),
        ({"normalize_conf": "loud"}, ["normalize_conf", "loud"]),
        ({"speech_volume_normalize": "loud"}, ["speech_volume_normalize", "loud"]),
        ({"speech_volume_normalize": -1}, ["speech_volume_normalize", "-1"]),
        ({"frontend_conf": {**tiny.CONF["frontend_conf"], "fs": 0}}, ["fs", "0"]),
        ({"frontend_conf": {**tiny.CONF["frontend_conf"], "fs": "many"}}, ["many"]),
        ({"encoder_conf": "deep"}, ["encoder_conf", "deep"]),
        ({"token_list": [1, 2]}, ["token list"]),
        ({"encoder": "nope"}, ["nope"]),
    ],
)
def test_what_cannot_be_used_is_one_error(
    tmp_path, tiny_model, tiny_data, changes, named
):
    model = changed(tmp_path, tiny_model, **changes)
    for command, flags in (
        (decode, flags_of(model, tiny_data, tmp_path / "out")),
        (dump_teacher, tiny.dump_args(model, tiny_data, tmp_path / "cache")),
    ):
        status, stderr = tiny.call(command, *flags)
        assert status == 1
        error = tiny.the_error(stderr)
        assert all(name in error for name in named), error


def test_what_is_too_large_for_a_sentencepiece_model_is_not_read(
    tmp_path, tiny_model, tiny_data
):
    with open(tmp_path / "huge", "wb") as f:
        f.truncate(2**40)
    model = changed(tmp_path, tiny_model, bpemodel=str(tmp_path / "huge"))
    status, stderr = tiny.call(decode, *flags_of(model, tiny_data, tmp_path / "out"))
    assert status == 1
    assert "as bpemodel, which has 1099511627776 bytes" in tiny.the_error(stderr)


def test_a_file_of_another_kind_is_no_sentencepiece_model(
    tmp_path, tiny_model, tiny_data
):
    (tmp_path / "text").write_text("no model")
    model = changed(
        tmp_path, tiny_model, token_type="bpe", bpemodel=str(tmp_path / "text")
    )
    status, stderr = tiny.call(decode, *flags_of(model, tiny_data, tmp_path / "out"))
    assert status == 1
    assert "text is no sentencepiece model" in tiny.the_error(stderr)


def test_a_pickle_that_an_encoder_names_is_refused(tmp_path, tiny_model, tiny_data):
    torch.save(Pickled(), tmp_path / "evil.pth", pickle_module=pickle)
    model = changed(
        tmp_path,
        tiny_model,
        encoder="beats",
        encoder_conf={"beats_ckpt_path": str(tmp_path / "evil.pth")},
    )
    status, stderr = tiny.call(decode, *flags_of(model, tiny_data, tmp_path / "out"))
    assert status == 1
    error = tiny.the_error(stderr)
    assert "cannot build the model of" in error


@pytest.mark.parametrize("fs", [16000, "16000", "16k", "16K"])
def test_a_rate_is_read_as_espnet_reads_it(tmp_path, tiny_model, fs):
    conf = {**tiny.CONF["frontend_conf"], "fs": fs}
    model = changed(tmp_path, tiny_model, frontend_conf=conf)
    _, args = load_espnet_model(model.config, model.weights)
    assert sample_rate(args) == 16000
