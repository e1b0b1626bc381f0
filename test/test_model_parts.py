"""What stands beside the distance to the teacher: views, states, n-best lists."""

import copy

import pytest
import tiny
import torch
from student import (
    INTER,
    KD,
    build,
    gradients,
    make_batch,
    make_teacher,
)

from espnet_ctckd.choices import InputError
from espnet_ctckd.config import KDConfig
from espnet_ctckd.losses.sequence import occupancies
from espnet_ctckd.plugin.batch import Batch, EncoderOutput
from espnet_ctckd.posteriors import FramePosteriors


@pytest.fixture
def batch():
    return make_batch()


@pytest.fixture
def teacher():
    return make_teacher()


def test_the_student_learns_the_occupancies_of_the_transcript(batch, teacher):
    kd = {**KD, "selector": "all", "selector_conf": {}, "loss": "cross_entropy"}
    model = build(kd={**kd, "target": "occupancies"}).eval()
    _, stats, _ = model(**copy.deepcopy(batch), **teacher)
    said = FramePosteriors(teacher["teacher"], teacher["teacher_lengths"], 0)
    target = occupancies(said, batch["text"], batch["text_lengths"]).log_probs.exp()
    hidden, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    log_q = model.ctc.ctc_lo(hidden).log_softmax(-1)
    total = 0.0
    for b in range(3):
        for t in range(min(int(lengths[b]), int(teacher["teacher_lengths"][b]))):
            total -= (target[b, t] * log_q[b, t]).sum()
    torch.testing.assert_close(stats["loss_kd"].squeeze(), total / 3)
    # Without CTC beside them it is all of the loss.
    model = build(kd={**kd, "target": "occupancies", "weight": 1.0}).eval()
    loss, stats, _ = model(**copy.deepcopy(batch), **teacher)
    torch.testing.assert_close(loss.squeeze(), stats["loss_kd"].squeeze())
    assert "loss_ctc" not in stats


@pytest.mark.parametrize(
    ("changes", "reader"),
    [
        ({"target": "occupancies"}, "kd.target 'occupancies'"),
        ({"reduction": "authors_full"}, "reduction 'authors_full'"),
        ({"inter": {**INTER, "ctc_weight": 1.0}}, "kd.inter.ctc_weight 1.0"),
        (
            {"nbest": {"weight": 0.3, "hypotheses": 2, "weights": "accuracy"}},
            "kd.nbest.weights 'accuracy'",
        ),
    ],
)
def test_what_needs_labels_without_ctc_refuses_a_batch_without_them(
    batch, teacher, changes, reader
):
    kd = {**KD, "weight": 1.0, **changes}
    assert KDConfig.from_dict(kd).needs_labels
    assert not KDConfig.from_dict({**KD, "weight": 1.0}).needs_labels
    model = build(kd=kd, layers=(1,) if "inter" in changes else ())
    unlabelled = {k: v for k, v in batch.items() if not k.startswith("text")}
    with pytest.raises(InputError, match=f"has no text, and {reader} needs labels"):
        model(**unlabelled, **teacher)


VIEWS = {
    "weight": 0.2,
    "selector": "all",
    "loss": "kl",
    "loss_conf": {"temperature": 1.0},
    "reduction": "utt_sum",
}
MASKS = {
    "apply_time_warp": False,
    "time_mask_width_range": [0, 40],
    "num_time_mask": 2,
    "apply_freq_mask": False,
}


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_two_views_learn_from_each_other(batch, teacher, weight):
    model = build(kd={**KD, "weight": weight, "views": VIEWS}, specaug=MASKS)
    seen = []
    model.ctc.ctc_lo.register_forward_hook(lambda _m, _i, out: seen.append(out))
    torch.manual_seed(3)
    loss, stats, count = model(**copy.deepcopy(batch), **teacher)
    assert count.item() == 3
    logits = next(out for out in reversed(seen) if out.size(0) == 6)
    _, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    one, two = logits.log_softmax(-1).chunk(2)
    assert not torch.equal(one, two)
    total = 0.0
    for b in range(3):
        for t in range(int(lengths[b])):
            p, q = one[b, t], two[b, t]
            total += 0.5 * ((p.exp() * (p - q)).sum() + (q.exp() * (q - p)).sum())
    torch.testing.assert_close(stats["loss_views"].squeeze(), total / 3)
    rest = stats["loss_kd"] if weight else stats["loss_ctc"]
    torch.testing.assert_close(loss, rest + 0.2 * stats["loss_views"])
    # Each view pulls the other, and is not pulled by it as a target.
    gradient = torch.autograd.grad(stats["loss"] * 0 + loss, logits)[0]
    assert bool(torch.isfinite(gradient).all())
    # In evaluation there is one view, and no such loss.
    _, stats, _ = model.eval()(**copy.deepcopy(batch), **teacher)
    assert "loss_views" not in stats


