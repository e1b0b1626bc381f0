"""Caches held against data and a student before a training."""

import json
import os
import re
from fractions import Fraction

import pytest
import soundfile
import tiny
import torch
from test_train import flags

from espnet_ctckd.bin import check_cache, dump_teacher
from espnet_ctckd.cache.check import Student
from espnet_ctckd.cache.check import check_cache as check
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.kaldi import read_scp, write_scp
from espnet_ctckd.paths import find_spikes
from espnet_ctckd.plugin.task import CTCKDTask

TOP_K = 3


def student(**changes):
    """A student that the tiny cache fits."""
    letters = {token: i for i, token in enumerate(tiny.TOKENS)}
    letters[" "] = letters["<space>"]
    fits = {
        "token_list": list(tiny.TOKENS),
        "blank": 0,
        "frame_shift": Fraction(640),
        "shortest": 960,
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
        "kd: the selector all {} takes 100.0 % of the frames of 4 utterances\n"
        f"{cache} fits: 4 utterances, {frames} frames of 40 ms, 8 tokens, "
        "blank '<blank>'\n"
    )


def test_a_cache_that_lacks_an_utterance_is_refused(tmp_path, cache, tiny_data):
    wavs = tiny_data.wavs()
    more = tiny_data.copy(tmp_path / "data", {**wavs, "utt99": wavs["utt00"]})
    message = refused(cache, more.wav_scp)
    assert f"{cache} lacks 1 of 5 utterances of {more.wav_scp}: utt99" in message


def test_a_cache_may_hold_more_than_the_data(tmp_path, cache, tiny_data):
    wavs = tiny_data.wavs()
    del wavs["utt02"]
    fewer = tiny_data.copy(tmp_path / "data", wavs)
    check(cache, fewer.wav_scp, fewer.text, student())


def test_a_cache_whose_list_has_lost_a_line_is_refused(cache, tiny_data):
    scp = read_scp(cache / "teacher.scp")
    scp.pop("utt01")
    write_scp(cache / "teacher.scp", scp.items())
    message = refused(cache, tiny_data.wav_scp)
    assert f"{cache}/utt2num_frames have not the same utterances: utt01" in message


def test_an_ark_that_is_cut_short_is_refused(cache, tiny_data):
    ark = cache / "shards" / "00000" / "posteriors.00000.ark"
    size = ark.stat().st_size
    os.truncate(ark, size - 1)
    message = refused(cache, tiny_data.wav_scp)
    assert f"{ark} has {size - 1} bytes; {size} were written" in message


def test_a_missing_ark_is_refused(cache, tiny_data):
    ark = cache / "shards" / "00000" / "posteriors.00000.ark"
    ark.unlink()
    assert f"{ark} is not there" in refused(cache, tiny_data.wav_scp)


def test_a_cache_that_was_moved_away_from_its_list_is_refused(cache, tiny_data):
    check(cache, tiny_data.wav_scp)
    moved = cache.with_name("moved")
    cache.rename(moved)
    message = refused(moved, tiny_data.wav_scp)
    place = f"{cache}/shards/00000/posteriors.00000.ark:"
    assert f"{moved}/teacher.scp has '{place}" in message


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
    assert "has 'dump/cache/shards/00000/posteriors.00000.ark:" in message


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
    def hold(kd, *more):
        conf = tiny.write_conf(tmp_path / "train.yaml", kd, **changes)
        flags = ["--cache", cache, "--wav_scp", tiny_data.wav_scp, "--asr_config", conf]
        flags += ["--token_list", cache / "tokens.txt", "--token_type", "char"]
        check_cache.main([str(flag) for flag in [*flags, *more]])

    with pytest.raises(InputError) as error:
        hold(tiny.KD)
    message = f"{cache} has a frame every 40 ms, the student one every {rate}"
    assert message in str(error.value)
    assert f"model_conf.kd.frame_ratio is 1: set it to {ratio}" in str(error.value)
    hold({**tiny.KD, "frame_ratio": ratio})
    # A flag of the training, as in a recipe's --asr_args.
    hold(tiny.KD, "--model_conf", f"kd.frame_ratio={ratio}")


