"""Decoding, and a student on its way to an ESPnet without this package."""

import itertools
import json
import os
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import soundfile
import tiny
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_ctckd import register
from espnet_ctckd.bin import decode, dump_teacher, export_student, fetch_model
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.models.espnet import (
    encode,
    load_espnet_model,
    sample_rate,
    volume_of,
)
from espnet_ctckd.models.zoo import find_model
from espnet_ctckd.plugin.task import CTCKDTask


@pytest.fixture(scope="module")
def equal_data(tmp_path_factory):
    """Utterances of one length, so that their batch has no padding."""
    return tiny.write_data(tmp_path_factory.mktemp("equal") / "data", (1.2,) * 5)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A distilled student, as a training leaves it."""
    return tiny.write_model(tmp_path_factory.mktemp("student") / "exp", tiny.KD, seed=3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, student):
    folder = tmp_path_factory.mktemp("exported") / "plain"
    export_student.main(model_flags(student, folder))
    return folder


def model_flags(model, folder):
    flags = ["--asr_train_config", model.config, "--asr_model_file", model.weights]
    return [str(flag) for flag in (*flags, "--output_dir", folder)]


def decode_into(folder, model, data, *more):
    decode.main([*model_flags(model, folder), "--wav_scp", str(data.wav_scp), *more])
    return read_scp(folder / "token"), read_scp(folder / "text")


def best_tokens(model, utt, path):
    """Argmax, repetitions merged, blanks removed: one utterance, plainly."""
    speech = torch.from_numpy(read_audio(utt, path, tiny.RATE)).unsqueeze(0)
    with torch.no_grad():
        encoded, _ = encode(model, list(speech))
        best = model.ctc.ctc_lo(encoded)[0].argmax(-1).tolist()
    merged = [a for a, b in zip(best, [None, *best]) if a != b]
    return [tiny.TOKENS[i] for i in merged if i != tiny.TOKENS.index("<blank>")]


def test_decoding_a_batch_equals_single_utterances_decoded_plainly(
    tmp_path, tiny_model, equal_data
):
    tokens, text = decode_into(tmp_path, tiny_model, equal_data)
    model, _ = load_espnet_model(tiny_model.config, tiny_model.weights)
    expected = {u: best_tokens(model, u, p) for u, p in equal_data.wavs().items()}
    assert {utt: line.split() for utt, line in tokens.items()} == expected
    assert len(set(tokens.values())) == len(tokens)  # the utterances differ
    for utt, line in text.items():
        spoken = "".join(expected[utt]).replace("<space>", " ")
        assert line == spoken.strip()


def test_the_size_of_the_batch_changes_nothing_without_padding(
    tmp_path, tiny_model, equal_data
):
    wide = decode_into(tmp_path / "wide", tiny_model, equal_data)
    narrow = decode_into(
        tmp_path / "narrow", tiny_model, equal_data, "--batch_seconds", "2.5"
    )
    assert wide == narrow


def test_decoding_says_how_long_it_took(tmp_path, tiny_model, equal_data):
    decode_into(tmp_path, tiny_model, equal_data)
    speed = json.loads((tmp_path / "decode.json").read_text())
    assert speed["audio_seconds"] == pytest.approx(6.0)
    assert speed["rtf"] == speed["compute_seconds"] / speed["audio_seconds"]
    assert speed["compute_seconds"] > 0
    assert (speed["utterances"], speed["device"]) == (5, "cpu")
    states = torch.load(tiny_model.weights, weights_only=True)
    model, _ = load_espnet_model(tiny_model.config, tiny_model.weights)
    parameters = sum(states[name].numel() for name, _ in model.named_parameters())
    assert speed["parameters"] == parameters


def test_an_utterance_too_short_for_the_model_is_empty(tmp_path, tiny_model, caplog):
    caplog.set_level("WARNING")
    for samples in (100, 700):  # too few for the front-end, and for the encoder
        path = tmp_path / f"{samples}.wav"
        soundfile.write(path, tiny.sound(0.1, 0)[:samples], tiny.RATE)
        (tmp_path / "wav.scp").write_text(f"short {path}\n")
        given = decode_into(tmp_path / "out", tiny_model, tiny.Data(tmp_path), "--ctm")
        assert given == ({"short": ""}, {"short": ""})
        assert "1 of 1 utterances are too short for the model" in caplog.text
        told = json.loads((tmp_path / "out/decode.json").read_text())
        assert (told["utterances"], told["too_short"]) == (0, 1)


def test_an_exported_student_is_a_plain_model_of_the_same_weights(student, exported):
    before = yaml.safe_load(student.config.read_text())
    after = yaml.safe_load((exported / "config.yaml").read_text())
    assert before["model"] == "ctckd"
    assert before["model_conf"] == {"ctc_weight": 1.0, "kd": tiny.KD}
    assert after == {**before, "model": "espnet", "model_conf": {"ctc_weight": 1.0}}
    theirs = torch.load(student.weights, weights_only=True)
    ours = torch.load(exported / "model.pth", weights_only=True)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert sorted(os.listdir(exported)) == ["config.yaml", "model.pth"]


def test_a_student_trained_without_the_key_ctc_weight_gets_it(tmp_path, student):
    conf = yaml.safe_load(student.config.read_text())
    del conf["model_conf"]["ctc_weight"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(conf))
    model = tiny.Model(tmp_path / "config.yaml", student.weights)
    export_student.main(model_flags(model, tmp_path / "out"))
    plain = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert plain["model_conf"] == {"ctc_weight": 1.0}


def test_heads_of_intermediate_layers_are_dropped(tmp_path):
    inter = {**tiny.KD, "ctc_weight": 1.0, "kd_weight": 0.25, "target": "teacher"}
    kd = {**tiny.KD, "inter": {**inter, "head": "separate"}}
    encoder = {"num_blocks": 2, "interctc_layer_idx": [1]}
    model = tiny.write_model(tmp_path / "inter", kd, encoder_conf=encoder)
    trained = torch.load(model.weights, weights_only=True)
    assert any(name.startswith("inter_heads.1.") for name in trained)
    export_student.main(model_flags(model, tmp_path / "out"))
    plain = torch.load(tmp_path / "out/model.pth", weights_only=True)
    assert set(plain) == {n for n in trained if not n.startswith("inter_heads.")}
    conf = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert conf["encoder_conf"]["interctc_layer_idx"] == []
    stock, _ = ASRTask.build_model_from_file(
        tmp_path / "out/config.yaml", tmp_path / "out/model.pth", "cpu"
    )
    ours, _ = load_espnet_model(model.config, model.weights)
    audio = torch.from_numpy(tiny.sound(1.0, 3)).float().unsqueeze(0)
    lengths = torch.tensor([audio.size(1)])
    (encoded, _), _ = ours.encode(audio, lengths)
    assert torch.equal(stock.eval().encode(audio, lengths)[0], encoded)


def test_files_that_the_configuration_names_are_exported_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as in a recipe, the names are relative
    (tmp_path / "bpe.model").write_text("pieces")
    moments = {"count": 2, "sum": np.ones(20), "sum_square": 2 * np.ones(20)}
    np.savez(tmp_path / "stats.npz", **moments)
    stats = (tmp_path / "stats.npz").read_bytes()
    normalize = {"stats_file": "stats.npz"}
    model = tiny.write_model(
        tmp_path / "exp", tiny.KD, normalize="global_mvn", normalize_conf=normalize
    )
    conf = {**yaml.safe_load(model.config.read_text()), "bpemodel": "bpe.model"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(conf))
    flags = model_flags(tiny.Model("config.yaml", model.weights), "out")
    export_student.main(flags)
    plain = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert plain["bpemodel"] == str(tmp_path / "out" / "bpe.model")
    assert plain["normalize_conf"]["stats_file"] == str(tmp_path / "out" / "stats.npz")
    assert (tmp_path / "out" / "bpe.model").read_text() == "pieces"
    assert (tmp_path / "out" / "stats.npz").read_bytes() == stats
    (tmp_path / "stats.npz").unlink()
    with pytest.raises(InputError, match=r"stats\.npz"):
        export_student.main([*flags[:-1], "again"])
    assert not (tmp_path / "again").exists()


def test_the_training_s_own_folder_and_weights_of_another_model_are_refused(
    tmp_path, student, tiny_model
):
    before = student.config.read_bytes()
    with pytest.raises(InputError, match="is the folder of the training itself"):
        export_student.main(model_flags(student, student.config.parent))
    assert student.config.read_bytes() == before
    other = tiny.write_model(tmp_path / "other", encoder_conf={"output_size": 32})
    mixed = tiny.Model(student.config, other.weights)
    with pytest.raises(InputError, match="are not of the model"):
        export_student.main(model_flags(mixed, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_exported_student_decodes_as_the_trained_one_does(
    tmp_path, student, exported, equal_data
):
    plain = tiny.Model(exported / "config.yaml", exported / "model.pth")
    assert decode_into(tmp_path / "a", plain, equal_data) == decode_into(
        tmp_path / "b", student, equal_data
    )


STOCK = """
import json, sys
sys.modules["espnet_ctckd"] = None
import soundfile
from espnet2.bin.asr_inference import Speech2Text
said = Speech2Text(*sys.argv[1:3], ctc_weight=1.0, beam_size=2)
texts = [said(soundfile.read(p, dtype="float32")[0])[0][0] for p in sys.argv[3:]]
try:
    import espnet_ctckd
