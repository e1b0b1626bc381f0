"""What a model outputs for an utterance does not depend on what it is batched with."""

import itertools
import json
import logging
import zlib

import pytest
import tiny
import torch
from espnet2.tasks.asr import encoder_choices
from hypothesis import given
from hypothesis import strategies as st
from test_train import flags

from espnet_ctckd.bin import cache_merge, decode, dump_teacher
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import TeacherConfig
from espnet_ctckd.data.batches import batch_by_length
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.models.espnet import encode
from espnet_ctckd.plugin.task import CTCKDTask
from espnet_ctckd.teachers.online import open_online

SIZE = {
    "output_size": 16,
    "attention_heads": 2,
    "linear_units": 16,
    "num_blocks": 3,
}
CONFORMER = {**tiny.CONF["encoder_conf"], "num_blocks": 3}
CONDITIONED = {"interctc_layer_idx": [1], "interctc_use_conditioning": True}
BLOCKS = {**SIZE, "block_size": 8, "hop_size": 4, "look_ahead": 2}
# Encoders that can be a teacher or a student, by name and options.
ENCODERS = {
    "conformer": ("conformer", CONFORMER),
    "conformer, conditioned": ("conformer", {**CONFORMER, **CONDITIONED}),
    "conformer, conv2d2": ("conformer", {**CONFORMER, "input_layer": "conv2d2"}),
    "transformer": ("transformer", SIZE),
    "branchformer": (
        "branchformer",
        {"output_size": 16, "attention_heads": 2, "num_blocks": 3},
    ),
    "e_branchformer": ("e_branchformer", {**SIZE, "cgmlp_linear_units": 32}),
    "multiconv_conformer": ("multiconv_conformer", SIZE),
    "contextual_block_conformer": (
        "contextual_block_conformer",
        {**BLOCKS, "cnn_module_kernel": 7},
    ),
    "contextual_block_transformer": ("contextual_block_transformer", BLOCKS),
    "rnn": ("rnn", {"hidden_size": 16, "output_size": 16, "num_layers": 2}),
    "vgg_rnn": ("vgg_rnn", {"hidden_size": 16, "output_size": 16, "num_layers": 1}),
    "ctckd_skip_conformer": (
        "ctckd_skip_conformer",
        {**CONFORMER, "skip_after": 1, "skip_threshold": 0.5},
    ),
    "ctckd_skip_conformer, factorized": (
        "ctckd_skip_conformer",
        {**CONFORMER, "skip_after": 1, "skip_threshold": 0.5, "skip_factorized": True},
    ),
}  # fmt: skip
NORMALIZE = {"normalize": "utterance_mvn", "normalize_conf": {}}


def build(encoder, conf, **changes):
    args = CTCKDTask.get_parser().parse_args(["--token_type", "char"])
    args.token_list = list(tiny.TOKENS)
    args.encoder, args.encoder_conf = encoder, conf
    args.frontend_conf = tiny.CONF["frontend_conf"]
    args.model_conf, args.normalize = {"ctc_weight": 1.0}, None
    for name, value in changes.items():
        setattr(args, name, value)
    torch.manual_seed(0)
    return tiny.spread(CTCKDTask.build_model(args).eval())


def audio():
    """Waveforms of many lengths, some of equally many feature frames."""
    seconds = (2.0, 1.3, 0.9, 1.301, 0.62, 2.0)
    return [torch.from_numpy(tiny.sound(s, i)).float() for i, s in enumerate(seconds)]


def log_probs(model, states):
    return model.ctc.ctc_lo(states).log_softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, NORMALIZE], ids=["plain", "utterance_mvn"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_batch_is_as_its_utterances_one_by_one(encoder, changes):
    model = build(*ENCODERS[encoder], **changes)
    waves = audio()
    states, lengths = encode(model, waves)
    for i, wave in enumerate(waves):
        alone, frames = model.encode(wave.unsqueeze(0), torch.tensor([len(wave)]))
        if isinstance(alone, tuple):
            alone = alone[0]
        assert lengths[i] == frames[0] == alone.size(1)
        torch.testing.assert_close(
            log_probs(model, states[i, : lengths[i]]),
            log_probs(model, alone[0]),
            rtol=0,
            atol=1e-4,
        )


def test_every_encoder_of_espnet_that_runs_here_is_tried():
    # These take other input than log-mel features, need libraries or downloads, or
    # are no encoders of one speaker.
    apart = {"wav2vec2", "hubert", "hubert_pretrain", "torchaudiohubert", "longformer"}
    apart |= {"whisper", "avhubert", "beats", "transformer_multispkr"}
    tried = {name for name, _ in ENCODERS.values()}
    assert set(encoder_choices.classes) - apart == tried


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("model") / "exp")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    seconds = (2.0, 1.3, 0.9, 1.301, 0.62, 2.0, 1.7)
    return tiny.write_data(tmp_path_factory.mktemp("data") / "data", seconds)


