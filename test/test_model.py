"""The student's loss, against the plain ESPnet model that it is but for the teacher."""

import copy

import pytest
import torch
from student import (
    ENCODERS,
    INTER,
    KD,
    TOKENS,
    build,
    gradients,
    make_batch,
    make_teacher,
)

from espnet_ctckd.choices import InputError
from espnet_ctckd.config import KDConfig


@pytest.fixture
def batch():
    return make_batch()


@pytest.fixture
def teacher():
    return make_teacher()


def test_state_dict_has_the_names_of_the_plain_model():
    ours, plain = build(kd=KD), build("espnet")
    assert list(ours.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("with_teacher", [False, True])
def test_lambda_0_is_the_plain_model_in_loss_and_gradient(batch, teacher, with_teacher):
    ours, plain = build(kd={**KD, "weight": 0.0}), build("espnet")
    more = teacher if with_teacher else {}
    loss, stats, weight, grads = gradients(ours, **copy.deepcopy(batch), **more)
    plain_loss, plain_stats, plain_weight, plain_grads = gradients(plain, **batch)
    assert torch.equal(loss, plain_loss)
    assert torch.equal(weight, plain_weight)
    assert torch.equal(stats["loss_ctc"], plain_stats["loss_ctc"])
    for name, grad in plain_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=0, atol=0, msg=name)


def test_the_loss_is_convex_in_lambda(batch, teacher):
    at = {
        weight: gradients(build(kd={**KD, "weight": weight}), **batch, **teacher)
        for weight in (0.0, 0.25, 1.0)
    }
    torch.testing.assert_close(at[0.25][0], 0.75 * at[0.0][0] + 0.25 * at[1.0][0])
    name = "ctc.ctc_lo.weight"
    mixed = 0.75 * at[0.0][3][name] + 0.25 * at[1.0][3][name]
    torch.testing.assert_close(at[0.25][3][name], mixed)


def test_the_distance_is_that_of_the_objective_on_the_model_s_logits(batch, teacher):
    model = build(kd=KD).eval()
    _, stats, _ = model(**batch, **teacher)
    hidden, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    log_q = model.ctc.ctc_lo(hidden).log_softmax(-1)
    log_p = teacher["teacher"]
    spikes = log_p.argmax(-1) != 0
    total = 0.0
    for b in range(3):
        # Versions of ESPnet differ by a frame in what they call padding.
        frames = min(int(lengths[b]), int(teacher["teacher_lengths"][b]))
        for t in range(frames):
            near = range(max(t - 1, 0), min(t + 2, frames))
            if any(spikes[b, s] for s in near):
                total += (log_p[b, t].exp() * (log_p[b, t] - log_q[b, t])).sum()
    torch.testing.assert_close(stats["loss_kd"].squeeze(), total / 3)


def test_lambda_1_reads_no_text_and_has_no_ctc_in_its_graph(batch, teacher):
    model = build(kd={**KD, "weight": 1.0})
    calls = []
    model.ctc.register_forward_hook(lambda *_: calls.append(1))
    with_text = gradients(model, **batch, **teacher)
    speech = {k: v for k, v in batch.items() if k.startswith("speech")}
    without = gradients(model, **speech, **teacher)
    assert torch.equal(with_text[0], without[0])
    assert not calls
    assert "loss_ctc" not in without[1]
    model.eval()
    assert "cer_ctc" in model(**batch, **teacher)[1]
    assert "cer_ctc" not in model(**speech, **teacher)[1]


def test_token_norm_divides_ctc_by_the_labels(batch, teacher):
    by_batch = build(kd={**KD, "weight": 0.0})(**batch)[0]
    by_token = build(kd={**KD, "weight": 0.0, "ctc_norm": "token"})(**batch)[0]
    torch.testing.assert_close(by_token, by_batch * 3 / (4 + 2 + 3))


def test_top_k_of_all_but_one_token_is_the_dense_teacher(batch, teacher):
    model = build(kd=KD).eval()
    dense = model(**batch, **teacher)[1]["loss_kd"]
    best, ids = teacher["teacher"].topk(6)
    lacks = (ids != 0).all(-1)
    ids[lacks, -1] = 0
    best[lacks, -1] = teacher["teacher"][..., 0][lacks]
    kept = {**teacher, "teacher": best, "teacher_ids": ids}
    torch.testing.assert_close(model(**batch, **kept)[1]["loss_kd"], dense)


def test_an_overfit_step_lowers_the_distance(batch, teacher):
    model = build(kd={**KD, "weight": 1.0})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    distances = []
    for _ in range(8):
        optimizer.zero_grad()
        loss, stats, _ = model(**batch, **teacher)
        loss.sum().backward()
        optimizer.step()
        distances.append(float(stats["loss_kd"]))
    assert distances[-1] < 0.7 * distances[0]


