"""Reading Kaldi files and audio, and preparing a data folder."""

import struct

import numpy as np
import pytest
import soundfile
import tiny
from espnet2.fileio.sound_scp import soundfile_read

from espnet_ctckd.bin import filter_data, format_audio, perturb_speed, train_bpe
from espnet_ctckd.cache.plan import make_plan
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import audio_info, decode_audio, read_audio
from espnet_ctckd.data.containers import decode
from espnet_ctckd.data.files import atomic_write
from espnet_ctckd.data.kaldi import read_lines, read_scp, read_token_list, write_scp

RATE = 16000


def noise(samples, seed=0, channels=1):
    size = samples if channels == 1 else (samples, channels)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, size)


def refused(path, rate=RATE):
    """The message with which both ways of opening an audio file refuse it."""
    with pytest.raises(InputError) as by_header:
        audio_info("utt7", str(path), rate)
    with pytest.raises(InputError) as by_samples:
        read_audio("utt7", str(path), rate)
    assert str(by_header.value) == str(by_samples.value)
    assert f"utterance utt7: {path}" in str(by_header.value)
    return str(by_header.value)


def data_folder(folder, lengths):
    """Write wav.scp, text and utt2spk of utterances of given samples."""
    folder.mkdir(parents=True)
    wavs, texts, speakers = [], [], []
    for i, samples in enumerate(lengths):
        path = folder / f"utt{i}.wav"
        soundfile.write(path, noise(samples, i), RATE)
        wavs.append((f"utt{i}", path))
        texts.append((f"utt{i}", f"word{i} two"))
        speakers.append((f"utt{i}", f"spk{i % 2}"))
    write_scp(folder / "wav.scp", wavs)
    write_scp(folder / "text", texts)
    write_scp(folder / "utt2spk", speakers)
    return folder


def test_an_scp_keeps_the_order_of_the_file_and_the_spaces_of_the_rest(tmp_path):
    path = tmp_path / "text"
    path.write_text("b two  words \na\nc\tdé f\n", encoding="utf-8")
    assert list(read_scp(path).items()) == [
        ("b", "two  words"),
        ("a", ""),
        ("c", "dé f"),
    ]


def test_a_doubled_utterance_is_refused_with_its_line(tmp_path):
    path = tmp_path / "text"
    path.write_text("a x\nb y\na z\n")
    with pytest.raises(InputError, match=f"{path}:3 has the utterance 'a' a second"):
        read_scp(path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "text"
    path.write_text("a x\nb y\n", encoding="utf-8-sig")
    with pytest.raises(InputError, match=f"{path} begins with a byte order mark"):
        read_scp(path)


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = tmp_path / "tokens.txt"
    tokens = ["<blank>", "a\x85", "\u2028", "\x0c", "b"]
    path.write_bytes("".join(f"{token}\n" for token in tokens).encode())
    assert read_lines(path, "token list") == tokens


def test_an_empty_line_is_refused_with_its_number(tmp_path):
    path = tmp_path / "text"
    path.write_text("a x\n\nb y\n")
    with pytest.raises(InputError, match=f"{path}:2 is an empty line"):
        read_scp(path)


def test_an_empty_scp_is_refused(tmp_path):
    path = tmp_path / "text"
    path.touch()
    with pytest.raises(InputError, match=f"{path} is empty"):
        read_scp(path)


def test_a_missing_scp_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"there is no file {tmp_path}/text"):
        read_scp(tmp_path / "text")


def test_an_scp_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("a café\n".encode("latin-1"))
    with pytest.raises(InputError, match=f"{path} is not UTF-8 text"):
        read_scp(path)


def test_a_token_list_that_is_missing_empty_or_has_a_token_twice_is_refused(tmp_path):
    path = tmp_path / "tokens.txt"
    with pytest.raises(InputError, match=f"there is no token list {path}"):
        read_token_list(path)
    path.touch()
    with pytest.raises(InputError, match=f"the token list {path} is empty"):
        read_token_list(path)
    path.write_text("<blank>\na\nb\na\n")
    with pytest.raises(InputError, match=f"{path} has tokens twice: a$"):
        read_token_list(path)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("wav", "WAV"), ("flac", "FLAC"), ("ogg", "OGG"), ("sph", "NIST")],
)
def test_the_usual_formats_are_read(tmp_path, suffix, kind):
    path = tmp_path / f"a.{suffix}"
    samples = noise(3001)
    soundfile.write(path, samples, RATE, format=kind)
    assert audio_info("a", str(path), RATE) == 3001
    found = read_audio("a", str(path), RATE)
    assert found.dtype == np.float32
    if kind == "OGG":  # lossy
        assert found.shape == (3001,)
    else:
        np.testing.assert_allclose(found, samples, atol=2.0**-15)


