"""The packing of posteriors: what it keeps, what it costs, and what it refuses."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.record import Audio, Records, fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import KDConfig
from espnet_ctckd.plugin.checks import check_frames
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.select import SELECTOR_CHOICES


def draw(frames, tokens, sharpness, seed):
    """Posteriors (U, V), some of them sure, some not."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(frames, tokens, generator=generator, dtype=torch.float64)
    scale = sharpness * torch.rand(frames, 1, generator=generator, dtype=torch.float64)
    return (logits * scale).log_softmax(-1)


def spread(log_probs, ids, tokens):
    """All probabilities (U, V), the mass of the others even."""
    p = np.exp(log_probs.astype(np.float64))
    rest = (1 - p.sum(1, keepdims=True)).clip(min=0) / (tokens - ids.shape[1])
    every = np.repeat(rest, tokens, 1)
    np.put_along_axis(every, ids, p, 1)
    return every


def divergence(log_p, q):
    p = log_p.double().exp().numpy()
    return (p * (log_p.double().numpy() - np.log(np.maximum(q, 1e-300)))).sum(1)


sizes = st.tuples(st.integers(0, 12), st.integers(3, 40))


@given(sizes, st.sampled_from([1.0, 5.0, 30.0]), st.integers(0, 999), st.data())
def test_every_token_is_once_in_a_frame_and_the_best_stays_the_best(
    size, sharpness, seed, data
):
    frames, tokens = size
    blank = data.draw(st.integers(0, tokens - 1))
    kept = data.draw(st.integers(2, tokens - 1))
    log_probs = draw(frames, tokens, sharpness, seed)
    codec = Codec(tokens, kept)
    found, ids, states = codec.decode(codec.encode(log_probs, blank), blank)
    assert found.shape == ids.shape == (frames, kept)
    assert (found.dtype, ids.dtype, states) == (np.float32, np.int64, None)
    for row, best, said in zip(ids, log_probs.argmax(1).tolist(), found):
        assert len(set(row)) == kept
        assert 0 <= row.min() <= row.max() < tokens
        assert blank in row
        assert row[said.argmax()] == best
    mass = np.exp(found.astype(np.float64)).sum(1)
    assert bool((mass <= 1 + 1e-6).all())


@given(sizes, st.sampled_from([1.0, 5.0, 30.0]), st.integers(0, 999))
def test_with_all_but_one_token_kept_only_the_levels_are_lost(size, sharpness, seed):
    frames, tokens = size
    log_probs = draw(frames, tokens, sharpness, seed)
    codec = Codec(tokens, tokens - 1, step=0.125, worth=0.0)
    found, ids, _ = codec.decode(codec.encode(log_probs, 1), 1)
    lost = divergence(log_probs, spread(found, ids, tokens))
    # Errors within half a level, about their mean: at most an eighth of its square.
    assert bool((lost <= 0.125**2 / 8 + 1e-3).all())
    exact = log_probs.gather(1, torch.from_numpy(ids)).numpy()
    likely = exact > -10
    assert np.abs(found - exact)[likely] == pytest.approx(0.0, abs=0.13)


def test_what_a_frame_loses_is_what_the_tokens_are_not_worth():
    log_probs = draw(300, 50, 6.0, seed=3)
    lost, sizes = [], []
    for worth in (0.0, 1e-4, 1e-2):
        codec = Codec(50, 49, step=0.1, worth=worth)
        record = codec.encode(log_probs, 0)
        found, ids, _ = codec.decode(record, 0)
        lost.append(divergence(log_probs, spread(found, ids, 50)).mean())
        sizes.append(len(record))
    assert lost[0] < 5e-4
    assert lost[0] < lost[1] < lost[2]
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_frame_that_is_surely_blank_takes_two_bytes_at_most():
    log_probs = torch.full((1000, 5000), 1e-9, dtype=torch.float64)
    log_probs[:, 0] = 1 - 4999e-9
    codec = Codec(5000, 16)
    record = codec.encode(log_probs.log(), 0)
    assert len(record) < 2 * 1000 + 20
    found, ids, _ = codec.decode(record, 0)
    assert np.exp(found[:, 0]) == pytest.approx(1 - 5e-6, abs=2e-6)
    assert bool((ids[:, 0] == 0).all())


def test_impossible_tokens_stay_impossible():
    probs = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.75, 0.25, 0.0]])
    codec = Codec(4, 3)
    found, ids, _ = codec.decode(codec.encode(probs.log(), 0), 0)
    every = spread(found, ids, 4)
    assert every[0] == pytest.approx([1, 0, 0, 0], abs=1e-9)
    assert every[1] == pytest.approx([0, 0.75, 0.25, 0], abs=0.03)
    assert every[1, 3] == pytest.approx(0.0, abs=1e-6)


