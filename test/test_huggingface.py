"""Models of Hugging Face: their weights, frames, blanks and types."""

import json
from fractions import Fraction

import numpy as np
import pytest
import tiny
import torch
from test_teachers import SMALL, VOCABULARY, audio_of, dump

from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.models.frontend import CTCKDHuggingFaceFrontend
from espnet_ctckd.teachers import open_teacher

transformers = pytest.importorskip("transformers")

LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
LENGTHS = (16000, 17111, 23456, 9999, 31000)


def config_of(kind, changes):
    """The configuration of a small model, and its feature extractor."""
    if kind == "Parakeet":
        inner = {**ENCODER, "subsampling_conv_channels": 8}
        config = transformers.ParakeetCTCConfig(
            encoder_config=inner, **{"vocab_size": 9, "pad_token_id": 0, **changes}
        )
        return config, transformers.ParakeetFeatureExtractor()
    if kind == "OmniASR":
        inner = {**ENCODER, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 8}
        audio = transformers.AutoConfig.for_model("omniasr_audio", **inner)
        audio.num_conv_pos_embedding_groups = 2
        config = transformers.OmniASRCTCConfig(
            audio_config=audio, **{"vocab_size": 9, **changes}
        )
        return config, transformers.OmniASRFeatureExtractor()
    if kind == "Wav2Vec2Bert":
        given = {
            "vocab_size": 9,
            "pad_token_id": 0,
            "feature_projection_input_dim": 160,
        }
        config = transformers.Wav2Vec2BertConfig(**ENCODER, **{**given, **changes})
        return config, transformers.SeamlessM4TFeatureExtractor(padding_value=0.0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes})
    mask = config.feat_extract_norm == "layer"
    return config, transformers.Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=mask
    )


@pytest.fixture
def save(tmp_path):
    """Saves a small model of random weights as transformers does."""

    def write(kind, *, vocabulary=VOCABULARY, pad="<pad>", change=None, **changes):
        folder = tmp_path / f"hub_{kind}"
        folder.mkdir(exist_ok=True)
        vocab = {token: i for i, token in enumerate(vocabulary)}
        (folder / "vocab.json").write_text(json.dumps(vocab))
        space = " " if " " in vocabulary else "|"
        transformers.Wav2Vec2CTCTokenizer(
            str(folder / "vocab.json"), pad_token=pad, word_delimiter_token=space
        ).save_pretrained(folder)
        config, features = config_of(kind, changes)
        features.save_pretrained(folder)
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCTC")(config).eval()
        (change or (lambda model: model))(model).save_pretrained(folder)
        return folder

    return write


def hf(folder, **options):
    return open_teacher("huggingface", str(folder), "cpu", options)


def noise(*lengths):
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(n, generator=generator) for n in lengths]


def computed(teacher, audio):
    """Posteriors of utterances in one batch, (U, V) each."""
    padded = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True)
    found = teacher.posteriors(padded, torch.tensor([len(a) for a in audio]))
    return [found.log_probs[i, :n] for i, n in enumerate(found.lengths.tolist())]


# Padding


MODELS = [
    ("Wav2Vec2", {}),
    ("Wav2Vec2", LAYER),
    ("Wav2Vec2Bert", {}),
    ("Parakeet", {}),
    ("OmniASR", {}),
]


@pytest.mark.parametrize(("kind", "changes"), MODELS)
def test_an_utterance_does_not_depend_on_its_batch(save, kind, changes):
    folder = save(kind, **changes)
    teacher = hf(folder)
    assert teacher.batching == "single"
    processor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    audio = noise(*LENGTHS)
    for one, found in zip(audio, computed(teacher, audio)):
        given = processor([one.numpy()], sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            expected = model(**given).logits[0].log_softmax(-1)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "changes"), MODELS[1:])
def test_padded_batches_are_offered_and_named(save, kind, changes):
    teacher = hf(save(kind, **changes), batched=True)
    assert teacher.batching == "padded"
    audio = noise(*LENGTHS)
    batch = computed(teacher, audio)
    for one, found in zip(audio, batch):
        (alone,) = computed(teacher, [one])
        assert len(found) == len(alone)  # whatever the batch
        assert torch.allclose(found, alone, rtol=0, atol=0.1)


