import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_ctckd.decode.greedy import greedy

TOKENS = 4


def logits_of(rows):
    return torch.nn.functional.one_hot(torch.tensor(rows), TOKENS).float()


def slow_greedy(row, blank):
    result, last = [], None
    for token in row:
        if token != last and token != blank:
            result.append(token)
        last = token
    return result


@st.composite
def paths(draw):
    frames = draw(st.integers(1, 10))
    row = st.lists(st.integers(0, TOKENS - 1), min_size=frames, max_size=frames)
    rows = draw(st.lists(row, min_size=1, max_size=4))
    size = len(rows)
    lengths = draw(st.lists(st.integers(0, frames), min_size=size, max_size=size))
    return rows, lengths, draw(st.integers(0, TOKENS - 1))


@given(paths())
def test_greedy_is_what_a_loop_over_the_frames_finds(case):
    rows, lengths, blank = case
    expected = [slow_greedy(row[:n], blank) for row, n in zip(rows, lengths)]
    assert greedy(logits_of(rows), torch.tensor(lengths), blank) == expected


@given(paths())
def test_greedy_is_groupby_without_the_blanks(case):
    rows, lengths, blank = case
    expected = [
        [token for token, _ in itertools.groupby(row[:n]) if token != blank]
        for row, n in zip(rows, lengths)
    ]
    assert greedy(logits_of(rows), torch.tensor(lengths), blank) == expected


@given(paths(), st.sampled_from([float("nan"), float("inf"), 1e9]))
def test_padding_is_not_read(case, garbage):
    rows, lengths, blank = case
    clean, counts = logits_of(rows), torch.tensor(lengths)
    dirty = clean.clone()
    for utterance, length in zip(dirty, lengths):
        utterance[length:, (blank + 1) % TOKENS] = garbage
    assert greedy(dirty, counts, blank) == greedy(clean, counts, blank)


@pytest.mark.parametrize("blank", [0, 2, 3])
def test_a_token_is_repeated_only_across_a_blank(blank):
    rows = [[1, 1, blank, 1, 1, blank, blank, 1]]
    assert greedy(logits_of(rows), torch.tensor([8]), blank) == [[1, 1, 1]]


def test_nothing_comes_out_of_blanks_or_of_no_frames():
    rows = [[0, 0, 0], [1, 2, 3]]
    assert greedy(logits_of(rows), torch.tensor([3, 0]), blank=0) == [[], []]
    none = torch.zeros(2, 0, TOKENS)
    assert greedy(none, torch.tensor([0, 0]), blank=0) == [[], []]


def test_tokens_are_plain_integers():
    (tokens,) = greedy(logits_of([[1, 0, 2]]), torch.tensor([3]), blank=0)
    assert [type(token) for token in tokens] == [int, int]
