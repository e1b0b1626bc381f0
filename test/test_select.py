import itertools

import pytest
import torch
from conftest import keep_top, make_batch
from hypothesis import given
from hypothesis import strategies as st

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import FramePosteriors, blank_padding, length_mask
from espnet_ctckd.select import (
    blank_elimination,
    random,
    select_all,
    symmetric,
    threshold,
    trim,
    window,
)

TOKENS = 4


def teacher_of(rows, lengths=None, blank=0):
    """A teacher whose most probable tokens are those of the rows."""
    best = torch.nn.functional.one_hot(torch.tensor(rows), TOKENS)
    log_probs = (3.0 * best).log_softmax(-1)
    if lengths is None:
        lengths = [len(row) for row in rows]
    return FramePosteriors(log_probs, torch.tensor(lengths), blank)


def from_bits(*rows, valid=None):
    lengths = None if valid is None else [valid] * len(rows)
    return teacher_of([[int(bit) for bit in row] for row in rows], lengths)


def bits(weights):
    return ["".join(str(int(w)) for w in row) for row in weights]


def selected(teacher, n):
    return symmetric(blank_padding(teacher), n=n)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(0, "001000110000"), (1, "011101111000"), (2, "111111111100")],
)
def test_symmetric_gives_the_published_vectors(n, expected):
    teacher = from_bits("001000110000", valid=10)
    assert bits(selected(teacher, n)) == [expected]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0, 0, "001000110000"),
        (1, 1, "011101111000"),
        (2, 2, "111111111100"),
        (1, 0, "011001110000"),
        (0, 1, "001100111000"),
        (2, 0, "111011110000"),
    ],
)
def test_window_gives_the_published_vectors(before, after, expected):
    teacher = blank_padding(from_bits("001000110000", valid=10))
    assert bits(window(teacher, before=before, after=after)) == [expected]


def test_trim_gives_the_published_vector():
    teacher = blank_padding(from_bits("001000110011", "000000000011", valid=10))
    assert bits(trim(teacher)) == ["001111110000", "000000000000"]


@pytest.mark.parametrize(("n", "expected"), [(1, "011101111000"), (2, "111111111100")])
def test_spikes_of_the_padding_are_not_widened(n, expected):
    teacher = from_bits("001000110011", valid=10)
    assert bits(selected(teacher, n)) == [expected]


def test_symmetric_wraps_around_neither_time_nor_batch():
    teacher = from_bits("100000", "001000", "000001")
    assert bits(selected(teacher, 1)) == ["110000", "011100", "000011"]


@pytest.mark.parametrize("position", [0, 7])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_spike_at_an_edge_leaves_the_other_edge_out(position, n):
    row = ["0"] * 8
    row[position] = "1"
    near = [abs(t - position) <= n for t in range(8)]
    assert bits(selected(from_bits("".join(row)), n)) == [
        "".join(str(int(x)) for x in near)
    ]


@pytest.mark.parametrize("n", [5, 6, 50])
def test_a_window_longer_than_the_utterance_selects_all_of_it(n):
    teacher = from_bits("00100", "00000")
    assert bits(selected(teacher, n)) == ["11111", "00000"]


@pytest.mark.parametrize("n", [-1, 1.5, 1.0, "1", None, True])
def test_symmetric_refuses_what_is_no_number_of_frames(n):
    with pytest.raises(InputError, match=r"'symmetric' got n = "):
        symmetric(from_bits("010"), n=n)


@pytest.mark.parametrize(
    ("epoch", "n"), [(1, 0), (4, 0), (5, 1), (9, 1), (10, 2), (14, 2), (15, 3)]
)
def test_a_window_opens_and_grows_with_the_epochs(epoch, n):
    teacher = blank_padding(from_bits("0000100000000", valid=12))
    grown = symmetric(teacher, epoch, n=1, grow_every=5)
    assert torch.equal(grown, symmetric(teacher, n=n))
    sided = window(teacher, epoch, before=0, after=1, grow_every=5)
    assert torch.equal(sided, window(teacher, before=0, after=n))


