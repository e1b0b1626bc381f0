"""Students as ONNX: what other programs hear is what the model hears."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tiny
import torch

from espnet_ctckd.bin import export_onnx
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.decode.recogniser import Recogniser
from espnet_ctckd.export.onnx import WaveformModel, write_onnx, write_sherpa

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

ENCODERS = {
    "conformer": {},
    "global_mvn": {"normalize": "global_mvn"},
    "utterance_mvn": {"normalize": "utterance_mvn"},
    "variance": {
        "normalize": "utterance_mvn",
        "normalize_conf": {"norm_means": False, "norm_vars": True},
    },
    "e_branchformer": {
        "encoder": "e_branchformer",
        "encoder_conf": {
            **{"output_size": 8, "attention_heads": 2, "num_blocks": 2},
            **{"cgmlp_linear_units": 16, "input_layer": "conv2d"},
        },
    },
    "transformer": {
        "encoder": "transformer",
        "encoder_conf": {
            **{"output_size": 8, "attention_heads": 2, "linear_units": 16},
            **{"num_blocks": 2, "input_layer": "conv2d"},
        },
    },
}


@pytest.fixture(scope="module", params=list(ENCODERS))
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    changes = dict(ENCODERS[request.param])
    if request.param == "global_mvn":
        bands = tiny.CONF["frontend_conf"]["n_mels"]
        mean, variance = np.linspace(-8, -3, bands), np.linspace(1, 4, bands)
        statistics = {"count": 100, "sum": 100 * mean}
        statistics["sum_square"] = 100 * (variance + mean**2)
        np.savez(folder / "stats.npz", **statistics)
        changes["normalize_conf"] = {"stats_file": str(folder / "stats.npz")}
    with pytest.MonkeyPatch.context() as patch:
        if "encoder" in changes:  # whose options are its own
            patch.setitem(tiny.CONF, "encoder_conf", {})
        written = tiny.write_model(folder / "made", None, **changes)
    return Recogniser(written.config, written.weights)


@pytest.fixture(scope="module")
def noise(tmp_path_factory, tiny_data):
    """Audio with sound in all bands, as real audio has."""
    folder, wavs = tmp_path_factory.mktemp("noise"), {}
    generator = np.random.default_rng(0)
    for utt, path in tiny_data.wavs().items():
        samples = read_audio(utt, path, tiny.RATE)
        samples = samples + generator.normal(0, 0.05, len(samples))
        wavs[utt] = str(folder / f"{utt}.wav")
        soundfile.write(wavs[utt], np.clip(samples, -1, 1), tiny.RATE)
    return tiny_data.copy(folder / "data", wavs)


def padded(data, rate):
    audio = [
        torch.from_numpy(read_audio(u, path, rate)) for u, path in data.wavs().items()
    ]
    lengths = torch.tensor([len(a) for a in audio])
    return audio, torch.nn.utils.rnn.pad_sequence(audio, batch_first=True), lengths


def test_onnx_runtime_says_what_the_model_says(model, noise, tmp_path):
    path = write_onnx(model, tmp_path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert told["sample_rate"] == str(tiny.RATE)
    assert float(told["frame_shift_seconds"]) == pytest.approx(model.frame_seconds())
    least = int(told["shortest_samples"])
    given = {"speech": np.zeros((1, least), "f"), "speech_lengths": np.array([least])}
    assert session.run(None, given)[1].tolist() == [1]
    listed = (tmp_path / "tokens.txt").read_text().splitlines()
    assert listed == [f"{token} {i}" for i, token in enumerate(model.tokens)]
    audio, speech, lengths = padded(noise, model.rate)
    # Alone and in a batch, of whatever length.
    for batch in ([a] for a in audio):
        expected, frames = model.say(list(batch))
        given = {"speech": batch[0][None].numpy()}
        given["speech_lengths"] = np.array([len(batch[0])])
        found, counts = session.run(None, given)
        assert counts.tolist() == frames.tolist()
        assert np.abs(found - expected.numpy()).max() < 1e-4
    expected, frames = model.say(audio)
    given = {"speech": speech.numpy(), "speech_lengths": lengths.numpy()}
    found, counts = session.run(None, given)
    assert counts.tolist() == frames.tolist()
    for row, size in enumerate(frames.tolist()):
        distance = np.abs(found[row, :size] - expected[row, :size].numpy())
        assert distance.max() < 1e-4


def test_positions_are_computed_and_no_table_ends(model, tmp_path):
    graph = onnx.load(str(write_onnx(model, tmp_path))).graph
    constants = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    largest = max(max(t.dims, default=0) for t in (*graph.initializer, *constants))
    # Of the plain Transformer ESPnet's table of 5000 positions stays.
    assert (largest >= 5000) == ("Transformer" in type(model.model.encoder).__name__)


def test_the_fourier_transform_is_espnet_s(model, noise):
    audio, speech, lengths = padded(noise, model.rate)
    with torch.inference_mode():
        found, frames = WaveformModel(model.model)(speech, lengths)
    expected, counts = model.say(audio)
    assert frames.tolist() == counts.tolist()
    for row, size in enumerate(frames.tolist()):
        assert torch.allclose(found[row, :size], expected[row, :size], atol=1e-4)


def test_espnet_s_own_model_stays_as_it_is(model, noise):
    audio, _, _ = padded(noise, model.rate)
    before = {name: type(module) for name, module in model.model.named_modules()}
    expected, _ = model.say(audio)
    assert WaveformModel(model.model).encoder is not model.model.encoder
    after = {name: type(module) for name, module in model.model.named_modules()}
    assert after == before
    assert torch.equal(model.say(audio)[0], expected)


def test_the_command_compares_and_quantizes(tiny_model, noise, tmp_path, capsys):
    given = ["--asr_train_config", tiny_model.config]
    given += ["--asr_model_file", tiny_model.weights, "--output_dir", tmp_path]
    given += ["--wav_scp", noise.wav_scp, "--text", noise.text, "--quantize"]
    assert tiny.call(export_onnx, *given)[0] == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    rows = {row[0]: row[1:] for row in rows}
    assert rows["model.onnx"][:3] == ["4", "of", "4"]
    assert float(rows["model.onnx"][3]) < 1e-4
    assert rows["model.onnx"][4] == rows["model.pth"][3]
    assert float(rows["model.int8.onnx"][3]) > 0
    onnx.checker.check_model(str(tmp_path / "model.int8.onnx"))


def test_audio_that_does_not_fit_is_refused(tiny_model, noise, tmp_path):
    given = ["--asr_train_config", tiny_model.config]
    given += ["--asr_model_file", tiny_model.weights, "--output_dir", tmp_path / "onnx"]
    (tmp_path / "text").write_text("utt00 a b\n")
    audio = ["--wav_scp", noise.wav_scp, "--text", tmp_path / "text"]
    status, stderr = tiny.call(export_onnx, *given, *audio)
    assert status == 1
    assert "lacks 3 of 4 utterances" in tiny.the_error(stderr)
    soundfile.write(tmp_path / "short.wav", np.zeros(500), tiny.RATE)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'short.wav'}\n")
    status, stderr = tiny.call(export_onnx, *given, "--wav_scp", tmp_path / "wav.scp")
    assert status == 1
    assert "has 500 samples, too few" in tiny.the_error(stderr)


def test_sherpa_onnx_reads_what_the_model_reads(tmp_path, noise, capsys):
    pytest.importorskip("sherpa_onnx")
    written = tiny.write_model(tmp_path / "model", None, normalize="utterance_mvn")
    # It prints to the real output of its process, and can end it.
    given = ["--asr_train_config", written.config, "--asr_model_file", written.weights]
    given += ["--output_dir", tmp_path / "onnx", "--wav_scp", noise.wav_scp]
    command = [sys.executable, "-m", "espnet_ctckd.bin.export_onnx", *given, "--sherpa"]
    ran = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    (row,) = [r for r in ran.stdout.splitlines() if r.startswith("model.sherpa.onnx ")]
    assert row.split()[1:4] == ["4", "of", "4"]


def test_what_cannot_be_written_is_refused(tiny_model, tmp_path):
    model = Recogniser(tiny_model.config, tiny_model.weights)
    with pytest.raises(InputError, match="normalize utterance_mvn"):
        write_sherpa(model, tmp_path)
    changes = {"encoder_conf": {"num_blocks": 2, "skip_after": 1}}
    changes["encoder"] = "ctckd_skip_conformer"
    written = tiny.write_model(tmp_path / "skip", None, **changes)
    with pytest.raises(InputError, match="encoder is ctckd_skip_conformer"):
        write_onnx(Recogniser(written.config, written.weights), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.CONF, "encoder_conf", {"hidden_size": 8, "num_layers": 1})
        written = tiny.write_model(tmp_path / "rnn", None, encoder="rnn")
    with pytest.raises(InputError, match="encoder is RNNEncoder; ONNX is written of"):
        write_onnx(Recogniser(written.config, written.weights), tmp_path)
