import itertools
import json
import math

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from espnet_ctckd.bin import compare_spikes, dump_teacher
from espnet_ctckd.choices import InputError
from espnet_ctckd.evaluation.spikes import match_spikes, spike_rates
from espnet_ctckd.export.plain import export
from espnet_ctckd.paths import blank_runs, find_spikes
from espnet_ctckd.report.spikes import (
    Comparison,
    compare,
    open_source,
    read_spikes,
)

paths = st.lists(st.integers(0, 3), max_size=12)


@given(paths, st.integers(0, 3))
def test_spikes_are_the_greedy_transcript_and_cover_what_is_not_blank(path, blank):
    spikes = find_spikes(path, blank)
    collapsed = [token for token, _ in itertools.groupby(path) if token != blank]
    assert [spike.token for spike in spikes] == collapsed
    covered = [t for s in spikes for t in range(s.frame, s.frame + s.frames)]
    assert covered == [t for t, token in enumerate(path) if token != blank]


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("0100100010", [2, 3]),  # the last gap is counted
        ("0110", []),
        ("", []),
        ("000", []),
        ("101", [1]),
    ],
)
def test_blank_runs_are_those_between_spikes(bits, expected):
    assert blank_runs(find_spikes([int(bit) for bit in bits], 0)) == expected


def test_spikes_are_matched_in_their_order():
    teacher = find_spikes([1, 0, 2, 0, 3, 0, 1], 0)
    student = find_spikes([0, 1, 0, 3, 3, 0, 0, 1], 0)
    pairs = [(a.token, a.frame, b.frame) for a, b in match_spikes(teacher, student)]
    assert pairs == [(1, 0, 1), (3, 4, 3), (1, 6, 7)]
    assert match_spikes(teacher, []) == match_spikes([], student) == []


def test_a_model_is_compared_with_its_teacher(tmp_path, tiny_model, tiny_data, capsys):
    other = tiny.write_model(tmp_path / "other", seed=5)
    caches = {}
    for name, model, more in (
        ("teacher", tiny_model, ()),
        ("student", other, ()),
        ("top", tiny_model, ("--top_k", 3)),
    ):
        caches[name] = tmp_path / name
        dump_teacher.main(tiny.dump_args(model, tiny_data, caches[name], *more))
    capsys.readouterr()
    output = tmp_path / "counts.json"
    flags = ["--teacher", caches["teacher"], "--output", output, caches["student"]]
    compare_spikes.main([str(flag) for flag in flags])
    printed = capsys.readouterr().out.splitlines()
    assert "blank %" in printed[0]
    assert len(printed) == 3
    counts = json.loads(output.read_text())
    assert counts[str(caches["teacher"])]["missed"] == 0
    assert set(counts[str(caches["teacher"])]["offsets"]) == {0.0}
    # The same from the matrices, by counting.
    frames = blanks = 0
    for said in tiny.read_cache(caches["student"]).values():
        frames += len(said.log_probs)
        blanks += int((said.log_probs.argmax(1) == 0).sum())
    found = counts[str(caches["student"])]
    assert (found["frames"], found["blank"]) == (frames, blanks)
    assert found["missed"] > 0
    matched = found["spikes"] - found["missed"]
    assert len(found["offsets"]) == matched
    teacher, top = (open_source(caches[name]) for name in ("teacher", "top"))
    assert compare(dict(read_spikes(teacher, teacher)), teacher, top).missed == 0
    # A model that is run now says the same, but for what padding did to its edges.
    export(other.config, other.weights, tmp_path / "plain")
    capsys.readouterr()
    flags[1:] = [caches["student"], "--wav_scp", tiny_data.wav_scp, tmp_path / "plain"]
    compare_spikes.main([str(flag) for flag in flags])
    row = capsys.readouterr().out.splitlines()[2].split()
    assert float(row[2]) < 20  # missed
    assert float(row[4]) == pytest.approx(0.0, abs=20)  # offset
    with pytest.raises(InputError, match=r"plain is a model: .* \(--wav_scp\)"):
        compare_spikes.main([flags[0], str(flags[1]), str(tmp_path / "plain")])


def test_caches_of_other_audio_are_not_compared(tmp_path, tiny_model, tiny_data):
    wavs = dict(list(tiny_data.wavs().items())[:3])
    fewer = tiny_data.copy(tmp_path / "fewer", wavs)
    for name, data in (("a", tiny_data), ("b", fewer)):
        dump_teacher.main(tiny.dump_args(tiny_model, data, tmp_path / name))
    with pytest.raises(
        InputError, match="are not of the same utterances: 1 are in one"
    ):
        compare_spikes.main(["--teacher", str(tmp_path / "a"), str(tmp_path / "b")])


def test_nothing_has_no_rate():
    assert set(Comparison().summary().values()) == {None}


def test_rates_of_a_student_by_counting():
    # The teacher says 1 2 3 at frames 0, 2, 4; the student 1 3 at 1, 6.
    theirs, ours = [1, 0, 2, 0, 3, 0, 0, 0], [0, 1, 1, 0, 0, 0, 3, 0]
    assert spike_rates([(theirs, ours)], 0, 1.0) == {
        "spikes_missed": pytest.approx(1 / 3),
        "spikes_inserted": 0.0,
        "spike_offset": pytest.approx(1.5),
    }
    # Another one says 1 2 3 1, on time.
    more = [1, 0, 2, 0, 3, 0, 1, 0]
    assert spike_rates([(theirs, more)], 0, 1.0) == {
        "spikes_missed": 0.0,
        "spikes_inserted": pytest.approx(1 / 3),
        "spike_offset": 0.0,
    }
    # Two frames of the teacher to one of the student: 4 is 2 there.
    assert spike_rates([([0] * 4 + [1], [0, 0, 0, 1])], 0, 2.0)["spike_offset"] == 1.0
    assert all(math.isnan(rate) for rate in spike_rates([], 0, 1.0).values())
