"""What every selector, loss and reduction keeps, whoever wrote it.

A new entry of a registry is tested here without being told, but for an example of
its options if it has any: a row of `EXAMPLES`.
"""

import inspect
import re
from dataclasses import dataclass, replace
from typing import Any, Mapping, Optional

import pytest
import torch
from conftest import make_batch, pad_time

from espnet_ctckd.choices import Choice, InputError, check_options, look_up
from espnet_ctckd.config import KDConfig
from espnet_ctckd.losses import LOSS_CHOICES
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.posteriors import blank_padding, length_mask
from espnet_ctckd.reduce import REDUCTION_CHOICES, count
from espnet_ctckd.select import SELECTOR_CHOICES

FAMILIES = {
    "selector": SELECTOR_CHOICES,
    "loss": LOSS_CHOICES,
    "reduction": REDUCTION_CHOICES,
}
# Options to try of each entry; an entry without a row is tried without options.
EXAMPLES = {
    ("selector", "symmetric"): [{"n": 1}],
    ("selector", "window"): [
        {"before": 0, "after": 1},
        {"before": 0, "after": 1, "grow_every": 3},
    ],
    ("selector", "threshold"): [{"theta": 0.6}],
    ("selector", "random"): [{"ratio": 0.5}],
    ("loss", "kl"): [{"temperature": 1.0}, {"temperature": 2.0}],
    ("loss", "reverse_kl"): [{"temperature": 2.0}],
    ("loss", "cross_entropy"): [{"temperature": 2.0}],
    ("loss", "blank_factorized_kl"): [{"blank_weight": 2.0}],
    ("loss", "decoupled"): [{"temperature": 2.0}],
    ("loss", "guided_ctc"): [{}, {"log": True}],
    ("reduction", "blank_mix"): [{"nonblank_share": 0.7}],
}
BLANK, TOKENS, KEPT = 1, 5, 3
ENTRIES = [
    (f, name, c) for f, choices in FAMILIES.items() for name, c in choices.items()
]
entries = pytest.mark.parametrize(
    ("family", "name", "choice"), ENTRIES, ids=[f"{f}-{n}" for f, n, _ in ENTRIES]
)


@dataclass(frozen=True)
class Case:
    """An objective, and the tokens kept of its teacher (None is dense)."""

    selector: str
    selector_conf: Mapping[str, Any]
    loss: str
    loss_conf: Mapping[str, Any]
    reduction: str
    reduction_conf: Mapping[str, Any]
    kept: Optional[int]

    def __str__(self):
        options = [*self.selector_conf.items(), *self.loss_conf.items()]
        teacher = "dense" if self.kept is None else f"top{self.kept}"
        parts = [self.selector, self.loss, *(f"{k}={v}" for k, v in options)]
        return "-".join([*parts, self.reduction, teacher])

    def objective(self):
        return KDObjective(
            KDConfig(
                weight=0.5,
                selector=self.selector,
                loss=self.loss,
                reduction=self.reduction,
                selector_conf=self.selector_conf,
                loss_conf=self.loss_conf,
                reduction_conf=self.reduction_conf,
            )
        )

    def batch(self, *args, **kwargs):
        return make_batch(*args, tokens=TOKENS, blank=BLANK, kept=self.kept, **kwargs)


def examples(family, name):
    return EXAMPLES.get((family, name), [{}])


def options_of(family):
    """Every entry with every example of its options."""
    return [(n, conf) for n in FAMILIES[family] for conf in examples(family, n)]


def every_case():
    """Each selector, loss and reduction with the first of the other two, or more.

    Selectors come with every reduction, because a reduction divides by what is
    selected.
    """
    selectors, losses, reductions = map(options_of, FAMILIES)
    triples = [(s, losses[0], r) for s in selectors for r in reductions]
    triples += [(selectors[1], loss, reductions[0]) for loss in losses[1:]]
    triples += [(selectors[0], loss, reductions[0]) for loss in losses[1:]]
    for selector, loss, reduction in triples:
        for kept in (None, KEPT):
            yield Case(*selector, *loss, *reduction, kept)


cases = pytest.mark.parametrize("case", list(every_case()), ids=str)


