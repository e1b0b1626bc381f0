"""Skipping of blank frames by the upper layers, against one utterance at a time."""

import subprocess
import sys

import pytest
import tiny
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from test_train import flags

from espnet_ctckd.bin import bench_skip, decode, export_student
from espnet_ctckd.choices import InputError
from espnet_ctckd.models.skip_encoder import CTCKDSkipConformerEncoder
from espnet_ctckd.plugin.task import CTCKDTask

CONF = {**tiny.CONF["encoder_conf"], "num_blocks": 4}
KD = {
    **tiny.KD,
    "inter": {
        **{k: tiny.KD[k] for k in ("selector", "loss", "loss_conf", "reduction")},
        **{"weight": 1.0, "ctc_weight": 0.3, "kd_weight": 1.0},
        **{"target": "self", "head": "shared"},
    },
}
LENGTHS = torch.tensor([160, 97, 41, 160])


class Blanks:
    """A CTC whose blank is sure where the first feature of a state is low."""

    def softmax(self, states):
        blank = torch.sigmoid(-8.0 * states[..., :1])
        return torch.cat([blank, 1 - blank], -1)


def encoder(**options):
    torch.manual_seed(0)
    made = CTCKDSkipConformerEncoder(20, skip_after=2, **{**CONF, **options})
    return made.eval()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 160, 20, generator=generator)


def test_without_skipping_it_is_espnet_s_conformer():
    ours = encoder(skip_threshold=1.1)
    stock = ConformerEncoder(20, **CONF, interctc_layer_idx=[2]).eval()
    stock.load_state_dict(ours.state_dict())
    (found, layers), lengths, _ = ours(batch(), LENGTHS, ctc=Blanks())
    (expected, theirs), counts, _ = stock(batch(), LENGTHS)
    assert torch.equal(lengths, counts)
    for row, frames in enumerate(lengths.tolist()):
        assert torch.allclose(found[row, :frames], expected[row, :frames], atol=1e-5)
        assert torch.allclose(
            layers[0][1][row, :frames], theirs[0][1][row, :frames], atol=1e-5
        )
    assert layers[0][0] == theirs[0][0] == 2
    with_none, _, _ = ours(batch(), LENGTHS)  # nobody says what is blank
    assert torch.equal(with_none[0], found)


def slow(model, feats, neighbours):
    """One utterance: what runs is cut out, run by itself, and put back."""
    mask = torch.ones(1, 1, len(feats), dtype=torch.bool)
    (x, positions), mask = model.embed(feats.unsqueeze(0), mask)
    hidden = (x, positions)
    for layer in list(model.encoders)[:2]:
        hidden, mask = layer(hidden, mask)
    x, frames = hidden[0][0], hidden[0].size(1)
    blank = Blanks().softmax(model.after_norm(x))[:, 0]
    spikes = [t for t in range(frames) if blank[t] < model.skip_threshold]
    spikes = spikes or [int(blank.argmin())]
    if int(blank.argmin()) not in spikes:
        spikes.append(int(blank.argmin()))
    runs = [t for t in range(frames) if any(abs(t - s) <= neighbours for s in spikes)]
    few = len(runs)
    upper = (x[runs].unsqueeze(0), positions[:, frames - few : frames + few - 1])
    mask = torch.ones(1, 1, few, dtype=torch.bool)
    for layer in list(model.encoders)[2:]:
        upper, mask = layer(upper, mask)
    out = x.clone()
    out[runs] = upper[0][0]
    return model.after_norm(out), few


@pytest.mark.parametrize("neighbours", [0, 1, 3])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.9, 0.999, 1.0])
@torch.no_grad()
def test_it_is_what_one_utterance_at_a_time_gives(neighbours, threshold):
    model = encoder(skip_threshold=threshold, skip_neighbours=neighbours)
    # The convolution of the subsampling hears the padding; utterances of one length do
    # not, and the gate then makes them of several.
    feats = batch()
    (found, _), lengths, _ = model(feats, torch.full((4,), 160), ctc=Blanks())
    counts = []
    for row, frames in enumerate(lengths.tolist()):
        expected, few = slow(model, feats[row], neighbours)
        assert torch.allclose(found[row, :frames], expected, atol=1e-5)
        counts.append(few)
    assert (model.frames, model.frames_run) == (int(lengths.sum()), sum(counts))
    if 0.0 < threshold < 0.99 and neighbours < 3:
        assert sum(counts) < int(lengths.sum())


@torch.no_grad()
def test_padding_neither_runs_nor_changes():
    model = encoder(skip_threshold=0.5)
    feats = batch()
    (found, _), lengths, _ = model(feats, LENGTHS, ctc=Blanks())
    for row, size in enumerate(LENGTHS.tolist()):
        feats[row, size:] = 0.0
    noise = torch.randn_like(feats)
    for row, size in enumerate(LENGTHS.tolist()):
        noise[row, :size] = feats[row, :size]
    (other, _), _, _ = model(noise, LENGTHS, ctc=Blanks())
    for row, frames in enumerate(lengths.tolist()):
        # Two frames from the end the subsampling hears what follows.
        same = slice(0, frames - 2)
        assert found[row, same].isfinite().all()
        assert other[row, same].isfinite().all()
    assert model.frames == 2 * int(lengths.sum())


