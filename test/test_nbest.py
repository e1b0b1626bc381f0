"""N-best lists: search, file and loss, against an enumeration of all alignments."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from conftest import keep_top, make_batch
from hypothesis import given
from hypothesis import strategies as st

from espnet_ctckd.cache.nbest import from_line, join, to_line
from espnet_ctckd.cache.record import Audio, fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import NBestConfig
from espnet_ctckd.decode.nbest import nbest_of
from espnet_ctckd.decode.prefix_beam import prefix_beam_search, prefix_beam_searches
from espnet_ctckd.losses.sequence import Hypotheses, hypotheses_loss
from espnet_ctckd.plugin.nbest import NBestReader
from espnet_ctckd.posteriors import FramePosteriors

TOKENS, BLANK = 4, 1
NAMES = ("a", "<blank>", "b", "c")


def enumerate_sequences(probs):
    """Probability of every token sequence, from all alignments one by one."""
    found = {}
    for path in itertools.product(range(len(probs[0])), repeat=len(probs)):
        sequence = tuple(c for c, _ in itertools.groupby(path) if c != BLANK)
        weight = math.prod(row[token] for row, token in zip(probs, path))
        found[sequence] = found.get(sequence, 0.0) + weight
    return found


# The search


@given(st.integers(1, 6), st.integers(0, 999))
def test_an_unlimited_beam_sums_all_alignments_of_all_sequences(frames, seed):
    batch = make_batch((frames,), tokens=TOKENS, blank=BLANK, seed=seed, extra=0)
    log_probs = batch.teacher.log_probs[0]
    found = prefix_beam_search(log_probs.numpy(), BLANK, beam=10**6)
    expected = enumerate_sequences(log_probs.exp().tolist())
    assert {h.tokens for h in found} == set(expected)
    for tokens, log_prob in found:
        assert math.exp(log_prob) == pytest.approx(expected[tokens], rel=1e-9)
    assert [h.log_prob for h in found] == sorted(h.log_prob for h in found)[::-1]


@given(st.integers(1, 6), st.integers(0, 999), st.integers(1, 4))
def test_a_narrow_beam_never_says_too_much(frames, seed, beam):
    batch = make_batch((frames,), tokens=TOKENS, blank=BLANK, seed=seed, extra=0)
    log_probs = batch.teacher.log_probs[0]
    found = prefix_beam_search(log_probs.numpy(), BLANK, beam)
    expected = enumerate_sequences(log_probs.exp().tolist())
    assert 1 <= len(found) <= beam
    assert len({h.tokens for h in found}) == len(found)
    for tokens, log_prob in found:
        assert math.exp(log_prob) <= expected[tokens] * (1 + 1e-9)


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=4),
    st.integers(0, 999),
    st.sampled_from([1, 3, 8]),
)
def test_utterances_side_by_side_are_searched_as_alone(lengths, seed, beam):
    batch = make_batch(lengths, tokens=TOKENS, blank=BLANK, seed=seed, extra=0)
    said = [
        row[:frames].numpy() for row, frames in zip(batch.teacher.log_probs, lengths)
    ]
    found = prefix_beam_searches(said, BLANK, beam, 3)
    for each, hypotheses in zip(said, found):
        alone = prefix_beam_search(each, BLANK, beam, tokens_per_frame=3)
        assert [h.tokens for h in hypotheses] == [h.tokens for h in alone]
        assert [h.log_prob for h in hypotheses] == [h.log_prob for h in alone]


def test_a_repeated_token_needs_a_blank_between():
    # a a -> "a"; a blank a -> "a a".
    sure = np.log(np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.9, 0.05, 0.05]]))
    assert prefix_beam_search(sure, 1, 5)[0].tokens == (0, 0)
    assert prefix_beam_search(sure[[0, 2]], 1, 5)[0].tokens == (0,)


def test_a_teacher_that_is_sure_has_one_hypothesis_and_silence_is_empty():
    with np.errstate(divide="ignore"):
        silence = np.log(np.array([[0.0, 1.0, 0.0]] * 3))
    assert prefix_beam_search(silence, 1, 5) == [((), 0.0)]
    assert prefix_beam_search(np.zeros((0, 3)), 1, 5) == [((), 0.0)]


def test_top_k_posteriors_are_searched_among_their_tokens():
    batch = make_batch((5,), tokens=TOKENS, blank=BLANK, seed=4, extra=0)
    top = keep_top(batch.teacher, 3)
    found = prefix_beam_search(
        top.log_probs[0].numpy(), BLANK, 10**6, top.ids[0].numpy()
    )
    spread = torch.full((5, TOKENS), -math.inf, dtype=torch.float64)
    spread.scatter_(1, top.ids[0], top.log_probs[0])
    expected = enumerate_sequences(spread.exp().tolist())
    for tokens, log_prob in found:
        assert math.exp(log_prob) == pytest.approx(expected[tokens], rel=1e-9)


# The lists


def test_a_list_has_the_exact_probabilities_whatever_the_beam_lost():
    batch = make_batch((6,), tokens=TOKENS, blank=BLANK, seed=7, extra=0)
    teacher = batch.teacher
    found = nbest_of(teacher, NAMES, beam=3, number=3)
    expected = enumerate_sequences(teacher.log_probs[0].exp().tolist())
    mass = [expected[tuple(NAMES.index(t) for t in tokens)] for tokens, _ in found]
    assert [p for _, p in found] == pytest.approx([m / sum(mass) for m in mass])
    assert sum(p for _, p in found) == pytest.approx(1.0)
    assert mass == sorted(mass)[::-1]


def test_lists_of_several_teachers_are_a_mixture():
    one = [(("a",), 0.75), (("a", "b"), 0.25)]
    two = [(("b",), 0.5), (("a",), 0.5)]
    assert join([one, two], [0.5, 0.5]) == [
        (("a",), 0.625), (("b",), 0.25), (("a", "b"), 0.125),
    ]  # fmt: skip
    assert join([one], [1.0]) == one


AUDIO = Audio(3, 0xBEEF)


def test_a_line_comes_back_as_it_was_written():
    hypotheses = [(("▁so", "'s"), 0.75), ((), 0.25)]
    line = to_line("utt", AUDIO, hypotheses)
    assert from_line(line, "utt") == (AUDIO, hypotheses)
    sealed, *listed = json.loads(line)
    assert listed == [[0.75, "▁so", "'s"], [0.25]]
    assert sealed.startswith("3 0000beef ")
    changed = line.replace("0.75", "0.85"), line.replace("beef", "bead")
    for bad in ("", "[]", "[1, 2]", "{", '[["a", "b"]]', "[[]]", *changed):
        with pytest.raises(InputError, match="utterance utt: the n-best list"):
            from_line(bad, "utt")
    with pytest.raises(InputError, match="or of another utterance"):
        from_line(line, "utt2")


# What the data workers make of them


def reader(**conf):
    config = NBestConfig(weight=1.0, **{"hypotheses": 3, **conf})
    return NBestReader(config, {"a": 0, "b": 2, "c": 3})


HYPOTHESES = [(("a", "b"), 0.5), (("a",), 0.3), ((), 0.15), (("c",), 0.05)]
LINE = to_line("utt", AUDIO, HYPOTHESES)


def test_other_audio_than_the_teacher_heard_is_refused():
    speech = np.zeros(3, np.float32)
    line = to_line("utt", fingerprint(speech), HYPOTHESES)
    assert reader().read("utt", line, None, speech)["nbest"].tolist() == [0, 2, 0]
    speech[1] = 0.5
    with pytest.raises(InputError, match=r"utterance utt: its audio .* is not what"):
        reader().read("utt", line, None, speech)


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ({}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95]),
        ({"scale": 0.0}, [1 / 3] * 3),
        ({"scale": 2.0}, [0.25 / 0.3625, 0.09 / 0.3625, 0.0225 / 0.3625]),
        ({"weights": "uniform"}, [1 / 3] * 3),
        ({"weights": "best"}, [1.0, 0.0, 0.0]),
    ],
)
def test_the_first_hypotheses_get_weights_that_add_up_to_1(conf, expected):
    found = reader(**conf).read("utt", LINE, None)
    assert found["nbest"].tolist() == [0, 2, 0]
    assert found["nbest_sizes"].tolist() == [2, 1, 0]
    assert found["nbest_weights"].tolist() == pytest.approx(expected)


def test_accuracy_weighs_by_the_right_tokens_of_each():
    # The transcript is "a b c": one of three is missing, then two, then all.
    found = reader(weights="accuracy").read("utt", LINE, np.array([0, 2, 3]))
    shares = np.exp([2 / 3, 1 / 3, 0.0])
    assert found["nbest_weights"] == pytest.approx(shares / shares.sum())


def test_a_token_that_the_student_lacks_is_named():
    with pytest.raises(InputError, match=r"utterance u7: .* lacks 'd' of the n-best"):
        reader().read("u7", to_line("u7", AUDIO, [(("a", "d"), 1.0)]), None)


# The loss


@given(st.integers(0, 999), st.data())
def test_the_loss_is_the_cross_entropy_of_all_alignments(seed, data):
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    token = st.sampled_from([c for c in range(TOKENS) if c != BLANK])
    lists = [
        data.draw(st.lists(st.lists(token, max_size=3), min_size=1, max_size=3))
        for _ in lengths
    ]
    batch = make_batch(lengths, tokens=TOKENS, blank=BLANK, seed=seed, extra=2)
    log_probs = batch.logits.log_softmax(-1)
    most = max(map(len, lists))
    longest = max(sum(map(len, hypotheses)) for hypotheses in lists)
    tokens = torch.full((len(lists), longest), -1)
    sizes = torch.full((len(lists), most), -1)
    weights = torch.zeros(len(lists), most)
    for b, hypotheses in enumerate(lists):
        flat = [i for hypothesis in hypotheses for i in hypothesis]
        tokens[b, : len(flat)] = torch.tensor(flat, dtype=torch.long)
        sizes[b, : len(hypotheses)] = torch.tensor([len(h) for h in hypotheses])
        weights[b, : len(hypotheses)] = torch.rand(len(hypotheses))
    found = hypotheses_loss(
        log_probs, batch.lengths, Hypotheses(tokens, sizes, weights), BLANK
    )
    expected = 0.0
    for b, hypotheses in enumerate(lists):
        probs = enumerate_sequences(log_probs[b, : lengths[b]].exp().tolist())
        for weight, hypothesis in zip(weights[b].tolist(), hypotheses):
            if tuple(hypothesis) in probs:  # else it does not fit into the frames
                expected -= weight * math.log(probs[tuple(hypothesis)])
    assert float(found) == pytest.approx(expected / len(lists), rel=1e-6, abs=1e-6)


def test_the_gradient_of_the_loss_is_right():
    logits = torch.randn(2, 4, TOKENS, dtype=torch.float64, requires_grad=True)
    given = Hypotheses(
        torch.tensor([[0, 2, 0], [3, -1, -1]]),
        torch.tensor([[2, 1], [1, -1]]),
        torch.tensor([[0.6, 0.4], [1.0, 0.0]], dtype=torch.float64),
    )

    def loss(x):
        lengths = torch.tensor([4, 3])
        return hypotheses_loss(x.log_softmax(-1), lengths, given, BLANK)

    assert torch.autograd.gradcheck(loss, logits)


# From a cache to a file


def test_the_file_is_that_of_the_search(tiny_cache, tiny_model, tmp_path):
    import tiny

    from espnet_ctckd.bin import dump_nbest

    out = tmp_path / "nbest"
    flags = ("--cache", tiny_cache, "--output_dir", out, "--nbest", 3, "--beam", 8)
    status, stderr = tiny.call(dump_nbest, *flags)
    assert status == 0, stderr
    lines = dict(
        line.split(maxsplit=1) for line in (out / "nbest").read_text().splitlines()
    )
    cached = tiny.read_cache(tiny_cache)
    assert set(lines) == set(cached)
    for utt, line in lines.items():
        audio, found = from_line(line, utt)
        assert audio == cached[utt].audio
        assert 1 <= len(found) <= 3
        said = torch.from_numpy(cached[utt].log_probs).unsqueeze(0)
        one = FramePosteriors(said, torch.tensor([said.size(1)]), 0)
        expected = nbest_of(one, tiny.TOKENS, 8, 3)
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
        # A mixture of a teacher with itself is the teacher.
    both = ("--cache", tiny_cache, *flags[:2], "--output_dir", tmp_path / "two")
    status, stderr = tiny.call(dump_nbest, *both, "--nbest", 3, "--beam", 8)
    assert status == 0, stderr
    assert (tmp_path / "two/nbest").read_text() == (out / "nbest").read_text()
    assert json.loads((out / "nbest.json").read_text())["utterances"] == len(lines)
    # A finished one is left as it is, and is not written over by another.
    before = (out / "nbest").stat().st_mtime_ns
    assert tiny.call(dump_nbest, *flags)[0] == 0
    assert (out / "nbest").stat().st_mtime_ns == before
    status, stderr = tiny.call(dump_nbest, *flags[:4], "--nbest", 2, "--beam", 8)
    assert "n-best lists of other caches, --nbest or --beam" in tiny.the_error(stderr)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--beam", 2, "--nbest", 3), "--beam 2 finds no 3 hypotheses"),
        (("--weight", 1, "--weight", 2), "2 --weight for 1 --cache; give each one"),
        (("--weight", 0), "give numbers of at least 0"),
    ],
)
def test_flags_without_sense_are_refused(tiny_cache, tmp_path, flags, message):
    import tiny

    from espnet_ctckd.bin import dump_nbest

    out = tmp_path / "nbest"
    status, stderr = tiny.call(
        dump_nbest, "--cache", tiny_cache, "--output_dir", out, *flags
    )
    assert status == 1
    assert message in tiny.the_error(stderr)
    assert not out.exists()
