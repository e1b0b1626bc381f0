import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import keep_top, make_batch, pad_time
from hypothesis import given
from hypothesis import strategies as st

from espnet_ctckd.cache.codec import rename_tokens
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import KDConfig
from espnet_ctckd.frames import FrameMismatchError, match_frames
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors
from espnet_ctckd.tokens import DROPPED, describe_match, map_tokens, place_tokens

TOKENS = ["<blank>", "a", "b", "<unk>"]


# Tokens


@pytest.mark.parametrize(
    ("teacher", "blank", "student", "expected"),
    [
        (TOKENS, 0, TOKENS, None),
        (["a", "b", "<unk>", "<pad>"], 3, TOKENS, [1, 2, 3, 0]),  # blank last
        (["b", "<blank>", "a"], 1, TOKENS, [2, 0, 1]),
        (TOKENS, 0, [*TOKENS, "<sos/eos>"], [0, 1, 2, 3]),
        ([*TOKENS, "<s>"], 0, TOKENS, [0, 1, 2, 3, -1]),
        # As wav2vec 2.0 has them, and ESPnet's characters.
        (
            ["<pad>", "<s>", "|", "A", "'", "[UNK]"],
            0,
            ["<blank>", "<unk>", "<space>", "'", "a", "<sos/eos>"],
            [0, -1, 2, 4, 3, 1],
        ),
        (["_", "▁the", "ing"], 0, ["<blank>", "▁THE", "ING"], None),
        # What is there exactly goes before what is there in another case.
        (["_", "A", "a"], 0, ["<blank>", "a"], [0, -1, 1]),
        (["_", "x", "Y", "y"], 0, ["<blank>", "x"], [0, 1, -1, -1]),
    ],
)
def test_tokens_are_matched_by_their_strings(teacher, blank, student, expected):
    assert map_tokens(teacher, blank, student, 0, "here") == expected


@pytest.mark.parametrize(
    ("teacher", "blank", "message"),
    [
        (["<blank>", "a", "c"], 0, r"1 of 2 .* lacks 1 \('c'\) .* 1 \('b'\) of the"),
        (["<blank>", "a"], 0, r"1 of 1 .* lacks 0 of the teacher's, the teacher 1"),
        (TOKENS, 1, r"2 of 3 .* lacks 1 \('<blank>'\) .* the teacher 1 \('a'\)"),
        (["<blank>", *"cdefgh"], 0, r"0 of 6 .* \('c', 'd', 'e', 'f', 'g', ...\)"),
    ],
)
def test_tokens_without_a_counterpart_are_refused_with_the_counts(
    teacher, blank, message
):
    with pytest.raises(InputError, match=message):
        map_tokens(teacher, blank, TOKENS, 0, "cache x")


def test_how_the_tokens_are_taken_is_told():
    teacher, student = ["<pad>", "<s>", "|", "E"], ["<blank>", "<space>", "E"]
    index = map_tokens(teacher, 0, student, 0, "here")
    assert describe_match(teacher, student, index) == (
        "1 of the teacher's 4 tokens are the student's, 2 ('<pad> as <blank>', "
        "'| as <space>') are renamed, 1 ('<s>') dropped"
    )


@pytest.mark.parametrize("kept", [None, 3])
def test_without_the_dropped_tokens_the_others_are_as_likely_to_each_other(kept):
    batch = make_batch((6,), tokens=6, blank=0, kept=kept, extra=0, seed=3)
    index = [0, 3, DROPPED, 1, 2, DROPPED]
    log_probs = batch.teacher.log_probs[0].numpy()
    ids = None if kept is None else batch.teacher.ids[0].numpy()
    found, places = rename_tokens(log_probs, ids, index, 4)
    for t in range(6):
        tokens = range(6) if ids is None else ids[t].tolist()
        said = dict(zip(tokens, np.exp(log_probs[t])))
        lost = sum(p for token, p in said.items() if index[token] == DROPPED)
        expected = {
            index[token]: p / (1 - lost)
            for token, p in said.items()
            if index[token] != DROPPED
        }
        here = range(4) if places is None else places[t].tolist()
        assert len(set(here)) == found.shape[1]
        result = dict(zip(here, np.exp(found[t])))
        for token, p in result.items():
            assert p == pytest.approx(expected.get(token, 0.0), abs=1e-9)
        assert set(expected) <= set(result)


@given(st.permutations(range(5)), st.integers(0, 3), st.integers(0, 2))
def test_placed_values_are_those_of_a_loop(order, dropped, more):
    index = [DROPPED if place < dropped else place for place in order]
    values = torch.rand(2, 3, 5)
    found = place_tokens(values, index, 5 + more, -7.0)
    assert found.shape == (2, 3, 5 + more)
    for place in range(5 + more):
        expected = torch.full((2, 3), -7.0)
        if place in index:
            expected = values[..., index.index(place)]
        assert torch.equal(found[..., place], expected)