def test_a_vocabulary_of_more_than_two_bytes():
    log_probs = torch.full((2, 70000), -math.inf)
    log_probs[0, 69999] = 0.0
    log_probs[1, 65536] = log_probs[1, 255] = math.log(0.5)
    found, ids, _ = Codec(70000, 4).decode(Codec(70000, 4).encode(log_probs, 7), 7)
    assert ids[0, found[0].argmax()] == 69999
    assert set(ids[1][np.exp(found[1]) > 0.4]) == {65536, 255}


@pytest.mark.parametrize("kept", [None, 3])
def test_hidden_states_are_kept_beside(kept):
    log_probs, states = draw(6, 8, 3.0, 0), torch.randn(6, 5)
    codec = Codec(8, kept, states=5)
    record = codec.encode(log_probs, 0, states)
    found, ids, hidden = codec.decode(record, 0)
    alone = Codec(8, kept)
    expected = alone.decode(alone.encode(log_probs, 0), 0)
    np.testing.assert_array_equal(found, expected[0])
    if kept:
        np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_allclose(hidden, states.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kept": 1}, "`kept` is 1; give one from 2 to 9"),
        ({"kept": 10}, "`kept` is 10; give one from 2 to 9"),
        ({"kept": 4, "step": 0.01}, "`step` is 0.01; give nats from 0.1 to 1"),
        ({"kept": 4, "worth": -1.0}, "`worth` is -1.0; give nats from 0 to 1"),
        ({"selector": "trim"}, "`selector` packs fewer frames, so it needs `kept`"),
        ({"kept": 4, "selector": "none"}, "unknown selector 'none'; choose one of"),
        (
            {"kept": 4, "selector": "random", "selector_conf": {"ratio": 1.0}},
            "takes other frames in each epoch",
        ),
        ({"kept": 4, "selector": "symmetric"}, "'symmetric' lacks the option 'n'"),
        (
            {"kept": 4, "selector": "symmetric", "selector_conf": {"n": -1}},
            "n = -1",
        ),
    ],
)
def test_a_packing_without_sense_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Codec(10, **options)
    with pytest.raises(InputError, match="`kept` is 129; give one from 2 to 128"):
        Codec(5000, 129)


@pytest.mark.parametrize(
    ("selector", "conf"),
    [
        ("all", {}),
        ("blank_elimination", {}),
        ("symmetric", {"n": 2}),
        ("window", {"before": 0, "after": 1}),
        ("trim", {}),
        ("threshold", {"theta": 0.3}),
    ],
)
def test_the_frames_of_a_selector_are_kept_and_the_others_are_blank(selector, conf):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(60, 9, generator=generator) * 2
    scores[:, 4] += 6 * (torch.rand(60, generator=generator) < 0.7)
    log_probs = scores.log_softmax(-1)
    whole, part = Codec(9, 4), Codec(9, 4, selector=selector, selector_conf=conf)
    select = SELECTOR_CHOICES[selector].fn

    def chosen(said, ids=None):
        said = FramePosteriors(said.unsqueeze(0), torch.tensor([60]), 4, ids)
        return select(said, 1, **conf)[0] > 0

    kept = chosen(log_probs)
    assert selector == "all" or 0 < int(kept.sum()) < 60
    records = [codec.encode(log_probs, 4) for codec in (whole, part)]
    assert len(records[1]) <= len(records[0])
    said, ids, _ = whole.decode(records[0], 4)
    found, tokens, _ = part.decode(records[1], 4)
    assert (found[kept] == said[kept]).all()
    assert (tokens[kept] == ids[kept]).all()
    left = ~kept.numpy()
    assert (tokens[left][:, 0] == 4).all()
    assert np.exp(found[left]) == pytest.approx(np.eye(4)[[0] * int(left.sum())])
    # And the selector does not take them when it sees what was kept.
    again = chosen(torch.from_numpy(found), torch.from_numpy(tokens).unsqueeze(0))
    assert not (again & ~kept).any()
    if selector != "threshold":
        assert (again == kept).all()


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"selector_conf": {"n": 2, "grow_every": 3}}, False),
        ({"selector_conf": {"n": 1}}, False),
        ({"selector": "all", "selector_conf": {}}, False),
        ({"from_epoch": 2}, False),
        ({"frame_ratio": 2}, False),
        ({"inter": {"selector": "all"}}, False),
        ({"inter": {}}, True),
    ],
)
def test_a_student_learns_from_the_frames_that_a_cache_keeps(change, fits):
    base = {"selector": "symmetric", "selector_conf": {"n": 2}, "loss": "kl"}
    base.update(reduction="utt_sum", loss_conf={"temperature": 1.0})
    if "inter" in change:
        inter = {**base, "weight": 0.5, "ctc_weight": 0.0, "kd_weight": 1.0}
        inter = {**inter, "target": "teacher", "head": "shared", **change["inter"]}
        if inter["selector"] == "all":
            del inter["selector_conf"]
        change = {"inter": inter}
    config = KDConfig(**{**base, "weight": 1.0, **change})
    codec = Codec(9, 4, selector="symmetric", selector_conf={"n": 2})
    meta = SimpleNamespace(codec=codec, folder="cache")
    if fits:
        check_frames(meta, config)
        return
    with pytest.raises(InputError, match="keeps the frames of the selector symmetric"):
        check_frames(meta, config)