@pytest.mark.parametrize(
    ("select", "options", "message"),
    [
        (window, {"before": -1, "after": 0}, "'window' got before = -1"),
        (window, {"before": 0, "after": 0.5}, "'window' got after = 0.5"),
        (symmetric, {"n": 1, "grow_every": True}, "'symmetric' got grow_every = True"),
        (threshold, {"theta": "0.1"}, "'threshold' got theta = '0.1'"),
        (threshold, {"theta": 1.1}, "'threshold' got theta = 1.1"),
        (threshold, {"theta": float("nan")}, "'threshold' got theta = nan"),
        (random, {"ratio": -0.5}, "'random' got ratio = -0.5"),
        (random, {"ratio": None}, "'random' got ratio = None"),
        (random, {"ratio": 1, "seed": 0.5}, "'random' got seed = 0.5"),
    ],
)
def test_options_without_sense_are_refused(select, options, message):
    with pytest.raises(InputError, match=message):
        select(from_bits("010"), **options)


def test_threshold_takes_the_frames_of_which_the_teacher_is_not_sure():
    probs = [[0.95, 0.05], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.2, 0.8]]
    log_probs = torch.tensor([probs], dtype=torch.float64).log()
    teacher = blank_padding(FramePosteriors(log_probs, torch.tensor([4]), 0))

    def taken(theta):
        return bits(threshold(teacher, theta=theta))

    assert taken(0.0) == ["11111"]  # padding is taken out by the objective
    assert taken(0.099) == ["01110"]
    assert taken(0.3) == ["00110"]
    assert taken(0.5) == ["00010"]
    assert taken(1.0) == ["00010"]


@st.composite
def teachers(draw):
    frames = draw(st.integers(1, 9))
    token = st.integers(0, TOKENS - 1)
    blank = draw(token)
    row = st.lists(st.one_of(st.just(blank), token), min_size=frames, max_size=frames)
    rows = draw(st.lists(row, min_size=1, max_size=4))
    size = len(rows)
    lengths = draw(st.lists(st.integers(0, frames), min_size=size, max_size=size))
    return rows, lengths, blank


def slow_symmetric(rows, lengths, blank, n):
    result = []
    for row, length in zip(rows, lengths):
        weights = [0.0] * len(row)
        for spike in range(length):
            if row[spike] == blank:
                continue
            for t in range(len(row)):
                if abs(t - spike) <= n:
                    weights[t] = 1.0
        result.append(weights)
    return result


@given(teachers(), st.integers(0, 12))
def test_symmetric_is_what_a_loop_over_the_spikes_selects(case, n):
    assert selected(teacher_of(*case), n).tolist() == slow_symmetric(*case, n)


@given(teachers())
def test_symmetric_0_is_blank_elimination(case):
    teacher = blank_padding(teacher_of(*case))
    assert torch.equal(symmetric(teacher, n=0), blank_elimination(teacher))


@given(teachers(), st.integers(0, 10))
def test_each_selection_contains_the_narrower_one(case, n):
    teacher = blank_padding(teacher_of(*case))
    chain = [
        blank_elimination(teacher),
        window(teacher, before=n, after=0),
        symmetric(teacher, n=n),
        symmetric(teacher, n=n + 1),
        select_all(teacher),
    ]
    for narrow, wide in itertools.pairwise(chain):
        assert bool((narrow <= wide).all())


@given(teachers())
def test_blank_elimination_takes_the_valid_frames_that_are_not_blank(case):
    rows, lengths, blank = case
    expected = [
        [float(t < length and token != blank) for t, token in enumerate(row)]
        for row, length in zip(rows, lengths)
    ]
    assert blank_elimination(teacher_of(*case)).tolist() == expected


@given(teachers(), st.integers(0, 9), st.integers(0, 9))
def test_window_is_what_a_loop_over_the_spikes_selects(case, before, after):
    rows, lengths, blank = case
    teacher = blank_padding(teacher_of(*case))
    found = window(teacher, before=before, after=after).tolist()
    for row, length, weights in zip(rows, lengths, found):
        spikes = [t for t in range(length) if row[t] != blank]
        assert weights == [
            float(any(s - before <= t <= s + after for s in spikes))
            for t in range(len(row))
        ]


@given(teachers())
def test_trim_is_the_shortest_interval_with_all_spikes(case):
    rows, lengths, blank = case
    for row, length, weights in zip(
        rows, lengths, trim(blank_padding(teacher_of(*case))).tolist()
    ):
        spikes = [t for t in range(length) if row[t] != blank]
        inside = range(spikes[0], spikes[-1] + 1) if spikes else ()
        assert weights == [float(t in inside) for t in range(len(row))]