def test_missing_audio_is_refused(tmp_path):
    assert "is not there" in refused(tmp_path / "a.wav")


def test_an_empty_audio_file_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    path.touch()
    assert "is an empty file" in refused(path)


def test_audio_without_samples_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(0), RATE)
    assert "holds no samples" in refused(path)


def test_a_wav_that_is_shorter_than_its_header_says_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1000), RATE, "PCM_16")
    path.write_bytes(path.read_bytes()[:-500])
    assert "header says 2044 bytes, it has 1544" in refused(path)


def test_a_wav_whose_header_was_written_to_a_pipe_is_read(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1000), RATE, "PCM_16")
    whole = bytearray(path.read_bytes())
    whole[4:8] = whole[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(whole)
    assert audio_info("a", str(path), RATE) == 1000


@pytest.mark.parametrize("sizes", [(0x7FFFF024, 0x7FFFF000), (0, 0xFFFFFFFF)])
def test_a_wav_of_any_unknown_size_is_read(tmp_path, sizes):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1000), RATE, "PCM_16")
    whole = bytearray(path.read_bytes())
    whole[4:8], whole[40:44] = (struct.pack("<I", size) for size in sizes)
    path.write_bytes(whole)
    assert audio_info("a", str(path), RATE) == len(read_audio("a", str(path), RATE))
    assert audio_info("a", str(path), RATE) == 1000


def test_a_wav_that_knows_the_size_of_its_data_alone_is_refused_when_cut(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1000), RATE, "PCM_16")
    whole = bytearray(path.read_bytes())
    whole[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(whole[:-500])
    assert "header says 2044 bytes, it has 1544" in refused(path)


def test_a_wav_whose_header_says_that_it_is_empty_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1000), RATE, "PCM_16")
    whole = bytearray(path.read_bytes())
    whole[4:8], whole[40:44] = struct.pack("<I", 36), bytes(4)
    path.write_bytes(whole)
    assert "holds no samples by its header, and 2044 bytes" in refused(path)


