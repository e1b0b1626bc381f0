"""The benchmark runs, and its contenders compute the same."""

import re

import pytest
import torch

from espnet_ctckd.bin import bench
from espnet_ctckd.bin.bench import keep_top, make_objective, make_teacher


def test_the_objective_is_measured_against_pytorch(capsys):
    bench.main(["--what", "objective", "--rounds", "1", "--utterances", "1"])
    printed = capsys.readouterr().out
    for name in ("F.kl_div on all", "masked select", "dense teacher", "top-16 teacher"):
        row = next(line for line in printed.splitlines() if name in line)
        numbers = [float(x) for x in re.findall(r" ([0-9]+\.?[0-9]*)(?= |$)", row)]
        assert len(numbers) >= 4
        assert all(number > 0 for number in numbers)


def test_a_step_is_measured_against_plain_ctc(capsys, monkeypatch):
    small = {**bench.STUDENT["encoder_conf"], "num_blocks": 1, "output_size": 16}
    monkeypatch.setitem(bench.STUDENT, "encoder_conf", small)
    monkeypatch.setattr(bench, "STEP_TOKENS", (20,))
    bench.main(["--what", "step", "--rounds", "1", "--utterances", "1"])
    printed = capsys.readouterr().out
    assert re.search(r"online in bfloat16 *[0-9]+ +[0-9.]+", printed)
    assert re.search(r"plain CTC +[0-9]+ +1\.000", printed)
    assert re.search(r"lambda 1, symmetric n = 1 +[0-9]+ +[0-9.]+", printed)


@pytest.mark.parametrize("top", [False, True])
def test_the_objective_that_is_measured_is_kl_div_on_a_fifth_of_the_frames(top):
    torch.manual_seed(0)
    dense = make_teacher(2, 50, spikes=bench.FRAMES // 5)
    teacher = keep_top(dense) if top else dense
    logits = torch.randn(2, bench.FRAMES, 50)
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
