"""Teachers of other libraries, against what these libraries say themselves."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import test_train
import tiny
import torch
import yaml
from espnet2.bin.s2t_inference_ctc import Speech2TextGreedySearch
from espnet2.tasks.s2t_ctc import S2TTask
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

from espnet_ctckd.bin import (
    copy_tokens,
    decode,
    dump_teacher,
    fetch_model,
    prove_teacher,
)
from espnet_ctckd.bin.copy_tokens import token_type
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.models.espnet import load_espnet_model
from espnet_ctckd.models.frontend import CTCKDHuggingFaceFrontend
from espnet_ctckd.models.zoo import find_model
from espnet_ctckd.plugin.task import CTCKDTask
from espnet_ctckd.teachers import open_teacher
from espnet_ctckd.tokens import DROPPED, map_tokens

VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "A", "'"]
SMALL = {
    "vocab_size": 9,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "pad_token_id": 0,
}


def audio_of(data):
    return {u: read_audio(u, p, tiny.RATE) for u, p in data.wavs().items()}


def dump(kind, source, data, cache, *more):
    flags = ["--teacher_type", kind, "--teacher", source, "--wav_scp", data.wav_scp]
    return tiny.call(dump_teacher, *flags, "--output_dir", cache, *more)


# Hugging Face


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Saves small models of random weights as transformers does."""
    transformers = pytest.importorskip("transformers")

    def save(name, mask, **changes):
        folder = tmp_path_factory.mktemp("hub") / name
        folder.mkdir()
        (folder / "vocab.json").write_text(
            json.dumps({token: i for i, token in enumerate(VOCABULARY)})
        )
        tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
        features = transformers.Wav2Vec2FeatureExtractor(
            do_normalize=True, return_attention_mask=mask
        )
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**{**SMALL, **changes})
        model = getattr(transformers, f"{name}ForCTC")(config).eval()
        model.save_pretrained(folder)
        processor = transformers.Wav2Vec2Processor(features, tokenizer)
        processor.save_pretrained(folder)
        return folder

    return save