WHOLE = [
    ("aiff", "AIFF", "PCM_16"),
    ("au", "AU", "PCM_16"),
    ("caf", "CAF", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("sph", "NIST", "PCM_16"),
    ("sph", "NIST", "ULAW"),
    ("w64", "W64", "PCM_16"),
    ("wav", "RF64", "PCM_16"),
    ("wav", "WAV", "ULAW"),
    ("wav", "WAVEX", "PCM_24"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("suffix", "kind", "subtype"), WHOLE)
@pytest.mark.parametrize("lost", [3, 200, 0.4])
def test_a_file_that_is_cut_short_is_refused(tmp_path, suffix, kind, subtype, lost):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(20000), RATE, subtype, format=kind)
    assert audio_info("a", str(path), RATE) == 20000
    assert len(read_audio("a", str(path), RATE)) == 20000
    whole = path.read_bytes()
    path.write_bytes(whole[: -lost if lost >= 1 else int(len(whole) * (1 - lost))])
    said = refused(path)
    assert "is cut short" in said or "cannot be read as audio" in said


def test_an_au_or_w64_that_was_written_to_a_pipe_is_read(tmp_path):
    for name, size, at in (("AU", b"\xff" * 4, 8), ("W64", b"\xff" * 8, 16)):
        path = tmp_path / f"a.{name.lower()}"
        soundfile.write(path, noise(1000), RATE, "PCM_16", format=name)
        whole = bytearray(path.read_bytes())
        whole[at : at + len(size)] = size
        path.write_bytes(whole)
        assert audio_info("a", str(path), RATE) == 1000


@pytest.mark.parametrize(("kind", "said"), [("OGG", "several Ogg"), ("MP3", "joined")])
def test_files_that_are_joined_are_refused(tmp_path, kind, said):
    path = tmp_path / "a"
    soundfile.write(path, noise(20000), RATE, format=kind)
    path.write_bytes(path.read_bytes() * 2)
    assert said in refused(path)


def test_what_follows_the_end_of_a_file_is_no_part_of_it(tmp_path):
    for kind in ("MP3", "OGG", "FLAC", "WAV"):
        path = tmp_path / kind
        soundfile.write(path, noise(20000), RATE, format=kind)
        path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
        assert len(read_audio("a", str(path), RATE)) == 20000


def mp3_without_length(path, loud_first, mode="VARIABLE"):
    """Write an MP3 as to a pipe: without the first frame, which has its length.

    Returns:
        Its 576 samples of each frame.
    """
    loud, quiet = noise(8000), np.zeros(25408)
    samples = np.concatenate([loud, quiet] if loud_first else [quiet, loud])
    soundfile.write(path, samples, RATE, format="MP3", bitrate_mode=mode)
    whole = path.read_bytes()
    second = whole.index(whole[:2], 2)
    assert b"Xing" in whole[:second] or b"Info" in whole[:second]
    path.write_bytes(whole[second:])
    # By hand: `mpg123 -s` and ffmpeg have as many.
    return 60 * 576


@pytest.mark.parametrize("mode", ["VARIABLE", "AVERAGE", "CONSTANT"])
def test_an_mp3_that_does_not_know_its_length_is_counted(tmp_path, mode):
    path = tmp_path / "a.mp3"
    samples = mp3_without_length(path, False, mode)
    if mode != "CONSTANT":
        assert soundfile.info(path).frames > samples  # the header's guess
    assert audio_info("a", str(path), RATE) == samples
    found = read_audio("a", str(path), RATE)
    assert len(found) == len(soundfile_read(str(path))[0]) == samples
    np.testing.assert_array_equal(np.concatenate([*decode(str(path), "MP3")]), found)


@pytest.mark.parametrize("mode", ["VARIABLE", "AVERAGE"])
def test_an_mp3_of_which_espnet_reads_a_part_is_refused(tmp_path, mode):
    path = tmp_path / "a.mp3"
    samples = mp3_without_length(path, True, mode)
    reads = len(soundfile_read(str(path))[0])
    assert reads < samples
    said = refused(path)
    assert f"has {samples} samples, which its header does not know" in said
    assert f"ESPnet would read {reads}. Write it anew" in said


def test_an_mp3_without_length_that_ends_within_a_frame_is_refused(tmp_path):
    path = tmp_path / "a.mp3"
    mp3_without_length(path, False)
    path.write_bytes(path.read_bytes()[:-3])
    assert "its last MPEG frame is not whole" in refused(path)


def flac_without_length(path):
    """Write a FLAC of 70000 samples as to a pipe."""
    soundfile.write(path, noise(70000), RATE, "PCM_16")
    whole = bytearray(path.read_bytes())
    whole[21] &= 0xF0
    whole[22:26] = bytes(4)
    path.write_bytes(whole)


def test_a_flac_that_does_not_know_its_length_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    flac_without_length(path)
    assert "has 70000 samples, which its header does not know: ESPnet would fail" in (
        refused(path)
    )


def test_formatting_writes_anew_what_does_not_know_its_length(tmp_path):
    source = data_folder(tmp_path / "in", [10, 20, 30])
    flac_without_length(source / "utt0.flac")
    long = mp3_without_length(source / "utt1.mp3", True)
    known = mp3_without_length(source / "utt2.mp3", False)
    wavs = [(f"utt{i}", source / f"utt{i}.{s}") for i, s in enumerate(["flac", "mp3"])]
    write_scp(source / "wav.scp", [*wavs, ("utt2", source / "utt2.mp3")])
    format_in_jobs(source, tmp_path / "out", 1)
    lengths = read_scp(tmp_path / "out" / "utt2num_samples")
    assert lengths == {"utt0": "70000", "utt1": f"{long}", "utt2": f"{known}"}
    found = read_scp(tmp_path / "out" / "wav.scp")
    assert found["utt2"] == str(source / "utt2.mp3")
    for utt, path in found.items():
        samples = read_audio(utt, path, RATE)
        assert len(samples) == audio_info(utt, path, RATE) == int(lengths[utt])
        assert len(soundfile_read(path)[0]) == len(samples)
    kept = read_audio("utt0", found["utt0"], RATE)
    np.testing.assert_allclose(kept, noise(70000), atol=2.0**-15)
    whole = decode_audio("utt1", str(source / "utt1.mp3"), RATE)
    np.testing.assert_allclose(
        read_audio("utt1", found["utt1"], RATE), whole.clip(-1, 1), atol=2.0**-15
    )


def test_perturbing_reads_what_does_not_know_its_length_whole(tmp_path):
    source = data_folder(tmp_path / "in", [10])
    samples = mp3_without_length(source / "utt0.mp3", True)
    write_scp(source / "wav.scp", [("utt0", source / "utt0.mp3")])
    perturb(source, tmp_path / "sp", "0.9")
    format_in_jobs(tmp_path / "sp", tmp_path / "out", 1)
    lengths = read_scp(tmp_path / "out" / "utt2num_samples")
    assert abs(int(lengths["sp0.9-utt0"]) - samples / 0.9) <= 2


def test_a_flac_that_is_shorter_than_its_header_says_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(20000), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"utterance utt7: {path} (is cut|cannot be)"):
        read_audio("utt7", str(path), RATE)