except ImportError:
    print("without: " + json.dumps(texts))
"""


def test_an_espnet_without_this_package_recognises_the_same(
    student, exported, equal_data
):
    paths = list(equal_data.wavs().values())[:2]
    files = [str(exported / "config.yaml"), str(exported / "model.pth"), *paths]
    command = [sys.executable, "-c", STOCK, *files]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [x for x in found.stdout.splitlines() if x.startswith("without: ")]
    assert len(lines) == 1, found.stderr
    without = json.loads(lines[0].removeprefix("without: "))

    register()
    from espnet2.bin.asr_inference import Speech2Text

    here = Speech2Text(student.config, student.weights, ctc_weight=1.0, beam_size=2)
    assert type(here.asr_model).__name__ == "ESPnetCTCKDModel"
    assert without == [here(soundfile.read(p, dtype="float32")[0])[0][0] for p in paths]
    assert all(without)


def test_a_model_is_fetched_from_a_folder(tmp_path, tiny_model, capsys):
    fetch_model.main(
        ["--model", str(tiny_model.config.parent), "--output_dir", str(tmp_path)]
    )
    assert capsys.readouterr().out == f"{tiny_model.weights} -> {tmp_path}\n"
    before = yaml.safe_load(tiny_model.config.read_text())
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == before
    load_espnet_model(tmp_path / "config.yaml", tmp_path / "model.pth")


def test_fetching_takes_the_weights_to_use_of_several(tmp_path, tiny_model):
    folder = tmp_path / "exp"
    folder.mkdir()
    (folder / "config.yaml").write_text(tiny_model.config.read_text())
    names = ["train.loss.ave.pth", "valid.acc.ave.pth", "valid.cer_ctc.ave.pth"]
    for name in ("checkpoint.pth", "1epoch.pth", *names, "model.pth"):
        (folder / name).touch()
    for name in ("model.pth", *reversed(names)):
        assert find_model(str(folder))[1] == folder / name
        (folder / name).unlink()
    with pytest.raises(InputError, match=f"{folder} is not a model"):
        find_model(str(folder))


def test_a_folder_without_weights_or_configuration_is_refused(tmp_path, tiny_model):
    for lacks, has in (("weights", tiny_model.config), ("config", tiny_model.weights)):
        folder = tmp_path / lacks
        folder.mkdir()
        (folder / has.name).write_bytes(has.read_bytes())
        flags = ["--model", str(folder), "--output_dir", str(tmp_path / "out")]
        with pytest.raises(InputError, match=f"{folder} is not a model: expected"):
            fetch_model.main(flags)
        assert not (tmp_path / "out").exists()


def test_a_tag_without_the_model_zoo_is_refused_with_what_to_install(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "espnet_model_zoo.downloader", None)
    flags = ["--model", "owner/name", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(
        InputError, match=r"owner/name is no folder.*espnet_ctckd\[hf\]"
    ):
        fetch_model.main(flags)


@pytest.mark.parametrize(
    ("fs", "rate"),
    [(8000, 8000), ("16k", 16000), ("16000", 16000), ("22.05k", 22050), ("8K", 8000)],
)
def test_a_sample_rate_is_read_as_espnet_s_front_ends_do(fs, rate):
    assert sample_rate(Namespace(frontend_conf={"fs": fs})) == rate


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preprocessor": "slu"}, "preprocessor is 'slu', which is not applied"),
        (
            {"preprocessor_conf": {"speech_volume_normalize": 1.0}},
            "preprocessor_conf has speech_volume_normalize",
        ),
    ],
)
def test_preprocessing_that_is_not_applied_is_refused(given, message):
    args = Namespace(use_preprocessor=True, **given)
    with pytest.raises(InputError, match=message):
        volume_of(args)
    args.use_preprocessor = False
    assert volume_of(args) is None


@pytest.mark.parametrize("volume", [None, 1.0, 0.25])
def test_the_preprocessing_of_inference_is_that_of_espnet(
    tmp_path, tiny_model, equal_data, volume
):
    conf = yaml.safe_load(tiny_model.config.read_text())
    # A front-end to which the level matters.
    conf["speech_volume_normalize"] = volume
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(conf))
    model = tiny.Model(folder / "config.yaml", tiny_model.weights)
    quiet = {}
    for utt, path in equal_data.wavs().items():
        samples = 0.05 * read_audio(utt, path, tiny.RATE)
        quiet[utt] = str(tmp_path / f"{utt}.wav")
        soundfile.write(quiet[utt], samples, tiny.RATE, "FLOAT")
    data = equal_data.copy(tmp_path / "data", quiet)
    ours, _ = decode_into(tmp_path / "ours", model, data)
    args = CTCKDTask.build_model_from_file(model.config, None)[1]
    stock = CTCKDTask.build_preprocess_fn(args, train=False)
    built, _ = load_espnet_model(model.config, model.weights)
    cache = tmp_path / "cache"
    assert tiny.call(dump_teacher, *tiny.dump_args(model, data, cache))[0] == 0
    dumped = tiny.read_cache(cache)
    for utt, path in quiet.items():
        speech = stock(utt, {"speech": read_audio(utt, path, tiny.RATE)})["speech"]
        audio = torch.from_numpy(speech).float().unsqueeze(0)
        with torch.no_grad():
            states, _ = built.encode(audio, torch.tensor([audio.size(1)]))
            wanted = built.ctc.ctc_lo(states)[0].log_softmax(-1)
        best = [k for k, _ in itertools.groupby(wanted.argmax(-1).tolist())]
        assert ours[utt].split() == [tiny.TOKENS[i] for i in best if i != 0]
        found = torch.from_numpy(dumped[utt].log_probs)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    if volume is None:
        return
    # The level of the audio does not matter any more.
    loud, _ = decode_into(tmp_path / "loud", model, equal_data)
    assert loud == ours
