"""Trainings: stock calls, spawned workers, with labels or none, kill and resume."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import tiny
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_ctckd.bin import check_cache, dump_nbest, dump_teacher
from espnet_ctckd.cache import reader
from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.plan import make_plan
from espnet_ctckd.cache.writer import dump
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import KDConfig
from espnet_ctckd.data.kaldi import write_scp
from espnet_ctckd.export.plain import export
from espnet_ctckd.models.espnet import load_espnet_model
from espnet_ctckd.plugin import task
from espnet_ctckd.plugin.model import ESPnetCTCKDModel
from espnet_ctckd.plugin.task import CTCKDTask, read_kd_config, read_kd_file
from espnet_ctckd.plugin.trainer import read_checkpoint, restore_checkpoint
from espnet_ctckd.teachers.espnet import EspnetTeacher

CTCKD_PYTHON = str(Path(sys.executable).with_name("ctckd-python"))

TRAINING = {
    "optim": "adam",
    "optim_conf": {"lr": 0.003},
    "batch_type": "numel",
    "batch_bins": 40000,
    "max_epoch": 2,
    "num_workers": 0,
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
    "best_model_criterion": [["valid", "cer_ctc", "min"], ["valid", "loss_kd", "min"]],
    "keep_nbest_models": 2,
}

SPAWN = """
import sys, torch
from espnet_ctckd.plugin.task import CTCKDTask
from espnet2.train.distributed_utils import free_port

if __name__ == "__main__":
    args = CTCKDTask.get_parser().parse_args(sys.argv[1:])
    args.version, args.distributed, args.dist_backend = "test", True, "gloo"
    args.dist_world_size, args.dist_master_addr = 2, "localhost"
    args.dist_master_port = free_port()
    context = torch.multiprocessing.get_context("spawn")
    workers = []
    for rank in range(2):
        args.dist_rank = rank
        workers.append(context.Process(target=CTCKDTask.main_worker, args=(args,)))
        workers[-1].start()
    for worker in workers:
        worker.join()
    sys.exit(max(worker.exitcode for worker in workers))