def test_audio_of_another_rate_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(800), 8000)
    assert "has 8000 Hz; expected 16000 Hz" in refused(path)


def test_stereo_audio_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(800, channels=2), RATE)
    assert "has 2 channels; expected 1" in refused(path)


def test_a_file_that_is_not_audio_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    path.write_text("no audio, but some text")
    assert "cannot be read as audio" in refused(path)


def test_a_command_in_place_of_a_file_is_refused():
    assert "is a command" in refused("sox a.wav -t wav - |")


def test_a_file_appears_under_its_name_only_when_whole(tmp_path):
    path = tmp_path / "new" / "text"
    with atomic_write(path) as f:
        f.write("whole")
        f.flush()
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["text"]


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "text"
    path.write_text("old")

    def fail():
        with atomic_write(path) as f:
            f.write("new")
            f.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["text"]


def test_an_scp_is_written_in_the_order_of_bytes(tmp_path):
    write_scp(tmp_path / "text", [("é", 1), ("b", "x y"), ("B", "z"), ("a", 2)])
    assert (tmp_path / "text").read_text() == "B z\na 2\nb x y\né 1\n"


def with_lengths(folder, lengths):
    write_scp(folder / "utt2num_samples", ((f"utt{i}", n) for i, n in lengths.items()))


def test_filtering_leaves_out_the_long_the_short_and_the_wordless(tmp_path, capsys):
    source = data_folder(tmp_path / "in", [10] * 5)
    with_lengths(source, dict(enumerate([16000, 1599, 32001, 32000, 1600])))
    texts = read_scp(source / "text")
    write_scp(source / "text", {**texts, "utt3": ""}.items())
    flags = ["--input_dir", str(source), "--output_dir", str(tmp_path / "out")]
    filter_data.main([*flags, "--max_wav_duration", "2"])
    for name in ("wav.scp", "text", "utt2spk", "utt2num_samples"):
        assert list(read_scp(tmp_path / "out" / name)) == ["utt0", "utt4"], name
    assert read_scp(tmp_path / "out" / "removed") == {
        "utt1": "0.10 s is not within 0.1 to 2.0 s",
        "utt2": "2.00 s is not within 0.1 to 2.0 s",
        "utt3": "no words",
    }
    assert "2 of 5 utterances kept" in capsys.readouterr().out


def test_filtering_joins_folders_and_drops_the_text_that_one_of_them_lacks(tmp_path):
    a, b = data_folder(tmp_path / "a", [10]), data_folder(tmp_path / "b", [10])
    with_lengths(a, {0: 16000})
    flags = ["--input_dir", str(a), "--input_dir", str(b)]
    flags += ["--output_dir", str(tmp_path / "out")]
    with_lengths(b, {0: 16000})
    with pytest.raises(InputError, match=r"another folder has, too: utt0"):
        filter_data.main(flags)
    for name in ("wav.scp", "utt2spk"):
        write_scp(b / name, (("other", rest) for rest in read_scp(b / name).values()))
    write_scp(b / "utt2num_samples", [("other", 16000)])
    (b / "text").unlink()
    filter_data.main(flags)
    assert list(read_scp(tmp_path / "out" / "wav.scp")) == ["other", "utt0"]
    assert not (tmp_path / "out" / "text").exists()


def test_filtering_everything_out_is_refused_and_writes_nothing(tmp_path):
    source = data_folder(tmp_path / "in", [10])
    with_lengths(source, {0: 10})
    with pytest.raises(
        InputError, match=r"nothing of .* is left: 0.00 s is not within"
    ):
        filter_data.main(
            ["--input_dir", str(source), "--output_dir", str(tmp_path / "out")]
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["wav.scp", "utt2num_samples"])
def test_filtering_names_the_file_that_a_folder_lacks(tmp_path, name):
    source = data_folder(tmp_path / "in", [10])
    with_lengths(source, {0: 16000})
    (source / name).unlink()
    with pytest.raises(InputError, match=f"there is no file {source / name}"):
        filter_data.main(
            ["--input_dir", str(source), "--output_dir", str(tmp_path / "out")]
        )


