"""The distance is that of the last layer, whatever the encoder does with CTC inside."""

import copy

import pytest
import torch
from student import ENCODERS, KD, TOKENS, make_batch, make_teacher
from torch.nn.functional import ctc_loss

from espnet_ctckd.config import KDConfig
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.plugin.task import CTCKDTask
from espnet_ctckd.posteriors import FramePosteriors

SIZE = {
    "output_size": 16,
    "attention_heads": 2,
    "linear_units": 32,
    "num_blocks": 3,
    "dropout_rate": 0.0,
    "positional_dropout_rate": 0.0,
}
SKIP = {
    "skip_after": 1,
    "skip_threshold": 0.15,
    "skip_ratio": 1.0,
    "cnn_module_kernel": 7,
    "rel_pos_type": "latest",
    "pos_enc_layer_type": "rel_pos",
    "selfattention_layer_type": "rel_selfattn",
}
CONDITIONED = {"interctc_layer_idx": [1, 2], "interctc_use_conditioning": True}
UNCONDITIONED = {"interctc_layer_idx": [1], "interctc_use_conditioning": False}
SYSTEMS = {
    **{name: (name, conf) for name, conf in ENCODERS.items()},
    **{f"{n}, inter-CTC": (n, {**c, **UNCONDITIONED}) for n, c in ENCODERS.items()},
    **{f"{n}, conditioned": (n, {**c, **CONDITIONED}) for n, c in ENCODERS.items()},
    "skipping": ("ctckd_skip_conformer", SKIP),
    "skipping, factorized": (
        "ctckd_skip_conformer",
        {**SKIP, "skip_factorized": True, "skip_threshold": 0.5},
    ),
    "skipping, conditioned": (
        "ctckd_skip_conformer",
        {**SKIP, "interctc_use_conditioning": True},
    ),
}


def build(name, ctc_dropout=0.0):
    encoder, conf = SYSTEMS[name]
    args = CTCKDTask.get_parser().parse_args(["--token_type", "char"])
    args.model, args.token_list = "ctckd", TOKENS
    args.frontend_conf = {"n_fft": 256, "hop_length": 160, "n_mels": 20}
    args.encoder, args.encoder_conf = encoder, {**SIZE, **conf}
    inner = 0.3 if "," in name or "skip" in name else 0.0
    args.model_conf = {"ctc_weight": 1.0, "kd": dict(KD), "interctc_weight": inner}
    args.ctc_conf = {"dropout_rate": ctc_dropout}
    torch.manual_seed(0)
    return CTCKDTask.build_model(args)


def by_hand(model, batch, teacher):
    """The loss, and the distance, from the encoder output of ESPnet's ``encode``."""
    states, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    layers = []
    if isinstance(states, tuple):
        states, layers = states
    labels = batch["text"].clamp(min=0)

    def ctc(of):
        logs = model.ctc.ctc_lo(of).log_softmax(-1).transpose(0, 1)
        each = ctc_loss(logs, labels, lengths, batch["text_lengths"], reduction="none")
        return each.mean()

    objective = KDObjective(KDConfig.from_dict(KD)).train(model.training)
    posteriors = FramePosteriors(teacher["teacher"], teacher["teacher_lengths"], 0)
    distance, _ = objective(model.ctc.ctc_lo(states), lengths, posteriors)
    loss, weight = ctc(states), model.interctc_weight
    if weight:
        inner = sum(ctc(layer) for _, layer in layers) / len(layers)
        loss = (1 - weight) * loss + weight * inner
    return 0.5 * loss + 0.5 * distance, distance


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_distance_and_its_gradient_are_those_of_the_last_layer(name, training):
    model, batch, teacher = build(name), make_batch(), make_teacher()
    model.train(training)
    expected, distance = by_hand(model, batch, teacher)
    loss, stats, _ = model(**copy.deepcopy(batch), **teacher)
    torch.testing.assert_close(stats["loss_kd"].squeeze(), distance.detach())
    torch.testing.assert_close(loss.squeeze(), expected)
    # The gradient of the distance alone reaches the last layer.
    last = list(model.encoder.encoders[-1].parameters())
    wanted = torch.autograd.grad(expected, last, retain_graph=True, allow_unused=True)
    found = torch.autograd.grad(loss.sum(), last, allow_unused=True)
    for ours, theirs in zip(found, wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    alone = torch.autograd.grad(distance, last, allow_unused=True)
    assert any(g is not None and bool(g.any()) for g in alone)
    if "skip" in name and not training:
        assert 0 < model.encoder.frames_run < model.encoder.frames


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", ["conformer", "conformer, inter-CTC"])
def test_the_last_layer_s_logits_are_computed_once(name, training):
    model, batch, teacher = build(name).train(training), make_batch(), make_teacher()
    seen = []
    model.ctc.ctc_lo.register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    model(**copy.deepcopy(batch), **teacher)
    inner = 1 if "inter" in name else 0
    # ESPnet's own error rate of an inner layer runs it once more in evaluation.
    assert len(seen) == 1 + inner * (1 if training else 2)


def test_what_espnet_drops_out_before_ctc_is_not_dropped_from_the_distance():
    model, batch, teacher = build("conformer", 0.5), make_batch(), make_teacher()
    model.eval()
    _, distance = by_hand(model, batch, teacher)
    _, stats, _ = model(**copy.deepcopy(batch), **teacher)
    torch.testing.assert_close(stats["loss_kd"].squeeze(), distance.detach())
