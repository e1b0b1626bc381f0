"""Losses of whole utterances, against an enumeration of all alignments."""

import itertools

import pytest
import torch
from conftest import keep_top, make_batch
from hypothesis import given
from hypothesis import strategies as st

from espnet_ctckd.choices import InputError
from espnet_ctckd.losses.frame import cross_entropy
from espnet_ctckd.losses.sequence import occupancies
from espnet_ctckd.posteriors import FramePosteriors

TOKENS, BLANK = 4, 1


def collapse(path):
    """Labels that an alignment spells."""
    return [token for token, _ in itertools.groupby(path) if token != BLANK]


def slow_occupancies(probs, labels):
    """From the probabilities of all alignments of the labels, one by one."""
    total = [[0.0] * TOKENS for _ in probs]
    for path in itertools.product(range(TOKENS), repeat=len(probs)):
        if collapse(path) != labels:
            continue
        weight = 1.0
        for row, token in zip(probs, path):
            weight *= row[token]
        for t, token in enumerate(path):
            total[t][token] += weight
    mass = sum(total[0]) if total else 1.0
    return [[x / mass for x in row] for row in total] if mass else None


@given(st.integers(0, 999), st.data())
def test_occupancies_are_those_of_all_alignments(seed, data):
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    token = st.sampled_from([c for c in range(TOKENS) if c != BLANK])
    labels = [data.draw(st.lists(token, max_size=3)) for _ in lengths]
    batch = make_batch(lengths, tokens=TOKENS, blank=BLANK, seed=seed, extra=2)
    padded = ~batch.teacher.valid().unsqueeze(-1)
    log_probs = batch.teacher.log_probs.masked_fill(padded, float("nan"))
    teacher = FramePosteriors(log_probs, batch.lengths, BLANK)
    rows = torch.full((len(labels), 4), -1)
    for row, given_labels in zip(rows, labels):
        row[: len(given_labels)] = torch.tensor(given_labels, dtype=torch.long)
    counts = torch.tensor([len(x) for x in labels])
    found = occupancies(teacher, rows, counts).log_probs.exp()
    for b, length in enumerate(lengths):
        probs = log_probs[b, :length].exp().tolist()
        expected = slow_occupancies(probs, labels[b])
        if expected is None:  # too few frames for the labels
            expected = probs
        for t in range(length):
            assert found[b, t].tolist() == pytest.approx(expected[t], abs=1e-9)
            assert float(found[b, t].sum()) == pytest.approx(1.0)


def test_a_student_that_learns_occupancies_gets_its_labels_right():
    # One label somewhere in three frames: the teacher's doubt about which token it is
    # is gone, its doubt about when is not.
    probs = torch.tensor([[[0.2, 0.5, 0.2, 0.1]] * 3], dtype=torch.float64)
    teacher = FramePosteriors(probs.log(), torch.tensor([3]), BLANK)
    target = occupancies(teacher, torch.tensor([[0]]), torch.tensor([1]))
    said = target.log_probs.exp()[0]
    assert bool((said[:, 2:] < 1e-9).all())
    assert said[1].tolist() == pytest.approx(
        slow_occupancies(probs[0].tolist(), [0])[1], abs=1e-9
    )
    logits = torch.zeros(1, 3, TOKENS, dtype=torch.float64, requires_grad=True)
    loss = cross_entropy(logits, target, temperature=1.0).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient[0], 0.25 - said)


def test_an_impossible_token_leaves_the_others_as_they_are():
    log_probs = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]]).log()
    teacher = FramePosteriors(log_probs, torch.tensor([2]), BLANK)
    found = occupancies(teacher, torch.tensor([[0]]), torch.tensor([1]))
    expected = slow_occupancies(log_probs[0].exp().tolist(), [0])
    assert found.log_probs.exp()[0].tolist() == [
        pytest.approx(row, abs=1e-6) for row in expected
    ]


def test_top_k_posteriors_have_no_occupancies():
    teacher = keep_top(make_batch((3,)).teacher, 2)
    with pytest.raises(InputError, match="the cache has the top 2: dump the teacher"):
        occupancies(teacher, torch.tensor([[0]]), torch.tensor([1]))