def test_an_utterance_without_a_line_in_text_is_left_out(tmp_path):
    source = data_folder(tmp_path / "in", [10, 10])
    with_lengths(source, {0: 16000, 1: 16000})
    write_scp(source / "text", [("utt0", "a b")])
    flags = ["--input_dir", str(source), "--output_dir", str(tmp_path / "out")]
    filter_data.main(flags)
    assert list(read_scp(tmp_path / "out/wav.scp")) == ["utt0"]
    assert read_scp(tmp_path / "out/removed") == {"utt1": "no line in text"}


CONF = """
frontend_conf: {n_fft: 512, hop_length: 160, n_mels: 20}
model_conf: {ctc_weight: 1.0}
encoder: conformer
encoder_conf: {output_size: 16, attention_heads: 2, linear_units: 16, num_blocks: 1}
"""
TOKENS = ["<blank>", "<unk>", "<space>", "a", "b", "c", "<sos/eos>"]


def student_of(folder, conf=CONF):
    (folder / "conf.yaml").write_text(conf)
    (folder / "tokens.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    given = ["--asr_config", folder / "conf.yaml", "--token_type", "char"]
    given += ["--min_wav_duration", 0.05]
    return [str(g) for g in (*given, "--token_list", folder / "tokens.txt")]


def of_texts(folder, entries):
    """A data folder of utterances: samples and transcript."""
    source = data_folder(folder, [10] * len(entries))
    with_lengths(source, {i: samples for i, (samples, _) in enumerate(entries)})
    texts = ((f"utt{i}", words) for i, (_, words) in enumerate(entries))
    write_scp(source / "text", texts)
    return source


LONG = (32000, "a b c")
# 25 frames a second: 16000 samples are 24 frames of 40 ms.
UNFIT = [
    (16000, "a" * 13),  # 13 labels, 12 blanks between them
    (16000, "abc" * 8 + "a"),
    (1500, "a"),  # one frame
    (16000, "axb"),
]


def test_what_a_student_cannot_be_trained_on_is_left_out_in_one_go(tmp_path, capsys):
    fits = [LONG] * 396 + [(16000, "abc" * 8), (16000, "a" * 12)]
    source = of_texts(tmp_path / "in", [*UNFIT, *fits])
    flags = ["--input_dir", str(source), "--output_dir", str(tmp_path / "out")]
    filter_data.main([*flags, *student_of(tmp_path)])
    assert read_scp(tmp_path / "out/removed") == {
        "utt0": "13 labels need 25 frames, and it has 24",
        "utt1": "25 labels need 25 frames, and it has 24",
        "utt2": "too short: 1500 samples make 1 frames of the student",
        "utt3": "the tokens do not spell its transcript: axb",
    }
    assert len(read_scp(tmp_path / "out/text")) == len(fits)
    assert "398 of 402 utterances kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("share", "fits", "refused"),
    [(1, 300, True), (1, 396, False), (2, 200, False), (0, 9999, True)],
)
def test_more_than_a_share_of_bad_utterances_is_refused(tmp_path, share, fits, refused):
    fits = min(fits, 400)
    source = of_texts(tmp_path / "in", [*UNFIT, *[LONG] * fits])
    flags = ["--input_dir", str(source), "--output_dir", str(tmp_path / "out")]
    flags += ["--max_bad_share", str(share), *student_of(tmp_path)]
    if not refused:
        filter_data.main(flags)
        return
    with pytest.raises(InputError, match=rf"4 of {fits + 4} utterances .* more than"):
        filter_data.main(flags)
    # All of them can be looked up, and nothing else is there.
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["removed"]
    assert len(read_scp(tmp_path / "out/removed")) == 4


def test_one_bad_utterance_never_stops_a_small_set(tmp_path):
    source = of_texts(tmp_path / "in", [UNFIT[0], LONG, LONG])
    flags = ["--input_dir", str(source), "--output_dir", str(tmp_path / "out")]
    filter_data.main([*flags, *student_of(tmp_path)])
    assert list(read_scp(tmp_path / "out/wav.scp")) == ["utt1", "utt2"]


