import math
from dataclasses import replace

import pytest
import torch
from conftest import make_batch, pad_time
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from espnet_ctckd.choices import Choice, InputError
from espnet_ctckd.config import KDConfig
from espnet_ctckd.frames import FrameMismatchError
from espnet_ctckd.losses import LOSS_CHOICES
from espnet_ctckd.losses.frame import kl
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.reduce import REDUCTION_CHOICES

PLAIN = {
    "weight": 0.25,
    "selector": "symmetric",
    "selector_conf": {"n": 1},
    "loss": "kl",
    "loss_conf": {"temperature": 2.0},
    "reduction": "utt_sum",
}


def objective(**changes):
    return KDObjective(KDConfig.from_dict({**PLAIN, **changes}))


def run(batch, **changes):
    return objective(**changes)(
        batch.logits, batch.lengths, batch.teacher, batch.labels
    )


# Configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -0.1}, r"weight \(lambda\) is -0.1; give one in \[0, 1\]"),
        ({"weight": 1.5}, r"weight \(lambda\) is 1.5; give one in \[0, 1\]"),
        ({"weight": float("nan")}, r"weight \(lambda\) is nan"),
        ({"weight": "0.5"}, r"weight \(lambda\) is '0.5'; give a number"),
        ({"weight": True}, r"weight \(lambda\) is True; give a number"),
        ({"weight": None}, r"weight \(lambda\) is None; give a number"),
        ({"lambda": 0.5}, r"unknown key 'lambda' in model_conf.kd; it takes: weight"),
        ({"selector": "blank_elim"}, "unknown selector 'blank_elim'; choose one of"),
        ({"selector": None}, "unknown selector None"),
        ({"loss": "mse"}, "unknown loss 'mse'; choose one of"),
        ({"loss": ["kl"]}, r"unknown loss \['kl'\]"),
        ({"reduction": "mean"}, "unknown reduction 'mean'; choose one of"),
        ({"selector_conf": {}}, "selector 'symmetric' lacks the option 'n'"),
        ({"selector_conf": {"n": -1}}, "selector 'symmetric' got n = -1"),
        ({"selector_conf": {"n": 1.5}}, "selector 'symmetric' got n = 1.5"),
        ({"selector_conf": {"m": 1}}, "unknown option 'm' for selector 'symmetric'"),
        ({"selector_conf": None}, "kd.selector_conf is None; give a mapping"),
        ({"loss_conf": {}}, "loss 'kl' lacks the option 'temperature'"),
        ({"loss_conf": {"temperature": 0}}, "loss 'kl' got temperature = 0"),
        ({"loss_conf": {"temperature": -2.0}}, "loss 'kl' got temperature = -2.0"),
        ({"loss_conf": {"temperature": "2"}}, "loss 'kl' got temperature = '2'"),
        ({"loss_conf": {"temperature": True}}, "loss 'kl' got temperature = True"),
        (
            {"loss_conf": {"temperature": float("inf")}},
            "loss 'kl' got temperature = inf",
        ),
        (
            {"loss_conf": {"temperature": float("nan")}},
            "loss 'kl' got temperature = nan",
        ),
        (
            {"loss_conf": {"temprature": 2.0}},
            "unknown option 'temprature' for loss 'kl'; it takes: temperature",
        ),
        ({"loss_conf": [2.0]}, r"kd.loss_conf is \[2.0\]; give a mapping"),
        ({"ctc_norm": "label"}, "unknown kd.ctc_norm 'label'; choose one of: batch"),
        ({"reduction": "blank_mix"}, "'blank_mix' lacks the option 'nonblank_share'"),
        (
            {"reduction": "blank_mix", "reduction_conf": {"nonblank_share": 2}},
            "'blank_mix' got nonblank_share = 2",
        ),
        ({"reduction_conf": {"n": 1}}, "unknown option 'n' for reduction 'utt_sum'"),
        ({"from_epoch": 0}, "kd.from_epoch is 0; give a whole number >= 1"),
        ({"until_epoch": 1.5}, "kd.until_epoch is 1.5"),
        ({"from_epoch": 5, "until_epoch": 4}, "kd.until_epoch is 4, before"),
        ({"warmup_epochs": -1}, "kd.warmup_epochs is -1"),
        ({"prior_scale": 0.5}, "kd.prior_file is None and kd.prior_scale 0.5: give"),
        ({"prior_file": "p", "prior_scale": -1}, "kd.prior_scale is -1"),
        ({"prior_file": "p", "prior_scale": "x"}, "kd.prior_scale is 'x'"),
        (
            {
                "selector": "all",
                "selector_conf": {},
                "prior_file": "p",
                "prior_scale": 1,
            },
            "selector 'all' takes all frames: remove kd.prior_file",
        ),
        ({"delay": -1}, "kd.delay is -1; give a whole number >= 0"),
        ({"delay_choice": "soft"}, "there is no delay to choose: set kd.delay"),
        ({"delay_choice": "best"}, "unknown kd.delay_choice 'best'; choose one of: f"),
        ({"delay_softness": 0}, "kd.delay_softness is 0"),
        ({"frame_ratio": 0}, "kd.frame_ratio is 0; give the teacher's frames"),
        ({"frame_ratio": "1/0"}, "kd.frame_ratio is '1/0'"),
        ({"frame_ratio": "two"}, "kd.frame_ratio is 'two'"),
        ({"frame_ratio": True}, "kd.frame_ratio is True"),
        ({"frame_ratio": float("inf")}, "kd.frame_ratio is inf"),
        ({"ctc_norm": "token", "weight": 1.0}, "with kd.weight 1 there is no CTC loss"),
        ({"ctc_norm": "batch", "weight": 1}, "with kd.weight 1 there is no CTC loss"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        KDConfig.from_dict({**PLAIN, **changes})


def test_a_prior_may_change_what_a_reduction_takes_for_blank():
    mixed = {"reduction": "blank_mix", "reduction_conf": {"nonblank_share": 0.5}}
    every = {"selector": "all", "selector_conf": {}}
    prior = {"prior_file": "p", "prior_scale": 1}
    KDConfig.from_dict({**PLAIN, **every, **mixed, **prior})


@pytest.mark.parametrize("key", ["weight", "selector", "loss", "reduction"])
def test_a_missing_key_is_named(key):
    conf = {k: v for k, v in PLAIN.items() if k != key}
    with pytest.raises(InputError, match=f"model_conf.kd lacks the key '{key}'"):
        KDConfig.from_dict(conf)


@pytest.mark.parametrize("conf", [None, "kl", ["kl"], 0.5])
def test_what_is_no_mapping_is_refused(conf):
    with pytest.raises(InputError, match="give a mapping"):
        KDConfig.from_dict(conf)


@pytest.mark.parametrize(
    ("weight", "ctc_norm", "labels"),
    [(0, "token", True), (0.25, None, True), (0.999, "batch", True), (1, None, False)],
)
def test_labels_are_needed_below_weight_1(weight, ctc_norm, labels):
    config = KDConfig.from_dict({**PLAIN, "weight": weight, "ctc_norm": ctc_norm})
    assert config.needs_labels is labels


def test_the_objective_has_no_state():
    assert not list(objective().parameters())
    assert not objective().state_dict()


# Value and statistics


def slow_sums(batch, selected):
    """Sum over selected frames, and numbers of utterances, selected, valid frames."""
    values = kl(batch.logits, batch.teacher, temperature=2.0).tolist()
    total, chosen, frames = 0.0, 0, 0
    for row, marks, length in zip(values, selected, batch.lengths.tolist()):
        for t in range(length):
            frames += 1
            if marks[t]:
                chosen += 1
                total += row[t]
    return total, len(selected), chosen, frames


PATHS = [[1, 1, 3, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1]]  # the blank is 1
SPIKE_MARKS = [[0, 0, 1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0]]
WINDOWS = [[0, 1, 1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0]]  # a frame on either side


@pytest.mark.parametrize("kept", [None, 2])
@pytest.mark.parametrize("reduction", REDUCTION_CHOICES)
def test_a_reduction_is_what_a_loop_over_the_frames_gives(reduction, kept):
    batch = make_batch((6, 4, 3), paths=PATHS, kept=kept)
    total, utterances, chosen, frames = slow_sums(batch, WINDOWS)
    assert (chosen, frames) == (5, 13)
    of_spikes = slow_sums(batch, SPIKE_MARKS)[0]
    expected = {
        "utt_sum": total / utterances,
        "selected_mean": total / chosen,
        "frame_mean": total / frames,
        "authors_full": total / utterances / int(batch.labels.sum()),
        "blank_mix": 0.3 * of_spikes / 2 + 0.7 * (total - of_spikes) / 3,
    }
    conf = {"nonblank_share": 0.3} if reduction == "blank_mix" else {}
    loss, _ = run(batch, reduction=reduction, reduction_conf=conf)
    assert loss.item() == pytest.approx(expected[reduction], rel=1e-12)


@pytest.mark.parametrize("kept", [None, 3])
def test_the_statistics_count_valid_frames_only(kept):
    batch = make_batch((6, 4, 3), paths=PATHS, kept=kept, extra=2)
    logits = torch.zeros_like(batch.logits)
    logits[..., 2] = 1.0
    logits[0, :3, 1] = 2.0  # the student says blank on three valid frames
    logits[2, 3:, 1] = 2.0  # and on padding
    _, stats = objective()(logits, batch.lengths, batch.teacher)
    assert "blank_student" not in stats  # needs the outputs of all frames
    _, stats = objective().eval()(logits, batch.lengths, batch.teacher)
    assert {key: value.item() for key, value in stats.items()} == pytest.approx(
        {
            "kd_selected": 5 / 13,
            "kd_empty": 1,
            "blank_teacher": 11 / 13,
            "blank_student": 3 / 13,
        }
    )
    assert not any(value.requires_grad for value in stats.values())


def test_the_loss_is_not_weighted_by_lambda():
    batch = make_batch()
    losses = [run(batch, weight=weight)[0] for weight in (0.0, 0.25, 1.0)]
    assert losses[0] == losses[1] == losses[2]


# Schedules, priors, and the output layer


def selected(kd, batch, epoch):
    kd.epoch = epoch
    return kd(batch.logits, batch.lengths, batch.teacher)[1]["kd_selected"].item()


def test_the_selector_chooses_in_its_epochs_and_all_frames_are_taken_in_others():
    batch = make_batch((6, 4, 3), paths=PATHS)
    kd = objective(from_epoch=3, until_epoch=4)
    shares = [selected(kd, batch, epoch) for epoch in range(1, 7)]
    assert shares == pytest.approx([1, 1, 5 / 13, 5 / 13, 1, 1])
    kd = objective(selector_conf={"n": 1, "grow_every": 2})
    shares = [selected(kd, batch, epoch) for epoch in (1, 2, 4)]
    assert shares == pytest.approx([2 / 13, 5 / 13, 8 / 13])


def test_the_loss_warms_up():
    batch = make_batch()
    kd, full = objective(warmup_epochs=4), run(batch)[0]
    for epoch, share in [(1, 0.25), (3, 0.75), (4, 1.0), (9, 1.0)]:
        kd.epoch = epoch
        loss, _ = kd(batch.logits, batch.lengths, batch.teacher)
        torch.testing.assert_close(loss, share * full)
    kd.epoch = 1  # epochs are compared by their loss on the dev set
    loss, _ = kd.eval()(batch.logits, batch.lengths, batch.teacher)
    torch.testing.assert_close(loss, full)


@pytest.mark.parametrize("kept", [None, 3])
def test_a_prior_changes_what_is_selected_and_not_the_loss_of_a_frame(kept):
    batch = make_batch(kept=kept)
    prior = torch.tensor([0.1, 0.6, 0.1, 0.1, 0.1]).double().log()
    config = KDConfig.from_dict(
        {**PLAIN, "selector_conf": {"n": 0}, "prior_file": "p", "prior_scale": 1.5}
    )
    loss, stats = KDObjective(config, prior)(batch.logits, batch.lengths, batch.teacher)
    values = kl(batch.logits, batch.teacher, temperature=2.0)
    total, taken = 0.0, 0
    for b, length in enumerate(batch.lengths.tolist()):
        for t in range(length):
            ids = range(5) if kept is None else batch.teacher.ids[b, t].tolist()
            scores = {
                token: float(log_p - 1.5 * prior[token])
                for token, log_p in zip(ids, batch.teacher.log_probs[b, t])
            }
            if max(scores, key=scores.get) != batch.teacher.blank:
                taken += 1
                total += values[b, t].item()
    assert taken > int(batch.teacher.nonblank().sum())
    assert loss.item() == pytest.approx(total / 4)
    assert stats["kd_selected"].item() == pytest.approx(taken / 14)


@pytest.mark.parametrize("kept", [None, 3])
def test_the_output_layer_runs_on_the_selected_frames_alone(kept):
    batch = make_batch((6, 4, 3), paths=PATHS, kept=kept)
    layer, rows = nn.Linear(5, 5).double(), []

    def head(hidden):
        rows.append(hidden.size(1))
        return layer(hidden)

    kd = objective()
    hidden = batch.logits.requires_grad_()
    loss, _ = kd(hidden, batch.lengths, batch.teacher, head=head)
    assert rows == [5]
    whole, _ = kd(layer(hidden), batch.lengths, batch.teacher)
    torch.testing.assert_close(loss, whole)
    inputs = [hidden, *layer.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(whole, inputs)
    )


# Delays


def slow_delayed(batch, selected, delay, choice, eta=1.0):
    """Sum over the selected frames at their delays, from the loss of single frames."""
    total, chosen = 0.0, []
    for b, length in enumerate(batch.lengths.tolist()):
        frames = [t for t in range(length) if selected[b][t]]
        at = {}
        for t in frames:
            for d in range(delay + 1):
                if t + d < length:
                    one = FramePosteriors(
                        batch.teacher.log_probs[b : b + 1, t : t + 1],
                        torch.tensor([1]),
                        batch.teacher.blank,
                    )
                    logits = batch.logits[b : b + 1, t + d : t + d + 1]
                    at[t, d] = kl(logits, one, temperature=2.0).item()
        if choice in ("utterance", "fixed") and frames:
            means = []
            for d in range(delay + 1):
                inside = [at[t, d] for t in frames if (t, d) in at]
                means.append(sum(inside) / len(inside) if inside else math.inf)
            best = delay if choice == "fixed" else means.index(min(means))
            total += sum(at.get((t, best), 0.0) for t in frames)
            chosen += [best] * len(frames)
            continue
        for t in frames:
            values = [at[t, d] for d in range(delay + 1) if (t, d) in at]
            chosen.append(values.index(min(values)))
            soft = -eta * math.log(math.fsum(math.exp(-v / eta) for v in values))
            total += soft if choice == "soft" else min(values)
    return total, sum(chosen) / max(len(chosen), 1)


@given(
    st.integers(0, 999),
    st.integers(1, 4),
    st.sampled_from(["frame", "soft", "utterance", "fixed"]),
    st.booleans(),
)
def test_a_delayed_loss_is_that_of_a_loop_over_the_frames(seed, delay, choice, every):
    batch = make_batch((6, 4, 3, 1), seed=seed, extra=2)
    conf = {"delay": delay, "delay_choice": choice, "delay_softness": 0.5}
    if every:
        conf.update(selector="all", selector_conf={})
    kd = objective(**conf)
    marks = batch.teacher.valid() if every else kd._weigh(batch.teacher)[0]
    total, mean = slow_delayed(batch, marks.tolist(), delay, choice, 0.5)
    padded = ~batch.teacher.valid().unsqueeze(-1)
    teacher = replace(
        batch.teacher,
        log_probs=batch.teacher.log_probs.masked_fill(padded, float("nan")),
    )
    logits = batch.logits.masked_fill(padded, float("nan")).requires_grad_()
    loss, stats = kd(logits, batch.lengths, teacher)
    assert loss.item() == pytest.approx(total / 4)
    assert stats["kd_delay"].item() == pytest.approx(mean)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool(torch.isfinite(gradient).all())
    assert not bool(gradient.masked_select(padded).any())
    # The output layer runs on the frames that are met alone, and gives the same.
    by_head, _ = kd(logits, batch.lengths, teacher, head=lambda rows: rows)
    torch.testing.assert_close(by_head, loss)


@pytest.mark.parametrize("choice", ["frame", "soft", "utterance", "fixed"])
@pytest.mark.parametrize("kept", [None, 3])
def test_the_gradient_of_a_delayed_loss_is_that_of_its_value(choice, kept):
    batch = make_batch((5, 3), kept=kept)
    kd = objective(delay=2, delay_choice=choice)
    assert torch.autograd.gradcheck(
        lambda x: kd(x, batch.lengths, batch.teacher)[0],
        (batch.logits.requires_grad_(),),
    )


def test_a_late_student_is_met_where_it_is():
    batch = make_batch((8, 8), paths=[[1, 3, 1, 1, 2, 1, 1, 1]] * 2)
    late = batch.teacher.log_probs.roll(2, dims=1)  # the student says it 2 frames later
    for choice in ("frame", "utterance", "fixed"):
        kd = objective(selector_conf={"n": 0}, delay=2, delay_choice=choice)
        loss, stats = kd(late, batch.lengths, batch.teacher)
        assert loss.item() == pytest.approx(0.0, abs=1e-12)
        assert stats["kd_delay"].item() == 2.0
    assert run(replace(batch, logits=late), selector_conf={"n": 0})[0].item() > 0.1


def test_an_empty_selection_costs_nothing_at_any_delay():
    batch = make_batch((4, 0), paths=[[1, 1, 1, 1], []])
    kd = objective(selector="blank_elimination", selector_conf={}, delay=2)
    logits = batch.logits.requires_grad_()
    loss, _ = kd(logits, batch.lengths, batch.teacher)
    assert loss.item() == 0.0
    assert not bool(torch.autograd.grad(loss, logits)[0].any())


# Frames


@pytest.mark.parametrize("kept", [None, 3])
@pytest.mark.parametrize("longer", ["teacher", "student"])
@pytest.mark.parametrize("difference", [1, 2])
def test_a_few_frames_too_many_are_cut(difference, longer, kept):
    batch = make_batch((6, 5, 4), kept=kept)
    shorter = batch.lengths - difference
    frames = int(shorter.max())
    expected = objective()(
        batch.logits[:, :frames], shorter, replace(batch.teacher, lengths=shorter)
    )[0]
    if longer == "teacher":
        logits = batch.logits[:, :frames].clone().requires_grad_()
        found = objective()(logits, shorter, batch.teacher)[0]
    else:
        logits = batch.logits.clone().requires_grad_()
        ids = batch.teacher.ids
        teacher = FramePosteriors(
            batch.teacher.log_probs[:, :frames],
            shorter,
            batch.teacher.blank,
            None if ids is None else ids[:, :frames],
        )
        found = objective()(logits, batch.lengths, teacher)[0]
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    found.backward()
    for gradient, length in zip(logits.grad, shorter):
        assert not bool(gradient[length:].any())


@pytest.mark.parametrize("change", [3, -3, 60])
def test_more_frames_than_that_are_refused(change):
    batch = make_batch((70, 65), extra=70)
    lengths = batch.lengths + torch.tensor([0, change])
    message = f"65 frames of the teacher, where {65 + change} were expected"
    with pytest.raises(FrameMismatchError, match=message) as error:
        objective()(batch.logits, lengths, batch.teacher)
    assert error.value.utterance == 1


# Number types


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_computed_in_float32_inside_autocast(dtype):
    batch = make_batch(dtype=torch.float32)
    layer = nn.Linear(batch.logits.size(-1), batch.logits.size(-1))
    with torch.autocast("cpu", dtype=dtype):
        logits = layer(batch.logits)
        assert logits.dtype == dtype
        inside, _ = objective()(logits, batch.lengths, batch.teacher)
    outside, _ = objective()(logits.float(), batch.lengths, batch.teacher)
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()
    exact = objective()(logits.double(), batch.lengths, batch.teacher)[0]
    assert inside.item() == pytest.approx(exact.item(), rel=1e-5)


def test_the_loss_may_multiply_matrices_inside_autocast(monkeypatch):
    def product(logits, teacher):
        return torch.einsum("btv,btv->bt", logits, teacher.log_probs)

    monkeypatch.setitem(LOSS_CHOICES, "product", Choice(product, "baseline"))
    batch = make_batch(dtype=torch.float32)
    outside, _ = run(batch, loss="product", loss_conf={})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = run(batch, loss="product", loss_conf={})
    assert inside.item() == outside.item()


# Several processes


FEATURES, TOKENS, BLANK = 3, 5, 1
WORLD = 2
SPIKES = ([0, 1, 1, 2, 1, 1, 1], [1, 3, 1, 1], [1, 1, 4, 4, 1])
BLANKS = [1] * 9
# Most probable tokens of the teacher for the utterances of each process.
SHARES = {
    "uneven": (SPIKES, ([1, 1, 1, 2, 1, 1, 1, 1, 0],)),
    "one_has_nothing_selected": (SPIKES, (BLANKS,)),
    "nobody_has_anything_selected": ((BLANKS, BLANKS[:4]), (BLANKS[:2],)),
    "one_has_only_an_empty_utterance": (SPIKES, ([],)),
}
SELECTORS = {
    "all": {},
    "blank_elimination": {},
    "symmetric": {"n": 1},
    "random": {"ratio": 1},
}
# Beside each selector alone, as its name says.
SYSTEMS = {
    name: {"selector": name, "selector_conf": c} for name, c in SELECTORS.items()
}
SYSTEMS["delayed"] = {**SYSTEMS["symmetric"], "delay": 2}
SYSTEMS["delayed_utterance"] = {**SYSTEMS["delayed"], "delay_choice": "utterance"}
MIX = {"blank_mix": {"nonblank_share": 0.3}}
RUNS = [(s, r, n) for s in SYSTEMS for r in REDUCTION_CHOICES for n in SHARES]


class Student(nn.Module):
    """Features to loss, as an ESPnet model returns it: with the weight of the batch."""

    def __init__(self, selector, reduction):
        super().__init__()
        self.layer = nn.Linear(FEATURES, TOKENS).double()
        generator = torch.Generator().manual_seed(7)
        for parameter in self.layer.parameters():
            parameter.data.normal_(generator=generator)
        self.kd = objective(
            **SYSTEMS[selector],
            reduction=reduction,
            reduction_conf=MIX.get(reduction, {}),
        )

    def forward(self, features, lengths, teacher, labels):
        # The output layer runs on the selected frames alone.
        loss, _ = self.kd(features, lengths, teacher, labels, head=self.layer)
        return loss, torch.tensor([lengths.numel()])


def share_of(name, *ranks):
    """Batch of the utterances of some processes; each utterance is always the same."""
    parts = []
    for rank in ranks:
        for number, path in enumerate(SHARES[name][rank]):
            seed = 100 * rank + number
            parts.append(
                make_batch(
                    (len(path),), tokens=TOKENS, blank=BLANK, paths=[path], seed=seed
                )
            )
    frames = max(part.logits.size(1) for part in parts)

    def join(tensors):
        return torch.cat(
            [pad_time(x, frames - x.size(1), float("nan")) for x in tensors]
        )

    features = join([part.logits[..., :FEATURES] for part in parts])
    lengths = torch.cat([part.lengths for part in parts])
    log_probs = join([part.teacher.log_probs for part in parts])
    teacher = FramePosteriors(log_probs, lengths, BLANK)
    return features.nan_to_num(), lengths, teacher, lengths // 2 + 1


def gradients(model):
    return [parameter.grad.clone() for parameter in model.layer.parameters()]


def train_process(rank, folder):
    """One of the processes: what `espnet2.train.trainer` does with a batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )
    found = {}
    for selector, reduction, name in RUNS:
        model = Student(selector, reduction)
        parallel = nn.parallel.DistributedDataParallel(model)
        loss, weight = parallel(*share_of(name, rank))
        loss = (loss * weight.type(loss.dtype)).sum()
        weight = weight.sum()
        torch.distributed.all_reduce(weight)
        loss = loss / weight
        reported = loss.detach().clone()
        torch.distributed.all_reduce(reported)
        (loss * WORLD).backward()
        found[selector, reduction, name] = reported, gradients(model)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    torch.multiprocessing.spawn(train_process, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize(("selector", "reduction", "name"), RUNS)
def test_two_processes_compute_what_one_does(processes, selector, reduction, name):
    model = Student(selector, reduction)
    loss, _ = model(*share_of(name, 0, 1))
    loss.backward()
    for found in processes:
        reported, gradient = found[selector, reduction, name]
        torch.testing.assert_close(reported, loss.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(gradient, gradients(model), rtol=1e-10, atol=1e-12)


def test_the_shares_of_the_processes_are_what_their_names_say():
    losses = {
        name: [
            Student("symmetric", "utt_sum")(*share_of(name, r))[0].item()
            for r in (0, 1)
        ]
        for name in SHARES
    }
    assert all(loss > 0 for loss in losses["uneven"])
    assert losses["one_has_nothing_selected"][0] > 0
    assert losses["one_has_nothing_selected"][1] == 0
    assert losses["nobody_has_anything_selected"] == [0, 0]
    assert losses["one_has_only_an_empty_utterance"][1] == 0