# Records


def sealed(utt="utt1", key="k", kept=3, seed=0):
    records = Records(Codec(8, kept), 0, key, "cache")
    audio = Audio(16000, 0x1234)
    return records, records.seal(utt, draw(5, 8, 5.0, seed), None, audio)


@pytest.mark.parametrize("kept", [None, 3])
def test_a_record_comes_back_with_what_it_belongs_to(kept):
    records, record = sealed(kept=kept)
    assert (record.dtype, record.ndim) == (np.float32, 1)
    said = records.open("utt1", record)
    assert said.audio == Audio(16000, 0x1234)
    assert len(said.log_probs) == 5


@given(st.integers(0, 10**9), st.integers(0, 7))
def test_no_flipped_bit_goes_unseen(place, bit):
    records, record = sealed()
    damaged = bytearray(record.tobytes())
    end = 20 + int.from_bytes(damaged[8:12], "little")
    damaged[place % end] ^= 1 << bit
    with pytest.raises(InputError, match="utterance utt1: its record in cache is dam"):
        records.open("utt1", np.frombuffer(bytes(damaged), np.float32))


def test_another_s_record_is_not_taken_for_one_s_own():
    records, record = sealed()
    message = "is damaged, or of another utterance, teacher, token list or packing"
    with pytest.raises(InputError, match=f"utterance utt2: .* {message}"):
        records.open("utt2", record)
    other, _ = sealed(key="other")
    with pytest.raises(InputError, match=message):
        other.open("utt1", record)
    for broken in (record[:-1], np.append(record, np.float32(0)), record[:2]):
        with pytest.raises(InputError, match=message):
            records.open("utt1", broken)
    for wrong in (record.reshape(1, -1), record.astype(np.float64)):
        with pytest.raises(InputError, match=r"is an array of .* which is none of a"):
            records.open("utt1", wrong)


def test_the_fingerprint_is_of_the_samples_whatever_their_type():
    samples = np.array([0, 1, -1, 32767, -32768, 123], np.int16)
    expected = fingerprint(samples)
    assert expected.samples == 6
    for dtype in (np.float32, np.float64):
        assert fingerprint((samples / 32768.0).astype(dtype)) == expected
    assert fingerprint(samples[::-1]) != expected


def test_a_cache_tells_what_it_takes_and_what_packing_would_cost(
    tmp_path, tiny_cache, tiny_model, tiny_data, capsys
):
    import tiny

    from espnet_ctckd.bin import cache_info, dump_teacher

    flags = ["--cache", tiny_cache, "--packings"]
    assert tiny.call(cache_info, *flags)[0] == 0
    printed = capsys.readouterr().out
    assert f"espnet {tiny_model.config}" in printed
    assert "8, blank '<blank>'" in printed
    table = [line.split() for line in printed.splitlines() if line.startswith("     ")]
    rows = {tuple(row[:3]): [float(x) for x in row[3:]] for row in table[1:]}
    size, _, lost = rows["4", "0.25", "0.0002"]
    # The same from the records themselves.
    codec, bytes_, kl, frames = Codec(8, 4), 0, 0.0, 0
    for said in tiny.read_cache(tiny_cache).values():
        log_probs = torch.from_numpy(said.log_probs)
        record = codec.encode(log_probs, 0)
        found, ids, _ = codec.decode(record, 0)
        kl += divergence(log_probs, spread(found, ids, 8)).sum()
        bytes_, frames = bytes_ + len(record), frames + len(log_probs)
    assert size == pytest.approx(bytes_ / frames, abs=0.01)
    assert lost == pytest.approx(kl / frames, rel=0.1)
    top = tmp_path / "top"
    dump_teacher.main(tiny.dump_args(tiny_model, tiny_data, top, "--top_k", 4))
    status, stderr = tiny.call(cache_info, "--cache", top, "--packings")
    assert status == 1
    assert "is packed already" in tiny.the_error(stderr)