def run(case, batch):
    """Loss, gradient at the student's logits, statistics."""
    logits = batch.logits.detach().clone().requires_grad_()
    objective = case.objective().eval()
    loss, stats = objective(logits, batch.lengths, batch.teacher, batch.labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient, stats


def weights_of(case, batch):
    """What the selector alone says, padding taken out (B, T)."""
    select = SELECTOR_CHOICES[case.selector].fn
    weights = select(blank_padding(batch.teacher), 1, **case.selector_conf)
    return weights * length_mask(batch.lengths, weights.size(1))


# Registries


@entries
def test_every_entry_has_a_citation_or_is_a_baseline(family, name, choice):
    assert isinstance(choice, Choice)
    cited = re.search(r"\((19|20)\d\d\), https?://\S+$", choice.reference)
    assert choice.reference == "baseline" or cited
    assert set(choice.needs) <= {"dense", "labels", "nbest"}


@entries
def test_every_entry_has_an_example_of_its_options(family, name, choice):
    for options in examples(family, name):
        check_options(family, name, choice.fn, options)


def test_every_example_is_of_an_entry():
    assert {f: set() for f in FAMILIES} == {
        family: {n for f, n in EXAMPLES if f == family} - set(choices)
        for family, choices in FAMILIES.items()
    }


@entries
def test_an_unknown_option_is_refused_by_its_name(family, name, choice):
    options = {**examples(family, name)[0], "temprature": 1}
    message = f"unknown option 'temprature' for {family} '{name}'; it takes: "
    with pytest.raises(InputError, match=message):
        check_options(family, name, choice.fn, options)


@entries
def test_a_missing_option_is_named(family, name, choice):
    parameters = inspect.signature(choice.fn).parameters.values()
    for parameter in parameters:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        given = dict(examples(family, name)[0])
        given.pop(parameter.name, None)
        if parameter.default is not inspect.Parameter.empty:
            check_options(family, name, choice.fn, given)
            continue
        message = f"{family} '{name}' lacks the option '{parameter.name}'"
        with pytest.raises(InputError, match=message):
            check_options(family, name, choice.fn, given)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["nonesuch", "", None, 3, ["all"]])
def test_an_unknown_name_is_refused_with_the_known_ones(family, name):
    with pytest.raises(InputError) as error:
        look_up(family, name, FAMILIES[family])
    assert f"unknown {family} {name!r}; choose one of: " in str(error.value)
    assert all(known in str(error.value) for known in FAMILIES[family])


# Shapes and ranges


@cases
def test_shapes_are_those_of_the_legend(case):
    batch = case.batch()
    teacher = blank_padding(batch.teacher)
    weights = SELECTOR_CHOICES[case.selector].fn(teacher, **case.selector_conf)
    loss_fn = LOSS_CHOICES[case.loss].fn
    values = loss_fn(batch.logits, teacher, **case.loss_conf)
    totals = count(weights, teacher.nonblank(), batch.lengths, batch.labels)
    reduce = REDUCTION_CHOICES[case.reduction].fn
    factors = reduce(weights, teacher.nonblank(), totals, **case.reduction_conf)
    shape = batch.logits.shape[:2]
    assert weights.shape == values.shape == factors.shape == shape
    loss, gradient, stats = run(case, batch)
    assert loss.shape == ()
    assert gradient.shape == batch.logits.shape
    assert {value.shape for value in stats.values()} == {()}


@cases
def test_weights_are_between_0_and_1(case):
    for seed in range(5):
        weights = weights_of(case, case.batch(seed=seed))
        assert bool(((weights >= 0) & (weights <= 1)).all())


@cases
def test_a_loss_of_random_frames_is_above_0_and_has_a_gradient(case):
    loss, gradient, _ = run(case, case.batch())
    # The guiding term is minus a probability.
    assert (loss.item() < 0) == (case.loss == "guided_ctc" and not case.loss_conf)
    assert bool(gradient.any())


# Padding, order, batches


@cases
def test_padding_changes_neither_value_nor_gradient(case):
    batch = case.batch(extra=2)
    valid = length_mask(batch.lengths, batch.logits.size(1)).unsqueeze(-1)
    expected = run(case, batch)
    for garbage in (float("nan"), float("inf"), -float("inf"), 1e30):
        logits = batch.logits.masked_fill(~valid, garbage)
        log_probs = batch.teacher.log_probs.masked_fill(~valid, garbage)
        ids = batch.teacher.ids
        if ids is not None:
            ids = ids.masked_fill(~valid, -7 if garbage > 0 else 10**6)
        teacher = replace(batch.teacher, log_probs=log_probs, ids=ids)
        loss, gradient, stats = run(
            case, replace(batch, logits=logits, teacher=teacher)
        )
        assert torch.equal(loss, expected[0])
        assert torch.equal(gradient, expected[1])
        assert stats == expected[2]