def test_a_label_free_student_loses_nothing_by_its_transcripts(tmp_path):
    kd = "{weight: 1.0, selector: all, loss: kl, reduction: utt_sum, "
    kd += "loss_conf: {temperature: 1.0}}"
    conf = CONF.replace("1.0}", f"1.0, kd: {kd}}}", 1) + "model: ctckd\n"
    source = of_texts(tmp_path / "in", [*UNFIT, *[LONG] * 100])
    flags = ["--input_dir", str(source), "--output_dir", str(tmp_path / "out")]
    filter_data.main([*flags, *student_of(tmp_path, conf)])
    assert list(read_scp(tmp_path / "out/removed")) == ["utt2"]


def test_all_bad_files_of_a_set_are_listed_at_once(tmp_path, capsys):
    source = data_folder(tmp_path / "in", [3000] * 6)
    wavs = read_scp(source / "wav.scp")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "stereo.wav", noise(3000, 0, 2), RATE)
    wavs.update(utt1=str(tmp_path / "empty.wav"), utt4=str(tmp_path / "no.wav"))
    wavs["utt5"] = str(tmp_path / "stereo.wav")
    write_scp(source / "wav.scp", wavs.items())
    with pytest.raises(InputError, match=r"3 of 6 utterances of .* cannot be used"):
        format_in_jobs(source, tmp_path / "out", 2)
    listed = read_scp(tmp_path / "out/unusable")
    assert list(listed) == ["utt1", "utt4", "utt5"]
    assert "empty.wav is an empty file" in listed["utt1"]
    printed = capsys.readouterr().out
    assert all(why in printed for why in listed.values())
    assert not (tmp_path / "out/wav.scp").exists()
    # Within the share, they stay in the list for the decoding, and leave the training.
    format_in_jobs(source, tmp_path / "out", 2, "--max_bad_share", "50")
    assert len(read_scp(tmp_path / "out/wav.scp")) == 6
    flags = ["--input_dir", str(tmp_path / "out"), "--output_dir", str(tmp_path / "f")]
    filter_data.main([*flags, "--max_bad_share", "50"])
    assert list(read_scp(tmp_path / "f/wav.scp")) == ["utt0", "utt2", "utt3"]
    assert "empty file" in read_scp(tmp_path / "f/removed")["utt1"]


def test_audio_is_read_to_its_end_before_anything_is_computed_of_it(tmp_path):
    source = data_folder(tmp_path / "in", [3000] * 3)
    cut = tmp_path / "cut.flac"
    soundfile.write(cut, noise(16000), RATE)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    wavs = {**read_scp(source / "wav.scp"), "utt1": str(cut)}
    write_scp(source / "wav.scp", wavs.items())
    format_in_jobs(source, tmp_path / "out", 1)
    assert list(read_scp(tmp_path / "out/unusable")) == ["utt1"]
    samples = read_scp(tmp_path / "out/utt2num_samples")
    assert samples == {"utt0": "3000", "utt1": "0", "utt2": "3000"}


def test_copies_of_another_speed_are_one_bad_utterance(tmp_path):
    source = data_folder(tmp_path / "in", [3000] * 3)
    texts = read_scp(source / "text")
    write_scp(source / "text", {**texts, "utt1": ""}.items())
    perturb(source, tmp_path / "sp", "0.9 1.0 1.1")
    format_in_jobs(tmp_path / "sp", tmp_path / "out", 1)
    flags = ["--input_dir", str(tmp_path / "out"), "--output_dir", str(tmp_path / "f")]
    filter_data.main(flags)
    removed = read_scp(tmp_path / "f/removed")
    assert set(removed) == {"utt1", "sp0.9-utt1", "sp1.1-utt1"}
    assert len(read_scp(tmp_path / "f/wav.scp")) == 6
    # And in a second pass, where it is of two utterances that two are bad.
    write_scp(tmp_path / "f/text", [("utt0", ""), ("utt2", "a"), ("sp0.9-utt2", "")])
    flags = ["--input_dir", str(tmp_path / "f"), "--output_dir", str(tmp_path / "g")]
    with pytest.raises(InputError, match=r"2 of 2 utterances of .* cannot be used"):
        filter_data.main(flags)


def test_segments_are_refused_by_whatever_reads_their_recordings(tmp_path):
    source = data_folder(tmp_path / "in", [16000, 16000])
    with_lengths(source, {0: 16000, 1: 16000})
    (source / "segments").write_text("utt0 utt0 0.0 0.5\nutt1 utt1 0.2 0.9\n")
    out = ["--output_dir", str(tmp_path / "out")]
    both = ["--input_dir", str(source), *out]
    for command, flags in (
        (filter_data, both),
        (format_audio, [*both, "--job", "1"]),
        (perturb_speed, [*both, "--factors", "0.9"]),
    ):
        with pytest.raises(InputError, match=f"{source}/segments says which parts of"):
            command.main(flags)
    with pytest.raises(InputError, match="write each utterance to a file of its own"):
        make_plan(str(source / "wav.scp"), RATE, 1, 60.0)


