"""Dumping a teacher into a cache, and reading it back."""

import kaldiio
import numpy as np
import pytest
import soundfile
import tiny
import torch
from espnet2.train.dataset import ESPnetDataset

from espnet_ctckd.bin import dump_teacher, estimate_prior
from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.data.prior import read_prior
from espnet_ctckd.plugin.preprocessor import PosteriorReader, TeacherDecoder
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
    reader = PosteriorReader(meta.records, None, len(meta.token_list), meta.blank)
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
    assert meta.codec == Codec(len(tiny.TOKENS), TOP_K, step=0.25, worth=2e-4)
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