MODELS = [
    ("Wav2Vec2", False, {}),
    ("Wav2Vec2", True, {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    ("Hubert", False, {}),
    ("Hubert", True, {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    ("WavLM", True, {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    ("Wav2Vec2Conformer", True, {"feat_extract_norm": "layer"}),
    ("Wav2Vec2", True, {"add_adapter": True, "num_adapter_layers": 1}),
]


@pytest.mark.parametrize(
    ("name", "mask", "changes"), MODELS, ids=[f"{n}-{m}" for n, m, _ in MODELS]
)
def test_the_posteriors_are_those_of_transformers(
    hub, tmp_path, tiny_data, name, mask, changes
):
    transformers = pytest.importorskip("transformers")
    if "add_adapter" in changes:
        changes = {**changes, "output_hidden_size": 16}
    folder = hub(name, mask, **changes)
    status, stderr = dump("huggingface", folder, tiny_data, tmp_path / "cache")
    assert status == 0, stderr
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    meta = read_meta(tmp_path / "cache")
    assert meta.token_list == VOCABULARY
    assert meta.blank == 0
    assert meta.frame_shift == (640 if "add_adapter" in changes else 320)
    for utt, audio in audio_of(tiny_data).items():
        given = processor(audio, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            expected = model(**given).logits[0].log_softmax(-1).numpy()
        found = tiny.read_cache(tmp_path / "cache")[utt].log_probs
        assert found.shape == expected.shape
        assert found == pytest.approx(expected, abs=1e-5)


def test_hidden_states_are_those_of_transformers(hub, tmp_path, tiny_data):
    transformers = pytest.importorskip("transformers")
    folder = hub("Hubert", False)
    more = ("--states", "--teacher_conf", "states=true")
    status, stderr = dump("huggingface", folder, tiny_data, tmp_path / "cache", *more)
    assert status == 0, stderr
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    for utt, audio in audio_of(tiny_data).items():
        given = processor(audio, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            expected = model(**given, output_hidden_states=True).hidden_states[-1][0]
        found = tiny.read_cache(tmp_path / "cache")[utt].states
        assert found == pytest.approx(expected.numpy(), abs=1e-2)


def test_other_weights_are_another_teacher(hub, tmp_path, tiny_data):
    pytest.importorskip("transformers")
    folder = hub("Wav2Vec2", False)
    teacher = open_teacher("huggingface", str(folder), "cpu", {})
    with torch.no_grad():
        teacher._model.lm_head.bias[3] += 0.5
    teacher._model.save_pretrained(folder)
    other = open_teacher("huggingface", str(folder), "cpu", {})
    one, two = teacher.describe(), other.describe()
    assert one["weights_sha256"] != two["weights_sha256"]
    assert one["config_sha256"] == two["config_sha256"]


@pytest.mark.parametrize("source", ["no/such-model", "tiny_folder"])
def test_what_is_no_model_of_the_hub_is_refused(tmp_path, tiny_data, source):
    pytest.importorskip("transformers")
    if source == "tiny_folder":
        source = tmp_path / "empty"
        source.mkdir()
    status, stderr = dump("huggingface", source, tiny_data, tmp_path / "cache")
    assert status == 1
    assert "cannot be loaded as a CTC model" in tiny.the_error(stderr)


# torchaudio


@pytest.fixture
def bundle(monkeypatch):
    """A small bundle among those of torchaudio, with weights in its place."""
    import torchaudio

    torch.manual_seed(0)
    model = torchaudio.models.wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2],
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=2,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.1,
        aux_num_out=5,
    ).eval()

    class Bundle:
        sample_rate = 16000

        def get_model(self):
            return model

        def get_labels(self):
            return ("-", "|", "E", "T", "A")

    monkeypatch.setattr(torchaudio.pipelines, "TINY", Bundle(), raising=False)
    return model


def test_the_posteriors_are_those_of_torchaudio(bundle, tmp_path, tiny_data):
    status, stderr = dump("torchaudio", "TINY", tiny_data, tmp_path / "cache")
    assert status == 0, stderr
    meta = read_meta(tmp_path / "cache")
    assert meta.token_list == ["-", "|", "E", "T", "A"]
    assert (meta.blank, meta.rate, meta.frame_shift) == (0, 16000, 320)
    for utt, audio in audio_of(tiny_data).items():
        with torch.no_grad():
            logits, _ = bundle(torch.from_numpy(audio).unsqueeze(0))
        expected = logits[0].log_softmax(-1).numpy()
        found = tiny.read_cache(tmp_path / "cache")[utt].log_probs
        assert found == pytest.approx(expected, abs=1e-5)


def test_an_unknown_bundle_is_refused_with_the_known_ones(tmp_path, tiny_data):
    status, stderr = dump("torchaudio", "HUBERT_BASE", tiny_data, tmp_path / "cache")
    assert status == 1
    error = tiny.the_error(stderr)
    assert "no bundle 'HUBERT_BASE' for CTC" in error
    assert "WAV2VEC2_ASR_BASE_960H" in error


# Python

OWN = """
import numpy as np

class Steps:
    token_list, blank, rate = ["a", "b", "_"], 2, 16000

    def __init__(self, width):
        self.width = width

    def __call__(self, speech):
        frames = speech[: len(speech) // self.width * self.width]
        power = np.abs(frames.reshape(-1, self.width)).mean(1, keepdims=True)
        logits = np.concatenate([power, -power, 0 * power], 1) * SCALE
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

def make(width):
    return Steps(width)

def raw(width):
    class Raw(Steps):
        def __call__(self, speech):
            return np.ones((9, 3))

    return Raw(width)

def nothing():
    return object()

def named(names):
    found = Steps(800)
    found.token_list = names
    return found

def moody():
    class Moody(Steps):
        def __call__(self, speech):
            return super().__call__(speech * np.random.rand())

    return Moody(800)

def even():
    class Even(Steps):
        def __call__(self, speech):
            return np.log(np.full((9, 3), 1 / 3))

    return Even(800)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(scale=1.0):
        (tmp_path / "own_teacher.py").write_text(OWN.replace("SCALE", str(scale)))
        sys.modules.pop("own_teacher", None)

    write()
    yield write
    sys.modules.pop("own_teacher", None)


def test_an_object_of_one_s_own_is_a_teacher(own, tmp_path, tiny_data):
    more = ("--teacher_conf", "width=800")
    source = "own_teacher:make"
    status, stderr = dump("python", source, tiny_data, tmp_path / "cache", *more)
    assert status == 0, stderr
    meta = read_meta(tmp_path / "cache")
    assert (meta.token_list, meta.blank) == (["a", "b", "_"], 2)
    assert (meta.rate, meta.frame_shift) == (16000, 800)
    import own_teacher

    says = own_teacher.Steps(800)
    for utt, audio in audio_of(tiny_data).items():
        found = tiny.read_cache(tmp_path / "cache")[utt].log_probs
        np.testing.assert_allclose(found, says(audio), atol=1e-6)


def test_what_it_says_tells_one_teacher_from_another(own):
    described = []
    for scale in (1.0, 2.0):
        own(scale)
        teacher = open_teacher("python", "own_teacher:make", "cpu", {"width": 800})
        described.append(teacher.describe())
    assert described[0]["probe_sha256"] != described[1]["probe_sha256"]
    assert described[0]["tokens_sha256"] == described[1]["tokens_sha256"]


@pytest.mark.parametrize(
    ("source", "conf", "message"),
    [
        ("own_teacher:none", {}, "cannot be imported"),
        ("no_such_module:make", {}, "cannot be imported"),
        ("own_teacher", {}, "give package.module:factory"),
        ("own_teacher:nothing", {}, "has no token_list: it should make an object"),
        ("own_teacher:raw", {"width": 8}, "are no log-probabilities"),
        ("own_teacher:make", {"sed": 1}, "is not made with the options {'sed': 1}"),
        ("own_teacher:named", {"names": ["a", "a", "_"]}, "the token 'a' twice"),
        ("own_teacher:named", {"names": ["a", "", "_"]}, "with a space, or empty"),
        ("own_teacher:moody", {}, "something else each time that it hears the same"),
        ("own_teacher:even", {}, "says 9 frames of 16000 samples and 9 of 323200"),
    ],
)
def test_what_is_no_teacher_is_refused(own, source, conf, message):
    with pytest.raises(InputError, match=message):
        open_teacher("python", source, "cpu", conf)


def test_options_are_checked_by_name():
    with pytest.raises(InputError, match="unknown option 'lang' for teacher_type 'hug"):
        open_teacher("huggingface", "x", "cpu", {"lang": "deu"})
    with pytest.raises(InputError, match="unknown teacher_type 'hf'; choose one of"):
        open_teacher("hf", "x", "cpu", {})
    with pytest.raises(InputError, match="a teacher of the type python needs a sou"):
        open_teacher("python", None, "cpu", {})
    with pytest.raises(InputError, match="an ESPnet teacher is a folder, zip or tag"):
        open_teacher("espnet", None, "cpu", {})
    with pytest.raises(InputError, match=r"option states of .* is 'maybe'; give true"):
        open_teacher("huggingface", "x", "cpu", {"states": "maybe"})
    with pytest.raises(InputError, match=r"option language of .* is 5; give text"):
        open_teacher("huggingface", "x", "cpu", {"language": 5})


def test_two_teachers_at_once_or_files_of_another_kind_are_refused(
    tmp_path, tiny_model, tiny_data
):
    flags = tiny.dump_args(tiny_model, tiny_data, tmp_path / "cache")
    for more, message in (
        (("--teacher", tiny_model.config.parent), "say which teacher: give --teacher"),
        (("--teacher_type", "python"), "are of --teacher_type espnet, and it is pyt"),
    ):
        status, stderr = tiny.call(dump_teacher, *flags, *more)
        assert status == 1
        assert message in tiny.the_error(stderr)


@pytest.mark.parametrize("mask", [False, True])
def test_hubert_is_fine_tuned_by_the_recipe_s_configuration(
    hub, tmp_path, tiny_data, mask
):
    """The front end gives what transformers gives, pooled in pairs; then it trains."""
    transformers = pytest.importorskip("transformers")
    kind = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} if mask else {}
    folder = hub("Hubert", mask, **kind)
    recipe = Path(__file__).parent.parent / "egs/librispeech/kd/conf"
    conf = yaml.safe_load((recipe / "train_teacher_hubert_ctc.yaml").read_text())
    small = {
        "frontend_conf": {**conf["frontend_conf"], "model": str(folder)},
        "encoder_conf": {**conf["encoder_conf"], "output_size": 16},
        "scheduler_conf": {"warmup_steps": 1},
        "accum_grad": 1,
        "max_epoch": 1,
        "num_workers": 0,
        "use_amp": False,
    }
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump({**conf, **small}))
    command = ["--config", str(tmp_path / "conf.yaml")]
    given = test_train.flags(tmp_path / "run", tiny_data)
    CTCKDTask.main(cmd=[*command, *given[2:]])
    exp = tmp_path / "run/exp"
    trained = torch.load(exp / "valid.cer_ctc.ave.pth", weights_only=True)
    first = transformers.HubertModel.from_pretrained(folder)
    moved = [
        name
        for name, value in first.state_dict().items()
        if not torch.equal(trained[f"frontend.encoder.{name}"], value)
    ]
    assert any("feature_extractor" in name for name in moved)
    assert any("layers.1" in name for name in moved)
    teacher = open_teacher("espnet", str(exp), "cpu", {})
    assert (teacher.frame_shift, teacher.rate) == (640, 16000)
    first.load_state_dict(
        {
            name.removeprefix("frontend.encoder."): value
            for name, value in trained.items()
            if name.startswith("frontend.encoder.")
        }
    )
    head = {name: trained[f"ctc.ctc_lo.{name}"] for name in ("weight", "bias")}
    processor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    for utt, audio in audio_of(tiny_data).items():
        heard = torch.from_numpy(audio).unsqueeze(0)
        said = teacher.posteriors(heard, torch.tensor([len(audio)]))
        inputs = processor(audio, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            states = first.eval()(**inputs).last_hidden_state[0]
        pairs = [states[i : i + 2].amax(0) for i in range(0, len(states) - 1, 2)]
        expected = torch.stack(pairs) @ head["weight"].T + head["bias"]
        assert int(said.lengths) == len(pairs), utt
        assert torch.allclose(said.log_probs[0], expected.log_softmax(-1), atol=1e-5)
    assert dump("espnet", exp, tiny_data, tmp_path / "cache")[0] == 0


def test_padding_is_no_frame_of_the_front_end(hub):
    pytest.importorskip("transformers")
    layer = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    front = CTCKDHuggingFaceFrontend(str(hub("Hubert", True, **layer)), pool=2).eval()
    audio = torch.randn(2, 32000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([32000, 17111])
    with torch.no_grad():
        both, counts = front(audio, lengths)
        alone, count = front(audio[1:, :17111], lengths[1:])
    assert counts.tolist() == [49, 26]
    assert count.tolist() == [26]
    assert torch.allclose(both[1, :26], alone[0], atol=1e-5)
    assert not both[1, 26:].any()
    with pytest.raises(InputError, match="pool is 0; give a whole number"):
        CTCKDHuggingFaceFrontend(str(hub("Hubert", True, **layer)), pool=0)


# ESPnet's own: OWSM-CTC, and packed models


OWSM_TOKENS = [
    *("<na>", "<blank>", "<unk>", "<nospeech>", "<nolang>", "<eng>", "<asr>"),
    *("<st_deu>", "<notimestamps>", "<0.00>", "<space>", "a", "b", "c", "d"),
    *("<sos>", "<eos>", "<sop>"),
]
OWSM = {
    "frontend_conf": tiny.CONF["frontend_conf"],
    "specaug": None,
    "normalize": None,
    "encoder": "e_branchformer_ctc",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "attention_layer_type": "selfattn",
        "pos_enc_layer_type": "abs_pos",
        "cgmlp_linear_units": 16,
        "cgmlp_conv_kernel": 7,
        "num_blocks": 2,
        "input_layer": "conv2d8",
        "linear_units": 16,
        "use_ffn": True,
        "macaron_ffn": True,
        "merge_conv_kernel": 7,
        "interctc_layer_idx": [1],
        "interctc_use_conditioning": True,
        "use_cross_attention": True,
    },
    "promptencoder": "transformer",
    "promptencoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 1,
    },
    "model": "espnet_ctc",
    "model_conf": {"ctc_asr_only": [False, False]},
    "preprocessor": "s2t_ctc",
    "preprocessor_conf": {"fs": 16000, "speech_length": 8},
}


@pytest.fixture(scope="module")
def owsm(tmp_path_factory):
    """OWSM-CTC in small, with random weights, as ESPnet's training writes it."""
    folder = tmp_path_factory.mktemp("owsm")
    (folder / "conf.yaml").write_text(yaml.safe_dump(OWSM))
    (folder / "tokens.txt").write_text("\n".join(OWSM_TOKENS) + "\n")
    flags = ["--config", folder / "conf.yaml", "--token_list", folder / "tokens.txt"]
    flags += ["--token_type", "char", "--output_dir", folder]
    args = S2TTask.get_parser().parse_args([str(flag) for flag in flags])
    torch.manual_seed(0)
    model = S2TTask.build_model(args)
    model.ctc.ctc_lo.weight.data.normal_(0.0, 1.0)
    config = yaml_no_alias_safe_dump(vars(args), indent=4, sort_keys=False)
    (folder / "config.yaml").write_text(config)
    torch.save(model.state_dict(), folder / "valid.total_count.ave.pth")
    return folder


def test_owsm_ctc_says_what_espnet_says_of_the_audio(owsm, tmp_path, tiny_data):
    told = ("--teacher_conf", "language=eng", "--teacher_conf", "task=st_deu")
    status, stderr = dump("espnet", owsm, tiny_data, tmp_path / "cache", *told)
    assert status == 0, stderr
    meta = read_meta(tmp_path / "cache")
    assert meta.token_list == ["<blank>", "<unk>", "<space>", "a", "b", "c", "d"]
    assert (meta.blank, meta.frame_shift) == (0, 1280)
    weights = str(owsm / "valid.total_count.ave.pth")
    library = Speech2TextGreedySearch(str(owsm / "config.yaml"), weights)
    model = library.s2t_model
    prompt = torch.tensor([[OWSM_TOKENS.index("<eng>"), OWSM_TOKENS.index("<st_deu>")]])
    spoken = [OWSM_TOKENS.index(token) for token in meta.token_list]
    for utt, audio in audio_of(tiny_data).items():
        padded = torch.zeros(1, 8 * tiny.RATE)
        padded[0, : len(audio)] = torch.from_numpy(audio)
        with torch.no_grad():
            (states, _), _lengths = model.encode(
                *(padded, torch.tensor([8 * tiny.RATE])),
                *(torch.tensor([[model.na]]), torch.tensor([1])),
                *(prompt, torch.tensor([2])),
            )
            said = model.ctc.log_softmax(states)[0, 2:].exp().numpy()
        found = np.exp(tiny.read_cache(tmp_path / "cache")[utt].log_probs)
        # What it would have to subsample of the audio alone.
        frames = (((len(audio) // 160 + 1 - 1) // 2 - 1) // 2 - 1) // 2
        assert len(found) == frames
        expected = said[:frames, spoken]
        assert found[:, 1:] == pytest.approx(expected[:, 1:], abs=1e-5)
        assert found[:, 0] == pytest.approx(1 - expected[:, 1:].sum(1), abs=1e-5)
        assert float(said[:frames].sum(1).max()) == pytest.approx(1.0)


def test_owsm_ctc_is_told_what_it_hears(owsm, tiny_data, tmp_path):
    said = [
        open_teacher("espnet", str(owsm), "cpu", told).posteriors(
            torch.from_numpy(tiny.sound(2.0, 0)).float().unsqueeze(0),
            torch.tensor([2 * tiny.RATE]),
        )
        for told in ({}, {"language": "eng"}, {"language": "nolang", "task": "asr"})
    ]
    assert not torch.allclose(said[0].log_probs, said[1].log_probs, atol=1e-3)
    assert torch.equal(said[0].log_probs, said[2].log_probs)
    with pytest.raises(InputError, match="knows no language or task 'en'; it knows na"):
        open_teacher("espnet", str(owsm), "cpu", {"language": "en"})


def test_owsm_ctc_hears_no_more_than_it_was_trained_with(owsm, tmp_path):
    data = tiny.write_data(tmp_path / "long", [1.0, 8.1])
    status, stderr = dump("espnet", owsm, data, tmp_path / "cache")
    assert status == 1
    assert "has 8.1 s, and the model hears 8 s at most" in tiny.the_error(stderr)


def test_a_plain_model_is_told_nothing(tiny_model):
    with pytest.raises(InputError, match="takes no language: only OWSM-CTC"):
        open_teacher(
            "espnet", str(tiny_model.config.parent), "cpu", {"language": "eng"}
        )


def test_the_student_of_owsm_ctc_says_what_is_spoken(owsm, tmp_path, capsys):
    out = tmp_path / "tokens"
    fetched = tmp_path / "fetched"
    fetch_model.main(["--model", str(owsm), "--output_dir", str(fetched)])
    flags = ["--teacher_config", str(fetched / "config.yaml")]
    copy_tokens.main([*flags, "--output_dir", str(out)])
    tokens = (out / "tokens.txt").read_text().split()
    assert tokens == [*("<blank>", "<unk>", "<space>", "a", "b", "c", "d", "<sos/eos>")]
    teacher = open_teacher("espnet", str(fetched), "cpu", {})
    index = map_tokens(teacher.token_list, teacher.blank, tokens, 0, "here")
    assert index == [0, 1, 2, 3, 4, 5, 6]


@pytest.fixture
def packed(tiny_model, tmp_path):
    """A model in an archive, by ESPnet's own packer."""

    def pack(name):
        flags = ["--asr_train_config", tiny_model.config]
        flags += ["--asr_model_file", tiny_model.weights]
        flags += ["--option", tiny_model.config.parent / "tokens.txt"]
        flags += ["--outpath", tmp_path / name]
        call = [sys.executable, "-m", "espnet2.bin.pack", "asr", *map(str, flags)]
        subprocess.run(call, check=True, capture_output=True)
        return tmp_path / name

    return pack


@pytest.mark.parametrize("name", ["model.zip", "model.tar.gz"])
def test_a_packed_model_says_the_same(
    packed, tmp_path, tiny_data, tiny_model, tiny_cache, name
):
    archive = packed(name)
    assert dump("espnet", archive, tiny_data, tmp_path / "cache")[0] == 0
    for utt, said in tiny.read_cache(tiny_cache).items():
        found = tiny.read_cache(tmp_path / "cache")[utt].log_probs
        assert np.array_equal(found, said.log_probs)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {name, f"{archive.stem}.unpacked", "cache"}
    # It is unpacked once; the configuration names what lies there.
    config, weights = find_model(str(archive))
    assert find_model(str(archive)) == (config, weights)
    assert ".part" not in config.read_text()


def test_an_archive_that_leads_elsewhere_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        bad.writestr("meta.yaml", "{}")
        bad.writestr("../evil.txt", "x")
    with pytest.raises(InputError, match=r"holds '\.\./evil.txt', which lies outside"):
        find_model(str(tmp_path / "bad.zip"))
    with tarfile.open(tmp_path / "bad.tar", "w") as bad:
        link = tarfile.TarInfo("model.pth")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        bad.addfile(link)
    with pytest.raises(InputError, match="holds the link 'model"):
        find_model(str(tmp_path / "bad.tar"))
    for name, content in (("text.zip", b"no"), ("empty.tar.gz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="is no model: give a folder, or an arch"):
            find_model(str(tmp_path / name))
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"bpemodel": "/etc/hostname"},
        {"token_list": "../../tokens.txt"},
        {"normalize_conf": {"stats_file": "/etc/hostname"}},
    ],
)
def test_a_model_in_an_archive_names_files_of_its_own(
    packed, tmp_path, tiny_model, changes
):
    conf = yaml.safe_load(tiny_model.config.read_text())
    (tmp_path / "conf").mkdir()
    config = tmp_path / "conf" / "config.yaml"
    config.write_text(yaml.safe_dump({**conf, **changes}))
    with zipfile.ZipFile(packed("good.zip")) as good:
        held = {name: good.read(name) for name in good.namelist()}
    (name,) = (name for name in held if name.endswith("config.yaml"))
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        for each, content in held.items():
            bad.writestr(each, config.read_bytes() if each == name else content)
    with pytest.raises(InputError, match="lies outside of the archive"):
        find_model(str(tmp_path / "bad.zip"))


def test_an_archive_s_own_files_are_taken_and_no_others(packed, tmp_path, tiny_model):
    archive = packed("model.zip")  # which names its files by absolute paths
    config, weights = find_model(str(archive))
    folder = tmp_path / "model.unpacked"
    assert config.is_relative_to(folder)
    assert weights.is_relative_to(folder)
    assert weights.read_bytes() == tiny_model.weights.read_bytes()
    # One that names a file of this machine does not get it.
    with zipfile.ZipFile(archive) as good:
        held = {name: good.read(name) for name in good.namelist()}
    meta = yaml.safe_load(held["meta.yaml"])
    for place, key in (("files", "asr_model_file"), ("yaml_files", "asr_train_config")):
        bad = {**meta, place: {**meta[place], key: "/etc/hostname"}}
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            for name, content in {**held, "meta.yaml": yaml.safe_dump(bad)}.items():
                archive.writestr(name, content)
        with pytest.raises(
            InputError, match=r"there is no .*bad.unpacked/etc/hostname"
        ):
            load_espnet_model(*find_model(str(tmp_path / "bad.zip")))
        shutil.rmtree(tmp_path / "bad.unpacked")


# What the student takes, and whether the teacher is good


def test_the_student_s_tokens_are_the_teacher_s_as_espnet_names_them(
    own, hub, tmp_path, capsys
):
    pytest.importorskip("transformers")
    flags = ["--teacher_type", "huggingface", "--teacher", str(hub("Wav2Vec2", False))]
    copy_tokens.main([*flags, "--output_dir", str(tmp_path / "tokens")])
    tokens = (tmp_path / "tokens/tokens.txt").read_text().split()
    assert tokens == [*("<blank>", "<unk>", "<space>", "E", "T", "A", "'", "<sos/eos>")]
    assert (tmp_path / "tokens/token_type").read_text() == "char\n"
    index = map_tokens(VOCABULARY, 0, tokens, 0, "here")
    assert index == [0, DROPPED, DROPPED, 1, 2, 3, 4, 5, 6]
    assert token_type(["<blank>", "<unk>", "ah", "b", "<sos/eos>"]) == "word"


def test_a_teacher_is_proven_by_its_own_error_rate(
    tmp_path, tiny_model, tiny_data, tiny_cache, capsys
):
    out = tmp_path / "proof"
    flags = ["--cache", tiny_cache, "--text", tiny_data.text, "--token_type", "char"]
    flags += ["--token_list", tiny_cache / "tokens.txt", "--output_dir", out]
    status, stderr = tiny.call(prove_teacher, *flags)
    assert status == 0, stderr
    table = capsys.readouterr().out
    # The same as decoding with the model.
    decode_flags = ["--asr_train_config", tiny_model.config]
    decode_flags += ["--asr_model_file", tiny_model.weights]
    decode_flags += [
        "--wav_scp",
        tiny_data.wav_scp,
        "--output_dir",
        tmp_path / "greedy",
    ]
    assert tiny.call(decode, *decode_flags)[0] == 0
    assert (out / "text").read_text() == (tmp_path / "greedy/text").read_text()
    frames = blanks = spikes = entropy = 0.0
    for said in tiny.read_cache(tiny_cache).values():
        best = said.log_probs.argmax(1)
        frames += len(best)
        blanks += (best == 0).sum()
        spikes += sum(a != b and a != 0 for a, b in zip(best, [0, *best]))
        entropy -= (np.exp(said.log_probs) * said.log_probs).sum()
    found = json.loads((out / "teacher.json").read_text())
    assert (found["frames"], found["blank"]) == (frames, blanks)
    assert found["spikes"] == spikes
    assert found["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert f"{100 * blanks / frames:.1f} %" in table
    status, stderr = tiny.call(prove_teacher, *flags, "--max_wer", 5)
    assert status == 1
    assert "and at most 5 % is asked for (--max_wer)" in tiny.the_error(stderr)


def test_the_worked_example_says_what_its_package_says(
    tmp_path, tiny_data, monkeypatch
):
    hama = pytest.importorskip("hama")
    pytest.importorskip("onnxruntime")
    recipe = Path(__file__).parent.parent / "egs/librispeech/kd"
    monkeypatch.chdir(recipe)
    source = "local.hama_teacher:make"
    status, stderr = dump("python", source, tiny_data, tmp_path / "cache")
    assert status == 0, stderr
    meta = read_meta(tmp_path / "cache")
    assert (len(meta.token_list), meta.blank, meta.frame_shift) == (191, 190, 320)
    session = hama.ASRModel().session
    for utt, audio in audio_of(tiny_data).items():
        given = {"waveform": audio[None], "waveform_lengths": np.array([len(audio)])}
        (expected,) = session.run(["log_probs"], given)
        found = tiny.read_cache(tmp_path / "cache")[utt].log_probs
        assert found == pytest.approx(expected[0, : len(found)], abs=1e-5)


# What inference does without


def test_the_star_of_a_bundle_for_forced_alignment_is_off(
    bundle, tmp_path, tiny_data, monkeypatch
):
    """A star has log-probability 0 in every frame: half of the mass, normalised."""
    import torchaudio

    impl = sys.modules[type(torchaudio.pipelines.MMS_FA).__module__]
    made = type(torchaudio.pipelines.MMS_FA)(
        _path="tiny.pt",
        _params={},
        _sample_rate=16000,
        _normalize_waveform=True,
        _model_type="Wav2Vec2",
        _labels=("a", "i", "e", "n"),
    )
    monkeypatch.setattr(impl.utils, "_get_model", lambda *_: bundle)
    monkeypatch.setattr(impl.utils, "_get_state_dict", lambda *_: bundle.state_dict())
    monkeypatch.setattr(torchaudio.pipelines, "TINY_FA", made, raising=False)
    status, stderr = dump("torchaudio", "TINY_FA", tiny_data, tmp_path / "cache")
    assert status == 0, stderr
    assert read_meta(tmp_path / "cache").token_list == ["-", "a", "i", "e", "n"]
    plain = made.get_model(with_star=False)
    for utt, audio in audio_of(tiny_data).items():
        with torch.no_grad():
            emission, _ = plain(torch.from_numpy(audio).unsqueeze(0))
        found = tiny.read_cache(tmp_path / "cache")[utt].log_probs
        assert found == pytest.approx(emission[0].numpy(), abs=1e-5)


def test_labels_that_are_not_the_outputs_of_a_bundle_are_refused(bundle, monkeypatch):
    import torchaudio

    tiny_bundle = torchaudio.pipelines.TINY
    monkeypatch.setattr(type(tiny_bundle), "get_labels", lambda self: ("-", "|", "E"))
    with pytest.raises(InputError, match="TINY has 5 outputs and 3 labels"):
        open_teacher("torchaudio", "TINY", "cpu", {})


def change_config(model, **changes):
    conf = yaml.safe_load(model.config.read_text())
    for key, value in changes.items():
        merge = isinstance(value, dict) and isinstance(conf.get(key), dict)
        conf[key] = {**conf[key], **value} if merge else value
    model.config.write_text(yaml.safe_dump(conf))


@pytest.mark.parametrize("kind", ["gtnctc", "brctc", "builtin2"])
def test_the_library_of_a_ctc_loss_is_not_needed(tmp_path, tiny_data, kind):
    model = tiny.write_model(tmp_path / "model")
    flags = ["--wav_scp", tiny_data.wav_scp, "--asr_model_file", model.weights]
    flags += ["--asr_train_config", model.config, "--output_dir"]
    assert tiny.call(decode, *flags, tmp_path / "before")[0] == 0
    change_config(model, ctc_conf={"ctc_type": kind, "dropout_rate": 0.1})
    status, stderr = dump("espnet", model.config.parent, tiny_data, tmp_path / "cache")
    assert status == 0, stderr
    assert tiny.call(decode, *flags, tmp_path / "after")[0] == 0
    before, after = ((tmp_path / n / "text").read_text() for n in ("before", "after"))
    assert before == after


def test_the_library_of_another_branch_is_not_needed(tmp_path, tiny_data):
    """A hybrid of CTC and a transducer, whose loss is not installed here."""
    model = tiny.write_model(tmp_path / "model")
    before = open_teacher("espnet", str(model.config.parent), "cpu", {})
    states = torch.load(model.weights, weights_only=True)
    more = {"decoder.embed.weight": torch.zeros(8, 4), "joint_network.a": torch.ones(1)}
    torch.save({**states, **more}, model.weights)
    change_config(
        model,
        decoder="transducer",
        decoder_conf={"rnn_type": "lstm"},
        joint_net_conf={},
        model_conf={"ctc_weight": 0.3},
    )
    after = open_teacher("espnet", str(model.config.parent), "cpu", {})
    audio = torch.from_numpy(tiny.sound(1.0, 0)).float().unsqueeze(0)
    found, expected = (
        teacher.posteriors(audio, torch.tensor([tiny.RATE])).log_probs
        for teacher in (after, before)
    )
    assert torch.equal(found, expected)
    change_config(model, model_conf={"ctc_weight": 0.0})
    with pytest.raises(InputError, match=r"needs a library .*not installed .*warprnnt"):
        open_teacher("espnet", str(model.config.parent), "cpu", {})


def test_weights_of_a_front_end_s_model_are_not_needed(hub, tmp_path):
    """Those of the checkpoint take their places."""
    pytest.importorskip("transformers")
    folder = hub("Hubert", False)
    conf = {"model": str(folder), "pool": 2, "fs": 16000, "load_pretrained": True}
    model = tiny.write_model(tmp_path / "model", frontend="default")
    change_config(model, frontend="ctckd_huggingface")
    told = yaml.safe_load(model.config.read_text())
    told["frontend_conf"] = conf
    told["encoder_conf"] = {**told["encoder_conf"], "input_layer": "linear"}
    model.config.write_text(yaml.safe_dump(told))
    made, _ = CTCKDTask.build_model_from_file(model.config)
    torch.save(made.state_dict(), model.weights)
    before = open_teacher("espnet", str(model.config.parent), "cpu", {})
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    after = open_teacher("espnet", str(model.config.parent), "cpu", {})
    audio = torch.from_numpy(tiny.sound(1.0, 0)).float().unsqueeze(0)
    found, expected = (
        teacher.posteriors(audio, torch.tensor([tiny.RATE])).log_probs
        for teacher in (after, before)
    )
    assert torch.equal(found, expected)
