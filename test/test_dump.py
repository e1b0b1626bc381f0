"""Dumps: the same bytes, whatever happened on the way; and what is refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch

from espnet_ctckd.bin import dump_teacher, filter_data, prove_teacher
from espnet_ctckd.cache.check import check_cache as check
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import read_scp

TOP_K = 3


@pytest.fixture(scope="module")
def long_data(tmp_path_factory):
    """Eight minutes and a half, of 29 shards."""
    lengths = [5.0 + 0.01 * (i % 7) for i in range(100)]
    return tiny.write_data(tmp_path_factory.mktemp("long") / "data", lengths)


@pytest.fixture(scope="module")
def long_cache(tmp_path_factory, tiny_model, long_data):
    """Dumped by one job, without interruption."""
    cache = tmp_path_factory.mktemp("long") / "cache"
    dump_teacher.main(tiny.dump_args(tiny_model, long_data, cache, *SMALL))
    return cache


SMALL = ("--batch_seconds", 6, "--top_k", TOP_K)


def contents(cache):
    """Files and their bytes; paths inside the cache stand relative to it.

    How fast it was dumped, in logs, is not part of it.
    """
    files = sorted(
        path
        for path in cache.rglob("*")
        if path.is_file() and path.parent.name != "logs"
    )
    old = str(cache).encode()
    return {
        str(path.relative_to(cache)): path.read_bytes().replace(old, b"<cache>")
        for path in files
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_the_data_are_divided_into_shards(long_cache):
    arks = [name for name in contents(long_cache) if name.endswith(".ark")]
    assert len(arks) >= 4
    assert set(read_meta(long_cache).arks) == set(arks)


def test_the_number_of_jobs_changes_nothing(
    tmp_path, tiny_model, long_data, long_cache, capsys
):
    cache = tmp_path / "cache"
    flags = tiny.dump_args(tiny_model, long_data, cache, *SMALL, "--num_jobs", 3)
    for job in (3, 1, 2):
        capsys.readouterr()
        dump_teacher.main([*flags, "--job", str(job)])
        finished = job == 2
        assert (f"finished: {cache}" in capsys.readouterr().out) is finished
        assert (cache / "meta.json").exists() is finished
    assert_same(contents(cache), contents(long_cache))


def test_a_killed_dump_goes_on_to_the_same_bytes(
    tmp_path, tiny_model, long_data, long_cache
):
    cache = tmp_path / "cache"
    flags = tiny.dump_args(tiny_model, long_data, cache, *SMALL)
    command = [sys.executable, "-m", "espnet_ctckd.bin.dump_teacher", *flags]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    first = cache / "shards" / "00000" / "posteriors.00000.scp"
    deadline = time.monotonic() + 120
    while not first.exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in cache.rglob("*.scp")}
    assert 0 < len(done) < len(read_meta(long_cache).arks)
    with pytest.raises(InputError, match=f"{cache} is not a finished cache"):
        read_meta(cache)
    dump_teacher.main(flags)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert_same(contents(cache), contents(long_cache))


def test_dumping_into_a_finished_cache_does_nothing(tmp_path, tiny_model, tiny_data):
    cache = tmp_path / "cache"
    flags = tiny.dump_args(tiny_model, tiny_data, cache)
    dump_teacher.main(flags)
    before = {path: path.stat() for path in cache.rglob("*")}
    dump_teacher.main(flags)
    after = {path: path.stat() for path in cache.rglob("*")}
    assert after.keys() == before.keys()
    for path, stat in before.items():
        assert after[path].st_ino == stat.st_ino, path
        assert after[path].st_mtime_ns == stat.st_mtime_ns, path


def test_dumping_again_does_not_bless_a_damaged_cache(tmp_path, tiny_model, tiny_data):
    cache = tmp_path / "cache"
    flags = tiny.dump_args(tiny_model, tiny_data, cache)
    dump_teacher.main(flags)
    ark = cache / "shards" / "00000" / "posteriors.00000.ark"
    os.truncate(ark, ark.stat().st_size - 8)
    dump_teacher.main(flags)
    with pytest.raises(InputError, match=str(ark)):
        check(cache, tiny_data.wav_scp)


def test_a_folder_begun_for_another_teacher_is_refused(
    tmp_path, tiny_model, tiny_data, tiny_cache
):
    other = tiny.write_model(tmp_path / "other", seed=1)
    before = contents(tiny_cache)
    with pytest.raises(
        InputError, match=f"{tiny_cache} was begun for .*\\(another teacher"
    ):
        dump_teacher.main(tiny.dump_args(other, tiny_data, tiny_cache))
    assert contents(tiny_cache) == before


def test_a_folder_begun_for_other_data_is_refused(tmp_path, tiny_model, tiny_cache):
    other = tiny.write_data(tmp_path / "data", (0.8, 0.5, 1.1, 0.66))
    before = contents(tiny_cache)
    with pytest.raises(
        InputError, match=f"{tiny_cache} was begun .*\\(other utterances"
    ):
        dump_teacher.main(tiny.dump_args(tiny_model, other, tiny_cache))
    assert contents(tiny_cache) == before


def test_a_folder_begun_with_another_top_k_is_refused(
    tiny_model, tiny_data, tiny_cache
):
    flags = tiny.dump_args(tiny_model, tiny_data, tiny_cache, "--top_k", TOP_K)
    with pytest.raises(
        InputError, match=f"{tiny_cache} was begun .*packing .*'kept': None.*'kept': 3"
    ):
        dump_teacher.main(flags)


@pytest.mark.parametrize("kept", [-1, 1, len(tiny.TOKENS)])
def test_a_top_k_without_room_for_blank_and_another_or_without_effect_is_refused(
    tmp_path, tiny_model, tiny_data, kept
):
    flags = tiny.dump_args(tiny_model, tiny_data, tmp_path / "cache", "--top_k", kept)
    with pytest.raises(InputError, match=f"--top_k is {kept}; give one from 2 to 7"):
        dump_teacher.main(flags)
    assert not (tmp_path / "cache").exists()


def test_an_utterance_too_short_for_the_teacher_is_refused_by_name(
    tmp_path, tiny_model
):
    data = tiny.write_data(tmp_path / "data", (0.5, 0.05))
    with pytest.raises(InputError, match=r"utt01: .* has 800 samples, too few"):
        dump_teacher.main(tiny.dump_args(tiny_model, data, tmp_path / "cache"))
    assert not (tmp_path / "cache" / "meta.json").exists()


@pytest.fixture
def partly_usable(tmp_path):
    """Data with one utterance that is too short, one cut and one missing."""
    data = tiny.write_data(tmp_path / "data", (0.5, 0.05, 0.8, 1.0, 0.7))
    wavs = data.wavs()
    with open(wavs["utt02"], "r+b") as f:
        f.truncate(9000)
    Path(wavs["utt04"]).unlink()
    (tmp_path / "data/utt2num_samples").write_text(
        "".join(f"{utt} 16000\n" for utt in wavs)
    )
    return data


def test_what_a_teacher_cannot_use_is_named_in_one_go(
    tmp_path, tiny_model, partly_usable
):
    flags = tiny.dump_args(tiny_model, partly_usable, tmp_path / "cache")
    with pytest.raises(
        InputError, match=r"So it is with 3 of 5 utterances of .*utt02, utt04"
    ):
        dump_teacher.main(flags)
    with pytest.raises(InputError, match=r"3 of 5 utterances .* --max_bad_share 40 %"):
        dump_teacher.main([*flags, "--max_bad_share", "40"])
    listed = read_scp(tmp_path / "cache/unheard")
    assert list(listed) == ["utt01", "utt02", "utt04"]


def test_what_a_teacher_cannot_use_is_left_out_and_is_an_empty_hypothesis(
    tmp_path, tiny_model, partly_usable, capsys
):
    cache = tmp_path / "cache"
    flags = tiny.dump_args(tiny_model, partly_usable, cache, "--max_bad_share", 60)
    dump_teacher.main(flags)
    assert "left out: utterance utt01: " in capsys.readouterr().out
    assert list(tiny.read_cache(cache)) == ["utt00", "utt03"]
    assert dump_teacher.main(flags) is None  # finished, and left as it is
    # In training and dev sets it is left out with its reason.
    given = ["--input_dir", partly_usable.folder, "--output_dir", tmp_path / "fit"]
    given += ["--cache", cache, "--max_bad_share", 60]
    filter_data.main([str(g) for g in given])
    assert list(read_scp(tmp_path / "fit/wav.scp")) == ["utt00", "utt03"]
    removed = read_scp(tmp_path / "fit/removed")
    assert removed["utt01"].startswith("the teacher: utterance utt01: ")
    check(cache, tmp_path / "fit/wav.scp", tmp_path / "fit/text")
    # What was never given to the teacher is another matter.
    with open(partly_usable.wav_scp, "a") as f:
        f.write(f"utt99 {partly_usable.wavs()['utt00']}\n")
    with open(partly_usable.text, "a") as f:
        f.write("utt99 a\n")
    with pytest.raises(InputError, match=f"{cache} lacks 1 of 6 utterances: utt99"):
        filter_data.main([str(g) for g in given])


def test_an_utterance_that_a_teacher_cannot_use_counts_in_its_error_rate(
    tmp_path, tiny_model, partly_usable
):
    cache = tmp_path / "cache"
    flags = tiny.dump_args(tiny_model, partly_usable, cache, "--max_bad_share", 100)
    dump_teacher.main(flags)
    given = ["--cache", cache, "--text", partly_usable.text]
    given += ["--token_list", cache / "tokens.txt", "--output_dir", tmp_path / "proof"]
    prove_teacher.main([str(g) for g in given])
    hypotheses = read_scp(tmp_path / "proof/text")
    assert list(hypotheses) == [f"utt0{i}" for i in range(5)]
    assert {u for u, words in hypotheses.items() if not words} >= {
        "utt01",
        "utt02",
        "utt04",
    }


def test_a_teacher_that_says_nan_is_refused_by_utterance(
    tmp_path, tiny_model, tiny_data
):
    weights = torch.load(tiny_model.weights, weights_only=True)
    weights["ctc.ctc_lo.bias"][1] = float("inf")  # no NaN until it is computed with
    broken = tmp_path / "broken.pth"
    torch.save(weights, broken)
    other = tiny.Model(tiny_model.config, broken)
    with pytest.raises(InputError, match=r"utterance utt.*: the teacher says NaN of"):
        dump_teacher.main(tiny.dump_args(other, tiny_data, tmp_path / "cache"))
    assert not (tmp_path / "cache/meta.json").exists()


def test_the_match_of_tokens_is_shown_before_anything_is_dumped(
    tmp_path, tiny_model, tiny_data, capsys
):
    tokens = tmp_path / "tokens.txt"
    for listed, said in (
        (list(tiny.TOKENS), f"all {len(tiny.TOKENS)} tokens are those of {tokens}"),
        ([tiny.TOKENS[0], *reversed(tiny.TOKENS[1:])], "tokens"),
    ):
        tokens.write_text("".join(f"{token}\n" for token in listed))
        flags = tiny.dump_args(
            tiny_model, tiny_data, tmp_path / str(len(said)), "--token_list", tokens
        )
        dump_teacher.main(flags)
        printed = capsys.readouterr().out
        assert said in printed
        assert printed.index(said) < printed.index("the cache will take")
    tokens.write_text("".join(f"{t}\n" for t in (*tiny.TOKENS, "x")))
    flags[-1] = str(tokens)
    flags[flags.index("--output_dir") + 1] = str(tmp_path / "other")
    status, stderr = tiny.call(dump_teacher, *flags)
    assert status == 1
    assert "'x'" in tiny.the_error(stderr)
    assert not (tmp_path / "other").exists()