def perturb(source, target, factors):
    flags = ["--input_dir", str(source), "--output_dir", str(target)]
    perturb_speed.main([*flags, "--factors", factors])


def format_in_jobs(source, target, jobs, *flags):
    both = ["--input_dir", str(source), "--output_dir", str(target), *flags]
    both += ["--num_jobs", str(jobs)]
    for job in range(jobs, 0, -1):
        format_audio.main([*both, "--job", str(job)])
    format_audio.main(both)


def test_perturbed_copies_are_utterances_and_speakers_of_their_own(tmp_path):
    source = data_folder(tmp_path / "in", [10, 20])
    perturb(source, tmp_path / "out", "0.9 1.0 1.1")
    wavs, old = read_scp(tmp_path / "out" / "wav.scp"), read_scp(source / "wav.scp")
    names = [prefix + utt for prefix in ("sp0.9-", "sp1.1-", "") for utt in old]
    assert list(wavs) == names
    assert all(wavs[name] == old[name[-4:]] for name in names)
    texts = read_scp(tmp_path / "out" / "text")
    assert texts["sp0.9-utt1"] == texts["utt1"] == "word1 two"
    speakers = read_scp(tmp_path / "out" / "utt2spk")
    assert (speakers["sp0.9-utt1"], speakers["utt1"]) == ("sp0.9-spk1", "spk1")
    speeds = read_scp(tmp_path / "out" / "utt2speed")
    assert (speeds["sp0.9-utt1"], speeds["utt1"]) == ("0.9", "1.0")


@pytest.mark.parametrize("factors", ["fast", "0", "-1", "nan", "inf", "", "1.0 x"])
def test_a_speed_that_is_no_positive_number_is_refused(tmp_path, factors):
    source = data_folder(tmp_path / "in", [10])
    with pytest.raises(InputError, match="--factors"):
        perturb(source, tmp_path / "out", factors)
    assert not (tmp_path / "out").exists()


def test_perturbed_audio_is_written_as_long_as_its_speed_says(tmp_path):
    source = data_folder(tmp_path / "in", [16000, 8001])
    perturb(source, tmp_path / "sp", "0.9 1.0 1.1")
    format_in_jobs(tmp_path / "sp", tmp_path / "out", 1)
    wavs = read_scp(tmp_path / "out" / "wav.scp")
    lengths = read_scp(tmp_path / "out" / "utt2num_samples")
    for utt, samples in (("utt0", 16000), ("utt1", 8001)):
        assert wavs[utt] == read_scp(source / "wav.scp")[utt]
        assert lengths[utt] == str(samples)
        for speed in (0.9, 1.1):
            name = f"sp{speed}-{utt}"
            assert wavs[name] == f"{tmp_path}/out/audio/{name}.flac"
            assert abs(int(lengths[name]) - samples / speed) <= 2
            assert audio_info(name, wavs[name], RATE) == int(lengths[name])
    assert not list((tmp_path / "out").rglob("*.part"))


def test_perturbing_moves_a_tone_by_the_factor(tmp_path):
    source = data_folder(tmp_path / "in", [RATE])
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    soundfile.write(source / "utt0.wav", tone, RATE)
    perturb(source, tmp_path / "sp", "1.25")
    format_in_jobs(tmp_path / "sp", tmp_path / "out", 1, "--audio_format", "wav")
    heard, _ = soundfile.read(tmp_path / "out" / "audio" / "sp1.25-utt0.wav")
    peak = np.abs(np.fft.rfft(heard)).argmax() * RATE / len(heard)
    assert peak == pytest.approx(1250, abs=5)


def test_the_number_of_formatting_jobs_changes_nothing(tmp_path):
    source = data_folder(tmp_path / "in", [3000, 4000, 5000])
    perturb(source, tmp_path / "sp", "0.9 1.0")
    found = []
    for jobs in (1, 2, 8):  # more jobs than utterances, too
        target = tmp_path / f"out{jobs}"
        format_in_jobs(tmp_path / "sp", target, jobs)
        files = (p for p in sorted(target.rglob("*")) if p.is_file())
        old, new = str(target).encode(), b"<out>"
        found.append(
            [(p.relative_to(target), p.read_bytes().replace(old, new)) for p in files]
        )
    assert found[0] == found[1] == found[2]
    assert {"wav.scp", "text", "utt2spk", "utt2num_samples"} <= {
        str(name) for name, _ in found[0]
    }
    assert not any("1" in str(name) for name, _ in found[0] if name.suffix == ".scp")


