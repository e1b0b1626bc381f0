"""Caches from elsewhere: whatever they hold is data, and is never run."""

import json
import pickle
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
from espnet_ctckd.data.kaldi import read_scp, write_scp


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


def rewrite(cache, change):
    """Change ``meta.json``, and seal it anew."""
    path = cache / "meta.json"
    found = json.loads(path.read_text())
    found.pop("crc32")
    change(found)
    crc = zlib.crc32(json.dumps(found, sort_keys=True).encode())
    path.write_text(json.dumps({**found, "crc32": crc}))


def put(key, value):
    return lambda found: found.__setitem__(key, value)


def put_in_codec(key, value):
    return lambda found: found["codec"].__setitem__(key, value)


WRONG = {
    "no rate": (lambda found: found.pop("rate"), "'rate'"),
    "rate 16k": (put("rate", "16k"), "'rate'"),
    "rate 0": (put("rate", 0), "'rate'"),
    "rate true": (put("rate", True), "'rate'"),
    "shift 0": (put("frame_shift", "0"), "'frame_shift'"),
    "shift 1/0": (put("frame_shift", "1/0"), "'frame_shift'"),
    "shift 1e999999": (put("frame_shift", "1e999999999"), "'frame_shift'"),
    "shift -640": (put("frame_shift", "-640"), "'frame_shift'"),
    "shift 640": (put("frame_shift", 640), "'frame_shift'"),
    "blank 99": (put("blank", 99), "'blank'"),
    "blank -1": (put("blank", -1), "'blank'"),
    "codec list": (put("codec", []), "'codec'"),
    "codec foo": (put_in_codec("foo", 1), "'codec.foo'"),
    "codec tokens": (put_in_codec("tokens", 31), "'codec'"),
    "codec no tokens": (lambda f: f["codec"].pop("tokens"), "'codec.tokens'"),
    "codec kept": (put_in_codec("kept", "3"), "'codec.kept'"),
    "codec step": (put_in_codec("step", float("nan")), "'codec.step'"),
    "codec selector": (
        lambda f: f["codec"].update(kept=3, selector="nope"),
        "'codec': unknown selector 'nope'",
    ),
    "codec selector_conf": (
        lambda f: f["codec"].update(
            kept=3, selector="symmetric", selector_conf={"n": "x"}
        ),
        "'codec'",
    ),
    "arks list": (put("arks", []), "'arks'"),
    "arks null": (put("arks", None), "'arks'"),
    "arks sizes": (put("arks", {"a.ark": ["1", 2]}), "'arks'"),
    "files null byte": (put("files", {"a\0": [1, 2]}), "the file 'a\\x00'"),
    "teacher string": (put("teacher", "x"), "'teacher'"),
    "teacher number": (put("teacher", {"type": 1}), "'teacher'"),
    "batching list": (put("batching", ["x"]), "'batching'"),
    "batching x": (put("batching", "x"), "'batching'"),
    "utterances": (put("utterances", "60"), "'utterances'"),
    "frames": (put("frames", 1.5), "'frames'"),
}


def commands(tmp_path, cache, data):
    """Every command that reads a cache alone."""
    yield check_cache, ["--cache", cache, "--wav_scp", data.wav_scp]
    yield cache_show, ["utt00", "--cache", cache, "--output", tmp_path / "x.png"]
    yield cache_info, ["--cache", cache]
    yield cache_merge, ["--cache", cache, "--output_dir", tmp_path / "merged"]
    yield estimate_prior, ["--cache", cache, "--output", tmp_path / "prior"]
    yield dump_nbest, ["--cache", cache, "--output_dir", tmp_path / "nbest"]


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_sealed_meta_file_of_wrong_contents_is_refused_by_its_key(
    tmp_path, tiny_data, cache, change, message
):
    rewrite(cache, change)
    for module, given in commands(tmp_path, cache, tiny_data):
        status, stderr = tiny.call(module, *given)
        assert status == 1
        error = tiny.the_error(stderr)
        assert message in error
        assert f"{cache}/meta.json" in error


