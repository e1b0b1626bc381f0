"""Dumps in jobs that are killed or doubled; caches that are merged and shown."""

import os
import random
import signal
import time
from fractions import Fraction
from pathlib import Path

import pytest
import tiny
from test_dump import assert_same, contents

from espnet_ctckd.bin import cache_info, cache_merge, cache_show
from espnet_ctckd.bin.cache_show import likeliest
from espnet_ctckd.cache.check import check_cache
from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.plan import make_plan
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.cache.statistics import Cached
from espnet_ctckd.cache.writer import dump
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.kaldi import read_scp, write_scp
from espnet_ctckd.posteriors import FramePosteriors

JOBS = 3
TOKENS = ["<blank>", "a", "b", "c", "d"]


class Hum:
    """A teacher that is quick: tokens by the energies of a frame's fifths."""

    token_list, blank, state_size = TOKENS, 0, 0
    rate, frame_shift, shortest, longest = tiny.RATE, Fraction(640), 640, None
    batching = "single"

    def __init__(self, seed=0):
        self.seed = seed

    def posteriors(self, speech, lengths):
        frames = speech[:, : speech.size(1) // 640 * 640].unflatten(1, (-1, 5, 128))
        energies = 50.0 * frames.square().mean(-1).roll(self.seed, -1)  # (B, U, 5)
        return FramePosteriors(energies.log_softmax(-1), lengths // 640, 0)

    def describe(self):
        return {"type": "test", "source": "hum", "weights_sha256": str(self.seed)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    lengths = [4.0 + 0.01 * (i % 7) for i in range(60)]
    return tiny.write_data(tmp_path_factory.mktemp("jobs") / "data", lengths)


def run_dump(data, cache, job=1, num_jobs=1, teacher=None, kept=3):
    teacher = teacher or Hum()
    plan = make_plan(str(data.wav_scp), teacher.rate, teacher.shortest, 8.0)
    return dump(teacher, plan, Codec(5, kept), Path(cache), 8.0, job, num_jobs)


def start(data, cache, job):
    """Dump in a process of its own, as a machine of a cluster does."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        run_dump(data, cache, job, JOBS)
        status = 0
    finally:
        os._exit(status)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """A cache that nobody disturbed, and the seconds that a job of it took."""
    cache = tmp_path_factory.mktemp("whole") / "cache"
    begun = time.monotonic()
    assert run_dump(data, cache)
    return cache, (time.monotonic() - begun) / JOBS


@pytest.mark.parametrize("trial", range(10))
def test_kills_at_any_moment_of_three_jobs_change_nothing(tmp_path, data, whole, trial):
    """Thirty kills in all: each trial kills its three jobs."""
    reference, seconds = whole
    cache = tmp_path / "cache"
    draw = random.Random(trial)
    moments = sorted((draw.uniform(0.0, seconds), job) for job in range(1, JOBS + 1))
    begun = time.monotonic()
    children = {job: start(data, cache, job) for _, job in moments}
    killed = 0
    for moment, job in moments:
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        os.kill(children[job], signal.SIGKILL)
        _, status = os.waitpid(children[job], 0)
        killed += os.WIFSIGNALED(status)
    assert not (cache / "meta.json").exists() or killed < JOBS
    finished = [run_dump(data, cache, job, JOBS) for job in range(1, JOBS + 1)]
    assert finished[-1]
    assert_same(contents(cache), contents(reference))


def test_what_killed_jobs_were_writing_is_removed(tmp_path, data, whole):
    cache = tmp_path / "cache"
    cache.mkdir()
    stale, fresh = cache / ".teacher.scp.1.part", cache / ".teacher.scp.2.part"
    for path in (cache / ".plan.json.1.part", stale, fresh):
        path.write_text("half")
    os.utime(stale, (0, 0))
    run_dump(data, cache)
    assert fresh.read_text() == "half"  # which another job may be writing
    fresh.unlink()
    assert_same(contents(cache), contents(whole[0]))


def test_two_jobs_of_one_shard_do_not_mix(tmp_path, data, whole):
    cache = tmp_path / "cache"
    children = [start(data, cache, job) for job in (1, 1, 1, 2, 2, 3)]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0] * len(children)
    assert_same(contents(cache), contents(whole[0]))


def test_jobs_have_about_as_much_to_do(data):
    plan = make_plan(str(data.wav_scp), tiny.RATE, 640, 8.0)
    work = [
        sum(u.samples for shard in plan.shards[job::JOBS] for b in shard for u in b)
        for job in range(JOBS)
    ]
    assert max(work) - min(work) <= max(
        sum(u.samples for b in shard for u in b) for shard in plan.shards
    )


# Merging


def part_of(data, folder, chosen):
    wavs = data.wavs()
    return data.copy(folder, {utt: wavs[utt] for utt in chosen})


def merge(out, *caches):
    flags = [f for cache in caches for f in ("--cache", cache)]
    return tiny.call(cache_merge, *flags, "--output_dir", out)


def test_merged_caches_say_what_each_has_said(tmp_path, data, whole, capsys):
    utts = list(data.wavs())
    parts = [part_of(data, tmp_path / f"d{i}", utts[i::2]) for i in range(2)]
    caches = [tmp_path / f"c{i}" for i in range(2)]
    for part, cache in zip(parts, caches):
        run_dump(part, cache)
    status, stderr = merge(tmp_path / "both", *caches)
    assert status == 0, stderr
    check_cache(tmp_path / "both", data.wav_scp)
    both = tiny.read_cache(tmp_path / "both")
    for cache in caches:
        for utt, said in tiny.read_cache(cache).items():
            assert (both[utt].log_probs == said.log_probs).all()
            assert both[utt].audio == said.audio
    frames = read_meta(whole[0]).frames
    assert f"60 utterances, {frames} frames, of 2 caches" in capsys.readouterr().out


def test_a_moved_cache_is_merged_to_its_new_place(tmp_path, data, whole):
    moved = tmp_path / "moved"
    run_dump(data, tmp_path / "cache")
    os.rename(tmp_path / "cache", moved)
    with pytest.raises(InputError, match="the folder was moved"):
        check_cache(moved, data.wav_scp)
    assert merge(tmp_path / "here", moved)[0] == 0
    check_cache(tmp_path / "here", data.wav_scp)
    status, stderr = merge(tmp_path / "here", moved)
    assert status == 1
    assert "holds a finished cache" in tiny.the_error(stderr)


def test_what_does_not_belong_together_is_not_merged(tmp_path, data, whole):
    one = part_of(data, tmp_path / "one", list(data.wavs())[:9])
    run_dump(one, tmp_path / "other", teacher=Hum(seed=1))
    run_dump(one, tmp_path / "dense", kept=None)
    run_dump(one, tmp_path / "same")
    for cache, message in (
        ("other", r"differ in teacher: merge what one teacher has said"),
        ("dense", r"differ in codec: merge"),
        ("same", r"utterance utt00 is in two of the caches"),
    ):
        status, stderr = merge(tmp_path / "out", whole[0], tmp_path / cache)
        assert status == 1
        assert message in tiny.the_error(stderr)
        assert not (tmp_path / "out/meta.json").exists()
    ark = next((tmp_path / "same").rglob("*.ark"))
    ark.write_bytes(ark.read_bytes()[:-4] + b"oops")
    status, stderr = merge(tmp_path / "out2", tmp_path / "same")
    assert status == 1
    assert f"{ark} is damaged" in tiny.the_error(stderr)


def swap(scp):
    utts = list(scp)
    scp[utts[0]], scp[utts[1]] = scp[utts[1]], scp[utts[0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scp: scp.pop("utt01"), "have not the same utterances: utt01"),
        (
            lambda scp: scp.update(utt01="other.ark:5"),
            "has 'other.ark:5' for the utterance",
        ),
        (swap, "utt00"),
    ],
    ids=["lost", "other", "swapped"],
)
def test_a_cache_of_a_damaged_list_is_not_merged(tmp_path, data, change, message):
    run_dump(part_of(data, tmp_path / "d", list(data.wavs())[:5]), tmp_path / "cache")
    scp = read_scp(tmp_path / "cache/teacher.scp")
    change(scp)
    write_scp(tmp_path / "cache/teacher.scp", scp.items())
    status, stderr = merge(tmp_path / "out", tmp_path / "cache")
    assert status == 1
    assert message in tiny.the_error(stderr)
    assert not (tmp_path / "out/meta.json").exists()


# Showing


@pytest.mark.parametrize("kept", [None, 3])
def test_the_picture_holds_what_the_cache_says(tmp_path, data, kept, capsys):
    one = part_of(data, tmp_path / "one", list(data.wavs())[:3])
    run_dump(one, tmp_path / "cache", kept=kept)
    picture = tmp_path / "picture.png"
    flags = ["utt01", "--cache", tmp_path / "cache", "--output", picture]
    status, stderr = tiny.call(cache_show, *flags)
    assert status == 0, stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = Cached(tmp_path / "cache").say("utt01")
    probs, tokens = likeliest(said, 5, 3)
    assert probs.shape == (3, said.log_probs.size(1))
    assert len(set(tokens)) == 3
    assert 0 not in tokens
    first = probs.argmax(1).tolist()
    assert first == sorted(first, reverse=True)
    spikes = int(said.nonblank().sum())
    assert f"{probs.shape[1]} frames, {spikes} not blank" in capsys.readouterr().out
    # As probable as the cache has it.
    best = said.argmax()[0]
    for frame in (best == tokens[0]).nonzero().flatten().tolist():
        assert probs[0, frame] == pytest.approx(
            float(said.log_probs[0, frame].max().exp()), rel=1e-6
        )


def test_what_cannot_be_shown_is_named(tmp_path, data, whole):
    for flags, message in (
        (["nobody"], "has no utterance 'nobody'; it has utt00, utt01"),
        (["utt00", "--selector", "odd"], "unknown selector 'odd'; choose one of"),
        (["utt00", "--selector_conf", "{m: 1}"], "unknown option 'm' for selector"),
    ):
        status, stderr = tiny.call(cache_show, *flags, "--cache", whole[0])
        assert status == 1
        assert message in tiny.the_error(stderr)


def test_a_cache_is_described(whole, capsys):
    cache_info.main(["--cache", str(whole[0])])
    printed = capsys.readouterr().out
    meta = read_meta(whole[0])
    assert f"{meta.frames} of 40 ms" in printed
    assert "5, blank '<blank>'" in printed
    assert "hum" in printed
