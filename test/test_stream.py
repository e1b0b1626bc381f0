"""Decoding of audio that comes in piece by piece."""

import json
import math

import pytest
import soundfile
import tiny
import torch

from espnet_ctckd.bin import decode, decode_stream
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.decode.streaming import Emission, StreamingDecoder, latency

BLOCKS = {
    "encoder": "contextual_block_conformer",
    "encoder_conf": {"block_size": 8, "hop_size": 4, "look_ahead": 2},
}
# What the contextual-block encoder does not know of the tiny conformer.
ONLY_WHOLE = ("rel_pos_type", "pos_enc_layer_type", "selfattention_layer_type")


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    conf = {k: v for k, v in tiny.CONF["encoder_conf"].items() if k not in ONLY_WHOLE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.CONF, "encoder_conf", conf)
        return tiny.write_model(tmp_path_factory.mktemp("model") / "tiny", **BLOCKS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_data(tmp_path_factory.mktemp("data") / "tiny", (1.7, 2.3, 0.2))


def emissions_of(decoder, data, chunk):
    return {
        utt: list(
            decoder.decode(torch.from_numpy(read_audio(utt, path, tiny.RATE)), chunk)
        )
        for utt, path in data.wavs().items()
    }


def test_the_size_of_the_pieces_changes_when_but_not_what(streaming, data):
    decoder = StreamingDecoder(streaming.config, streaming.weights)
    whole = emissions_of(decoder, data, 10**9)
    assert sum(map(len, whole.values())) > 10
    for chunk in (640, 1000, 5120):
        found = emissions_of(decoder, data, chunk)
        for utt, path in data.wavs().items():
            seconds = len(read_audio(utt, path, tiny.RATE)) / tiny.RATE
            tokens = [(e.token, e.spoken) for e in found[utt]]
            assert tokens == [(e.token, e.spoken) for e in whole[utt]]
            assert {e.heard for e in whole[utt]} <= {seconds}
            heard = [e.heard for e in found[utt]]
            assert heard == sorted(heard)
            for e in found[utt]:
                assert e.spoken <= e.heard <= seconds
                pieces = e.heard * tiny.RATE / chunk
                assert e.heard == seconds or pieces == pytest.approx(round(pieces))


FRONTENDS = [
    {},
    {"n_fft": 1024},
    {"n_fft": 1024, "win_length": 400},
    {"n_fft": 512, "win_length": 400, "hop_length": 160, "center": False},
    {"n_fft": 400, "hop_length": 320, "fs": "16k"},
]


@pytest.mark.parametrize("frontend", FRONTENDS, ids=str)
def test_pieces_of_any_length_give_the_features_of_the_whole(tmp_path, data, frontend):
    conf = {k: v for k, v in tiny.CONF["encoder_conf"].items() if k not in ONLY_WHOLE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.CONF, "encoder_conf", conf)
        model = tiny.write_model(tmp_path / "tiny", **BLOCKS, frontend_conf=frontend)
    decoder = StreamingDecoder(model.config, model.weights)
    assert decoder.rate == tiny.RATE
    whole = emissions_of(decoder, data, 10**9)
    for utt, path in data.wavs().items():
        speech = torch.from_numpy(read_audio(utt, path, tiny.RATE))
        lengths = torch.tensor([len(speech)])
        wanted, _ = decoder._model._extract_feats(speech.unsqueeze(0), lengths)
        for chunk in (100, 160, 320, 480, 640, 1000, 5000):
            ends = [*range(chunk, len(speech), chunk), len(speech)]
            found = torch.cat([f for _, f in decoder._pieces(speech, ends)], 1)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    for chunk in (160, 320, 640):
        found = emissions_of(decoder, data, chunk)
        for utt, emissions in whole.items():
            assert [e[:2] for e in map(vars_of, found[utt])] == [
                e[:2] for e in map(vars_of, emissions)
            ]


def vars_of(emission):
    return emission.token, emission.spoken, emission.heard


def test_what_needs_the_whole_utterance_does_not_stream(tmp_path, data):
    conf = {k: v for k, v in tiny.CONF["encoder_conf"].items() if k not in ONLY_WHOLE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.CONF, "encoder_conf", conf)
        changes = {**BLOCKS, "normalize": "utterance_mvn"}
        model = tiny.write_model(tmp_path / "tiny", **changes)
    flags = ["--asr_train_config", model.config, "--asr_model_file", model.weights]
    flags += ["--wav_scp", data.wav_scp, "--output_dir", tmp_path / "out"]
    status, stderr = tiny.call(decode_stream, *flags)
    assert status == 1
    assert "utterance_mvn, which needs all of an utterance" in tiny.the_error(stderr)


def test_too_short_and_unreadable_audio_are_empty_hypotheses(streaming, data, tmp_path):
    wavs = data.wavs()
    soundfile.write(tmp_path / "short.wav", tiny.sound(0.03, 0), tiny.RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    wavs |= {"a": tmp_path / "short.wav", "b": tmp_path / "broken.wav"}
    more = data.copy(tmp_path / "data", wavs)
    for module in (decode, decode_stream):
        out = tmp_path / module.__name__.rpartition(".")[2]
        flags = ["--asr_train_config", streaming.config, "--output_dir", out]
        flags += ["--asr_model_file", streaming.weights, "--wav_scp", more.wav_scp]
        status, stderr = tiny.call(module, *flags)
        assert status == 0, stderr
        for name in ("text", "token"):
            texts = read_scp(out / name)
            assert (texts["a"], texts["b"]) == ("", "")
            assert len(texts) == 5
        assert json.loads((out / "decode.json").read_text())["unusable"] == 1
        status, stderr = tiny.call(module, *flags, "--max_bad_share", 0)
        assert status == 1
        assert "1 of 5 utterances" in tiny.the_error(stderr)


def test_no_token_is_known_before_its_block_is_there(streaming, data):
    decoder = StreamingDecoder(streaming.config, streaming.weights)
    utt, path = next(iter(data.wavs().items()))
    audio = torch.from_numpy(read_audio(utt, path, tiny.RATE))
    end = len(audio) / tiny.RATE
    emissions = list(decoder.decode(audio, 640))
    early = [e for e in emissions if e.heard < end]
    assert early
    # At least the frames that lie ahead, of 40 ms each, must have come in.
    assert all(e.heard >= e.spoken + 2 * 0.04 for e in early)
    assert latency(emissions) > 0.08
    assert latency([Emission(1, 0.5, 1.0), Emission(1, 1.0, 2.0)]) == 0.75
    assert math.isnan(latency([]))


def test_the_stream_says_what_the_batch_says(streaming, data, tmp_path):
    flags = ["--asr_train_config", streaming.config]
    flags += ["--asr_model_file", streaming.weights, "--wav_scp", data.wav_scp]
    for module, more in ((decode, ()), (decode_stream, ("--chunk_ms", 100))):
        name = module.__name__.rpartition(".")[2]
        status, stderr = tiny.call(
            module, *flags, "--output_dir", tmp_path / name, *more
        )
        assert status == 0, stderr
    said = [
        dict(
            line.split(maxsplit=1)
            for line in (tmp_path / name / "token").read_text().splitlines()
        )
        for name in ("decode", "decode_stream")
    ]
    # Alone in its batch, so that no padding comes between.
    longest = max(data.wavs(), key=lambda u: len(read_audio(u, data.wavs()[u], 16000)))
    assert said[0][longest] == said[1][longest]
    times = (tmp_path / "decode_stream/emissions").read_text().splitlines()
    for line in times:
        utt, rest = line.split(maxsplit=1)
        assert " ".join(token for token, *_ in json.loads(rest)) == said[1][utt]
    summary = json.loads((tmp_path / "decode_stream/decode.json").read_text())
    assert summary["chunk_ms"] == 100
    assert 0.08 < summary["latency_seconds"] < 1


def test_an_encoder_that_hears_all_is_refused(tiny_model, data, tmp_path):
    flags = ["--asr_train_config", tiny_model.config]
    flags += ["--asr_model_file", tiny_model.weights, "--wav_scp", data.wav_scp]
    status, stderr = tiny.call(decode_stream, *flags, "--output_dir", tmp_path / "out")
    assert status == 1
    assert "'conformer', which hears all of an utterance" in tiny.the_error(stderr)


def test_what_cannot_be_heard_is_an_empty_hypothesis(tmp_path, streaming, data):
    soundfile.write(tmp_path / "short.wav", torch.zeros(600).numpy(), tiny.RATE)
    soundfile.write(tmp_path / "none.wav", torch.zeros(0).numpy(), tiny.RATE)
    names = ("short", "none", "gone")
    more = {name: str(tmp_path / f"{name}.wav") for name in names}
    for name, wavs in (
        ("easy", data.wavs()),
        ("hard", {**data.wavs(), **more}),
        ("nothing", {utt: more[utt] for utt in names[:2]}),
    ):
        given = data.copy(tmp_path / name, wavs)
        flags = ["--asr_train_config", streaming.config, "--asr_model_file"]
        flags += [streaming.weights, "--wav_scp", given.wav_scp]
        status, stderr = tiny.call(decode_stream, *flags, "--output_dir", given.folder)
        assert status == 0, stderr
        found = {file: read_scp(given.folder / file) for file in ("text", "token")}
        assert set(found["text"]) == set(found["token"]) == set(wavs)
        assert not any(found["text"].get(utt) for utt in names)
        told = json.loads((given.folder / "decode.json").read_text())
        assert told["utterances"] == (0 if name == "nothing" else 3)
        assert told["too_short"] == (0 if name == "easy" else 2)
        assert told["unusable"] == (1 if name == "hard" else 0)
        if name == "easy":
            easy = found
        elif name == "hard":
            assert {u: found["text"][u] for u in data.wavs()} == easy["text"]
        else:
            assert told["latency_seconds"] is None
    (tmp_path / "hard/text").unlink()
    flags[-1] = tmp_path / "hard/wav.scp"
    status, stderr = tiny.call(
        decode_stream, *flags, "--output_dir", tmp_path / "hard", "--max_bad_share", 0
    )
    assert status == 1
    assert "utterance gone: " in tiny.the_error(stderr)
    assert not (tmp_path / "hard/text").exists()
