"""Hidden states: the distances, through the objective that they share."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from conftest import make_batch

from espnet_ctckd.config import FeatureConfig
from espnet_ctckd.frames import match_frames
from espnet_ctckd.losses import FEATURE_LOSS_CHOICES
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.posteriors import length_mask

SIZE = 3


def objective(**conf):
    given = {"weight": 1.0, "size": SIZE, "selector": "all", "reduction": "utt_sum"}
    return KDObjective(FeatureConfig(**{**given, **conf}))


def make(lengths=(5, 3, 1), extra=2, seed=0):
    """A batch, and states of student and teacher (B, T, D)."""
    batch = make_batch(lengths, extra=extra, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    size = (*batch.logits.shape[:2], SIZE)
    ours, theirs = torch.randn(2, *size, generator=generator, dtype=torch.float64)
    return ours, batch.lengths, replace(batch.teacher, states=theirs)


def slow(name, x, y):
    if name == "l1":
        return sum(abs(a - b) for a, b in zip(x, y)) / len(x)
    norms = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
    return 1 - sum(a * b for a, b in zip(x, y)) / norms


@pytest.mark.parametrize("name", FEATURE_LOSS_CHOICES)
@pytest.mark.parametrize("selector", ["all", "blank_elimination"])
def test_the_loss_is_that_of_the_formula_on_the_selected_frames(name, selector):
    ours, lengths, teacher = make()
    loss, stats = objective(loss=name, selector=selector)(ours, lengths, teacher)
    expected = 0.0
    for b, length in enumerate(lengths.tolist()):
        for t in range(length):
            if selector == "all" or bool(teacher.nonblank()[b, t]):
                pair = ours[b, t].tolist(), teacher.states[b, t].tolist()
                expected += slow(name, *pair)
    assert loss.item() == pytest.approx(expected / len(lengths))
    assert "blank_student" not in stats


@pytest.mark.parametrize("name", FEATURE_LOSS_CHOICES)
def test_the_gradient_is_that_of_the_value_and_0_in_padding(name):
    ours, lengths, teacher = make()
    distance = objective(loss=name)
    ours.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distance(x, lengths, teacher)[0], (ours,))
    (gradient,) = torch.autograd.grad(distance(ours, lengths, teacher)[0], ours)
    valid = length_mask(lengths, ours.size(1))
    assert torch.equal(gradient.ne(0).any(-1), valid)


@pytest.mark.parametrize("name", FEATURE_LOSS_CHOICES)
def test_what_stands_in_padding_does_not_matter(name):
    ours, lengths, teacher = make()
    expected, _ = objective(loss=name)(ours, lengths, teacher)
    padded = ~length_mask(lengths, ours.size(1)).unsqueeze(-1)
    broken = replace(teacher, states=teacher.states.masked_fill(padded, math.nan))
    found, _ = objective(loss=name)(ours.masked_fill(padded, math.inf), lengths, broken)
    assert torch.equal(found, expected)


def test_equal_and_opposite_states():
    ours, lengths, teacher = make((1,), extra=0)
    cosine, l1 = (objective(loss=name) for name in ("cosine", "l1"))
    same = replace(teacher, states=ours)
    assert cosine(ours, lengths, same)[0].item() == pytest.approx(0.0)
    assert l1(ours, lengths, same)[0].item() == 0.0
    far = replace(teacher, states=-3.0 * ours)
    assert cosine(ours, lengths, far)[0].item() == pytest.approx(2.0)


def test_states_are_merged_and_repeated_with_their_frames():
    _, _, teacher = make((4, 3), extra=0)
    halves, lengths = match_frames(teacher, torch.tensor([2, 2]), 2, Fraction(2))
    assert lengths.tolist() == [2, 2]
    expected = torch.stack(
        [teacher.states[:, :2].mean(1), teacher.states[:, 2:].mean(1)], 1
    )
    expected[1, 1] = teacher.states[1, 2]  # the fourth frame is padding
    torch.testing.assert_close(halves.states, expected)
    twice, lengths = match_frames(teacher, torch.tensor([8, 6]), 8, Fraction(1, 2))
    assert lengths.tolist() == [8, 6]
    torch.testing.assert_close(twice.states, teacher.states.repeat_interleave(2, dim=1))