def test_a_batch_without_what_the_loss_needs_is_refused(batch, teacher):
    speech = {k: v for k, v in batch.items() if k.startswith("speech")}
    with pytest.raises(InputError, match="the batch has no text"):
        build(kd=KD)(**speech, **teacher)
    with pytest.raises(InputError, match="the batch has no teacher"):
        build(kd=KD)(**batch)


@pytest.mark.parametrize(
    ("specaug", "conf", "message"),
    [
        ({"apply_time_warp": True, "apply_time_mask": False}, {"kd": KD}, "time_warp"),
        ({"time_mask_width_range": 5}, {"kd": KD}, "apply_time_warp is true"),
        (False, {"kd": KD, "ctc_weight": 0.3}, "model_conf.ctc_weight is 0.3"),
        (False, {"kd": {**KD, "weight": 1.0}, "interctc_weight": 0.3}, "interctc"),
        (False, {}, "no key 'kd'"),
        (False, {"kd": KD, "ctc_wieght": 1.0}, "unknown key 'ctc_wieght'"),
        (False, {"kd": {**KD, "selectro": "all"}}, "unknown key 'selectro'"),
    ],
)
def test_what_cannot_be_distilled_is_refused_by_its_key(specaug, conf, message):
    with pytest.raises(InputError, match=message):
        build(specaug=specaug, **conf)


def test_a_configuration_without_a_choice_of_the_paper_is_refused():
    for key in ("weight", "selector", "loss", "reduction"):
        conf = {k: v for k, v in KD.items() if k != key}
        with pytest.raises(InputError, match=f"lacks the key '{key}'"):
            KDConfig.from_dict(conf)
    with pytest.raises(InputError, match="lacks the option 'temperature'"):
        KDConfig.from_dict({**KD, "loss_conf": {}})


@pytest.mark.parametrize(
    ("tokens", "conf", "message"),
    [
        (
            [*TOKENS[1:], "<blank>"],
            {},
            "has the blank '<blank>' at 6, and ESPnet's CTC",
        ),
        (["<pad>", *TOKENS[1:]], {}, "the token list has no blank '<blank>'"),
    ],
)
def test_a_blank_that_ctc_does_not_take_for_one_is_refused(tokens, conf, message):
    with pytest.raises(InputError, match=message):
        build(kd=KD, tokens=tokens, **conf)


def test_the_blank_may_have_another_name():
    assert build(kd=KD, tokens=["<pad>", *TOKENS[1:]], sym_blank="<pad>").blank_id == 0


def test_an_utterance_of_other_frames_is_named(batch, teacher):
    model = build(kd=KD)
    short = {**teacher, "teacher_lengths": torch.tensor([24, 9, 15])}
    with pytest.raises(InputError, match=r"^utterance b: an utterance has 9 frames"):
        model(**batch, **short, utt_id=["a", "b", "c"])


# Intermediate layers


def slow_inter(model, batch, targets):
    """Losses of the heads from the formulas: CTC and squared distance, a layer each."""
    speech = batch["speech"], batch["speech_lengths"]
    (last, layers), lengths = model.encode(*speech)
    found = {}
    for layer, states in layers:
        separate = model.kd_config.inter.head == "separate"
        head = model.inter_heads[str(layer)] if separate else model.ctc.ctc_lo
        log_q = head(states).log_softmax(-1)
        ctc = torch.nn.functional.ctc_loss(
            log_q.transpose(0, 1), batch["text"], lengths, batch["text_lengths"],
            reduction="sum",
        )  # fmt: skip
        if targets is None:
            log_p = model.ctc.ctc_lo(last).log_softmax(-1)
        else:
            log_p = targets["teacher"]
        distance = 0.0
        for b in range(3):
            frames = int(lengths[b])
            if targets is not None:
                frames = min(frames, int(targets["teacher_lengths"][b]))
            for t in range(frames):
                distance += (log_p[b, t].exp() - log_q[b, t].exp()).square().sum()
        found[layer] = ctc / 3, distance / 3
    return found


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("head", ["separate", "shared"])
def test_each_layer_learns_from_ctc_and_from_the_teacher(batch, teacher, encoder, head):
    kd = {**KD, "inter": {**INTER, "head": head}}
    model = build(kd=kd, encoder=encoder, layers=(1, 2)).eval()
    loss, stats, _ = model(**copy.deepcopy(batch), **teacher)
    expected = slow_inter(model, batch, teacher)
    assert set(expected) == {1, 2}
    inter = 0.0
    for layer, (ctc, distance) in expected.items():
        torch.testing.assert_close(stats[f"loss_ctc_layer{layer}"].squeeze(), ctc)
        torch.testing.assert_close(stats[f"loss_kd_layer{layer}"].squeeze(), distance)
        inter += (ctc + 0.25 * distance) / 2
    final = 0.5 * stats["loss_ctc"] + 0.5 * stats["loss_kd"]
    torch.testing.assert_close(loss, final + 0.7 * inter)