def test_padded_batches_need_a_mask(save):
    folder = save("Wav2Vec2")
    with pytest.raises(InputError, match=r"gives no mask of the padding.*batched=true"):
        hf(folder, batched=True)
    with pytest.raises(InputError, match=r"batched of .* is 1; give true or false"):
        hf(folder, batched=1)


def test_every_teacher_says_how_it_batches(save, tmp_path, tiny_model):
    folder = save("Wav2Vec2", **LAYER)
    assert open_teacher(
        "espnet", str(tiny_model.config.parent), "cpu", {}
    ).batching == ("single")
    half = open_teacher(
        "huggingface", str(folder), "cpu", {"batched": True}, "bfloat16"
    )
    assert half.batching == "padded"
    for batched, expected in ((False, "single"), (True, "padded")):
        entry = {"weight": 1, "teacher_type": "huggingface", "teacher": str(folder)}
        both = [entry, {**entry, "teacher_conf": {"batched": batched}}]
        (tmp_path / "both.yaml").write_text(
            json.dumps({"teachers": both, "min_agreement": 0})
        )
        teacher = open_teacher("ensemble", str(tmp_path / "both.yaml"), "cpu", {})
        assert teacher.batching == expected


# Weights


def without(*names):
    """Removes weights by their prefixes from what is saved."""

    def change(model):
        write = model.save_pretrained

        def save_pretrained(folder):
            states = model.state_dict()
            kept = {k: v for k, v in states.items() if not k.startswith(names)}
            write(folder, state_dict=kept)

        model.save_pretrained = save_pretrained
        return model

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.wav2vec2, r"has no lm_head\.bias, lm_head\.weight \(2 of"),
        (without("lm_head.bias"), r"has no lm_head\.bias \(1 of"),
        (
            without("wav2vec2.encoder.layers.1.feed"),
            r"has no wav2vec2\.encoder\.layers",
        ),
    ],
)
def test_missing_weights_are_refused_by_name(
    save, tmp_path, tiny_data, change, message
):
    folder = save("Wav2Vec2", change=change)
    status, stderr = dump("huggingface", folder, tiny_data, tmp_path / "cache")
    assert status == 1
    with pytest.raises(InputError, match=message) as error:
        hf(folder)
    assert f"error: {error.value}" in tiny.the_error(stderr)


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_weights_that_the_configuration_has_no_place_for_are_refused(save):
    folder = save("Wav2Vec2")
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(InputError, match=r"have no place in the .*encoder\.layers\.1"):
        hf(folder)


def test_weights_of_other_sizes_are_refused_by_name(save, tmp_path, tiny_data):
    folder = save("Wav2Vec2")
    change_config(folder, vocab_size=12)
    status, stderr = dump("huggingface", folder, tiny_data, tmp_path / "cache")
    assert status == 1
    error = tiny.the_error(stderr)
    assert "lm_head.bias (9,) and not (12,)" in error
    assert "lm_head.weight (9, 16) and not (12, 16)" in error