def test_two_views_are_warped_alike_and_masked_apart(batch):
    warped = {**MASKS, "apply_time_warp": True, "time_warp_window": 5}
    heard = []

    def listen(kd, specaug):
        model = build(kd=kd, specaug=specaug)
        hook = lambda _m, inputs, _o: heard.append(inputs[0])  # noqa: E731
        model.encoder.register_forward_hook(hook)
        torch.manual_seed(5)
        model(**copy.deepcopy(batch))
        return heard.pop()

    kd = {**KD, "weight": 0.0, "views": VIEWS}
    feats = listen(kd, {**warped, "apply_time_mask": False, "apply_freq_mask": True,
                        "freq_mask_width_range": [0, 1]})  # fmt: skip
    plain = listen(kd, {**MASKS, "num_time_mask": 1, "time_mask_width_range": [0, 1]})
    one, two = feats.chunk(2)
    torch.testing.assert_close(one, two)
    assert not torch.equal(one, plain.chunk(2)[0])
    one, two = listen(kd, warped).chunk(2)
    assert not torch.equal(one, two)
    with pytest.raises(InputError, match="apply_time_warp is true"):
        build(kd={**KD, "views": VIEWS}, specaug=warped)


def test_the_gradient_of_two_views_stops_at_the_targets(batch):
    model = build(kd={**KD, "weight": 0.0, "views": VIEWS})
    logits = torch.randn(6, 5, 7, requires_grad=True)
    lengths = torch.tensor([5, 3, 4] * 2)
    seen = EncoderOutput(logits, lengths, [], logits)
    given = Batch(batch["speech"], batch["speech_lengths"], *[None] * 4, {})
    model.build_objectives()
    (views,) = [term for term in model.terms if term.name == "views"]
    distance = views.forward(given, seen, {})
    (gradient,) = torch.autograd.grad(distance, logits)
    q = logits.detach().softmax(-1)
    for b in range(6):
        expected = (q[b] - q[(b + 3) % 6]) * 0.5 / 3  # d KL(p || q) / d logits of q
        expected[int(lengths[b]) :] = 0.0
        torch.testing.assert_close(gradient[b], expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": {**VIEWS, "weight": -1}}, "kd.views.weight is -1"),
        ({"views": {**VIEWS, "frame_ratio": 2}}, "both views are of the student"),
        (
            {"views": {**VIEWS, "selectro": 1}},
            "unknown key 'selectro' in model_conf.kd.v",
        ),
        ({"views": "cr_ctc"}, "model_conf.kd.views is 'cr_ctc'; give a mapping"),
        ({"target": "hard"}, "unknown kd.target 'hard'; choose one of: posteriors"),
    ],
)
def test_views_and_targets_without_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        KDConfig.from_dict({**KD, **changes})


# Hidden states and n-best lists


FEATURE = {
    "weight": 0.4,
    "size": 5,
    "selector": "all",
    "loss": "cosine",
    "reduction": "utt_sum",
}
NBEST = {"weight": 0.3, "hypotheses": 2}


def make_states():
    generator = torch.Generator().manual_seed(5)
    return {
        **make_teacher(),
        "teacher_states": torch.randn(3, 24, 5, generator=generator),
    }


