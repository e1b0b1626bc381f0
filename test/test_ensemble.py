"""Several teachers as one."""

import math

import numpy as np
import pytest
import tiny
import torch
import yaml

from espnet_ctckd.bin import dump_teacher

ORDER = [0, 3, 2, 6, 4, 1, 5, 7]  # of the second teacher's tokens; blank and eos stay
TOKENS = [tiny.TOKENS[i] for i in ORDER]


@pytest.fixture(scope="module")
def permuted(tmp_path_factory, tiny_model):
    """The tiny model with its tokens in another order, and a little less sure."""
    folder = tmp_path_factory.mktemp("other")
    other = tiny.write_model(folder / "other", tokens=TOKENS)
    states = torch.load(tiny_model.weights, weights_only=True)
    for name in ("ctc.ctc_lo.weight", "ctc.ctc_lo.bias"):
        states[name] = 0.8 * states[name][ORDER]
    torch.save(states, other.weights)
    return other


def write(path, models, least=0.5, **changes):
    entries = [
        {
            "teacher_type": "espnet",
            "teacher": str(m.config.parent),
            "weight": w,
        }
        for m, w in models
    ]
    conf = {"teachers": entries, "min_agreement": least, **changes}
    path.write_text(yaml.safe_dump(conf))
    return path


def dump(config, data, cache, *more):
    flags = ["--teacher_type", "ensemble", "--teacher", config]
    flags += ["--wav_scp", data.wav_scp, "--output_dir", cache, *more]
    return tiny.call(dump_teacher, *flags)


def read(cache):
    return {utt: said.log_probs for utt, said in tiny.read_cache(cache).items()}


def test_the_posteriors_are_the_weighted_mean_by_token(
    tmp_path, tiny_model, tiny_data, tiny_cache, permuted
):
    config = write(tmp_path / "both.yaml", [(tiny_model, 3), (permuted, 1)])
    status, stderr = dump(config, tiny_data, tmp_path / "both")
    assert status == 0, stderr
    status, stderr = tiny.call(
        dump_teacher, *tiny.dump_args(permuted, tiny_data, tmp_path / "two")
    )
    assert status == 0, stderr
    one, two, both = read(tiny_cache), read(tmp_path / "two"), read(tmp_path / "both")
    assert set(both) == set(one)
    for utt, said in both.items():
        other = np.zeros_like(two[utt])
        other[:, ORDER] = np.exp(two[utt])
        expected = 0.75 * np.exp(one[utt]) + 0.25 * other
        assert np.exp(said) == pytest.approx(expected, abs=1e-6)
    assert (tmp_path / "both/tokens.txt").read_text() == (
        tiny_cache / "tokens.txt"
    ).read_text()


def test_one_teacher_is_itself_and_weight_0_is_nobody(
    tmp_path, tiny_model, tiny_data, tiny_cache, permuted
):
    config = write(tmp_path / "one.yaml", [(tiny_model, 2), (permuted, 0)])
    status, stderr = dump(config, tiny_data, tmp_path / "cache", "--top_k", 3)
    assert status == 0, stderr
    alone = tiny.dump_args(tiny_model, tiny_data, tmp_path / "alone", "--top_k", 3)
    assert tiny.call(dump_teacher, *alone)[0] == 0
    expected = read(tmp_path / "alone")
    for utt, said in read(tmp_path / "cache").items():
        assert said == pytest.approx(expected[utt], abs=1e-5)


def test_spikes_at_other_frames_are_refused_with_the_way_out(
    tmp_path, tiny_model, tiny_data
):
    other = tiny.write_model(tmp_path / "other", seed=5)
    config = write(tmp_path / "two.yaml", [(tiny_model, 1), (other, 1)], least=0.9)
    status, stderr = dump(config, tiny_data, tmp_path / "cache")
    assert status == 1
    error = tiny.the_error(stderr)
    assert "the spikes of the teachers 1 and 2" in error
    assert "min_agreement is 0.9" in error
    assert "dump_nbest" in error
    assert not (tmp_path / "cache/meta.json").exists()


ENTRY = {"teacher_type": "espnet", "teacher": "x", "weight": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": []}, "is no ensemble: give `teachers`"),
        ({"min_agreement": 2}, "`min_agreement`, a number in [0, 1]"),
        ({"weights": [1]}, "; it has 'weights'"),
        ({"min_agreement": 2}, "; its min_agreement is 2"),
        ({"teachers": ["x"]}, "a teacher is 'x'"),
        ({"teachers": [{"teacher": "x"}]}, "a teacher lacks 'teacher_type'"),
        ({"teachers": [{**ENTRY, "scale": 1}]}, "a teacher has 'scale'"),
        ({"teachers": [{**ENTRY, "teacher_conf": 5}]}, "teacher_conf is 5; give"),
    ],
)
def test_a_file_that_is_no_ensemble_is_refused(
    tmp_path, tiny_model, tiny_data, changes, message
):
    config = write(tmp_path / "bad.yaml", [(tiny_model, 1)], **changes)
    status, stderr = dump(config, tiny_data, tmp_path / "cache")
    assert status == 1
    assert message in tiny.the_error(stderr)


@pytest.mark.parametrize("weight", [-1, math.nan, "x", None])
def test_a_weight_that_is_none_is_refused(tmp_path, tiny_model, tiny_data, weight):
    config = write(tmp_path / "bad.yaml", [(tiny_model, weight)])
    status, stderr = dump(config, tiny_data, tmp_path / "cache")
    assert status == 1
    assert "is no number >= 0" in tiny.the_error(stderr)


def test_teachers_of_other_rates_or_tokens_are_refused(tmp_path, tiny_model, tiny_data):
    slow = tiny.write_model(tmp_path / "slow", frontend_conf={"hop_length": 320})
    config = write(tmp_path / "two.yaml", [(tiny_model, 1), (slow, 1)])
    status, stderr = dump(config, tiny_data, tmp_path / "cache")
    assert status == 1
    assert "have the frame_shift 640 and 1280" in tiny.the_error(stderr)
    others = tiny.write_model(tmp_path / "others", tokens=[*tiny.TOKENS[:-1], "x"])
    config = write(tmp_path / "two.yaml", [(tiny_model, 1), (others, 1)])
    status, stderr = dump(config, tiny_data, tmp_path / "cache")
    assert status == 1
    assert "has the token 'x', which the first one has not" in tiny.the_error(stderr)