@given(st.integers(0, 999), st.floats(0, 1), st.floats(0, 1))
def test_threshold_is_monotone_and_keeps_the_spikes(seed, a, b):
    teacher = blank_padding(make_batch((7, 3, 0), seed=seed).teacher)
    low, high = (threshold(teacher, theta=theta) for theta in sorted((a, b)))
    assert bool((high <= low).all())
    assert bool((blank_elimination(teacher) <= high).all())
    exact = teacher.log_probs[..., teacher.blank].exp() <= 1 - a
    expected = (exact | teacher.nonblank()) & teacher.valid()
    assert torch.equal((threshold(teacher, theta=a) > 0) & teacher.valid(), expected)


@given(st.integers(0, 999), st.sampled_from([0, 0.25, 0.5, 1, 1.7, 9]))
def test_random_takes_the_spikes_and_the_right_number_of_blanks(seed, ratio):
    teacher = blank_padding(make_batch((12, 5, 1, 0), seed=seed).teacher)
    weights = random(teacher, ratio=ratio)
    spikes, valid = teacher.nonblank(), teacher.valid()
    assert bool((weights[spikes] == 1).all())
    assert not bool(weights[~valid].any())
    for row, spike, inside in zip(weights, spikes, valid):
        wanted = min(round(ratio * int(spike.sum())), int((inside & ~spike).sum()))
        assert int(row.sum()) - int(spike.sum()) == wanted


def test_random_draws_again_in_each_epoch_and_for_each_seed_and_utterance():
    one = make_batch((40,), paths=[[1, 3] * 10 + [1] * 20]).teacher
    two = make_batch((40,), paths=[[1, 3] * 10 + [1] * 20], seed=1).teacher
    draws = {
        bits(random(blank_padding(teacher), epoch, ratio=1, seed=seed))[0]
        for teacher in (one, two)
        for epoch in range(1, 9)
        for seed in (0, 1)
    }
    assert len(draws) == 32
    again = [random(one, 3, ratio=1, seed=1) for _ in range(2)]
    assert torch.equal(*again)


def test_random_draws_every_blank_about_as_often():
    teacher = make_batch((30,), paths=[[3] * 10 + [1] * 20]).teacher
    taken = sum(random(teacher, epoch, ratio=1)[0, 10:30] for epoch in range(1, 401))
    # 10 of 20 blanks, 400 times: 200 each, with a standard deviation of 10.
    assert taken.sum() == 4000
    assert bool(((taken > 150) & (taken < 250)).all())


@given(teachers())
def test_all_takes_every_frame(case):
    rows = case[0]
    assert select_all(teacher_of(*case)).tolist() == [[1.0] * len(r) for r in rows]


@given(teachers(), st.integers(0, 4), st.randoms(use_true_random=False))
def test_the_order_of_the_utterances_does_not_matter(case, n, random):
    rows, lengths, blank = case
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = teacher_of([rows[i] for i in order], [lengths[i] for i in order], blank)
    assert torch.equal(selected(shuffled, n), selected(teacher_of(*case), n)[order])


@given(teachers(), st.integers(0, 4), st.integers(1, 5))
def test_more_padding_does_not_matter(case, n, extra):
    rows, lengths, blank = case
    other = (blank + 1) % TOKENS
    padded = teacher_of([row + [other] * extra for row in rows], lengths, blank)
    frames = len(rows[0])
    valid = length_mask(torch.tensor(lengths), frames)
    short = selected(teacher_of(*case), n)
    assert torch.equal(selected(padded, n)[:, :frames] * valid, short * valid)


@given(st.integers(0, 999), st.integers(2, 5), st.integers(0, 3), st.integers(0, 4))
def test_a_top_k_teacher_selects_as_the_dense_one_does(seed, kept, n, blank):
    dense = make_batch((7, 3, 0), blank=blank, seed=seed).teacher
    top = keep_top(dense, kept)
    assert torch.equal(selected(top, n), selected(dense, n))
    assert torch.equal(
        blank_elimination(blank_padding(top)), blank_elimination(blank_padding(dense))
    )