def test_what_only_training_or_another_head_reads_may_differ(save):
    found = []
    for change in (
        lambda model: model,
        without("wav2vec2.masked_spec_embed"),
        leftover,
    ):
        teacher = hf(save("Wav2Vec2", change=change))
        found.append(computed(teacher, noise(16000))[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def old_names(model):
    """Saves the names of weights that checkpoints of before 2024 have."""
    write = model.save_pretrained

    def save_pretrained(folder):
        write(folder)
        for path in folder.glob("*.safetensors"):
            path.unlink()
        new = "conv.parametrizations.weight.original"
        states = {
            name.replace(f"{new}0", "conv.weight_g").replace(
                f"{new}1", "conv.weight_v"
            ): v
            for name, v in model.state_dict().items()
        }
        assert states.keys() != model.state_dict().keys()
        torch.save(states, folder / "pytorch_model.bin")

    model.save_pretrained = save_pretrained
    return model


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
def test_checkpoints_of_old_names_are_whole(save, kind):
    found = []
    for change in (lambda model: model, old_names):
        folder = save(kind, change=change)
        found += computed(hf(folder), noise(16000))
        CTCKDHuggingFaceFrontend(str(folder))
    assert torch.allclose(found[0], found[1], atol=1e-5)


def leftover(model):
    """Saves the quantizer of the pretraining, too."""
    write = model.save_pretrained

    def save_pretrained(folder):
        more = {"quantizer.codevectors": torch.zeros(1, 4, 4)}
        write(folder, state_dict={**model.state_dict(), **more})

    model.save_pretrained = save_pretrained
    return model


def test_an_adapter_brings_its_own_output_layer(save, tmp_path, tiny_data):
    """As MMS: adapters and output layers of another size, a file a language."""
    folder = save("Wav2Vec2", **LAYER, adapter_attn_dim=4, output_hidden_size=16)
    model = transformers.Wav2Vec2ForCTC.from_pretrained(folder)
    generator = torch.Generator().manual_seed(2)
    adapter = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in model._get_adapters().items()
    }
    adapter["lm_head.weight"] = torch.randn(5, 16, generator=generator)
    adapter["lm_head.bias"] = torch.randn(5, generator=generator)
    from safetensors.torch import save_file

    save_file(adapter, folder / "adapter.deu.safetensors")
    nested = {"deu": {t: i for i, t in enumerate(["<pad>", "|", "ä", "b", "<unk>"])}}
    (folder / "vocab.json").write_text(json.dumps(nested))
    (folder / "tokenizer.json").unlink(missing_ok=True)
    transformers.Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), target_lang="deu"
    ).save_pretrained(folder)
    teacher = hf(folder, language="deu")
    assert teacher.token_list == ["<pad>", "|", "ä", "b", "<unk>"]
    assert torch.equal(teacher._model.lm_head.weight, adapter["lm_head.weight"])
    save_file(
        {k: v for k, v in adapter.items() if k != "lm_head.bias"},
        folder / "adapter.deu.safetensors",
    )
    with pytest.raises(InputError, match=r"language 'deu'.*missing keys: lm_head.bias"):
        hf(folder, language="deu")


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_front_end_refuses_missing_weights(save, pretrained):
    folder = save("Hubert", change=without("hubert.encoder.layers.1.feed"))
    if pretrained:
        with pytest.raises(
            InputError, match=r"frontend_conf.model is .* has no encoder"
        ):
            CTCKDHuggingFaceFrontend(str(folder))
    else:
        CTCKDHuggingFaceFrontend(str(folder), load_pretrained=False)


# Frames


@pytest.mark.parametrize(
    ("kind", "changes", "shift"),
    [
        ("Wav2Vec2Bert", {}, 320),
        ("Wav2Vec2Bert", {"add_adapter": True, "num_adapter_layers": 1}, 640),
        ("Parakeet", {}, 1280),
        ("OmniASR", {}, 320),
    ],
)
def test_the_frame_shift_is_in_samples(save, tmp_path, tiny_data, kind, changes, shift):
    if "add_adapter" in changes:
        changes = {**changes, "output_hidden_size": 16}
    folder = save(kind, **changes)
    teacher = hf(folder)
    assert teacher.frame_shift == Fraction(shift)
    assert 0 < teacher.shortest < 2 * shift + 1000
    (found,) = computed(teacher, noise(teacher.shortest))
    assert len(found) >= 1
    assert found.isfinite().all()
    assert dump("huggingface", folder, tiny_data, tmp_path / "cache")[0] == 0
    meta = read_meta(tmp_path / "cache")
    assert meta.frame_shift == shift
    for utt, audio in audio_of(tiny_data).items():
        frames = len(tiny.read_cache(tmp_path / "cache")[utt].log_probs)
        assert abs(frames - len(audio) / shift) <= 1.5


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("kind", ["Wav2Vec2Bert", "Parakeet"])
def test_a_front_end_on_filter_banks_counts_its_frames(save, kind, pool):
    folder = save(kind)
    front = CTCKDHuggingFaceFrontend(str(folder), pool=pool).eval()
    assert front.output_size() == 16
    audio = noise(*LENGTHS)
    padded = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True)
    shift = {"Wav2Vec2Bert": 320, "Parakeet": 1280}[kind] * pool
    with torch.no_grad():
        both, counts = front(padded, torch.tensor(LENGTHS))
        for i, one in enumerate(audio):
            alone, count = front(one.unsqueeze(0), torch.tensor([len(one)]))
            assert int(counts[i]) == int(count)
            assert abs(int(count) - len(one) / shift) <= 1.5
            assert torch.allclose(both[i, : int(count)], alone[0], atol=1e-4)
            assert not both[i, int(count) :].any()


