"""Priors of tokens: estimated from a cache, and read."""

import pytest
import tiny
import torch
from test_train import flags

from espnet_ctckd.bin import decode
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.prior import read_prior
from espnet_ctckd.plugin.task import CTCKDTask


def test_a_prior_is_matched_by_token(tmp_path):
    path = tmp_path / "prior.txt"
    path.write_text("<pad> -0.693147\nb -1.609438\na -1.203973\n")  # .5, .2, .3
    assert read_prior(path, ["<blank>", "a", "b", "<unk>"], "<blank>") == [
        *(-0.693147, -1.203973, -1.609438),
        0.0,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no prior"),
        ("", "is no list of priors"),
        ("<blank> x\n", "every line must be a token and a number"),
        ("<blank>\n", "every line must be a token and a number"),
        ("<blank> 0.5\n", "give logarithms"),
        ("<blank> nan\n", "give logarithms"),
        ("<blank> -0.693147\na -0.693147\n", r"lack 1 \(b\) and have 0 others"),
        ("<blank> -0.693147\na -1.386294\nb -2.08\nc -2.08\n", r"have 1 others \(c\)"),
        ("<blank> -5\na -10\nb -20\n", "3 lines have 3 tokens and add up to 0.007"),
        ("<blank> -0.7\na -0.7\na -9\n", "3 lines have 2 tokens"),
    ],
)
def test_a_prior_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = tmp_path / "prior.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_prior(path, ["<blank>", "a", "b", "<unk>"], "<blank>")


def test_a_student_is_decoded_without_the_prior_that_it_learned_with(
    tmp_path, tiny_data, tiny_cache
):
    prior, spoken = tmp_path / "prior.txt", [t for t in tiny.TOKENS if t[0] != "<"]
    tokens = ["<blank>", "<space>", *spoken]
    prior.write_text("".join(f"{t} -1.791759\n" for t in tokens))
    kd = {**tiny.KD, "selector": "symmetric", "selector_conf": {"n": 1}}
    kd.update(prior_file=str(prior), prior_scale=0.5)
    command = flags(tmp_path / "run", tiny_data, tiny_cache, kd)
    CTCKDTask.main(cmd=command)
    prior.unlink()
    exp = tmp_path / "run/exp"
    given = ["--asr_train_config", exp / "config.yaml", "--wav_scp", tiny_data.wav_scp]
    given += ["--asr_model_file", exp / "2epoch.pth", "--output_dir", tmp_path / "out"]
    status, stderr = tiny.call(decode, *given)
    assert status == 0, stderr
    states = torch.load(exp / "2epoch.pth", weights_only=True)
    plain = tiny.write_model(tmp_path / "plain")
    assert set(states) == set(torch.load(plain.weights, weights_only=True))
    # A training asks for it at its start.
    with pytest.raises(InputError, match="there is no prior"):
        CTCKDTask.main(cmd=[*command, "--max_epoch", "3"])