@pytest.mark.parametrize(
    "content", ["[" * 100000, '{"a":' * 100000, "[]", "\xff", "9" * 5000]
)
def test_a_meta_file_that_is_no_mapping_is_refused(tmp_path, tiny_data, cache, content):
    (cache / "meta.json").write_text(content, encoding="latin-1")
    for module, given in commands(tmp_path, cache, tiny_data):
        status, stderr = tiny.call(module, *given)
        assert status == 1
        assert f"{cache}/meta.json is damaged" in tiny.the_error(stderr)


@pytest.mark.parametrize("offset", ["9" * 18, "9" * 30, "²", "-1"])
def test_an_offset_that_is_none_is_refused(tmp_path, tiny_data, cache, offset):
    scp = read_scp(cache / "teacher.scp")
    moved = [(u, f"{p.rpartition(':')[0]}:{offset}") for u, p in scp.items()]
    write_scp(cache / "teacher.scp", moved)
    for module, given in commands(tmp_path, cache, tiny_data):
        if module is not cache_info:  # which opens no record
            status, stderr = tiny.call(module, *given)
            assert status == 1
            assert "utt0" in tiny.the_error(stderr)


def test_the_meta_files_that_are_written_are_read(cache):
    meta = read_meta(cache)
    assert meta.frame_shift == Fraction(640)
    rewrite(cache, put("frame_shift", "1280/3"))
    assert read_meta(cache).frame_shift == Fraction(1280, 3)
    rewrite(cache, lambda found: found.pop("batching"))
    assert read_meta(cache).batching == "unrecorded"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: "x", "utt2audio has "),
        (lambda entry: entry.replace(" ", ""), "utt2audio has "),
        (lambda entry: "1" + entry[1:], "utt2audio is damaged"),
    ],
)
def test_n_best_lists_are_not_dumped_of_a_changed_list_of_audio(
    tmp_path, cache, change, message
):
    listed = read_scp(cache / "utt2audio")
    write_scp(cache / "utt2audio", ((u, change(e)) for u, e in listed.items()))
    given = ["--cache", cache, "--output_dir", tmp_path / "nbest"]
    status, stderr = tiny.call(dump_nbest, *given)
    assert status == 1
    assert message in tiny.the_error(stderr)
    assert not (tmp_path / "nbest").exists()
    # So is one that is sealed anew.
    path = cache / "utt2audio"
    content = path.read_bytes()
    rewrite(
        cache,
        lambda f: f["files"].update(utt2audio=[len(content), zlib.crc32(content)]),
    )
    if "utt2audio has" in message:
        status, stderr = tiny.call(dump_nbest, *given)
        assert status == 1
        assert f"{path} has " in tiny.the_error(stderr)


def test_a_failed_merge_names_its_source_and_leaves_nothing(tmp_path, cache):
    ark = next(cache.glob("shards/*/*.ark"))
    content = ark.read_bytes()
    ark.write_bytes(content[:-40] + bytes(40))
    crc = zlib.crc32(ark.read_bytes())
    name = str(ark.relative_to(cache))
    rewrite(cache, lambda f: f["arks"].update({name: [len(content), crc]}))
    target = tmp_path / "merged"
    given = ["--cache", cache, "--output_dir", target]
    for damaged in (b"sealed anew", content[:99]):
        status, stderr = tiny.call(cache_merge, *given)
        assert status == 1
        error = tiny.the_error(stderr)
        assert str(cache) in error
        assert str(target) not in error
        assert not target.exists()
        ark.write_bytes(damaged)


def test_a_merge_that_fails_while_it_copies_leaves_nothing(
    tmp_path, cache, monkeypatch
):
    def fail(*_):
        raise InputError("no room")

    monkeypatch.setattr("espnet_ctckd.cache.index.write_index", fail)
    target = tmp_path / "merged"
    status, _ = tiny.call(cache_merge, "--cache", cache, "--output_dir", target)
    assert status == 1
    assert not target.exists()
