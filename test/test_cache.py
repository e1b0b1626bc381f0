"""Dumping a teacher into a cache, reading it back, and holding it against data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction

import kaldiio
import numpy as np
import pytest
import soundfile
import tiny
import torch
from espnet2.train.dataset import ESPnetDataset

from espnet_ctckd.bin import check_cache, dump_teacher, estimate_prior
from espnet_ctckd.cache.check import Student
from espnet_ctckd.cache.check import check_cache as check
from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import read_audio, read_prior, read_scp, write_scp
from espnet_ctckd.preprocess import PosteriorReader, TeacherDecoder
from espnet_ctckd.teachers.espnet import EspnetTeacher

TOP_K = 3


@pytest.fixture(scope="module")
def teacher(tiny_model):
    return EspnetTeacher(config_file=tiny_model.config, model_file=tiny_model.weights)


@pytest.fixture(scope="module")
def said(teacher, tiny_data):
    """What the teacher says of each utterance, heard on its own (U, V)."""
    found = {}
    for utt, path in tiny_data.wavs().items():
        audio = torch.from_numpy(read_audio(utt, path, tiny.RATE)).unsqueeze(0)
        posteriors = teacher.posteriors(audio, torch.tensor([audio.size(1)]))
        found[utt] = posteriors.log_probs[0].numpy()
    return found


@pytest.fixture(scope="module")
def single(tmp_path_factory, tiny_model, tiny_data):
    """Dense and top-k caches whose batches are of one utterance, so without padding."""
    folder = tmp_path_factory.mktemp("single")
    flags = ("--batch_seconds", 0.1)
    for name, more in (("dense", ()), ("top", ("--top_k", TOP_K))):
        cache = folder / name
        args = tiny.dump_args(tiny_model, tiny_data, cache, *flags, *more)
        dump_teacher.main(args)
    return folder


def read_kaldi(cache):
    records = read_meta(cache).records
    arrays = kaldiio.load_scp(str(cache / "teacher.scp"))
    found = {utt: records.open(utt, arrays[utt]) for utt in arrays}
    return {utt: (said.log_probs, said.ids) for utt, said in found.items()}


def read_espnet(cache):
    """As a training reads it: ESPnet's data set, and the task's preprocessor."""
    scp = (str(cache / "teacher.scp"), "teacher", "kaldi_ark")
    meta = read_meta(cache)
    reader = PosteriorReader(meta.records, None, len(meta.token_list))
    data = ESPnetDataset([scp], preprocess=TeacherDecoder(None, reader, None))
    found = {utt: data[utt][1] for utt in read_scp(cache / "teacher.scp")}
    return {utt: (d["teacher"], d.get("teacher_ids")) for utt, d in found.items()}


@pytest.mark.parametrize("read", [read_kaldi, read_espnet])
def test_a_dense_cache_holds_the_posteriors_of_the_teacher(single, said, read):
    found = read(single / "dense")
    assert found.keys() == said.keys()
    for utt, expected in said.items():
        log_probs, ids = found[utt]
        assert ids is None
        assert log_probs.dtype == np.float32
        np.testing.assert_array_equal(log_probs, expected)
        np.testing.assert_allclose(np.exp(log_probs).sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("read", [read_kaldi, read_espnet])
def test_a_top_k_cache_holds_the_best_tokens_and_the_blank(single, said, teacher, read):
    found = read(single / "top")
    assert found.keys() == said.keys()
    for utt, expected in said.items():
        log_probs, ids = found[utt]
        assert log_probs.shape == ids.shape == (len(expected), TOP_K)
        assert ids.dtype == np.int64
        assert bool((ids == teacher.blank).any(1).all())
        for kept, row, stored in zip(ids, expected, log_probs):
            assert len(set(kept)) == TOP_K
            assert kept[stored.argmax()] == row.argmax()
        mass = np.exp(log_probs.astype(np.float64)).sum(1)
        kept = np.take_along_axis(np.exp(expected.astype(np.float64)), ids, axis=1)
        # What is left out is not spread over the kept ones.
        np.testing.assert_allclose(mass, kept.sum(1), atol=0.1)


def test_a_cache_says_what_it_is_of(single, tiny_model, tiny_data, teacher, said):
    meta = read_meta(single / "top" / "teacher.scp")
    assert meta.token_list == list(tiny.TOKENS)
    assert (meta.blank, meta.rate, meta.frame_shift) == (0, tiny.RATE, 640)
    assert meta.codec == Codec(len(tiny.TOKENS), TOP_K, step=0.25, worth=5e-4)
    assert meta.utterances == len(said)
    assert meta.frames == sum(map(len, said.values()))
    for name, value in teacher.describe().items():
        assert meta.teacher[name] == value
    assert meta.teacher["weights"] == str(tiny_model.weights)
    frames = read_scp(single / "top" / "utt2num_frames")
    assert frames == {utt: str(len(rows)) for utt, rows in said.items()}
    audio = read_scp(single / "top" / "utt2audio")
    for utt, path in tiny_data.wavs().items():
        assert audio[utt].split()[0] == str(soundfile.info(path).frames)


def test_batches_of_several_utterances_hold_what_the_teacher_says_of_them(
    tiny_cache, teacher, tiny_data
):
    wavs = tiny_data.wavs()
    audio = {utt: read_audio(utt, path, tiny.RATE) for utt, path in wavs.items()}
    order = sorted(audio, key=lambda utt: len(audio[utt]))
    tensors = [torch.from_numpy(audio[utt]) for utt in order]
    speech = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    batch = teacher.posteriors(speech, torch.tensor([len(t) for t in tensors]))
    for i, utt in enumerate(order):
        found, _ = read_kaldi(tiny_cache)[utt]
        expected = batch.log_probs[i, : int(batch.lengths[i])].numpy()
        np.testing.assert_array_equal(found, expected)


# -- the same bytes, whatever happened on the way


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
    """Files and their bytes; paths inside the cache stand relative to it."""
    files = sorted(path for path in cache.rglob("*") if path.is_file())
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
    with pytest.raises(InputError, match=f"{tiny_cache} was begun for .*\\(teacher "):
        dump_teacher.main(tiny.dump_args(other, tiny_data, tiny_cache))
    assert contents(tiny_cache) == before


def test_a_folder_begun_for_other_data_is_refused(tmp_path, tiny_model, tiny_cache):
    other = tiny.write_data(tmp_path / "data", (0.8, 0.5, 1.1, 0.66))
    before = contents(tiny_cache)
    with pytest.raises(InputError, match=f"{tiny_cache} was begun .*\\(utterances_crc"):
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


# -- check_cache


@pytest.fixture
def cache(tmp_path, tiny_cache):
    """A copy to be damaged, finished in its own place."""
    copied = tmp_path / "cache"
    shutil.copytree(tiny_cache, copied)
    scp = read_scp(copied / "teacher.scp")
    moved = [(u, p.replace(str(tiny_cache), str(copied))) for u, p in scp.items()]
    write_scp(copied / "teacher.scp", moved)
    return copied


def student(**changes):
    """A student that the tiny cache fits."""
    letters = {token: i for i, token in enumerate(tiny.TOKENS)}
    letters[" "] = letters["<space>"]
    fits = {
        "token_list": list(tiny.TOKENS),
        "blank": 0,
        "frame_shift": Fraction(640),
        "frame_ratio": Fraction(1),
        "labels": lambda text: [letters[c] for c in text],
    }
    return Student(**{**fits, **changes})


def refused(*args, **kwargs):
    with pytest.raises(InputError) as error:
        check(*args, **kwargs)
    return str(error.value)


def test_a_cache_fits_the_data_and_the_student_that_it_was_made_for(
    tmp_path, cache, tiny_data, capsys
):
    meta = check(cache, tiny_data.wav_scp, tiny_data.text, student())
    assert meta.utterances == 4
    conf = tiny.write_conf(tmp_path / "train.yaml", tiny.KD)
    flags = ["--cache", cache, "--wav_scp", tiny_data.wav_scp]
    flags += ["--text", tiny_data.text, "--asr_config", conf]
    flags += ["--token_list", cache / "tokens.txt", "--token_type", "char"]
    check_cache.main([str(flag) for flag in flags])
    out = capsys.readouterr().out
    frames = sum(map(int, read_scp(cache / "utt2num_frames").values()))
    assert out == (
        f"{cache} fits: 4 utterances, {frames} frames of 40 ms, 8 tokens, "
        "blank '<blank>'\n"
    )


def test_a_cache_that_lacks_an_utterance_is_refused(tmp_path, cache, tiny_data):
    wavs = tiny_data.wavs()
    more = tiny_data.copy(tmp_path / "data", {**wavs, "utt99": wavs["utt00"]})
    message = refused(cache, more.wav_scp)
    assert f"{cache} lacks 1 of 5 utterances of {more.wav_scp}: utt99" in message


def test_a_cache_that_has_an_utterance_too_many_is_refused(tmp_path, cache, tiny_data):
    wavs = tiny_data.wavs()
    del wavs["utt02"]
    fewer = tiny_data.copy(tmp_path / "data", wavs)
    message = refused(cache, fewer.wav_scp)
    assert f"{cache} has 1 utterances that {fewer.wav_scp} has not: utt02" in message


def test_a_cache_whose_list_has_lost_a_line_is_refused(cache, tiny_data):
    scp = read_scp(cache / "teacher.scp")
    scp.pop("utt01")
    write_scp(cache / "teacher.scp", scp.items())
    message = refused(cache, tiny_data.wav_scp)
    assert f"{cache}/teacher.scp has 3 utterances; 4 were written" in message


def test_an_ark_that_is_cut_short_is_refused(cache, tiny_data):
    ark = cache / "shards" / "00000" / "posteriors.00000.ark"
    size = ark.stat().st_size
    os.truncate(ark, size - 1)
    message = refused(cache, tiny_data.wav_scp)
    assert f"{ark} has {size - 1} bytes; {size} were written" in message


def test_a_missing_ark_is_refused(cache, tiny_data):
    ark = cache / "shards" / "00000" / "posteriors.00000.ark"
    ark.unlink()
    assert f"{ark} has 0 bytes" in refused(cache, tiny_data.wav_scp)


def test_a_cache_that_was_moved_away_from_its_list_is_refused(cache, tiny_data):
    check(cache, tiny_data.wav_scp)
    moved = cache.with_name("moved")
    cache.rename(moved)
    message = refused(moved, tiny_data.wav_scp)
    assert (
        f"{moved}/teacher.scp names {cache}/shards/00000/posteriors.00000.ark"
        in message
    )


def test_a_cache_named_from_the_working_directory_fits_there_only(
    tmp_path, tiny_model, tiny_data, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    dump_teacher.main(tiny.dump_args(tiny_model, tiny_data, "dump/cache"))
    check("dump/cache", tiny_data.wav_scp)
    check(tmp_path / "here" / "dump" / "cache", tiny_data.wav_scp)
    monkeypatch.chdir(tmp_path)
    message = refused("here/dump/cache", tiny_data.wav_scp)
    assert "names dump/cache/shards/00000/posteriors.00000.ark" in message


def test_an_unfinished_cache_is_refused(cache, tiny_data):
    (cache / "meta.json").unlink()
    message = refused(cache, tiny_data.wav_scp)
    assert f"{cache} is not a finished cache" in message
    assert "dump_teacher" in message


def test_a_damaged_meta_file_or_one_of_another_version_is_refused(cache, tiny_data):
    meta = cache / "meta.json"
    whole = meta.read_text()
    meta.write_text(whole[:-10])
    assert f"{meta} is damaged" in refused(cache, tiny_data.wav_scp)
    meta.write_text(json.dumps({**json.loads(whole), "format": 99}))
    assert f"{meta} has format 99" in refused(cache, tiny_data.wav_scp)


def test_a_cache_of_another_token_list_is_refused(cache, tiny_data):
    tokens = [*tiny.TOKENS[:4], "x", *tiny.TOKENS[5:]]
    message = refused(cache, tiny_data.wav_scp, None, student(token_list=tokens))
    assert f"cache {cache}" in message
    assert "6 of 7 but the blank are matched; the student lacks 1 ('b')" in message
    assert "the teacher 1 ('x') of the student's" in message
    fewer = student(token_list=[t for t in tiny.TOKENS if t != "c"])
    message = refused(cache, tiny_data.wav_scp, None, fewer)
    assert "the student lacks tokens that have " in message
    assert "first of all 'c': at most 1 % is left out" in message


def test_a_cache_of_another_blank_is_refused(cache, tiny_data):
    message = refused(cache, tiny_data.wav_scp, None, student(blank=7))
    assert f"{cache}, first of all '<sos/eos>'" in message


def test_a_cache_in_another_order_fits(cache, tiny_data):
    check(
        cache,
        tiny_data.wav_scp,
        None,
        student(token_list=[*reversed(tiny.TOKENS)], blank=7),
    )
    more = student(token_list=[*tiny.TOKENS, "<extra>"])
    check(cache, tiny_data.wav_scp, None, more)


@pytest.mark.parametrize(
    ("changes", "rate", "ratio"),
    [
        ({"encoder_conf": {"input_layer": "conv2d6"}}, "60 ms", "3/2"),
        ({"frontend_conf": {"hop_length": 128}}, "32 ms", "4/5"),
    ],
    ids=["conv2d6", "hop_length 128"],
)
def test_a_student_of_another_frame_rate_is_refused_with_what_to_set(
    tmp_path, cache, tiny_data, changes, rate, ratio
):
    def hold(kd):
        conf = tiny.write_conf(tmp_path / "train.yaml", kd, **changes)
        flags = ["--cache", cache, "--wav_scp", tiny_data.wav_scp, "--asr_config", conf]
        flags += ["--token_list", cache / "tokens.txt", "--token_type", "char"]
        check_cache.main([str(flag) for flag in flags])

    with pytest.raises(InputError) as error:
        hold(tiny.KD)
    message = f"{cache} has a frame every 40 ms, the student one every {rate}"
    assert message in str(error.value)
    assert f"model_conf.kd.frame_ratio is 1: set it to {ratio}" in str(error.value)
    hold({**tiny.KD, "frame_ratio": ratio})


def test_a_top_k_cache_is_not_averaged_over_frames(single, tiny_data):
    slow = student(frame_shift=Fraction(1280), frame_ratio=Fraction(2))
    message = refused(single / "top", tiny_data.wav_scp, None, slow)
    assert "keeps the best 3 tokens" in message
    check(single / "dense", tiny_data.wav_scp, None, slow)


# Priors


def test_a_prior_is_the_mean_of_the_posteriors(tmp_path, single, said, capsys):
    frames = np.exp(np.concatenate(list(said.values())).astype(np.float64))
    for name in ("dense", "top"):
        output = tmp_path / f"{name}.txt"
        estimate_prior.main(["--cache", str(single / name), "--output", str(output)])
        lines = output.read_text().splitlines()
        assert lines[0].startswith("<blank> ")
        found = read_prior(output, tiny.TOKENS, "<blank>")
        assert np.exp(found).sum() == pytest.approx(1.0)
        if name == "dense":
            assert found == pytest.approx(np.log(frames.mean(0)), rel=1e-5)
        else:
            # Quantised, and the rest of each frame spread evenly.
            assert np.exp(found) == pytest.approx(frames.mean(0), abs=0.02)
    assert "8 tokens from " in capsys.readouterr().out


def test_a_prior_is_matched_by_token(tmp_path):
    path = tmp_path / "prior.txt"
    path.write_text("<pad> -0.693147\nb -1.609438\na -1.203973\n")  # .5, .2, .3
    assert read_prior(path, ["<blank>", "a", "b", "<unk>"], "<blank>") == [
        *(-0.693147, -1.203973, -1.609438),
        0.0,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no prior"),
        ("", "is no list of priors"),
        ("<blank> x\n", "every line must be a token and a number"),
        ("<blank>\n", "every line must be a token and a number"),
        ("<blank> 0.5\n", "give logarithms"),
        ("<blank> nan\n", "give logarithms"),
        ("<blank> -0.693147\na -0.693147\n", r"lack 1 \(b\) and have 0 others"),
        ("<blank> -0.693147\na -1.386294\nb -2.08\nc -2.08\n", r"have 1 others \(c\)"),
        ("<blank> -5\na -10\nb -20\n", "3 lines have 3 tokens and add up to 0.007"),
        ("<blank> -0.7\na -0.7\na -9\n", "3 lines have 2 tokens"),
    ],
)
def test_a_prior_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = tmp_path / "prior.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_prior(path, ["<blank>", "a", "b", "<unk>"], "<blank>")


def test_other_audio_of_the_same_length_is_refused(tmp_path, cache, tiny_data):
    wavs = tiny_data.wavs()
    samples, rate = soundfile.read(wavs["utt03"], dtype="int16")
    samples[5000] ^= 1
    path = tmp_path / "other.wav"
    soundfile.write(path, samples, rate)
    other = tiny_data.copy(tmp_path / "data", {**wavs, "utt03": str(path)})
    message = refused(cache, other.wav_scp)
    assert f"utterance utt03: {path} is not what the teacher heard (crc32" in message


def test_a_sample_of_the_audio_is_spread_over_the_data(tmp_path, cache, tiny_data):
    wavs = tiny_data.wavs()
    other = tiny.write_data(tmp_path / "other", (0.8, 0.5, 1.1, 0.65), seed=1).wavs()
    changed = [
        tiny_data.copy(tmp_path / utt, {**wavs, utt: other[utt]}).wav_scp
        for utt in wavs
    ]
    check(cache, changed[1], audio_sample=2)  # heard: the first and the third
    for heard in (changed[0], changed[2]):
        assert "crc32" in refused(cache, heard, audio_sample=2)
    for wav_scp in changed:
        assert "crc32" in refused(cache, wav_scp)


def test_other_audio_of_another_length_is_refused_whatever_the_sample(
    tmp_path, cache, tiny_data
):
    wavs = tiny_data.wavs()
    path = tmp_path / "other.wav"
    soundfile.write(path, tiny.sound(0.7, 0), tiny.RATE)
    other = tiny_data.copy(tmp_path / "data", {**wavs, "utt03": str(path)})
    message = refused(cache, other.wav_scp, audio_sample=1)
    assert f"utterance utt03: {path} has 11200 samples; the teacher heard 10400" in (
        message
    )


@pytest.fixture
def text(tmp_path, tiny_data):
    """Writes the transcripts with one line changed, or left out."""

    def write(utt, words):
        lines = {**read_scp(tiny_data.text), utt: words}
        kept = [(u, w) for u, w in lines.items() if w is not None]
        write_scp(tmp_path / "text", kept)
        return tmp_path / "text"

    return write


def test_an_utterance_without_a_transcript_is_refused(cache, tiny_data, text):
    path = text("utt01", None)
    message = refused(cache, tiny_data.wav_scp, path, student())
    assert f"{path} lacks 1 of 4 utterances: utt01" in message


def test_an_empty_transcript_is_refused(cache, tiny_data, text):
    path = text("utt01", "")
    message = refused(cache, tiny_data.wav_scp, path, student())
    assert f"{path} has 1 empty transcripts: utt01" in message


def test_a_transcript_that_needs_more_frames_than_there_are_is_refused(
    cache, tiny_data, text
):
    frames = int(read_scp(cache / "utt2num_frames")["utt01"])
    alternating = ("ab" * frames)[:frames]
    check(cache, tiny_data.wav_scp, text("utt01", alternating), student())
    repeated = alternating[:-1] + alternating[-2]  # a blank must stand between
    for words, needs in ((alternating + "c", frames + 1), (repeated, frames + 1)):
        path = text("utt01", words)
        message = refused(cache, tiny_data.wav_scp, path, student())
        assert (
            f"utterance utt01 of {path} needs {needs} frames for its {len(words)} "
            f"labels, and has {frames}"
        ) in message


def test_a_cache_with_a_changed_byte_is_refused(tmp_path, tiny_model, tiny_data):
    cache = tmp_path / "cache"
    dump_teacher.main(tiny.dump_args(tiny_model, tiny_data, cache))
    ark = next((cache / "shards").rglob("*.ark"))
    content = bytearray(ark.read_bytes())
    content[len(content) // 2] ^= 0xFF
    ark.write_bytes(content)
    with pytest.raises(InputError, match=f"{ark.name} is damaged"):
        check_cache.main(["--cache", str(cache), "--wav_scp", str(tiny_data.wav_scp)])