# Frames


@pytest.mark.parametrize("kept", [None, 3])
def test_a_function_is_applied_to_all_that_has_frames(kept):
    teacher = make_batch((6, 4), tokens=5, blank=0, kept=kept, extra=1).teacher
    states, lengths = torch.rand(2, 7, 3), torch.tensor([2, 2])
    teacher = replace(teacher, best=teacher.argmax(), states=states)
    found = teacher.map(lambda x: x[:, 2:4], lengths)
    assert torch.equal(found.log_probs, teacher.log_probs[:, 2:4])
    assert torch.equal(found.best, teacher.best[:, 2:4])
    assert torch.equal(found.states, states[:, 2:4])
    assert (found.ids is None) == (kept is None)
    if kept is not None:
        assert torch.equal(found.ids, teacher.ids[:, 2:4])
    assert (found.blank, found.lengths.tolist()) == (0, [2, 2])
    assert torch.equal(teacher.map(torch.clone).lengths, teacher.lengths)


def test_what_was_not_kept_is_impossible_among_all_tokens():
    teacher = make_batch((6, 4), tokens=5, blank=0, kept=3).teacher
    found = teacher.log_dense(5)
    for place, log_prob in np.ndenumerate(found.numpy()):
        kept = teacher.ids[place[:2]].tolist()
        expected = LOG_ZERO
        if place[2] in kept:
            expected = float(teacher.log_probs[place[:2]][kept.index(place[2])])
        assert log_prob == expected
    assert torch.equal(teacher.dense(5), found.exp())


def slow_match(teacher, ratio, b):
    """Probabilities and tokens of the student's frames of utterance b, by a loop."""
    length = int(teacher.lengths[b])
    probs = teacher.dense(5)[b, :length].tolist()
    best = teacher.argmax()[b].tolist()
    frames, t = [], 0
    while True:
        inside = [
            u for u in range(length) if t <= Fraction(2 * u + 1, 2) / ratio < t + 1
        ]
        if ratio < 1:
            centre = Fraction(2 * t + 1, 2) * ratio
            inside = [int(centre)] if centre < length else []
        if not inside:
            return frames
        blank = math.prod(probs[u][teacher.blank] for u in inside)
        sums = [sum(probs[u][c] for u in inside) for c in range(5)]
        sums[teacher.blank] = 0.0
        # What is not blank, kept or not.
        spoken = sum(1 - probs[u][teacher.blank] for u in inside)
        joined = [(1 - blank) * x / spoken for x in sums]
        joined[teacher.blank] = blank
        spikes = [(probs[u][best[u]], best[u]) for u in inside]
        spikes = [s for s in spikes if s[1] != teacher.blank]
        frames.append((joined, max(spikes)[1] if spikes else teacher.blank))
        t += 1


@given(
    st.integers(0, 99),
    st.sampled_from(["2", "3", "3/2", "1/2", "2/3", "4/3", "1"]),
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
)
def test_frames_are_matched_as_a_loop_over_them_does(seed, ratio, lengths):
    ratio = Fraction(ratio)
    teacher = make_batch(lengths, seed=seed, extra=2).teacher
    expected = [slow_match(teacher, ratio, b) for b in range(len(lengths))]
    counts = torch.tensor([len(frames) for frames in expected])
    teacher = replace(teacher, log_probs=nan_padding(teacher))
    found, common = match_frames(teacher, counts, 99, ratio)
    assert common.tolist() == counts.tolist()
    for b, frames in enumerate(expected):
        for t, (joined, token) in enumerate(frames):
            assert found.log_probs[b, t].exp().tolist() == pytest.approx(joined)
            assert int(found.argmax()[b, t]) == token


def nan_padding(teacher):
    return teacher.log_probs.masked_fill(~teacher.valid().unsqueeze(-1), float("nan"))


def test_no_spike_is_lost_when_frames_are_merged():
    spike, blank = [0.45, 0.5, 0.05], [0.98, 0.01, 0.01]
    log_probs = torch.tensor([[blank, spike, blank, blank]]).log()
    teacher = FramePosteriors(log_probs, torch.tensor([4]), blank=0)
    merged, _ = match_frames(teacher, torch.tensor([2]), 2, Fraction(2))
    left, right = merged.log_probs.exp()[0].tolist()
    assert left == pytest.approx([0.441, 0.559 * 0.51 / 0.57, 0.559 * 0.06 / 0.57])
    assert right == pytest.approx([0.98**2, (1 - 0.98**2) / 2, (1 - 0.98**2) / 2])
    assert merged.nonblank().tolist() == [[True, False]]