def make_lists():
    return {
        "nbest": torch.tensor([[3, 4, 3], [4, 4, -1], [5, -1, -1]]),
        "nbest_sizes": torch.tensor([[2, 1], [2, 0], [1, -1]]),
        "nbest_weights": torch.tensor([[0.7, 0.3], [0.6, 0.4], [1.0, 0.0]]),
    }


@pytest.fixture
def states():
    return make_states()


@pytest.fixture
def lists():
    return make_lists()


def slow_feature(model, batch, states, loss):
    hidden, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    projected = model.feature_projection(hidden)
    total = 0.0
    for b in range(3):
        for t in range(min(int(lengths[b]), int(states["teacher_lengths"][b]))):
            ours, theirs = projected[b, t], states["teacher_states"][b, t]
            if loss == "cosine":
                norms = ours.square().sum().sqrt() * theirs.square().sum().sqrt()
                total += 1 - (ours * theirs).sum() / norms
            else:
                total += sum(abs(x - y) for x, y in zip(ours, theirs)) / 5
    return total / 3


@pytest.mark.parametrize("loss", ["cosine", "l1"])
def test_the_student_learns_the_teacher_s_states(batch, states, loss):
    model = build(kd={**KD, "feature": {**FEATURE, "loss": loss}}).eval()
    found, stats, _ = model(**copy.deepcopy(batch), **states)
    expected = slow_feature(model, batch, states, loss)
    torch.testing.assert_close(stats["loss_feature"].squeeze(), expected)
    others = 0.5 * stats["loss_ctc"] + 0.5 * stats["loss_kd"]
    torch.testing.assert_close(found, others + 0.4 * stats["loss_feature"])


def test_states_are_learned_alone_in_the_first_epochs(batch, states):
    model = build(kd={**KD, "feature": {**FEATURE, "weight": 0, "alone_epochs": 2}})
    for epoch, alone in [(1, True), (2, True), (3, False)]:
        model.set_epoch(epoch, 5)
        loss, stats, _, grads = gradients(model, **copy.deepcopy(batch), **states)
        assert ("loss_kd" in stats) is not alone
        if alone:
            torch.testing.assert_close(loss, stats["loss_feature"])
        # Every parameter has a gradient, if only 0, as DDP wants it.
        assert all(grad is not None for grad in grads.values())
        assert bool(grads["ctc.ctc_lo.weight"].any()) is not alone
        assert bool(grads["feature_projection.weight"].any()) is alone
    # In evaluation all losses are told in every epoch.
    model.set_epoch(1, 5)
    _, stats, _ = model.eval()(**copy.deepcopy(batch), **states)
    assert {"loss_kd", "loss_ctc", "loss_feature"} <= set(stats)


def slow_nbest(model, batch, lists):
    hidden, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    log_q = model.ctc.ctc_lo(hidden).log_softmax(-1)
    total = 0.0
    for b in range(3):
        start = 0
        for size, weight in zip(lists["nbest_sizes"][b], lists["nbest_weights"][b]):
            if size >= 0:
                tokens = lists["nbest"][b, start : start + int(size)]
                start += int(size)
                total += weight * torch.nn.functional.ctc_loss(
                    log_q[b, : int(lengths[b])],
                    tokens,
                    lengths[b : b + 1],
                    size[None],
                    reduction="sum",
                )
    return total / 3


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, {"loss_ctc": 0.5, "loss_kd": 0.5}),
        ({"weight": 0.0, "ctc_weight": 0.2}, {"loss_ctc": 0.2}),
        ({"weight": 1.0}, {"loss_kd": 1.0}),
        ({"weight": 0.0, "ctc_weight": 0.0}, {}),
        ({"weight": 0.7, "ctc_weight": 1.0}, {"loss_ctc": 1.0, "loss_kd": 0.7}),
    ],
)
def test_losses_are_added_up_with_their_weights(batch, teacher, lists, changes, keys):
    model = build(kd={**KD, "nbest": NBEST, **changes}).eval()
    if not changes.get("weight", 0.5):
        teacher = {}
    loss, stats, _ = model(**copy.deepcopy(batch), **teacher, **lists)
    nbest = stats["loss_nbest"].squeeze()
    torch.testing.assert_close(nbest, slow_nbest(model, batch, lists))
    expected = 0.3 * nbest + sum(w * stats[key].squeeze() for key, w in keys.items())
    torch.testing.assert_close(loss.squeeze(), expected)
    assert ("loss_ctc" in stats) is ("loss_ctc" in keys)