def test_training_skips_in_part_of_the_batches_and_all_layers_learn():
    model = encoder(skip_threshold=0.5, skip_ratio=0.5).train()
    ran = []
    gate = model._gate

    def listen(*args):
        runs = gate(*args)
        ran.append(bool((runs != args[1]).any()))
        return runs

    model._gate = listen
    for _ in range(40):
        model.zero_grad()
        (found, _), _, _ = model(batch(), LENGTHS, ctc=Blanks())
        found.square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())
    assert 10 <= sum(ran) <= 30
    assert model.frames == 0


@torch.no_grad()
def test_factorized_the_lower_layers_say_blank_by_an_output_of_their_own():
    model = encoder(skip_factorized=True, skip_threshold=0.5, skip_neighbours=0)
    ctc_lo = torch.nn.Linear(model.output_size(), 6)
    states = torch.randn(2, 5, model.output_size())
    said = model.lower_logits(states, ctc_lo).double().softmax(-1)
    blank = torch.sigmoid(model.skip_blank(states)).double()
    others = ctc_lo(states)[..., 1:].double().softmax(-1)
    expected = torch.cat([blank, (1 - blank) * others], -1)
    assert torch.allclose(said, expected, atol=1e-6)
    # It needs no other to say what runs; where it says blank one frame does.
    model.skip_blank.weight.zero_()
    for bias, share in ((-9.0, 1.0), (9.0, 0.0)):
        model.skip_blank.bias.fill_(bias)
        model.frames = model.frames_run = 0
        _, lengths, _ = model(batch(), LENGTHS)
        assert model.frames == int(lengths.sum())
        assert model.frames_run == (model.frames if share else 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip_after": 4}, "skip_after is 4, and the encoder has 4 layers"),
        ({"skip_after": 0}, "skip_after is 0"),
        ({"skip_ratio": 1.5}, "skip_ratio is 1.5"),
        ({"skip_neighbours": -1}, "skip_neighbours is -1"),
        ({"skip_neighbours": 1.5}, "skip_neighbours is 1.5; give a whole number"),
        ({"skip_threshold": "0.9"}, "skip_threshold is '0.9'; give a number"),
        ({"skip_threshold": float("nan")}, "skip_threshold is nan"),
        ({"skip_after": 2.0}, "skip_after is 2.0; give a whole number"),
        ({"rel_pos_type": "legacy"}, "takes rel_pos and latest"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        CTCKDSkipConformerEncoder(20, **{"skip_after": 2, **CONF, **options})


SKIP = {
    "encoder": "ctckd_skip_conformer",
    "encoder_conf": {"num_blocks": 3, "skip_after": 2, "skip_threshold": 0.6},
}


@pytest.mark.parametrize("factorized", [False, True])
def test_it_trains_exports_and_decodes(
    tmp_path, tiny_data, tiny_cache, capsys, factorized
):
    skip = {**SKIP, "encoder_conf": {**SKIP["encoder_conf"]}}
    skip["encoder_conf"]["skip_factorized"] = factorized
    CTCKDTask.main(cmd=flags(tmp_path / "run", tiny_data, tiny_cache, KD, **skip))
    exp = tmp_path / "run/exp"
    given = ["--asr_train_config", exp / "config.yaml"]
    given += ["--asr_model_file", exp / "valid.cer_ctc.ave.pth"]
    assert tiny.call(export_student, *given, "--output_dir", tmp_path / "plain")[0] == 0
    said = capsys.readouterr().out
    assert "has encoder: ctckd_skip_conformer, so it decodes where espnet_ctckd" in said
    given = ["--asr_train_config", tmp_path / "plain/config.yaml"]
    given += ["--asr_model_file", tmp_path / "plain/model.pth"]
    given += ["--wav_scp", tiny_data.wav_scp, "--output_dir", tmp_path / "decoded"]
    status, stderr = tiny.call(decode, *given)
    assert status == 0, stderr
    model, _ = CTCKDTask.build_model_from_file(
        tmp_path / "plain/config.yaml", tmp_path / "plain/model.pth"
    )
    assert type(model).__name__ == "ESPnetASRModel"
    assert model.encoder.skip_after == 2
    assert (model.encoder.skip_blank is not None) == factorized
    # At every threshold, beside itself as an other one.
    bench = [*given[:6], "--text", tiny_data.text, "--other", tmp_path / "plain"]
    capsys.readouterr()
    assert tiny.call(bench_skip, *bench, "--rounds", 1, "--thresholds", 1.1, 0)[0] == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 3
    assert rows[1].split()[-2] == "0.0"
    code = (
        "from espnet2.bin.asr_inference import Speech2Text\n"
        f"Speech2Text({str(tmp_path / 'plain/config.yaml')!r}, "
        f"{str(tmp_path / 'plain/model.pth')!r}, ctc_weight=1.0)"
    )
    alone = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert alone.returncode != 0
    assert "ctckd_skip_conformer" in alone.stderr
    assert (
        (tmp_path / "plain/config.yaml")
        .read_text()
        .startswith(
            "# it has encoder: ctckd_skip_conformer, so it decodes where espnet_ctckd"
        )
    )


def test_a_student_whose_lower_layers_learn_nothing_is_refused(tmp_path):
    heads = {**KD, "inter": {**KD["inter"], "head": "separate"}}
    for kd, message in (
        (tiny.KD, "nothing trains its lower layers to say what is blank"),
        (heads, "set kd.inter.head: shared"),
    ):
        with pytest.raises(InputError, match=message):
            tiny.write_model(tmp_path / message[:5], kd, **SKIP)