"""


def flags(folder, data, cache=None, kd=None, text=True, **changes):
    """The command line of a training, as a recipe writes it."""
    folder.mkdir(exist_ok=True)
    conf = tiny.write_conf(folder / "train.yaml", kd, **{**TRAINING, **changes})
    tokens = folder / "tokens.txt"
    tokens.write_text("".join(f"{token}\n" for token in tiny.TOKENS))
    shapes = folder / "speech_shape"
    lines = [f"{u} {os.path.getsize(p) // 2}\n" for u, p in data.wavs().items()]
    shapes.write_text("".join(lines))
    given = ["--config", conf, "--token_list", tokens, "--token_type", "char"]
    given += ["--output_dir", folder / "exp", "--ngpu", 0]
    for part in ("train", "valid"):
        flag = f"--{part}_data_path_and_name_and_type"
        given += [f"--{part}_shape_file", shapes]
        given += [flag, f"{data.wav_scp},speech,sound"]
        given += [flag, f"{data.text},text,text"] if text else []
        given += [flag, f"{cache}/teacher.scp,teacher,kaldi_ark"] if cache else []
    return [str(g) for g in given]


def weights(folder, epoch=2):
    return torch.load(folder / "exp" / f"{epoch}epoch.pth", weights_only=True)


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_plain_model_trains_bit_for_bit_as_without_the_plug_in(tmp_path, tiny_data):
    ASRTask.main(cmd=flags(tmp_path / "stock", tiny_data))
    CTCKDTask.main(cmd=flags(tmp_path / "ours", tiny_data))
    assert_same(weights(tmp_path / "ours"), weights(tmp_path / "stock"))


def test_without_labels_no_text_is_needed_anywhere(tmp_path, tiny_data, tiny_cache):
    kd = {**tiny.KD, "weight": 1.0}
    command = flags(tmp_path / "free", tiny_data, tiny_cache, kd, text=False)
    stats = [*command, "--collect_stats", "true", "--output_dir", tmp_path / "stats"]
    CTCKDTask.main(cmd=[str(s) for s in stats])
    assert (tmp_path / "stats/train/feats_stats.npz").exists()
    CTCKDTask.main(cmd=command)
    assert (tmp_path / "free/exp/valid.loss_kd.ave.pth").exists()
    # With transcripts beside it, it is the same training.
    CTCKDTask.main(cmd=flags(tmp_path / "text", tiny_data, tiny_cache, kd))
    assert_same(weights(tmp_path / "free"), weights(tmp_path / "text"))


def test_the_stock_command_trains_through_ctckd_python(tmp_path, tiny_data, tiny_cache):
    command = flags(tmp_path / "stock", tiny_data, tiny_cache, tiny.KD)
    done = subprocess.run(
        [CTCKD_PYTHON, "-m", "espnet2.bin.asr_train", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "loss_kd=" in done.stderr, done.stderr[-6000:]
    CTCKDTask.main(cmd=flags(tmp_path / "ours", tiny_data, tiny_cache, tiny.KD))
    assert_same(weights(tmp_path / "ours"), weights(tmp_path / "stock"))


def test_espnet_s_own_spawned_workers_train_the_student(
    tmp_path, tiny_data, tiny_cache
):
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN)
    command = flags(
        tmp_path / "two", tiny_data, tiny_cache, tiny.KD, allow_variable_data_keys=True
    )
    done = subprocess.run(
        [CTCKD_PYTHON, script, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "loss_kd=" in done.stderr, done.stderr[-6000:]
    assert ":0/2]" in done.stderr  # ESPnet's log names rank and number of processes
    assert weights(tmp_path / "two")


def test_a_killed_training_resumes_to_the_very_same_weights(
    tmp_path, tiny_data, tiny_cache
):
    epochs = 12
    long = {"max_epoch": epochs, "keep_nbest_models": epochs}
    command = flags(tmp_path / "killed", tiny_data, tiny_cache, tiny.KD, **long)
    exp = tmp_path / "killed/exp"
    process = subprocess.Popen(
        [sys.executable, "-m", "espnet_ctckd.bin.asr_train", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (exp / "2epoch.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = len(list(exp.glob("*epoch.pth")))
    assert 2 <= reached < epochs
    CTCKDTask.main(cmd=[*command, "--resume", "true"])
    whole = flags(tmp_path / "whole", tiny_data, tiny_cache, tiny.KD, **long)
    CTCKDTask.main(cmd=whole)
    assert_same(
        weights(tmp_path / "killed", epochs), weights(tmp_path / "whole", epochs)
    )


def read_selected(log):
    """kd_selected of the training, epoch by epoch."""
    lines = [line for line in log.splitlines() if "epoch results: [train]" in line]
    return [float(re.search(r"kd_selected=([0-9.e-]+)", line)[1]) for line in lines]


def test_the_student_knows_the_epoch(tmp_path, tiny_data, tiny_cache, caplog):
    caplog.set_level("INFO")
    kd = {**tiny.KD, "selector": "blank_elimination", "from_epoch": 2}
    CTCKDTask.main(cmd=flags(tmp_path / "late", tiny_data, tiny_cache, kd))
    first, second = read_selected(caplog.text)
    assert first == 1.0
    assert 0.0 < second < 1.0
    # Resumed, it goes on in the epoch that it had reached.
    caplog.clear()
    long = flags(tmp_path / "late", tiny_data, tiny_cache, kd, max_epoch=3)
    CTCKDTask.main(cmd=[*long, "--resume", "true"])
    assert read_selected(caplog.text) == pytest.approx([second], rel=0.01)


class Reversed(EspnetTeacher):
    """The tiny model with its tokens the other way round, the blank last."""

    def __init__(self, **files):
        super().__init__(**files)
        self.token_list, self.blank = self.token_list[::-1], 7

    def posteriors(self, speech, lengths):
        said = super().posteriors(speech, lengths)
        return replace(said, log_probs=said.log_probs.flip(-1), blank=7)


def test_a_teacher_with_its_tokens_in_another_order_teaches_the_same(
    tmp_path, tiny_model, tiny_data, tiny_cache
):
    other = tmp_path / "reversed"
    teacher = Reversed(config_file=tiny_model.config, model_file=tiny_model.weights)
    plan = make_plan(str(tiny_data.wav_scp), teacher.rate, teacher.shortest, 60.0)
    assert dump(teacher, plan, Codec(len(tiny.TOKENS)), other, 60.0)
    for name, cache in (("there", other), ("here", tiny_cache)):
        CTCKDTask.main(cmd=flags(tmp_path / name, tiny_data, cache, tiny.KD))
    assert_same(weights(tmp_path / "there"), weights(tmp_path / "here"))


def test_a_student_of_half_the_rate_learns_from_the_mean_of_two_frames(
    tmp_path, tiny_data, tiny_cache, caplog
):
    caplog.set_level("INFO")
    kd = {**tiny.KD, "weight": 1.0, "frame_ratio": 2}
    slow = {"frontend_conf": {"hop_length": 320}, "max_epoch": 8}
    command = flags(tmp_path / "slow", tiny_data, tiny_cache, kd, text=False, **slow)
    CTCKDTask.main(cmd=command)
    found = [
        float(x) for x in re.findall(r"\[valid\].*? loss_kd=([0-9.]+)", caplog.text)
    ]
    assert len(found) == 8
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"weight": 1}, {"weight": 1}),
        ({"selector_conf": {"n": 3}}, {"selector_conf": {"n": 3, "grow_every": 5}}),
        ({"selector": "trim"}, {"selector": "trim", "selector_conf": None}),
        (
            {"selector": "window", "selector_conf": {"before": 0, "after": 1}},
            {"selector": "window", "selector_conf": {"before": 0, "after": 1}},
        ),
        ({"inter": {"weight": 2}}, {"inter": {"weight": 2, "loss": "l2"}}),
    ],
)
def test_a_method_s_file_is_changed_key_by_key(tmp_path, own, expected):
    path = tmp_path / "method.yaml"
    base = {**tiny.KD, "selector": "symmetric", "inter": {"weight": 1, "loss": "l2"}}
    base["selector_conf"] = {"n": 1, "grow_every": 5}
    path.write_text(yaml.safe_dump(base))
    found = read_kd_file({"base": str(path), **own})
    wanted = {**base, **expected}
    assert found == {key: value for key, value in wanted.items() if value is not None}


@pytest.mark.parametrize("order", [1, -1], ids=["file first", "keys first"])
@pytest.mark.parametrize("yaml_kd", ["none", "mapping", "file"])
def test_single_keys_win_over_the_file_in_whatever_order(tmp_path, order, yaml_kd):
    path, other = tmp_path / "method.yaml", tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump({**tiny.KD, "weight": 0.9, "selector": "trim"}))
    other.write_text(yaml.safe_dump({**tiny.KD, "weight": 0.1}))
    given = {"none": None, "mapping": {**tiny.KD, "weight": 0.7}, "file": str(other)}
    conf = tiny.write_conf(tmp_path / "train.yaml", given[yaml_kd], model="ctckd")
    changes = [f"kd={path}", "kd.weight=0.3", "kd.loss_conf.temperature=2.0"][::order]
    flags = [f for change in changes for f in ("--model_conf", change)]
    args = CTCKDTask.get_parser().parse_args(["--config", str(conf), *flags])
    found = read_kd_config(args)
    assert (found.weight, found.selector) == (0.3, "trim")
    assert found.loss_conf == {"temperature": 2.0}
    # Without a file on the command line they win over the one of the YAML.
    if yaml_kd != "none":
        more = ["--model_conf", "kd.weight=0.3"]
        args = CTCKDTask.get_parser().parse_args(["--config", str(conf), *more])
        found = read_kd_config(args)
        assert (found.weight, found.selector) == (0.3, "all")


def test_a_method_s_file_and_what_wins_over_it(tmp_path, tiny_data, tiny_cache):
    path = tmp_path / "method.yaml"
    path.write_text(yaml.safe_dump({**tiny.KD, "weight": 0.9}))
    runs = {
        "file": (str(path), {**tiny.KD, "weight": 0.9}),
        "more": ({"base": str(path), "weight": 0.2}, {**tiny.KD, "weight": 0.2}),
    }
    for name, (kd, same) in runs.items():
        CTCKDTask.main(cmd=flags(tmp_path / name, tiny_data, tiny_cache, kd))
        CTCKDTask.main(cmd=flags(tmp_path / f"{name}2", tiny_data, tiny_cache, same))
        assert_same(weights(tmp_path / name), weights(tmp_path / f"{name}2"))
        # A resumed or packed training does not need the file.
        written = yaml.safe_load((tmp_path / name / "exp/config.yaml").read_text())
        assert written["model_conf"]["kd"] == same


@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_a_kill_while_the_checkpoint_is_written_costs_one_epoch(
    tmp_path, tiny_data, tiny_cache, damage, caplog
):
    caplog.set_level("INFO")
    command = flags(tmp_path / "run", tiny_data, tiny_cache, tiny.KD)
    CTCKDTask.main(cmd=command)
    exp, last = tmp_path / "run/exp", weights(tmp_path / "run")
    checkpoint = exp / "checkpoint.pth"
    if damage == "missing":
        checkpoint.unlink()
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-5000])
    (exp / "1epoch.pth").write_bytes(b"")
    restore_checkpoint(exp)
    assert weights(tmp_path / "run", 1)
    caplog.clear()
    (exp / "2epoch.pth").unlink()
    CTCKDTask.main(cmd=[*command, "--resume", "true"])
    assert "The training was resumed" in caplog.text
    assert "1/2epoch started" not in caplog.text
    assert_same(weights(tmp_path / "run"), last)


def test_a_kill_before_the_checkpoint_is_written_loses_nothing(
    tmp_path, tiny_data, tiny_cache, monkeypatch
):
    command = flags(tmp_path / "run", tiny_data, tiny_cache, tiny.KD)
    checkpoint, save = tmp_path / "run/exp/checkpoint.pth", torch.save

    def killed(states, path, *args, **kwargs):
        if (
            Path(path) == checkpoint
            and checkpoint.with_suffix(".previous.pth").exists()
        ):
            raise KeyboardInterrupt
        save(states, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        CTCKDTask.main(cmd=command)
    # ESPnet's own trainer resumes from this, and starts over where there is none.
    assert read_checkpoint(checkpoint)["reporter"]["epoch"] == 1


def test_a_process_builds_and_reads_everything_once(
    tmp_path, tiny_data, tiny_cache, monkeypatch
):
    built, parsed, checked = [], [], []
    for owner, name, calls in (
        (ESPnetCTCKDModel, "__init__", built),
        (KDConfig, "__post_init__", parsed),
        (task, "check_data", checked),
    ):
        original = getattr(owner, name)

        def count(*args, original=original, calls=calls, **kwargs):
            calls.append(1)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, count)
    reader._read_meta.cache_clear()
    handlers = list(logging.root.handlers)
    CTCKDTask.main(cmd=flags(tmp_path / "one", tiny_data, tiny_cache, tiny.KD))
    assert (len(built), len(parsed), len(checked)) == (1, 1, 1)
    assert reader._read_meta.cache_info().misses == 1
    assert logging.root.handlers == handlers
    # Of several processes the first one checks the data.
    monkeypatch.setattr(task, "_is_rank0", lambda: False)
    CTCKDTask.main(cmd=flags(tmp_path / "two", tiny_data, tiny_cache, tiny.KD))
    assert (len(built), len(checked)) == (2, 1)


@pytest.mark.parametrize("part", ["train", "valid"])
def test_an_utterance_too_short_to_train_on_is_named_before(
    tmp_path, tiny_data, tiny_model, part
):
    samples = {"train": 1500, "valid": 900}[part]  # one frame, and none
    short = tmp_path / "short.wav"
    soundfile.write(short, tiny.sound(0.2, 0)[:samples], tiny.RATE)
    data = tiny_data.copy(tmp_path / "data", {**tiny_data.wavs(), "zz": str(short)})
    data.text.write_text(tiny_data.text.read_text() + "zz a\n")
    command = flags(tmp_path / "run", data, None, {**tiny.KD, "weight": 0.0})
    shapes = {u: os.path.getsize(p) // 2 for u, p in tiny_data.wavs().items()}
    write_scp(tmp_path / "with", {**shapes, "zz": samples}.items())
    write_scp(tmp_path / "without", shapes.items())
    for name in ("train", "valid"):
        place = command.index(f"--{name}_shape_file") + 1
        command[place] = str(tmp_path / ("with" if name == part else "without"))
    message = rf"1 of 5 utterances of .*/with are too short .*: zz \({samples} samples"
    with pytest.raises(InputError, match=message):
        CTCKDTask.main(cmd=command)


NBEST = {"weight": 1.0, "hypotheses": 2}
FEATURE = {
    "weight": 0.5,
    "size": 16,
    "alone_epochs": 1,
    "selector": "all",
    "loss": "l1",
    "reduction": "utt_sum",
}


def with_lists(command, lists):
    more = [
        f"--{part}_data_path_and_name_and_type={lists}/nbest,nbest,text"
        for part in ("train", "valid")
    ]
    return [*command, *more]


def test_hypotheses_alone_teach_without_posteriors_or_text(
    tmp_path, tiny_data, tiny_cache
):
    lists = tmp_path / "lists"
    done, stderr = tiny.call(dump_nbest, "--cache", tiny_cache, "--output_dir", lists)
    assert done == 0, stderr
    kd = {**tiny.KD, "weight": 0.0, "ctc_weight": 0.0, "nbest": NBEST}
    best = [["valid", "loss_nbest", "min"]]
    command = flags(
        tmp_path / "free", tiny_data, None, kd, text=False, best_model_criterion=best
    )
    CTCKDTask.main(cmd=with_lists(command, lists))
    first, last = (weights(tmp_path / "free", epoch) for epoch in (1, 2))
    assert not torch.equal(first["ctc.ctc_lo.weight"], last["ctc.ctc_lo.weight"])
    # The lists are of these utterances, or they are refused before it starts.
    (lists / "nbest").write_text("other [[1.0]]\n")
    with pytest.raises(InputError, match="nbest lacks 4 of 4 utterances of the train"):
        CTCKDTask.main(cmd=with_lists(command, lists))
    with pytest.raises(InputError, match="has no 'nbest'"):
        CTCKDTask.main(cmd=command)


def test_accuracy_needs_the_transcript_that_it_is_given(
    tmp_path, tiny_data, tiny_cache
):
    lists = tmp_path / "lists"
    done, stderr = tiny.call(dump_nbest, "--cache", tiny_cache, "--output_dir", lists)
    assert done == 0, stderr
    kd = {**tiny.KD, "nbest": {**NBEST, "weights": "accuracy"}}
    command = flags(tmp_path / "all", tiny_data, tiny_cache, kd, max_epoch=1)
    CTCKDTask.main(cmd=with_lists(command, lists))
    log = json.dumps(yaml.safe_load((tmp_path / "all/exp/config.yaml").read_text()))
    assert "nbest,nbest,text" in log.replace('", "', ",")


def test_hidden_states_are_dumped_learned_and_left_behind(
    tmp_path, tiny_model, tiny_data, tiny_cache
):
    cache = tmp_path / "cache"
    arguments = tiny.dump_args(tiny_model, tiny_data, cache, "--states")
    done, stderr = tiny.call(dump_teacher, *arguments)
    assert done == 0, stderr
    plain, both = tiny.read_cache(tiny_cache), tiny.read_cache(cache)
    model, _ = load_espnet_model(tiny_model.config, tiny_model.weights)
    for utt, said in both.items():
        assert said.log_probs.tobytes() == plain[utt].log_probs.tobytes()
        # They are what the output layer makes the posteriors of.
        again = model.ctc.ctc_lo(torch.from_numpy(said.states)).log_softmax(-1)
        expected = torch.from_numpy(said.log_probs)
        torch.testing.assert_close(again, expected, rtol=2e-2, atol=2e-2)
    kd = {**tiny.KD, "weight": 1.0, "feature": FEATURE}
    command = flags(tmp_path / "free", tiny_data, cache, kd, text=False)
    CTCKDTask.main(cmd=command)
    exp = tmp_path / "free/exp"
    states = weights(tmp_path / "free")
    assert "feature_projection.weight" in states
    export(exp / "config.yaml", exp / "valid.loss_kd.ave.pth", tmp_path / "plain")
    plain = torch.load(tmp_path / "plain/model.pth", weights_only=True)
    assert set(states) - set(plain) == {
        "feature_projection.weight",
        "feature_projection.bias",
    }
    load_espnet_model(tmp_path / "plain/config.yaml", tmp_path / "plain/model.pth")
    # What has no states, or others, is refused before it starts.
    for given, size, message in [
        (tiny_cache, 16, "has none: dump the teacher with --states"),
        (cache, 8, "size is 8, and the states of the cache .* have 16 dimensions"),
    ]:
        kd["feature"] = {**FEATURE, "size": size}
        command = flags(tmp_path / "bad", tiny_data, given, kd, text=False)
        with pytest.raises(InputError, match=message):
            CTCKDTask.main(cmd=command)


def test_a_warm_up_as_long_as_the_training_is_refused(tmp_path, tiny_data, tiny_cache):
    states = {"weight": 0.0, "size": 16, "alone_epochs": 2, "selector": "all"}
    states.update(loss="cosine", reduction="utt_sum")
    kd = {**tiny.KD, "feature": states}
    with pytest.raises(InputError, match="alone_epochs is 2, and max_epoch 2"):
        CTCKDTask.main(cmd=flags(tmp_path / "run", tiny_data, tiny_cache, kd))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("abcd " * 60, "CTC cannot align 1 utterances of .*: utt00 needs"),
        ("XYZ QRS", "labels of .* cannot be spelled in the student's tokens"),
    ],
)
def test_transcripts_that_ctc_cannot_learn_are_refused_as_check_cache_does(
    tmp_path, tiny_data, tiny_cache, words, message
):
    data = tiny_data.copy(tmp_path / "data", tiny_data.wavs())
    lines = data.text.read_text().splitlines()[1:]
    data.text.write_text("".join(f"{x}\n" for x in [f"utt00 {words}", *lines]))
    with pytest.raises(InputError, match=message):
        CTCKDTask.main(cmd=flags(tmp_path / "run", data, tiny_cache, tiny.KD))
    flags_of_check = ["--cache", tiny_cache, "--wav_scp", data.wav_scp]
    flags_of_check += ["--text", data.text, "--token_type", "char"]
    flags_of_check += ["--asr_config", tmp_path / "run/train.yaml"]
    flags_of_check += ["--token_list", tmp_path / "run/tokens.txt"]
    status, stderr = tiny.call(check_cache, *flags_of_check)
    assert status == 1
    assert re.search(message, tiny.the_error(stderr))
    # What is not learned from does not matter.
    free = {**tiny.KD, "weight": 1.0}
    CTCKDTask.main(cmd=flags(tmp_path / "free", data, tiny_cache, free, max_epoch=1))


def test_of_many_transcripts_the_densest_is_checked(
    tmp_path, tiny_data, tiny_cache, monkeypatch
):
    monkeypatch.setattr("espnet_ctckd.plugin.checks._CHECKED_TEXTS", 1)
    data = tiny_data.copy(tmp_path / "data", tiny_data.wavs())
    lines = data.text.read_text().splitlines()[:-1]
    last = list(data.wavs())[-1]
    text = [*lines, f"{last} {'abcd ' * 60}"]
    data.text.write_text("".join(f"{x}\n" for x in text))
    with pytest.raises(InputError, match=f"CTC cannot align 1 .*: {last} needs"):
        CTCKDTask.main(cmd=flags(tmp_path / "run", data, tiny_cache, tiny.KD))
