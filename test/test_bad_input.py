"""A user's mistakes end in one line that says what to mend, and leave no half results.

The processes are real where the exit status, the disk or the permissions are the point;
the others go through `run` in this process, because importing ESPnet takes seconds.
"""

import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
import torch
import warm
import yaml
from test_data import mp3_without_length
from test_train import flags

from espnet_ctckd.bin import (
    asr_train,
    cache_show,
    check_cache,
    compare_scores,
    decode,
    dump_teacher,
    export_student,
    format_audio,
    score,
)
from espnet_ctckd.data.kaldi import read_scp, write_scp


def start(command, *flags, **kwargs):
    """Run a command as a user does, and return its status and standard error."""
    found = subprocess.run(
        [warm.python(), "-m", f"espnet_ctckd.bin.{command}", *map(str, flags)],
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )
    return found.returncode, found.stderr


def files(folder):
    """Files below a folder, hidden ones, too."""
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()
    }


def limit_files(size):
    """A disk that is full after some bytes, for preexec_fn."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit  # Python ignores SIGXFSZ: writing more is an OSError


def model_flags(model, folder):
    flags = ("--asr_train_config", model.config, "--asr_model_file", model.weights)
    return (*flags, "--output_dir", folder)


# -- real processes


def test_dumping_onto_a_full_disk(tmp_path, tiny_model, tiny_data):
    flags = tiny.dump_args(tiny_model, tiny_data, tmp_path / "cache")
    status, stderr = start("dump_teacher", *flags, preexec_fn=limit_files(1000))
    assert status == 1
    assert "File too large" in tiny.the_error(stderr)
    assert files(tmp_path / "cache") == {"plan.json"}
    dump_teacher.main(flags)  # with the disk mended, it goes on
    assert "meta.json" in files(tmp_path / "cache")


def test_training_with_a_lambda_that_is_no_share(train, tmp_path):
    flags = train(kd={"weight": 1.5})
    status, stderr = start("asr_train", *flags)
    assert status == 1
    assert tiny.the_error(stderr) == (
        "error: kd.weight (lambda) is 1.5; give one in [0, 1]"
    )
    assert not (tmp_path / "out").exists()


def test_exporting_onto_a_full_disk(tmp_path, tiny_model):
    out = tmp_path / "out"
    assert tiny_model.weights.stat().st_size > 20000
    flags = model_flags(tiny_model, out)
    status, stderr = start("export_student", *flags, preexec_fn=limit_files(20000))
    assert status == 1
    message = tiny.the_error(stderr)
    assert f"{out}/model.pth cannot be written; is the disk full?" in message
    assert files(out) == set()


def test_scoring_a_doubled_utterance(tmp_path):
    (tmp_path / "ref").write_text("u1 a\n")
    (tmp_path / "hyp").write_text("u1 a\nu1 b\n")
    flags = ("--ref", tmp_path / "ref", "--hyp", tmp_path / "hyp")
    status, stderr = start("score", *flags)
    assert status == 1
    assert f"{tmp_path}/hyp:2 has the utterance 'u1'" in tiny.the_error(stderr)
    assert files(tmp_path) == {"ref", "hyp"}


UNPRIVILEGED = """
import locale, os, shutil, textwrap
import jiwer
import espnet_ctckd.evaluation.score
from espnet_ctckd.bin import score
from espnet_ctckd.bin.cli import run
if os.geteuid() == 0:  # to whom nothing is forbidden
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
run(score.main)
"""


@pytest.fixture
def foreign():
    """A folder that everybody may read, and only root may write to."""
    folder = Path(tempfile.mkdtemp())
    for name in ("ref", "hyp"):
        (folder / name).write_text("u1 a\n")
        (folder / name).chmod(0o644)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_writing_where_it_is_not_permitted(foreign):
    flags = ["--ref", str(foreign / "ref"), "--hyp", str(foreign / "hyp")]
    for more in ([], ["--output_dir", str(foreign / "new" / "folder")]):
        found = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, *flags, *more],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 1
        message = tiny.the_error(found.stderr)
        assert message.startswith(f"error: Permission denied: {foreign}/")
    assert files(foreign) == {"ref", "hyp"}


# -- audio


def test_dumping_without_an_audio_file(tmp_path, tiny_model, tiny_data):
    wavs = tiny_data.wavs()
    data = tiny_data.copy(tmp_path / "data", {**wavs, "utt02": "/nowhere/x.wav"})
    flags = tiny.dump_args(tiny_model, data, tmp_path / "cache")
    status, stderr = tiny.call(dump_teacher, *flags)
    assert status == 1
    assert tiny.the_error(stderr) == (
        "error: utterance utt02: /nowhere/x.wav is not there; mend or remove its line "
        "in wav.scp"
    )
    assert not (tmp_path / "cache").exists()


def test_dumping_an_audio_file_that_is_cut_short(tmp_path, tiny_model, tiny_data):
    wavs, path = tiny_data.wavs(), tmp_path / "cut.wav"
    whole = Path(wavs["utt01"]).read_bytes()
    path.write_bytes(whole[:-100])
    data = tiny_data.copy(tmp_path / "data", {**wavs, "utt01": str(path)})
    flags = tiny.dump_args(tiny_model, data, tmp_path / "cache")
    status, stderr = tiny.call(dump_teacher, *flags)
    assert status == 1
    assert f"utterance utt01: {path} is cut short" in tiny.the_error(stderr)
    assert not (tmp_path / "cache").exists()


def test_dumping_audio_that_turns_out_to_be_damaged_halfway(
    tmp_path, tiny_model, tiny_data
):
    wavs, path = tiny_data.wavs(), tmp_path / "cut.flac"
    soundfile.write(path, tiny.sound(1.3, 0), tiny.RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # the header is whole
    data = tiny_data.copy(tmp_path / "data", {**wavs, "utt01": str(path)})
    flags = tiny.dump_args(tiny_model, data, tmp_path / "cache", "--batch_seconds", 1)
    status, stderr = tiny.call(dump_teacher, *flags)
    assert status == 1
    assert f"utterance utt01: {path}" in tiny.the_error(stderr)
    assert not (tmp_path / "cache/meta.json").exists()


def test_dumping_a_doubled_utterance(tmp_path, tiny_model, tiny_data):
    data = tiny_data.copy(tmp_path / "data", tiny_data.wavs())
    with open(data.wav_scp, "a") as f:
        f.write("utt00 /elsewhere/x.wav\n")
    flags = tiny.dump_args(tiny_model, data, tmp_path / "cache")
    status, stderr = tiny.call(dump_teacher, *flags)
    assert status == 1
    assert f"{data.wav_scp}:5 has the utterance 'utt00'" in tiny.the_error(stderr)
    assert not (tmp_path / "cache").exists()


def test_decoding_an_audio_file_of_another_rate(tmp_path, tiny_model, tiny_data):
    wavs, path = tiny_data.wavs(), tmp_path / "slow.wav"
    soundfile.write(path, tiny.sound(0.5, 0), 8000)
    data = tiny_data.copy(tmp_path / "data", {**wavs, "utt03": str(path)})
    flags = (*model_flags(tiny_model, tmp_path / "out"), "--wav_scp", data.wav_scp)
    flags += ("--max_bad_share", 0)
    status, stderr = tiny.call(decode, *flags)
    assert status == 1
    assert f"utterance utt03: {path} has 8000 Hz" in tiny.the_error(stderr)
    assert not list((tmp_path / "out").glob("*"))


def test_writing_perturbed_audio_onto_a_full_disk(tmp_path, tiny_data, monkeypatch):
    data = tiny_data.copy(tmp_path / "data", tiny_data.wavs())
    write_scp(data.folder / "utt2speed", ((utt, 0.9) for utt in data.wavs()))
    flags = ["--input_dir", data.folder, "--output_dir", tmp_path / "out", "--job", 1]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        status, stderr = tiny.call(format_audio, *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    message = tiny.the_error(stderr)
    assert f"{tmp_path}/out/audio/utt00.flac cannot be written" in message
    assert files(tmp_path / "out") == set()


# -- models


def without_model(kind, folder, good):
    """A model whose files are wrong in one way, and what the error says."""
    folder.mkdir()
    weights = folder / "weights.pth"
    whole = good.weights.read_bytes()
    if kind == "of another model":
        other = tiny.write_model(folder / "other", encoder_conf={"output_size": 32})
        return tiny.Model(good.config, other.weights), "are not of the model"
    if kind == "cut short":
        weights.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        weights.touch()
    elif kind == "not weights":
        weights.write_text("weights")
    elif kind == "code":
        torch.save({"a": Path("/")}, weights)  # unpickling it would run something
    return tiny.Model(good.config, weights), str(weights)


@pytest.mark.parametrize(
    "kind",
    ["of another model", "cut short", "empty", "not weights", "code", "missing"],
)
def test_weights_that_are_no_good(tmp_path, tiny_model, tiny_data, kind):
    model, says = without_model(kind, tmp_path / "model", tiny_model)
    flags = tiny.dump_args(model, tiny_data, tmp_path / "cache")
    status, stderr = tiny.call(dump_teacher, *flags)
    assert status == 1
    assert says in tiny.the_error(stderr)
    assert len(tiny.the_error(stderr)) < 1500
    assert not (tmp_path / "cache").exists()
    flags = (*model_flags(model, tmp_path / "out"), "--wav_scp", tiny_data.wav_scp)
    status, stderr = tiny.call(decode, *flags)
    assert status == 1
    assert says in tiny.the_error(stderr)
    assert not list((tmp_path / "out").glob("*"))
    if kind != "of another model":  # which exporting does not build
        status, stderr = tiny.call(
            export_student, *model_flags(model, tmp_path / "out")
        )
        assert status == 1
        assert says in tiny.the_error(stderr)
        assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("kind", ["missing", "damaged", "a list", "empty"])
def test_a_configuration_that_is_no_good(tmp_path, tiny_model, tiny_data, kind):
    config = tmp_path / "config.yaml"
    if kind != "missing":
        config.write_text({"damaged": "{a: [", "a list": "[a]", "empty": ""}[kind])
    model = tiny.Model(config, tiny_model.weights)
    flags = tiny.dump_args(model, tiny_data, tmp_path / "cache")
    for command, given in (
        (dump_teacher, flags),
        (export_student, model_flags(model, tmp_path / "out")),
    ):
        status, stderr = tiny.call(command, *given)
        assert status == 1
        assert str(config) in tiny.the_error(stderr)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "out").exists()


# -- training


@pytest.fixture
def train(tmp_path, tiny_data, tiny_cache):
    """Flags of a training that would run, but for what is changed."""

    def flags(kd=None, cache=tiny_cache, names=("speech", "text", "teacher"), **conf):
        given = {**tiny.KD, **(kd or {})}
        path = tiny.write_conf(tmp_path / "train.yaml", given, **conf)
        files = {
            "speech": f"{tiny_data.wav_scp},speech,sound",
            "text": f"{tiny_data.text},text,text",
            "teacher": f"{cache}/teacher.scp,teacher,kaldi_ark",
        }
        listed = ["--config", path, "--output_dir", tmp_path / "out", "--ngpu", 0]
        listed += ["--token_type", "char", "--token_list", tiny_cache / "tokens.txt"]
        listed += ["--batch_type", "unsorted", "--num_workers", 0, "--dry_run", "true"]
        for part in ("train", "valid"):
            for name in names:
                listed += [f"--{part}_data_path_and_name_and_type", files[name]]
        return [str(flag) for flag in listed]

    return flags


def refused(flags, out, *more):
    """The message with which a training is refused, before it has written anything."""
    status, stderr = tiny.call(asr_train, *flags, *more)
    assert status == 1
    assert not out.exists() or files(out) == set()
    return tiny.the_error(stderr)


def test_the_training_that_these_tests_spoil_would_run(train, tmp_path):
    status, stderr = tiny.call(asr_train, *train())
    assert status == 0, stderr
    assert "config.yaml" in files(tmp_path / "out")


@pytest.mark.parametrize(
    ("kd", "says"),
    [
        ({"weight": -0.1}, "kd.weight (lambda) is -0.1; give one in [0, 1]"),
        ({"weight": "half"}, "kd.weight (lambda) is 'half'; give a number"),
        ({"weight": True}, "kd.weight (lambda) is True; give a number"),
        ({"weight": float("nan")}, "kd.weight (lambda) is nan; give one in [0, 1]"),
        ({"selector": "most"}, "unknown selector 'most'; choose one of: all, "),
        ({"loss": "l3"}, "unknown loss 'l3'; choose one of: "),
        ({"reduction": "median"}, "unknown reduction 'median'; choose one of: "),
        ({"temprature": 2}, "unknown key 'temprature' in model_conf.kd; it takes: w"),
        ({"loss_conf": {"temprature": 2}}, "unknown option 'temprature' for loss 'kl'"),
        ({"loss_conf": {}}, "loss 'kl' lacks the option 'temperature'"),
        (
            {"weight": 1.0, "ctc_norm": "batch"},
            "kd.ctc_norm is 'batch', but with kd.weight 1 there is no CTC loss",
        ),
    ],
)
def test_distillation_that_makes_no_sense(train, tmp_path, kd, says):
    assert f"error: {says}" in refused(train(kd=kd), tmp_path / "out")


def test_an_unknown_key_of_the_model(train, tmp_path):
    flags = train(model_conf={"kd": tiny.KD, "ctc_wieght": 1.0})
    message = refused(flags, tmp_path / "out")
    assert message == "error: unknown key 'ctc_wieght' in model_conf"


def test_a_lambda_given_as_a_flag_is_checked_as_one_of_the_file(train, tmp_path):
    message = refused(train(), tmp_path / "out", "--model_conf", "kd.weight=2")
    assert message == "error: kd.weight (lambda) is 2; give one in [0, 1]"


def test_an_unknown_flag(train, tmp_path):
    status, stderr = tiny.call(asr_train, *train(), "--frobnicate", "1")
    assert status == 2
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert lines[0].endswith("unrecognized arguments: --frobnicate 1")
    assert not (tmp_path / "out").exists()


def test_time_warping_under_cached_targets(train, tmp_path):
    warped = dict.fromkeys(("apply_freq_mask", "apply_time_mask"), False)
    warped["apply_time_warp"] = True
    flags = train(specaug="specaug", specaug_conf=warped)
    message = refused(flags, tmp_path / "out")
    assert message.startswith("error: specaug_conf.apply_time_warp is true")
    assert message.endswith("Set specaug_conf.apply_time_warp: false")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("speech", "teacher"), "keeps the CTC loss, but --train_data_path_and_name_a"),
        (("speech", "text"), "--train_data_path_and_name_and_type has no 'teacher'"),
    ],
    ids=["text", "teacher"],
)
def test_data_that_the_configuration_needs_and_has_not(train, tmp_path, names, says):
    assert says in refused(train(names=names), tmp_path / "out")


@pytest.fixture
def spoilt(tmp_path, tiny_cache):
    """A copy of the cache, to be changed."""
    shutil.copytree(tiny_cache, tmp_path / "cache")
    return tmp_path / "cache"


def test_training_on_a_cache_that_lacks_an_utterance(train, tmp_path, spoilt):
    scp = read_scp(spoilt / "teacher.scp")
    del scp["utt02"]
    write_scp(spoilt / "teacher.scp", scp.items())
    message = refused(train(cache=spoilt), tmp_path / "out")
    assert f"{spoilt}/teacher.scp lacks 1 of 4 utterances of the train data: utt02" in (
        message
    )


def test_training_on_a_cache_of_another_token_list(train, tmp_path, spoilt):
    tokens = (spoilt / "tokens.txt").read_text()
    (spoilt / "tokens.txt").write_text(tokens.replace("\nb\n", "\nβ\n"))
    message = refused(train(cache=spoilt), tmp_path / "out")
    assert f"cache {spoilt}" in message
    assert "6 of 7 but the blank are matched; the student lacks 1 ('β')" in message


@pytest.mark.parametrize(
    ("kd", "conf", "expected"),
    [
        (
            {},
            {"frontend_conf": {"hop_length": 320}},
            "kd.frame_ratio is 1: set it to 2",
        ),
        ({"frame_ratio": 2}, {}, "kd.frame_ratio is 2: set it to 1"),
        ({"from_epoch": 5}, {"max_epoch": 3}, "the selector would never choose"),
    ],
)
def test_training_on_what_would_fail_later_or_never_act(
    train, tmp_path, kd, conf, expected
):
    assert expected in refused(train(kd, **conf), tmp_path / "out")


def test_training_on_a_top_k_cache_that_is_to_have_occupancies(
    train, tmp_path, tiny_model, tiny_data
):
    cache = tmp_path / "top"
    dump_teacher.main(tiny.dump_args(tiny_model, tiny_data, cache, "--top_k", 3))
    message = refused(train({"target": "occupancies"}, cache=cache), tmp_path / "out")
    assert f"the cache {cache} keeps 3 of a frame" in message


def test_training_with_a_method_s_file_that_is_not_there(train, tmp_path):
    none = tmp_path / "none.yaml"
    message = refused(train(), tmp_path / "out", "--model_conf", f"kd={none}")
    assert f"model_conf.kd names '{none}', which cannot be read" in message
    none.write_text("selector: trim\n")
    message = refused(train(), tmp_path / "out", "--model_conf", f"kd.base={none}")
    assert "kd has all that the file could say" in message
    none.write_text("- all\n")
    message = refused(train(), tmp_path / "out", "--model_conf", f"kd={none}")
    assert f"{none} holds no mapping of kd's keys" in message


def test_training_on_an_unfinished_cache(train, tmp_path, spoilt):
    (spoilt / "meta.json").unlink()
    message = refused(train(cache=spoilt), tmp_path / "out")
    assert f"{spoilt} is not a finished cache" in message


def test_checking_a_cache_that_is_not_there(tmp_path, tiny_data):
    flags = ("--cache", tmp_path / "none", "--wav_scp", tiny_data.wav_scp)
    status, stderr = tiny.call(check_cache, *flags)
    assert status == 1
    assert f"{tmp_path}/none is not a finished cache" in tiny.the_error(stderr)


# -- what a training reads


def cut_ark(tmp_path, data, cache):
    ark = next(Path(cache).rglob("*.ark"))
    ark.write_bytes(ark.read_bytes()[:40])
    return ".*ark:[0-9]+ is no record"


def two_channels(tmp_path, data, cache):
    wavs = data.wavs()
    samples, rate = soundfile.read(wavs["utt01"])
    soundfile.write(tmp_path / "two.wav", np.stack([samples, samples], 1), rate)
    data.wav_scp.write_text(
        "".join(f"{u} {tmp_path / 'two.wav'}\n" for u, _ in wavs.items())
    )
    return "the audio that .* names has 2 channels: give audio of one channel"


def another_rate(tmp_path, data, cache):
    wavs = data.wavs()
    samples, rate = soundfile.read(wavs["utt01"])
    soundfile.write(tmp_path / "slow.wav", samples, rate // 2)
    wavs["utt01"] = tmp_path / "slow.wav"
    data.wav_scp.write_text("".join(f"{u} {p}\n" for u, p in wavs.items()))
    return "what .*wav.scp names cannot be read .*Sampling rates"


def cut_audio(tmp_path, data, cache):
    path = tmp_path / "cut.wav"
    path.write_bytes(Path(data.wavs()["utt01"]).read_bytes()[:-2000])
    data.wav_scp.write_text("".join(f"{u} {path}\n" for u in data.wavs()))
    return ".*cut.wav is cut short"


def without_length(tmp_path, data, cache):
    path = tmp_path / "piped.mp3"
    samples = mp3_without_length(path, True)
    words = dict(line.split(maxsplit=1) for line in data.text.read_text().splitlines())
    data.text.write_text("".join(f"{utt} {text[0]}\n" for utt, text in words.items()))
    data.wav_scp.write_text("".join(f"{u} {path}\n" for u in data.wavs()))
    return f".*piped.mp3 has {samples} samples, which its header does not know"


@pytest.mark.parametrize(
    "damage", [cut_ark, two_channels, another_rate, cut_audio, without_length]
)
def test_training_on_files_that_cannot_be_read(tmp_path, tiny_model, tiny_data, damage):
    data = tiny_data.copy(tmp_path / "data", tiny_data.wavs())
    cache = tmp_path / "cache"
    dump_teacher.main(tiny.dump_args(tiny_model, data, cache))
    message = damage(tmp_path, data, cache)
    command = flags(tmp_path, data, cache, tiny.KD)
    status, stderr = start("asr_train", *command)
    assert status == 1
    error = tiny.the_error(stderr)
    assert re.search(f"utterance utt0.: {message}", error)
    assert "Traceback" not in error


def test_decoding_with_weights_that_are_nan(tmp_path, tiny_model, tiny_data):
    states = torch.load(tiny_model.weights, weights_only=True)
    name = next(n for n, v in states.items() if v.is_floating_point())
    states[name] = states[name] * float("nan")
    torch.save(states, tmp_path / "nan.pth")
    flags = ["--asr_train_config", tiny_model.config, "--wav_scp", tiny_data.wav_scp]
    flags += ["--asr_model_file", tmp_path / "nan.pth", "--output_dir", tmp_path / "o"]
    status, stderr = tiny.call(decode, *flags)
    assert status == 1
    assert f"the weights {name} are NaN" in tiny.the_error(stderr)


@pytest.mark.parametrize("name", ["score.json", "wer.tsv"])
def test_comparing_scores_that_are_cut_short(tmp_path, name):
    for file in ("ref", "hyp"):
        (tmp_path / file).write_text("utt1 a b\nutt2 c\n")
    score.main(["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "hyp")])
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text[:-3])
    flags = ["--system", tmp_path, "--against", tmp_path]
    status, stderr = tiny.call(compare_scores, *flags)
    assert status == 1
    assert f"{tmp_path / name} is damaged" in tiny.the_error(stderr)


def test_checking_a_cache_of_other_frames_than_the_student_s(
    tmp_path, tiny_model, tiny_data
):
    conf = ["--top_k", 3, "--selector", "symmetric", "--selector_conf", "{n: 2}"]
    cache, student = tmp_path / "cache", tmp_path / "student.yaml"
    dump_teacher.main(tiny.dump_args(tiny_model, tiny_data, cache, *conf))
    kd = {**tiny.KD, "selector": "all", "selector_conf": {}}
    student.write_text(
        yaml.safe_dump({**tiny.CONF, "model": "ctckd", "model_conf": {"kd": kd}})
    )
    (tmp_path / "tokens").write_text("".join(f"{t}\n" for t in tiny.TOKENS))
    flags = ["--cache", cache, "--wav_scp", tiny_data.wav_scp, "--asr_config", student]
    flags += ["--token_list", tmp_path / "tokens", "--token_type", "char"]
    status, stderr = tiny.call(check_cache, *flags)
    assert status == 1
    assert "keeps the frames of the selector symmetric" in tiny.the_error(stderr)


def test_decoding_audio_of_nan(tmp_path, tiny_model, tiny_data):
    samples = np.full(tiny.RATE, np.nan, np.float32)
    soundfile.write(tmp_path / "nan.wav", samples, tiny.RATE, subtype="FLOAT")
    (tmp_path / "wav.scp").write_text(f"utt01 {tmp_path / 'nan.wav'}\n")
    given = ["--wav_scp", tmp_path / "wav.scp", *model_flags(tiny_model, tmp_path)]
    given += ["--max_bad_share", 0]
    status, stderr = tiny.call(decode, *given)
    assert status == 1
    assert "samples that are no numbers" in tiny.the_error(stderr)


@pytest.mark.parametrize(
    ("flag", "value"),
    [("beam_threshold", "-1"), ("lm_scale", "nan"), ("word_score", "inf")],
)
def test_decoding_with_numbers_without_sense(
    tmp_path, tiny_model, tiny_data, flag, value
):
    given = ["--wav_scp", tiny_data.wav_scp, *model_flags(tiny_model, tmp_path)]
    status, stderr = tiny.call(decode, *given, f"--{flag}", value)
    assert status == 1
    assert f"--{flag} is {value}" in tiny.the_error(stderr)


def test_training_with_caches_of_two_teachers(tmp_path, tiny_model, tiny_data):
    states = torch.load(tiny_model.weights, weights_only=True)
    states["ctc.ctc_lo.bias"] += 0.5
    torch.save(states, tmp_path / "other.pth")
    other = tiny.Model(tiny_model.config, tmp_path / "other.pth")
    for name, model in (("one", tiny_model), ("two", other)):
        dump_teacher.main(tiny.dump_args(model, tiny_data, tmp_path / name))
    command = [str(f) for f in flags(tmp_path, tiny_data, tmp_path / "one", tiny.KD)]
    place = command.index("--valid_data_path_and_name_and_type")
    places = [i for i, f in enumerate(command) if "teacher.scp" in f and i > place]
    command[places[-1]] = command[places[-1]].replace("/one/", "/two/")
    status, stderr = tiny.call(asr_train, *command)
    assert status == 1
    assert "are of different teachers" in tiny.the_error(stderr)


def test_training_on_a_cache_as_another_type(tmp_path, tiny_data, tiny_cache):
    command = [str(f) for f in flags(tmp_path, tiny_data, tiny_cache, tiny.KD)]
    command = [f.replace("teacher,kaldi_ark", "teacher,npy") for f in command]
    status, stderr = tiny.call(asr_train, *command)
    assert status == 1
    assert "reads 'teacher' as 'npy'; give " in tiny.the_error(stderr)


def test_a_cache_whose_meta_is_no_mapping(tmp_path, tiny_data, tiny_cache):
    shutil.copytree(tiny_cache, tmp_path / "cache")
    (tmp_path / "cache/meta.json").write_text("[]")
    flags = ["--cache", tmp_path / "cache", "--wav_scp", tiny_data.wav_scp]
    status, stderr = tiny.call(check_cache, *flags)
    assert status == 1
    assert "meta.json is damaged: it holds no mapping" in tiny.the_error(stderr)


def test_drawing_in_a_format_that_there_is_not(tmp_path, tiny_cache):
    given = ["utt01", "--cache", tiny_cache, "--output", tmp_path / "x.foo"]
    status, stderr = tiny.call(cache_show, *given)
    assert status == 1
    assert "x.foo; give one of" in tiny.the_error(stderr)