def test_a_cache_of_twice_the_frame_rate_fits(tmp_path, tiny_model, tiny_data):
    slow = student(frame_shift=Fraction(1280), frame_ratio=Fraction(2))
    lost = []
    for name, top_k in (("dense", 0), ("top", TOP_K)):
        cache = tmp_path / name
        given = tiny.dump_args(tiny_model, tiny_data, cache, "--top_k", top_k)
        dump_teacher.main(given)
        check(cache, tiny_data.wav_scp, None, slow)
        lost.append(check_cache.lost_by_joining(read_meta(cache), Fraction(2)))
    assert 0 < lost[0] < 1
    assert lost[1] == pytest.approx(lost[0], abs=0.1)


def test_what_is_lost_at_the_student_s_frame_rate_is_said(cache):
    meta = read_meta(cache)
    assert check_cache.lost_by_joining(meta, Fraction(1)) == 0.0
    # All of them in one frame: of two tokens one is left at most.
    lost = check_cache.lost_by_joining(meta, Fraction(1000))
    spikes = [
        len(find_spikes(said.log_probs.argmax(1).tolist(), meta.blank))
        for said in tiny.read_cache(cache).values()
    ]
    assert sum(spikes) > len(spikes)
    least = sum(n - 1 for n in spikes if n) / sum(spikes)
    assert least <= lost <= 1.0


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
            f"CTC cannot align 1 utterances of {path}: utt01 needs {needs} frames for "
            f"its {len(words)} labels, and has {frames}"
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


@pytest.fixture
def silent(tmp_path, tiny_model, tiny_data):
    """The cache of a teacher that outputs blank on all frames."""
    states = torch.load(tiny_model.weights, weights_only=True)
    states["ctc.ctc_lo.bias"][0] += 1000.0
    torch.save(states, tmp_path / "silent.pth")
    model = tiny.Model(tiny_model.config, tmp_path / "silent.pth")
    cache = tmp_path / "silent"
    dump_teacher.main(tiny.dump_args(model, tiny_data, cache))
    return cache


SYMMETRIC = {**tiny.KD, "selector": "symmetric", "selector_conf": {"n": 1}}
INTER = {
    **{**SYMMETRIC, "weight": 1.0, "ctc_weight": 1.0, "kd_weight": 1.0},
    **{"target": "teacher", "head": "shared"},
}


@pytest.mark.parametrize(
    ("kd", "place"),
    [
        (SYMMETRIC, "kd"),
        ({**SYMMETRIC, "weight": 1.0, "selector": "trim", "selector_conf": {}}, "kd"),
        ({**SYMMETRIC, "from_epoch": 2}, "kd"),
        ({**tiny.KD, "inter": INTER}, "kd.inter"),
    ],
)
def test_a_cache_of_which_nothing_is_selected_is_refused(
    tmp_path, silent, tiny_data, kd, place
):
    encoder = {"num_blocks": 2, "interctc_layer_idx": [1]}
    conf = tiny.write_conf(tmp_path / "kd.yaml", kd, encoder_conf=encoder, max_epoch=2)
    given = ["--cache", silent, "--wav_scp", tiny_data.wav_scp, "--asr_config", conf]
    given += ["--token_list", silent / "tokens.txt", "--token_type", "char"]
    status, stderr = tiny.call(check_cache, *given)
    assert status == 1
    message = tiny.the_error(stderr)
    assert f"{place}: the selector" in message
    assert "takes none of 73 frames in 4 utterances" in message
    command = flags(tmp_path / "run", tiny_data, silent, kd, encoder_conf=encoder)
    with pytest.raises(InputError, match=f"{place}: the selector .* takes none of 73"):
        CTCKDTask.main(cmd=command)


def test_what_is_selected_is_reported_before_the_training(
    tmp_path, tiny_data, cache, caplog, capsys
):
    caplog.set_level("INFO")
    kd = {**tiny.KD, "selector": "blank_elimination"}
    command = flags(tmp_path / "run", tiny_data, cache, kd, max_epoch=1)
    CTCKDTask.main(cmd=command)
    # A record is listed twice where another test has left a handler.
    (share,) = set(
        re.findall(r"selector blank_elimination .* takes ([0-9.]+) % of", caplog.text)
    )
    (trained, *_) = re.findall(r"\[train\].* kd_selected=([0-9.]+)", caplog.text)
    assert 0 < float(share) < 100
    assert float(share) == pytest.approx(100 * float(trained), rel=0.1)