@cases
@pytest.mark.parametrize(("teacher_more", "student_more"), [(3, 3), (4, 0), (0, 4)])
def test_extra_padding_changes_nothing(case, teacher_more, student_more):
    batch = case.batch()
    loss, gradient, stats = run(case, batch)
    ids = batch.teacher.ids
    teacher = replace(
        batch.teacher,
        log_probs=pad_time(batch.teacher.log_probs, teacher_more, float("nan")),
        ids=None if ids is None else pad_time(ids, teacher_more, -1),
    )
    logits = pad_time(batch.logits, student_more, float("nan"))
    padded = run(case, replace(batch, logits=logits, teacher=teacher))
    torch.testing.assert_close(padded[0], loss)
    torch.testing.assert_close(padded[1], pad_time(gradient, student_more, 0.0))
    torch.testing.assert_close(padded[2], stats)


@cases
def test_the_order_of_the_utterances_changes_nothing(case):
    batch = case.batch()
    loss, gradient, stats = run(case, batch)
    order = torch.tensor([2, 0, 3, 1])
    ids = batch.teacher.ids
    teacher = replace(
        batch.teacher,
        log_probs=batch.teacher.log_probs[order],
        lengths=batch.teacher.lengths[order],
        ids=None if ids is None else ids[order],
    )
    shuffled = replace(
        batch,
        logits=batch.logits[order],
        lengths=batch.lengths[order],
        labels=batch.labels[order],
        teacher=teacher,
    )
    found = run(case, shuffled)
    torch.testing.assert_close(found[0], loss)
    torch.testing.assert_close(found[1], gradient[order])
    torch.testing.assert_close(found[2], stats)


# Gradients


@cases
def test_the_gradient_is_that_of_the_value(case):
    batch = case.batch((3, 2), extra=1)
    objective = case.objective()
    logits = batch.logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: objective(x, batch.lengths, batch.teacher, batch.labels)[0],
        (logits,),
    )


@cases
def test_the_gradient_is_0_on_padded_and_on_unselected_frames_alone(case):
    batch = case.batch()
    _, gradient, _ = run(case, batch)
    moved = gradient.ne(0).any(-1)  # (B, T)
    assert torch.equal(moved, weights_of(case, batch) > 0)


@cases
def test_the_teacher_gets_no_gradient(case):
    batch = case.batch()
    log_probs = batch.teacher.log_probs.clone().requires_grad_()
    logits = batch.logits.clone().requires_grad_()
    teacher = replace(batch.teacher, log_probs=log_probs)
    loss, stats = case.objective()(logits, batch.lengths, teacher, batch.labels)
    loss.backward()
    assert log_probs.grad is None
    assert not any(value.requires_grad for value in stats.values())


@cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_half_precision_gives_a_finite_loss_and_gradient(case, dtype, scale):
    batch = case.batch()
    log_probs = batch.teacher.log_probs.to(dtype)
    half = replace(
        batch,
        logits=(batch.logits * scale).to(dtype),
        teacher=replace(batch.teacher, log_probs=log_probs),
    )
    exact = run(
        case,
        replace(
            half,
            logits=half.logits.double(),
            teacher=replace(half.teacher, log_probs=log_probs.double()),
        ),
    )
    loss, gradient, _ = run(case, half)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    assert bool(torch.isfinite(gradient).all())
    assert loss.item() == pytest.approx(exact[0].item(), rel=1e-3)


# Utterances of every kind


def check_finite(case, batch):
    loss, gradient, stats = run(case, batch)
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(gradient).all())
    assert all(bool(torch.isfinite(value)) for value in stats.values())
    if not bool(weights_of(case, batch).any()):
        assert loss.item() == 0.0
        assert not bool(gradient.any())
    return loss, gradient, stats


@cases
@pytest.mark.parametrize("token", [BLANK, 3])
@pytest.mark.parametrize("frames", [1, 6])
def test_an_utterance_may_be_all_blank_or_without_blank(case, token, frames):
    batch = case.batch((frames,), paths=[[token] * frames])
    _, _, stats = check_finite(case, batch)
    assert stats["blank_teacher"].item() == float(token == BLANK)


@cases
def test_a_teacher_may_be_certain(case):
    batch = case.batch((3, 2))
    certain = torch.full_like(batch.teacher.log_probs, -float("inf"))
    check_finite(
        case,
        replace(
            batch,
            teacher=replace(
                batch.teacher, log_probs=certain.index_fill(-1, torch.tensor([0]), 0.0)
            ),
        ),
    )


