"""The student's loss, against the plain ESPnet model that it is but for the teacher."""

import copy

import pytest
import tiny
import torch

from espnet_ctckd.batch import Batch, Seen
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import KDConfig
from espnet_ctckd.losses.sequence import occupancies
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.task import CTCKDTask

TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]

KD = {
    "weight": 0.5,
    "selector": "symmetric",
    "selector_conf": {"n": 1},
    "loss": "kl",
    "loss_conf": {"temperature": 1.0},
    "reduction": "utt_sum",
}


ENCODERS = {
    "conformer": {"cnn_module_kernel": 7},
    "e_branchformer": {"cgmlp_linear_units": 32, "cgmlp_conv_kernel": 7},
    "transformer": {},
}
INTER = {
    "weight": 0.7,
    "ctc_weight": 1.0,
    "kd_weight": 0.25,
    "target": "teacher",
    "head": "separate",
    "selector": "all",
    "loss": "l2",
    "reduction": "utt_sum",
}


def build(
    model="ctckd",
    specaug=False,
    encoder="conformer",
    layers=(),
    tokens=TOKENS,
    **model_conf,
):
    parser = CTCKDTask.get_parser()
    args = parser.parse_args(["--token_type", "char", "--model", model])
    args.token_list = tokens
    args.frontend_conf = {"n_fft": 256, "hop_length": 160, "n_mels": 20}
    args.encoder = encoder
    args.encoder_conf = {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 2 + min(len(layers), 2),
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "interctc_layer_idx": list(layers),
        **ENCODERS[encoder],
    }
    if specaug:
        args.specaug, args.specaug_conf = "specaug", specaug
    args.model_conf = {"ctc_weight": 1.0, **model_conf}
    torch.manual_seed(0)
    return CTCKDTask.build_model(args)


def make_batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "speech": torch.randn(3, 16000, generator=generator),
        "speech_lengths": torch.tensor([16000, 12000, 9000]),
        "text": torch.tensor([[3, 4, 5, 3], [4, 4, -1, -1], [5, 2, 3, -1]]),
        "text_lengths": torch.tensor([4, 2, 3]),
    }


def make_teacher():
    generator = torch.Generator().manual_seed(2)
    # 16000 samples at a hop of 160: 101 feature frames, 24 after subsampling.
    return {
        "teacher": torch.randn(3, 24, 7, generator=generator).log_softmax(-1),
        "teacher_lengths": torch.tensor([24, 19, 15]),
    }


@pytest.fixture
def batch():
    return make_batch()


@pytest.fixture
def teacher():
    return make_teacher()


def gradients(model, **inputs):
    model.zero_grad()
    loss, stats, weight = model(**inputs)
    loss.sum().backward()
    found = {
        name: None if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }
    return loss, stats, weight, found


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
        (
            {},
            {"kd_weight": 1.0},
            r"kd.inter.ctc_weight 1.0 needs labels, but kd.weight 1",
        ),
    ],
)
def test_intermediate_losses_without_sense_are_refused(inter, changes, message):
    changes = {"layers": (1,), **changes}
    kd = {**KD, "weight": changes.pop("kd_weight", 0.5), "inter": {**INTER, **inter}}
    with pytest.raises(InputError, match=message):
        build(kd=kd, **changes)


# Occupancies and views


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
    with pytest.raises(InputError, match="'occupancies' needs labels"):
        build(kd={**kd, "target": "occupancies", "weight": 1.0})


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
    seen = Seen(logits, lengths, [], logits.new_zeros(()), logits)
    given = Batch(batch["speech"], batch["speech_lengths"], *[None] * 4)
    distance = model._views_distance(given, seen, {})
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
        (
            {"nbest": {**NBEST, "weights": "accuracy"}, "weight": 1},
            "kd.nbest.weights 'accuracy' needs labels, but kd.weight 1 trains without",
        ),
        (
            {"nbest": {**NBEST, "weights": "accuracy"}, "ctc_weight": 0},
            "needs labels, but kd.ctc_weight 0 trains without",
        ),
        ({"ctc_weight": -1}, "kd.ctc_weight is -1; give one of at least 0"),
        ({"ctc_weight": 0, "weight": 0}, "are both 0, and nothing else"),
    ],
)
def test_states_and_lists_without_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        KDConfig.from_dict({**KD, **changes})


def test_posteriors_that_were_not_unpacked_are_refused_with_the_way_out(batch, teacher):
    packed = {**teacher, "teacher": torch.randn(3, 100)}
    with pytest.raises(
        InputError, match="have come packed, as ESPnet's own task reads"
    ):
        build(kd=KD)(**batch, **packed)


INTER = {
    **VIEWS,
    **{"weight": 1.0, "ctc_weight": 0.0, "kd_weight": 1.0},
    **{"target": "self", "head": "shared"},
}


def test_learning_from_oneself_alone_is_refused():
    with pytest.raises(InputError, match="nothing says what the output shall be"):
        build(kd={**KD, "weight": 0.0, "ctc_weight": 0.0, "inter": INTER})


@pytest.mark.parametrize("layers", [1, "first", [1.5], [True], [1, 1]])
def test_layers_that_are_no_list_of_numbers_are_refused(tmp_path, layers):
    conf = {"num_blocks": 3, "interctc_layer_idx": layers}
    with pytest.raises(InputError, match="give a list of different whole numbers"):
        tiny.write_model(tmp_path / "m", {**tiny.KD, "inter": INTER}, encoder_conf=conf)


def test_an_encoder_without_intermediate_outputs_is_named(tmp_path):
    changes = {"encoder": "contextual_block_conformer"}
    changes["encoder_conf"] = {"interctc_layer_idx": [1]}
    with pytest.raises(InputError, match="encoder is 'contextual_block_conformer'"):
        tiny.write_model(tmp_path / "m", {**tiny.KD, "inter": INTER}, **changes)
