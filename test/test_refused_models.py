"""What ESPnet's constructors refuse, numbers of flags, and utterances too short."""

import json

import pytest
import soundfile
import tiny
from test_train import flags

from espnet_ctckd.bin import (
    asr_train,
    check_cache,
    check_config,
    check_env,
    decode,
    dump_teacher,
    filter_data,
    format_audio,
    perturb_speed,
    prove_teacher,
)
from espnet_ctckd.nbest import _seal, from_line

WRONG = [
    ({"encoder_conf": {"output_size": 17}}, "encoder", "'output_size': 17"),
    ({"encoder_conf": {"nonsense": 1}}, "encoder", "'nonsense': 1"),
    ({"encoder_conf": {"attention_heads": 0}}, "encoder", "'attention_heads': 0"),
    ({"encoder_conf": {"input_layer": "x"}}, "encoder", "'input_layer': 'x'"),
    ({"frontend_conf": {"nonsense": 1}}, "frontend", "'nonsense': 1"),
    ({"specaug": "specaug", "specaug_conf": {"a": 1}}, "specaug", "{'a': 1}"),
    ({"ctc_conf": {"ctc_type": "x"}}, "ctc", "'ctc_type': 'x'"),
]


@pytest.mark.parametrize("kd", [tiny.KD, None], ids=["ctckd", "plain"])
@pytest.mark.parametrize(("changes", "part", "quoted"), WRONG)
def test_what_a_constructor_refuses_is_one_line_with_the_configuration(
    tmp_path, tiny_data, tiny_cache, changes, part, quoted, kd
):
    cache = tiny_cache if kd else None
    command = flags(tmp_path / "run", tiny_data, cache, kd, max_epoch=1, **changes)
    conf = tmp_path / "run" / "train.yaml"
    tokens = tmp_path / "run" / "tokens.txt"
    student = ["--asr_config", conf, "--token_list", tokens, "--token_type", "char"]
    held = ["--cache", tiny_cache, "--wav_scp", tiny_data.wav_scp, *student]
    for module, given in (
        (asr_train, command),
        (check_cache, held),
        (check_config, ["--config", conf]),
    ):
        status, stderr = tiny.call(module, *given)
        assert status == 1
        error = tiny.the_error(stderr)
        assert f"ESPnet cannot build {part}" in error
        assert quoted in error


def test_a_flag_that_espnet_cannot_build_is_refused_and_its_cause_kept(
    tmp_path, tiny_data, tiny_cache
):
    conf = tiny.write_conf(tmp_path / "train.yaml", tiny.KD)
    given = ["--cache", tiny_cache, "--wav_scp", tiny_data.wav_scp, "--asr_config"]
    given += [conf, "--token_list", tiny_cache / "tokens.txt", "--token_type", "char"]
    given += ["--encoder_conf", "output_size=17"]
    with pytest.raises(ValueError, match="'output_size': 17") as error:
        check_cache.main([str(g) for g in given])
    assert error.value.__cause__ is not None


def test_a_damaged_configuration_of_a_trained_model_is_refused(
    tmp_path, tiny_model, tiny_data
):
    text = tiny_model.config.read_text().replace("output_size: 16", "output_size: 17")
    (tmp_path / "config.yaml").write_text(text)
    model = tiny.Model(tmp_path / "config.yaml", tiny_model.weights)
    given = ["--asr_train_config", model.config, "--asr_model_file", model.weights]
    given += ["--wav_scp", tiny_data.wav_scp, "--output_dir", tmp_path / "out"]
    dump = tiny.dump_args(model, tiny_data, tmp_path / "cache")
    for module, flags_of in ((decode, given), (dump_teacher, dump)):
        status, stderr = tiny.call(module, *flags_of)
        assert status == 1
        error = tiny.the_error(stderr)
        assert f"cannot build the model of {model.config}: ESPnet cannot" in error


BAD_NUMBERS = [
    *[(dump_teacher, "--max_bad_share", v) for v in ("inf", "101", "-5", "nan")],
    *[(filter_data, "--max_bad_share", v) for v in ("inf", "100.1", "-1", "nan")],
    (format_audio, "--max_bad_share", "101"),
    (decode, "--max_bad_share", "nan"),
    *[(filter_data, "--fs", v) for v in ("0", "-1", "16k")],
    (filter_data, "--min_wav_duration", "nan"),
    (filter_data, "--min_wav_duration", "-1"),
    (filter_data, "--max_wav_duration", "nan"),
    (filter_data, "--max_wav_duration", "0"),
    (format_audio, "--fs", "0"),
    (format_audio, "--num_jobs", "0"),
    (format_audio, "--job", "-1"),
    (check_cache, "--audio_sample", "-1"),
    (prove_teacher, "--max_wer", "nan"),
    (check_env, "--min_free_gb", "nan"),
    (decode, "--search_processes", "-1"),
]