def test_a_dump_in_batches_is_that_of_single_utterances(tmp_path, model, data):
    caches = {}
    for seconds in (60, 0.1):
        cache = tmp_path / f"{seconds}"
        command = tiny.dump_args(model, data, cache, "--batch_seconds", seconds)
        status, stderr = tiny.call(dump_teacher, *command)
        assert status == 0, stderr
        assert read_meta(cache).batching == "single"
        caches[seconds] = tiny.read_cache(cache)
    for utt, alone in caches[0.1].items():
        found = torch.from_numpy(caches[60][utt].log_probs)
        torch.testing.assert_close(
            found, torch.from_numpy(alone.log_probs), rtol=0, atol=1e-4
        )


def test_decoding_in_batches_is_that_of_single_utterances(tmp_path, model, data):
    texts = []
    for seconds in (60, 0.1):
        given = ["--asr_train_config", model.config, "--wav_scp", data.wav_scp]
        given += ["--asr_model_file", model.weights, "--batch_seconds", seconds]
        folder = tmp_path / f"{seconds}"
        status, stderr = tiny.call(decode, *given, "--output_dir", folder)
        assert status == 0, stderr
        told = json.loads((folder / "decode.json").read_text())
        texts.append((read_scp(folder / "token"), told["frames"]))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("kind", ["espnet", "ensemble"])
def test_a_teacher_in_the_step_is_that_of_the_cache(tmp_path, model, kind):
    source = model.config.parent
    if kind == "ensemble":
        entry = {"teacher_type": "espnet", "teacher": str(source), "weight": 0.5}
        source = tmp_path / "both.yaml"
        source.write_text(json.dumps({"min_agreement": 0.5, "teachers": [entry] * 2}))
    config = TeacherConfig(mode="online", teacher_type=kind, teacher=str(source))
    teacher = open_online(config, tiny.TOKENS, 0, "cpu")
    waves = audio()
    speech = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    # What a data worker pads with does not matter either.
    for row, wave in zip(speech, waves):
        row[len(wave) :] = 0.3
    together, _ = teacher(speech, torch.tensor([len(wave) for wave in waves]))
    for i, wave in enumerate(waves):
        alone, _ = teacher(wave.unsqueeze(0), torch.tensor([len(wave)]))
        frames = int(alone.lengths[0])
        assert together.lengths[i] == frames
        torch.testing.assert_close(
            together.log_probs[i, :frames], alone.log_probs[0], rtol=0, atol=1e-4
        )


def forget_batching(cache):
    """Make of a cache one of a version that did not record how it was batched."""
    path = cache / "meta.json"
    meta = json.loads(path.read_text())
    del meta["batching"], meta["crc32"]
    meta["crc32"] = zlib.crc32(json.dumps(meta, sort_keys=True).encode())
    path.write_text(json.dumps(meta))


def test_an_older_cache_is_read_with_a_warning_and_not_mixed(
    tmp_path, model, data, caplog
):
    for name in ("old", "new"):
        command = tiny.dump_args(model, data, tmp_path / name)
        assert tiny.call(dump_teacher, *command)[0] == 0
    forget_batching(tmp_path / "old")
    caplog.set_level(logging.WARNING)
    assert read_meta(tmp_path / "old").batching == "unrecorded"
    assert "old was dumped by a version that computed" in caplog.text
    both = ["--cache", tmp_path / "old", "--cache", tmp_path / "new"]
    status, stderr = tiny.call(cache_merge, *both, "--output_dir", tmp_path / "both")
    assert status == 1
    assert "differ in batching" in tiny.the_error(stderr)
    command = flags(tmp_path / "run", data, tmp_path / "old", tiny.KD)
    CTCKDTask.main(cmd=command)  # it still teaches
    command[-1] = command[-1].replace(str(tmp_path / "old"), str(tmp_path / "new"))
    with pytest.raises(InputError, match="of the kind unrecorded"):
        CTCKDTask.main(cmd=command)


@given(st.lists(st.integers(1, 30)), st.integers(1, 60))
def test_batches_by_length_are_as_full_as_they_may_be(lengths, most):
    lengths.sort()
    batches = batch_by_length(lengths, lambda length: length, most)
    assert [length for batch in batches for length in batch] == lengths
    for batch, after in itertools.zip_longest(batches, batches[1:]):
        assert len(batch) == 1 or len(batch) * batch[-1] <= most
        assert after is None or (len(batch) + 1) * after[0] > most
