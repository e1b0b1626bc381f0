"""What a cache from elsewhere holds is data: no command, path or pickle is followed."""

import json
import pickle
import shutil
import zlib
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import tiny
from test_train import flags

from espnet_ctckd.bin import (
    cache_info,
    cache_merge,
    cache_show,
    check_cache,
    dump_nbest,
    dump_teacher,
    estimate_prior,
    prove_teacher,
)
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.kaldi import read_scp, write_scp
from espnet_ctckd.plugin.task import CTCKDTask


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def hostile(kind, cache, mark):
    """An entry of teacher.scp that would leave a mark, or read what is not its own."""
    ark, offset = read_scp(cache / "teacher.scp")["utt00"].rsplit(":", 1)
    if kind == "outside":
        outside = cache.parent / "outside.ark"
        shutil.copyfile(ark, outside)
        return f"{outside}:{offset}"
    if kind == "dots":
        outside = cache.parent / "outside.ark"
        shutil.copyfile(ark, outside)
        return f"{cache}/shards/../../outside.ark:{offset}"
    if kind == "pickle":
        array = cache / "shards" / "x.npy"
        array.write_bytes(b"NPY" + pickle.dumps(Bomb(mark)))
        return f"{array}:0"
    return {
        "pipe": f"touch {mark} |",
        "pipe before": f"| touch {mark}",
        "pipe and offset": f"touch {mark} |:0",
        "no offset": ark,
        "slice": f"{ark}:{offset}[0:3]",
        "negative": f"{ark}:-5",
        "stdin": "-",
        "another place": f"{ark}:{int(offset) + 1}",
    }[kind]


KINDS = ("pipe", "pipe before", "pipe and offset", "outside", "dots", "pickle")
KINDS += ("no offset", "slice", "negative", "stdin", "another place")


def command_of(name, cache, data, tmp_path):
    out = ["--output_dir", tmp_path / "out"]
    given = ["--cache", cache]
    return {
        "check_cache": (check_cache, [*given, "--wav_scp", data.wav_scp]),
        "cache_show": (cache_show, ["utt00", *given, "--output", tmp_path / "x.png"]),
        "cache_info": (cache_info, [*given, "--packings"]),
        "cache_merge": (cache_merge, [*given, *out]),
        "dump_nbest": (dump_nbest, [*given, *out]),
        "estimate_prior": (estimate_prior, [*given, "--output", tmp_path / "p"]),
        "prove_teacher": (
            prove_teacher,
            [*given, "--text", data.text, *out, "--token_list", cache / "tokens.txt"],
        ),
    }[name]


COMMANDS = ("check_cache", "cache_show", "cache_info", "cache_merge", "dump_nbest")
COMMANDS += ("estimate_prior", "prove_teacher", "asr_train")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_an_entry_of_a_list_is_a_record_of_the_cache(
    tmp_path, cache, tiny_data, name, kind
):
    mark = tmp_path / "mark"
    places = read_scp(cache / "teacher.scp")
    places["utt00"] = hostile(kind, cache, mark)
    write_scp(cache / "teacher.scp", places.items())
    if name == "asr_train":
        with pytest.raises(InputError, match="utt00"):
            CTCKDTask.main(cmd=flags(tmp_path / "run", tiny_data, cache, tiny.KD))
    elif name == "cache_merge" and kind in ("outside", "dots"):
        # It takes the ark of that name that lies in the cache.
        module, given = command_of(name, cache, tiny_data, tmp_path)
        status, stderr = tiny.call(module, *given)
        assert status == 1
        assert "outside.ark" in tiny.the_error(stderr)
    else:
        module, given = command_of(name, cache, tiny_data, tmp_path)
        status, stderr = tiny.call(module, *given)
        assert status == 1
        assert "utt00" in tiny.the_error(stderr)
    assert not mark.exists()


@pytest.mark.parametrize("where", ["arks", "files"])
@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "link/outside"])
def test_a_cache_names_files_of_its_own(tmp_path, cache, where, name):
    (tmp_path / "outside").write_bytes(b"x")
    (cache / "link").symlink_to(tmp_path)
    meta = json.loads((cache / "meta.json").read_text())
    meta[where][name] = [1, zlib.crc32(b"x")]
    del meta["crc32"]
    meta["crc32"] = zlib.crc32(json.dumps(meta, sort_keys=True).encode())
    (cache / "meta.json").write_text(json.dumps(meta))
    given = ["--cache", cache, "--output_dir", tmp_path / "out"]
    status, stderr = tiny.call(cache_merge, *given)
    assert status == 1
    assert "lies outside of the cache" in tiny.the_error(stderr)


def test_an_ark_of_other_things_is_no_record(tmp_path, tiny_model, tiny_data, cache):
    ark = next((cache / "shards").glob("*/*.ark"))
    places = read_scp(cache / "teacher.scp")
    with open(ark, "wb") as f:
        kaldiio.save_ark(f, {"utt00": np.zeros((3, 4), np.float32)})
    places["utt00"] = f"{ark}:6"
    write_scp(cache / "teacher.scp", places.items())
    given = ["utt00", "--cache", cache, "--output", tmp_path / "x.png"]
    status, stderr = tiny.call(cache_show, *given)
    assert status == 1
    assert "is no record" in tiny.the_error(stderr)


def test_a_folder_with_brackets_and_spaces_is_a_cache(tmp_path, tiny_model, tiny_data):
    cache = tmp_path / "a [0:3] b"
    command = tiny.dump_args(tiny_model, tiny_data, cache)
    assert tiny.call(dump_teacher, *command)[0] == 0
    given = ["utt00", "--cache", cache, "--output", tmp_path / "x.png"]
    status, stderr = tiny.call(cache_show, *given)
    assert status == 0, stderr