@pytest.mark.parametrize(("module", "flag", "value"), BAD_NUMBERS)
def test_a_number_out_of_range_is_refused_by_its_flag(module, flag, value, capsys):
    with pytest.raises(SystemExit) as error:
        module.main([f"{flag}={value}"])
    assert error.value.code == 2
    assert f"argument {flag}: " in capsys.readouterr().err


def test_filtering_refuses_no_range_and_its_own_input(tmp_path, tiny_data):
    data = tmp_path / "data"
    format_audio.main(
        ["--input_dir", str(tiny_data.folder), "--output_dir", str(data), "--job", "1"]
    )
    format_audio.main(["--input_dir", str(tiny_data.folder), "--output_dir", str(data)])
    before = {path.name: path.read_bytes() for path in data.glob("*") if path.is_file()}
    given = ["--input_dir", data, "--output_dir", tmp_path / "out"]
    limits = ["--min_wav_duration", 2, "--max_wav_duration", 1]
    status, stderr = tiny.call(filter_data, *given, *limits)
    assert status == 1
    assert "--min_wav_duration is 2, above --max_wav_duration 1" in (
        tiny.the_error(stderr)
    )
    again = ["--input_dir", data, "--output_dir", tmp_path / "x" / ".." / "data"]
    (tmp_path / "x").mkdir()
    for module, more in (
        (filter_data, []),
        (format_audio, []),
        (perturb_speed, ["--factors", "1.0 1.1"]),
    ):
        status, stderr = tiny.call(module, *again, *more)
        assert status == 1
        assert "would be overwritten" in tiny.the_error(stderr)
    assert before == {
        path.name: path.read_bytes() for path in data.glob("*") if path.is_file()
    }


@pytest.mark.parametrize("with_text", [True, False])
def test_check_cache_counts_utterances_too_short_to_train_on(
    tmp_path, tiny_model, tiny_data, with_text
):
    path = tmp_path / "short.wav"
    soundfile.write(path, tiny.sound(0.5, 9)[:1222], tiny.RATE, "PCM_16")
    data = tiny_data.copy(tmp_path / "data", {**tiny_data.wavs(), "utt99": str(path)})
    with open(data.text, "a") as f:
        f.write("utt99 a\n")
    cache = tmp_path / "cache"
    dump_teacher.main(tiny.dump_args(tiny_model, data, cache))
    kd = {**tiny.KD, "weight": 0.5 if with_text else 1.0}
    conf = tiny.write_conf(tmp_path / "train.yaml", kd)
    given = ["--cache", cache, "--wav_scp", data.wav_scp, "--asr_config", conf]
    given += ["--token_list", cache / "tokens.txt", "--token_type", "char"]
    given += ["--text", data.text] if with_text else []
    status, stderr = tiny.call(check_cache, *given)
    assert status == 1
    error = tiny.the_error(stderr)
    assert f"cannot be trained on 1 of 5 utterances of {data.wav_scp}: utt99" in error
    assert "1222 samples make 1 frames" in error


@pytest.mark.parametrize(
    "listed",
    [
        '["1 00000001 0", ' + "[" * 50000,
        "[" * 50000,
        "{}",
        "[1]",
        '["\\ud800 1 0", [1]]',
    ],
)
def test_a_line_of_an_n_best_list_that_is_none_is_refused(listed):
    with pytest.raises(ValueError, match="utterance utt00: the n-best list"):
        from_line(listed, "utt00")


@pytest.mark.parametrize("hypothesis", [[float("nan"), "a"], [2, "a"], ["1"], [1, 5]])
def test_a_sealed_hypothesis_of_wrong_contents_is_refused(hypothesis):
    heard = "100 00000001"
    line = json.dumps([f"{heard} {_seal('utt00', heard, [hypothesis])}", hypothesis])
    with pytest.raises(ValueError, match="utterance utt00: the n-best list"):
        from_line(line, "utt00")