def test_a_frame_that_joins_sure_ones_is_sure():
    for row in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]):
        log_probs = torch.tensor([[row, row]]).log().clamp(min=LOG_ZERO)
        teacher = FramePosteriors(log_probs, torch.tensor([2]), blank=0)
        merged, _ = match_frames(teacher, torch.tensor([1]), 1, Fraction(2))
        assert merged.log_probs.exp()[0, 0].tolist() == row
        assert merged.log_probs.isfinite().all()


def test_frames_of_a_slower_teacher_are_repeated_for_a_top_k_one_too():
    teacher = keep_top(make_batch((3, 2)).teacher, 2)
    found, common = match_frames(teacher, torch.tensor([6, 4]), 6, Fraction(1, 2))
    assert common.tolist() == [6, 4]
    twice = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.equal(found.log_probs, teacher.log_probs[:, twice])
    assert torch.equal(found.ids, teacher.ids[:, twice])


@given(
    st.integers(0, 99),
    st.integers(2, 5),
    st.sampled_from(["2", "3", "3/2", "4/3"]),
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
)
def test_frames_of_a_top_k_teacher_are_joined_as_far_as_they_are_known(
    seed, kept, ratio, lengths
):
    ratio = Fraction(ratio)
    whole = make_batch(lengths, seed=seed, extra=2).teacher
    teacher = keep_top(whole, kept)
    expected = [slow_match(teacher, ratio, b) for b in range(len(lengths))]
    counts = torch.tensor([len(frames) for frames in expected])
    padded = ~teacher.valid().unsqueeze(-1)
    teacher = replace(
        teacher,
        log_probs=nan_padding(teacher),
        ids=teacher.ids.masked_fill(padded, 99),
    )
    found, common = match_frames(teacher, counts, 99, ratio)
    assert common.tolist() == counts.tolist()
    assert found.ids.shape == found.log_probs.shape
    assert found.ids.max() < 5  # in the padding, too
    dense, _ = match_frames(whole, counts, 99, ratio)
    for b, frames in enumerate(expected):
        for t, (joined, token) in enumerate(frames):
            ids = found.ids[b, t].tolist()
            assert len(set(ids)) == kept
            assert teacher.blank in ids
            said = found.log_probs[b, t].exp().tolist()
            assert said == pytest.approx([joined[i] for i in ids])
            left = [joined[i] for i in set(range(5)) - set(ids)]
            others = [p for i, p in zip(ids, said) if i != teacher.blank]
            assert max(left, default=0) <= min(others) + 1e-6
            assert int(found.argmax()[b, t]) == token
            if kept == 5:
                all_of_it = dense.log_probs[b, t].exp()[ids].tolist()
                assert said == pytest.approx(all_of_it)


@pytest.mark.parametrize(
    ("frames", "fits"), [(10, True), (8, True), (12, True), (7, False), (13, False)]
)
def test_lengths_may_differ_by_two_frames_at_any_ratio(frames, fits):
    teacher = make_batch((20,)).teacher
    lengths = torch.tensor([frames])
    if fits:
        _, common = match_frames(teacher, lengths, 99, Fraction(2))
        assert common.tolist() == [min(frames, 10)]
        return
    message = (
        rf"20 frames of the teacher, where {2 * frames} were expected for {frames} of"
    )
    with pytest.raises(FrameMismatchError, match=message) as error:
        match_frames(teacher, lengths, 99, Fraction(2))
    assert error.value.utterance == 0


def test_the_objective_learns_at_its_own_rate():
    def objective(ratio):
        conf = {"weight": 1, "selector": "blank_elimination", "reduction": "utt_sum"}
        conf.update(loss="kl", loss_conf={"temperature": 1.0}, frame_ratio=ratio)
        return KDObjective(KDConfig.from_dict(conf))

    batch = make_batch((8, 6, 3))
    half = torch.tensor([4, 3, 2])
    logits = batch.logits[:, :4].clone().requires_grad_()
    loss, _ = objective(2)(logits, half, batch.teacher)
    merged, _ = match_frames(batch.teacher, half, 4, Fraction(2))
    expected, _ = objective(1)(logits, half, merged)
    torch.testing.assert_close(loss, expected)
    assert torch.autograd.gradcheck(
        lambda x: objective("2")(x, half, batch.teacher)[0], (logits,)
    )
    more = replace(
        batch.teacher, log_probs=pad_time(batch.teacher.log_probs, 3, float("nan"))
    )
    torch.testing.assert_close(objective(2)(logits, half, more)[0], loss)