@pytest.mark.parametrize(
    ("changes", "of_final", "of_heads"),
    [
        ({}, 1.0, 0.35),
        ({"combine": "sum"}, 1.0, 0.7),
        ({"convex": True}, 0.3, 0.35),
        ({"weight": 0.0}, 1.0, 0.0),
    ],
)
def test_the_heads_are_combined_as_asked_for(
    batch, teacher, changes, of_final, of_heads
):
    kd = {**KD, "inter": {**INTER, **changes}}
    model = build(kd=kd, layers=(1, 2)).eval()
    loss, stats, _ = model(**copy.deepcopy(batch), **teacher)
    heads = slow_inter(model, batch, teacher).values()
    inter = sum(ctc + 0.25 * distance for ctc, distance in heads)
    final = 0.5 * stats["loss_ctc"] + 0.5 * stats["loss_kd"]
    torch.testing.assert_close(loss, of_final * final + of_heads * inter)


def test_the_student_teaches_its_own_layers_without_a_cache(batch):
    inter = {**INTER, "target": "self", "kd_weight": 1.0, "convex": True}
    kd = {**KD, "weight": 0.0, "inter": {**inter, "weight": [0.3, 0.7]}}
    model = build(kd=kd, layers=(1,)).eval()
    (ctc, distance), *_ = slow_inter(model, batch, None).values()
    for epoch, weight in [(1, 0.3), (51, 0.5), (101, 0.7)]:
        model.set_epoch(epoch, 101)
        loss, stats, _ = model(**copy.deepcopy(batch))
        expected = (1 - weight) * stats["loss_ctc"] + weight * (ctc + distance)
        torch.testing.assert_close(loss, expected)
    # The last layer gets no gradient as a target.
    model.zero_grad()
    only = {**kd, "inter": {**inter, "ctc_weight": 0.0, "weight": 1.0}}
    model = build(kd=only, layers=(1,))
    model(**copy.deepcopy(batch))[0].sum().backward()
    assert not bool(model.encoder.encoders[1].feed_forward.w_1.weight.grad.any())
    assert not bool(model.ctc.ctc_lo.weight.grad.any())
    assert bool(model.inter_heads["1"].weight.grad.any())


def test_without_labels_the_layers_learn_from_the_teacher_alone(batch, teacher):
    kd = {**KD, "weight": 1.0, "inter": {**INTER, "ctc_weight": 0.0}}
    model = build(kd=kd, layers=(1,))
    speech = {k: v for k, v in batch.items() if k.startswith("speech")}
    loss, stats, _, grads = gradients(model, **speech, **teacher)
    expected = stats["loss_kd"] + 0.7 * 0.25 * stats["loss_kd_layer1"]
    torch.testing.assert_close(loss, expected)
    assert all(grad is not None for grad in grads.values())


@pytest.mark.parametrize(
    ("inter", "changes", "message"),
    [
        (
            {},
            {"layers": ()},
            "kd.inter is given, but the encoder gives no intermediate",
        ),
        ({}, {"layers": (0,)}, r"is \[0\], and the encoder has 3 layers: give numbers"),
        ({}, {"layers": (3,)}, r"is \[3\], .* give numbers from 1 to 2"),
        ({}, {"interctc_weight": 0.3}, "interctc_weight is 0.3 beside kd.inter"),
        ({"head": "own"}, {}, "unknown kd.inter.head 'own'; choose one of: separate"),
        ({"target": "x"}, {}, "unknown kd.inter.target 'x'; choose one of: teacher"),
        ({"combine": None}, {}, "unknown kd.inter.combine None"),
        ({"weight": -1}, {}, "kd.inter.weight is -1; give one of at least 0"),
        (
            {"weight": 1.5, "convex": True},
            {},
            r"kd.inter.weight is 1.5; give one in \[0",
        ),
        ({"weight": [0.7, 0.3]}, {}, "give a number, or the least and the most"),
        ({"weight": []}, {}, "give a number, or the least and the most"),
        ({"convex": 1}, {}, "kd.inter.convex is 1; give true or false"),
        ({"ctc_weight": 0, "kd_weight": 0}, {}, "are both 0"),
        ({"kd_weight": None}, {}, "kd.inter.kd_weight is None; give a number"),
        ({"loss": "kl"}, {}, "loss 'kl' lacks the option 'temperature'"),
        ({"selectro": "all"}, {}, "unknown key 'selectro' in model_conf.kd.inter"),
        ({"target": "self", "frame_ratio": 2}, {}, "the target is the student itself"),
    ],
)
def test_intermediate_losses_without_sense_are_refused(inter, changes, message):
    changes = {"layers": (1,), **changes}
    kd = {**KD, "weight": 0.5, "inter": {**INTER, **inter}}
    with pytest.raises(InputError, match=message):
        build(kd=kd, **changes)


def test_posteriors_that_were_not_unpacked_are_refused_with_the_way_out(batch, teacher):
    packed = {**teacher, "teacher": torch.randn(3, 100)}
    with pytest.raises(
        InputError, match="have come packed, as ESPnet's own task reads"
    ):
        build(kd=KD)(**batch, **packed)
