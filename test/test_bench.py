"""The benchmark runs, and its contenders compute the same."""

import itertools
import re

import pytest
import torch

from espnet_ctckd.bin import bench
from espnet_ctckd.bin.benches import train
from espnet_ctckd.bin.benches.train import keep_top, make_objective, make_teacher


@pytest.fixture(autouse=True)
def log_level(caplog):
    """The level that the root logger has again after a benchmark, which raises it."""
    caplog.set_level("WARNING")


def test_the_objective_is_measured_against_pytorch(capsys):
    bench.main(["--what", "objective", "--rounds", "1", "--utterances", "1"])
    printed = capsys.readouterr().out
    for name in ("F.kl_div on all", "masked select", "dense teacher", "top-16 teacher"):
        row = next(line for line in printed.splitlines() if name in line)
        numbers = [float(x) for x in re.findall(r" ([0-9]+\.?[0-9]*)(?= |$)", row)]
        assert len(numbers) >= 4
        assert all(number > 0 for number in numbers)


def test_a_step_is_measured_against_plain_ctc(capsys, monkeypatch):
    small = {**train.STUDENT["encoder_conf"], "num_blocks": 1, "output_size": 16}
    monkeypatch.setitem(train.STUDENT, "encoder_conf", small)
    monkeypatch.setattr(train, "STEP_TOKENS", (20,))
    bench.main(["--what", "train", "--rounds", "1", "--utterances", "1"])
    printed = capsys.readouterr().out
    assert re.search(r"online in float32 *[0-9]+ +[0-9.]+", printed)
    assert re.search(r"plain CTC +[0-9]+ +1\.000", printed)
    assert re.search(r"lambda 1, symmetric n = 1 +[0-9]+ +[0-9.]+", printed)


@pytest.mark.parametrize("top", [False, True])
def test_the_objective_that_is_measured_is_kl_div_on_a_fifth_of_the_frames(top):
    torch.manual_seed(0)
    dense = make_teacher(2, 50, spikes=train.FRAMES // 5)
    teacher = keep_top(dense) if top else dense
    logits = torch.randn(2, train.FRAMES, 50)
    kd = make_objective("blank_elimination", 1.0)
    loss, stats = kd(logits, teacher.lengths, teacher)
    assert stats["kd_selected"].item() == pytest.approx(0.2, abs=0.01)
    mask = dense.log_probs.argmax(-1) != 0
    expected = torch.nn.functional.kl_div(
        logits.log_softmax(-1)[mask],
        dense.log_probs[mask],
        log_target=True,
        reduction="sum",
    )
    torch.testing.assert_close(loss, expected / 2, rtol=0.02 if top else 1e-4, atol=0)


def test_a_dump_is_measured_against_the_teacher_alone(tiny_model, tiny_data, capsys):
    flags = ["--teacher_config", tiny_model.config, "--teacher_model"]
    flags += [tiny_model.weights, "--wav_scp", tiny_data.wav_scp]
    flags = ["--what", "dump", *flags]
    bench.main([str(flag) for flag in [*flags, "--rounds", 1, "--top_k", 4]])
    printed = capsys.readouterr().out
    assert re.search(r"teacher alone, in batches +[0-9.]+ +1\.00", printed)
    assert re.search(r"\ndump +[0-9.]+ +[0-9.]+", printed)
    assert re.search(r"one by one +[0-9.]+ +[0-9.]+", printed)


@pytest.mark.parametrize("words", [False, True])
def test_searches_are_measured_against_those_of_others(
    tiny_model, tiny_data, tmp_path, capsys, words
):
    flags = ["--asr_train_config", tiny_model.config, "--asr_model_file"]
    flags += [tiny_model.weights, "--wav_scp", tiny_data.wav_scp, "--rounds", 1]
    flags += ["--text", tiny_data.text, "--espnet_utterances", 0 if words else 2]
    if words:
        pytest.importorskip("flashlight.lib.text")
        (tmp_path / "lexicon").write_text("ab a b\ncd c d\n")
        flags += ["--method", "lexicon", "--lexicon", tmp_path / "lexicon"]
    flags = ["--what", "search", *flags]
    bench.main([str(flag) for flag in [*flags, "--beam", 4]])
    printed = capsys.readouterr().out.splitlines()
    table = itertools.takewhile(bool, printed[2:])
    rows = {line[:30].strip(): line[30:].split() for line in table}
    assert rows["greedy"][1] == rows["prefix_beam"][1] == "1.00"
    assert float(rows["prefix_beam, collapse 0.9"][4]) <= 100
    if words:
        ours, theirs = rows["lexicon"], rows["lexicon, torchaudio"]
        assert ours[-1] == theirs[-1]  # the same errors
    else:
        whole = {line.split()[0]: line.split() for line in printed[-3:]}
        assert whole["espnet2.bin.asr_inference"][2] == "1.0"
        assert float(whole["prefix_beam"][2]) > 1