def test_joining_refuses_parts_of_other_data(tmp_path):
    source = data_folder(tmp_path / "in", [3000, 4000])
    flags = ["--input_dir", str(source), "--output_dir", str(tmp_path / "out")]
    format_audio.main([*flags, "--job", "1", "--num_jobs", "2"])
    with pytest.raises(
        InputError, match=r"utterances.*the data changed under the jobs"
    ):
        format_audio.main(flags)
    assert not (tmp_path / "out" / "wav.scp").exists()


def test_joining_names_the_part_of_a_job_that_has_not_run(tmp_path):
    source = data_folder(tmp_path / "in", [3000, 4000])
    flags = ["--input_dir", str(source), "--output_dir", str(tmp_path / "out")]
    flags += ["--num_jobs", "2"]
    format_audio.main([*flags, "--job", "1"])
    with pytest.raises(InputError, match=r"there is no file .*wav\.2\.scp"):
        format_audio.main(flags)


def write_corpus(path):
    lines = ("the cat sat", "the dog sat on the mat", "a cat and a dog", "on a mat")
    write_scp(path, ((f"u{i}", line) for i, line in enumerate(lines)))
    return path


def test_bpe_tokens_stand_in_the_order_of_espnet(tmp_path):
    import sentencepiece

    flags = ["--text", str(write_corpus(tmp_path / "text"))]
    train_bpe.main([*flags, "--output_dir", str(tmp_path), "--vocab_size", "19"])
    tokens = read_token_list(tmp_path / "tokens.txt")
    assert tokens[:2] == ["<blank>", "<unk>"]
    assert tokens[-1] == "<sos/eos>"
    model = sentencepiece.SentencePieceProcessor(str(tmp_path / "bpe.model"))
    pieces = [model.id_to_piece(i) for i in range(19)]
    assert tokens[2:-1] == [p for p in pieces if p not in ("<unk>", "<s>", "</s>")]
    said = model.encode("the cat on a mat", out_type=str)
    assert set(said) <= set(tokens)
    assert "".join(said).replace("▁", " ").strip() == "the cat on a mat"
    assert not list(tmp_path.glob(".*"))


def test_a_vocabulary_that_the_text_cannot_fill_is_refused(tmp_path):
    text, out = write_corpus(tmp_path / "text"), tmp_path / "out"
    with pytest.raises(InputError, match=f"model of 5000 tokens on {text}") as error:
        train_bpe.main(
            ["--text", str(text), "--output_dir", str(out), "--vocab_size", "5000"]
        )
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_audio_damaged_behind_its_header_is_left_out_by_stages_3_and_4(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["ok", "cut", "flipped", "last", "nan", "inf"]
    paths = {
        n: folder / f"{n}.{'wav' if n in ('nan', 'inf') else 'flac'}" for n in names
    }
    for name, path in paths.items():
        samples = tiny.sound(2.0, 3)
        if path.suffix == ".wav":
            samples[5000] = float(name)
            soundfile.write(path, samples, tiny.RATE, "FLOAT")
            continue
        soundfile.write(path, samples, tiny.RATE)
        data = bytearray(path.read_bytes())
        if name == "cut":
            data = data[: len(data) * 2 // 3]
        elif name == "last":
            data = data[:-1]
        elif name == "flipped":
            data[len(data) // 2] ^= 0x55
        path.write_bytes(data)
    (folder / "wav.scp").write_text("".join(f"{n} {p}\n" for n, p in paths.items()))
    (folder / "text").write_text("".join(f"{n} ab\n" for n in names))
    flags = ["--input_dir", folder, "--output_dir", tmp_path / "org"]
    for job in (1, 0):
        given = [*flags, "--job", job, "--max_bad_share", 90]
        assert tiny.call(format_audio, *given)[0] == 0
    flags = ["--input_dir", tmp_path / "org", "--output_dir", tmp_path / "set"]
    assert tiny.call(filter_data, *flags)[0] == 0
    assert list(read_scp(tmp_path / "set/wav.scp")) == ["ok"]
    removed = read_scp(tmp_path / "set/removed")
    assert set(removed) == {*names} - {"ok"}
    assert all(str(paths[utt]) in why for utt, why in removed.items())