@cases
@pytest.mark.parametrize("extra", [0, 2])
def test_an_empty_selection_costs_exactly_0_and_is_counted(case, extra):
    loss, gradient, stats = run(case, case.batch((0, 0, 0), extra=extra))
    assert loss.item() == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert stats["kd_empty"].item() == 3
    assert stats["kd_selected"].item() == 0


@cases
def test_an_utterance_without_selected_frames_is_counted_and_costs_0(case):
    # The utterance in the middle is all blank: empty for those who look for spikes.
    batch = case.batch((3, 4, 2), paths=[[3, 1, 2], [1] * 4, [1, 2]])
    empty = ~weights_of(case, batch).any(1)  # (B,)
    _, gradient, stats = check_finite(case, batch)
    assert stats["kd_empty"].item() == int(empty.sum())
    assert not bool(gradient[empty].any())


@pytest.mark.parametrize("selector", ["blank_elimination", "symmetric"])
@pytest.mark.parametrize("reduction", REDUCTION_CHOICES)
@pytest.mark.parametrize("kept", [None, KEPT])
def test_blanks_alone_are_an_empty_selection_of_spikes(selector, reduction, kept):
    conf = examples("selector", selector)[0]
    reduction_conf = examples("reduction", reduction)[0]
    loss_conf = {"temperature": 2.0}
    case = Case(selector, conf, "kl", loss_conf, reduction, reduction_conf, kept)
    batch = case.batch((4, 1), paths=[[BLANK] * 4, [BLANK]])
    loss, gradient, stats = run(case, batch)
    assert loss.item() == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert stats["kd_empty"].item() == 2


@cases
def test_an_utterance_without_frames_leaves_the_others_as_they_are(case):
    batch = case.batch((4, 0, 2))
    _, gradient, stats = check_finite(case, batch)
    assert not bool(gradient[1].any())
    others = torch.tensor([0, 2])
    ids = batch.teacher.ids
    teacher = replace(
        batch.teacher,
        log_probs=batch.teacher.log_probs[others],
        lengths=batch.teacher.lengths[others],
        ids=None if ids is None else ids[others],
    )
    _, alone, fewer = run(
        case,
        replace(
            batch,
            logits=batch.logits[others],
            lengths=batch.lengths[others],
            labels=batch.labels[others],
            teacher=teacher,
        ),
    )
    assert stats["kd_empty"].item() == fewer["kd_empty"].item() + 1
    # A reduction may count the utterance, which scales all gradients alike.
    scale = gradient.norm() / alone.norm() if bool(alone.any()) else 1.0
    torch.testing.assert_close(gradient[others], alone * scale)
    share = 2 / 3 if bool(alone.any()) else 1.0
    labels = batch.labels[others].sum() / batch.labels.sum()
    expected = {"utt_sum": share, "authors_full": share * float(labels)}
    assert float(scale) == pytest.approx(expected.get(case.reduction, 1.0))


@pytest.mark.parametrize(
    ("family", "name"),
    [(f, n) for f in ("selector", "reduction") for n in FAMILIES[f]],
)
def test_what_does_not_depend_on_the_blank_frames_says_so(family, name):
    choice = FAMILIES[family][name]
    for options in EXAMPLES.get((family, name), [{}]):
        found = []
        for seed in (3, 4):
            batch = make_batch((40, 31), tokens=TOKENS, blank=BLANK)
            best = make_batch((40, 31), tokens=TOKENS, blank=BLANK, seed=seed)
            teacher = replace(batch.teacher, best=best.teacher.argmax())
            teacher = blank_padding(teacher)
            if family == "selector":
                found.append(choice.fn(teacher, 3, **options))
                continue
            weights = length_mask(batch.lengths, teacher.log_probs.size(1)).double()
            nonblank = teacher.nonblank()
            totals = count(weights, nonblank, batch.lengths, batch.labels)
            found.append(choice.fn(weights, nonblank, totals, **options))
        assert choice.reads_blank == (not torch.equal(*found)), options


@pytest.mark.parametrize("name", SELECTOR_CHOICES)
def test_a_selector_that_varies_from_epoch_to_epoch_says_so(name):
    choice = SELECTOR_CHOICES[name]
    teacher = blank_padding(make_batch((40, 31), tokens=TOKENS, seed=3).teacher)
    for options in EXAMPLES.get(("selector", name), [{}]):
        epochs = [choice.fn(teacher, epoch, **options) for epoch in range(1, 9)]
        same = all(torch.equal(epochs[0], other) for other in epochs)
        assert choice.varies_with(options) == (not same), options
