"""Caches from elsewhere: whatever they hold is data, and is never run."""

import json
import pickle
import shutil
import zlib
from fractions import Fraction

import pytest
import tiny
from test_train import flags

from espnet_ctckd.bin import (
    asr_train,
    cache_info,
    cache_merge,
    cache_show,
    check_cache,
    dump_nbest,
    estimate_prior,
)
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import read_scp, write_scp


@pytest.fixture
def cache(tmp_path, tiny_cache):
    """A copy to be changed, which names its files by its own place."""
    copied = tmp_path / "cache"
    shutil.copytree(tiny_cache, copied)
    scp = read_scp(copied / "teacher.scp")
    moved = [(u, p.replace(str(tiny_cache), str(copied))) for u, p in scp.items()]
    write_scp(copied / "teacher.scp", moved)
    return copied


class Touch:
    """Runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def command_entry(cache, mark):
    return f"touch {mark} |"


def foreign_entry(cache, mark):
    path = cache.parent / "foreign.ark"
    path.write_bytes(b"PKL" + pickle.dumps(Touch(mark)))
    return f"{path}:0"


def outside_entry(cache, mark):
    foreign_entry(cache, mark)
    return f"{cache}/../foreign.ark:0"


ENTRIES = [command_entry, foreign_entry, outside_entry]
STATS = ["--collect_stats", "true"]
LOOSE = ["--allow_variable_data_keys", "true"]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("model", "name", "more"),
    [
        ("ctckd", "teacher", []),
        ("ctckd", "teacher", STATS),
        ("ctckd", "other", LOOSE),
        ("ctckd", "other", [*STATS, *LOOSE]),
        ("plain", "teacher", [*STATS, *LOOSE]),
        ("plain", "other", LOOSE),
    ],
)
def test_nothing_that_a_list_names_is_run(
    tmp_path, tiny_data, tiny_cache, cache, entry, model, name, more
):
    mark = tmp_path / "executed"
    scp = read_scp(cache / "teacher.scp")
    scp["utt02"] = entry(cache, mark)
    write_scp(cache / "teacher.scp", scp.items())
    kd = tiny.KD if model == "ctckd" else None
    sound = cache if name == "teacher" else kd and tiny_cache
    command = flags(tmp_path / "run", tiny_data, sound, kd, max_epoch=1)
    if name == "other":
        data = f"{cache}/teacher.scp,other,kaldi_ark"
        command += ["--train_data_path_and_name_and_type", data]
    status, stderr = tiny.call(asr_train, *command, *more)
    assert not mark.exists()
    assert status == 1
    assert f"{cache}/teacher.scp has {scp['utt02']!r}" in tiny.the_error(stderr)


def test_a_pickle_in_an_ark_of_a_cache_is_not_loaded(tmp_path, tiny_data, cache):
    mark = tmp_path / "executed"
    scp = read_scp(cache / "teacher.scp")
    ark, _, offset = scp["utt02"].rpartition(":")
    with open(ark, "r+b") as f:
        f.seek(int(offset))
        f.write(b"PKL" + pickle.dumps(Touch(mark)))
    command = flags(tmp_path / "run", tiny_data, cache, tiny.KD, max_epoch=1)
    tiny.call(asr_train, *command, *STATS)
    tiny.call(asr_train, *command)
    assert not mark.exists()


def test_statistics_are_collected_without_the_records(tmp_path, tiny_data, cache):
    command = flags(tmp_path / "run", tiny_data, cache, tiny.KD, max_epoch=1)
    status, stderr = tiny.call(asr_train, *command, *STATS)
    assert status == 0, stderr
    assert (tmp_path / "run/exp/train/speech_shape").exists()


@pytest.mark.parametrize("kind", ["npy", "sound", "text"])
def test_the_list_of_a_cache_is_no_data_of_another_type(
    tmp_path, tiny_data, cache, kind
):
    command = flags(tmp_path / "run", tiny_data, cache, tiny.KD, max_epoch=1)
    command = [f.replace("teacher,kaldi_ark", f"teacher,{kind}") for f in command]
    status, stderr = tiny.call(asr_train, *command, *STATS)
    assert status == 1
    assert f"as {kind!r}; give {cache}/teacher.scp,teacher,kaldi_ark" in (
        tiny.the_error(stderr)
    )