def test_nbest_alone_needs_neither_transcripts_nor_posteriors(batch, lists):
    model = build(kd={**KD, "weight": 0.0, "ctc_weight": 0.0, "nbest": NBEST})
    speech = {k: v for k, v in batch.items() if k.startswith("speech")}
    _, _, _, grads = gradients(model, **speech, **lists)
    assert all(grad is not None for grad in grads.values())


@pytest.mark.parametrize(
    ("kd", "inputs", "message"),
    [
        ({"feature": FEATURE}, {}, "the teacher's states have 0 dim.*size is 5"),
        ({"feature": {**FEATURE, "size": 4}}, {"states"}, "have 5 dim.*size is 4"),
        ({"nbest": NBEST}, {}, "the batch has no nbest, and kd.nbest learns from it"),
    ],
)
def test_a_batch_without_states_or_lists_is_refused(
    batch, teacher, states, kd, inputs, message
):
    given = states if inputs else teacher
    with pytest.raises(InputError, match=message):
        build(kd={**KD, **kd})(**batch, **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature": {**FEATURE, "loss": "kl"}}, "unknown loss 'kl'; choose one of: c"),
        ({"loss": "cosine"}, "unknown loss 'cosine'; choose one of: kl"),
        ({"feature": {**FEATURE, "size": 0}}, "kd.feature.size is 0; give a whole"),
        ({"feature": {**FEATURE, "alone_epochs": 1.5}}, "kd.feature.alone_epochs is"),
        ({"feature": {**FEATURE, "weight": 0}}, "are both 0: give one of them"),
        ({"nbest": {**NBEST, "hypotheses": 0}}, "kd.nbest.hypotheses is 0; give a"),
        ({"nbest": {**NBEST, "weight": 0}}, "kd.nbest.weight is 0: give one above 0"),
        ({"nbest": {**NBEST, "weights": "x"}}, "unknown kd.nbest.weights 'x'; choose"),
        ({"nbest": {"weight": 1}}, "model_conf.kd.nbest lacks the key 'hypotheses'"),
        ({"ctc_weight": -1}, "kd.ctc_weight is -1; give one of at least 0"),
        ({"ctc_weight": 0, "weight": 0}, "are both 0, and nothing else"),
    ],
)
def test_states_and_lists_without_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        KDConfig.from_dict({**KD, **changes})


SELF = {
    **VIEWS,
    **{"weight": 1.0, "ctc_weight": 0.0, "kd_weight": 1.0},
    **{"target": "self", "head": "shared"},
}


def test_learning_from_oneself_alone_is_refused():
    with pytest.raises(InputError, match="nothing says what the output shall be"):
        build(kd={**KD, "weight": 0.0, "ctc_weight": 0.0, "inter": SELF})


@pytest.mark.parametrize("layers", [1, "first", [1.5], [True], [1, 1]])
def test_layers_that_are_no_list_of_numbers_are_refused(tmp_path, layers):
    conf = {"num_blocks": 3, "interctc_layer_idx": layers}
    with pytest.raises(InputError, match="give a list of different whole numbers"):
        tiny.write_model(tmp_path / "m", {**tiny.KD, "inter": SELF}, encoder_conf=conf)


def test_an_encoder_without_intermediate_outputs_is_named(tmp_path):
    changes = {"encoder": "contextual_block_conformer"}
    changes["encoder_conf"] = {"interctc_layer_idx": [1]}
    with pytest.raises(InputError, match="encoder is 'contextual_block_conformer'"):
        tiny.write_model(tmp_path / "m", {**tiny.KD, "inter": SELF}, **changes)