def test_a_front_end_that_takes_no_audio_is_refused(tmp_path):
    config = transformers.BertConfig(
        vocab_size=9, **{**ENCODER, "max_position_embeddings": 8}
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="a BertModel, which does not take audio"):
        CTCKDHuggingFaceFrontend(str(tmp_path / "bert"))


def test_states_are_those_of_the_frames(save):
    teacher = hf(save("Parakeet"), states=True)
    assert teacher.state_size == 16
    changes = {"add_adapter": True, "num_adapter_layers": 1, "output_hidden_size": 16}
    with pytest.raises(
        InputError, match=r"has 49 hidden states .* and 25 output frames"
    ):
        hf(save("Wav2Vec2", **changes), states=True)


# The blank


def test_the_blank_is_that_of_the_model_s_loss(save):
    """OmniASR trains with blank_token_id, and pads with another token."""
    folder = save("OmniASR", vocabulary=["a", "<pad>", "b", *"cdefgh"], pad="<pad>")
    teacher = hf(folder)
    assert teacher.blank == 0
    assert hf(save("OmniASR", blank_token_id=3)).blank == 3


def test_a_blank_that_is_not_agreed_on_is_refused(save):
    folder = save("Wav2Vec2", pad_token_id=4)
    message = (
        "pad_token_id of config.json is 4, pad_token_id of the tokenizer is 0.*"
        "--teacher_conf blank=INDEX"
    )
    with pytest.raises(InputError, match=message):
        hf(folder)
    assert hf(folder, blank=4).blank == 4
    assert hf(folder, blank=0).blank == 0
    with pytest.raises(InputError, match=r"blank of .* is True; give a whole number"):
        hf(folder, blank=True)


@pytest.mark.parametrize("index", [9, 31])
def test_a_blank_outside_the_outputs_is_refused(save, tmp_path, tiny_data, index):
    folder = save("Wav2Vec2", pad_token_id=index)
    status, stderr = dump("huggingface", folder, tiny_data, tmp_path / "cache")
    assert status == 1
    assert "has 9 outputs, and the blank is not among them" in tiny.the_error(stderr)
    with pytest.raises(InputError, match="the option blank is 9"):
        hf(folder, blank=9)


def test_a_blank_that_only_the_tokenizer_knows(save):
    folder = save("Wav2Vec2", vocabulary=[*VOCABULARY[1:], "<pad>"], pad_token_id=8)
    change_config(folder, pad_token_id=None)
    assert hf(folder).blank == 8


def test_a_space_as_delimiter_is_a_token_of_the_list(save, tmp_path, tiny_data):
    folder = save("Wav2Vec2", vocabulary=[" " if t == "|" else t for t in VOCABULARY])
    assert dump("huggingface", folder, tiny_data, tmp_path / "cache")[0] == 0
    tokens = read_meta(tmp_path / "cache").token_list
    assert tokens == ["<space>" if t == "|" else t for t in VOCABULARY]


# Types


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["Wav2Vec2", "Parakeet"])
def test_checkpoints_of_half_precision_compute_in_float32(save, kind, dtype):
    folder = save(kind, change=lambda model: model.to(dtype))
    assert "float16" in (folder / "config.json").read_text()
    teacher = hf(folder)
    model = transformers.AutoModelForCTC.from_pretrained(folder, dtype=dtype).float()
    processor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    (one,) = noise(16000)
    given = processor([one.numpy()], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval()(**given).logits[0].log_softmax(-1)
    (found,) = computed(teacher, [one])
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_front_end_of_half_precision_trains_in_float32(save, pretrained):
    folder = save("Hubert", change=lambda model: model.half())
    front = CTCKDHuggingFaceFrontend(str(folder), load_pretrained=pretrained)
    assert {p.dtype for p in front.parameters()} == {torch.float32}
    features, _ = front(noise(16000)[0].unsqueeze(0), torch.tensor([16000]))
    features.sum().backward()
