"""The readers of a training name what they fail at, and nobody else's do."""

import pickle
import re

import numpy as np
import pytest
import soundfile
import tiny
from espnet2.tasks.asr import ASRTask
from espnet2.train.dataset import DATA_TYPES, ESPnetDataset
from espnet2.train.distributed_utils import DistributedOption
from test_train import flags

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.kaldi import read_scp, write_scp
from espnet_ctckd.plugin.readers import datasets_of, name_what_fails
from espnet_ctckd.plugin.task import CTCKDTask

STOCK = {kind: entry["func"] for kind, entry in DATA_TYPES.items()}


@pytest.fixture
def damaged(tmp_path, tiny_data):
    """A list of audio, the first of two channels."""
    wavs = read_scp(tiny_data.wav_scp)
    first = sorted(wavs)[0]
    soundfile.write(tmp_path / "two.wav", np.zeros((8000, 2)), tiny.RATE)
    write_scp(tmp_path / "wav.scp", {**wavs, first: tmp_path / "two.wav"}.items())
    return tmp_path / "wav.scp", first


def test_a_dataset_names_what_it_cannot_read(damaged):
    path, utt = damaged
    expected = f"utterance {utt}: the audio that {path} names has 2 channels"
    data = [(str(path), "speech", "sound")]
    named, stock = ESPnetDataset(data), ESPnetDataset(data)
    for _ in range(2):  # again it does nothing
        name_what_fails(named)
    # As a worker that is spawned gets it.
    for each in (named, pickle.loads(pickle.dumps(named))):
        with pytest.raises(InputError, match=re.escape(expected)):
            each[utt]
        assert list(each) == list(stock)
        other = list(stock)[1]
        assert np.array_equal(each[other][1]["speech"], stock[other][1]["speech"])
    assert stock[utt][1]["speech"].shape == (8000, 2)


@pytest.mark.parametrize(
    ("iterator", "more"),
    [("sequence", []), ("chunk", ["--chunk_length", "4000"])],
)
def test_all_batches_of_a_training_come_from_such(
    tmp_path, tiny_data, tiny_cache, iterator, more
):
    given = flags(tmp_path / "run", tiny_data, tiny_cache, tiny.KD)
    given += ["--iterator_type", iterator, *more]
    args = CTCKDTask.get_parser().parse_args(given)
    found = {}
    for task in (CTCKDTask, ASRTask):
        if task is ASRTask:
            args.allow_variable_data_keys = True
        factory = task.build_iter_factory(args, DistributedOption(), "train")
        (dataset,) = datasets_of(factory)
        found[task] = {
            name: type(reader).__module__
            for name, reader in dataset.loader_dict.items()
        }
    ours = "espnet_ctckd.plugin.readers"
    assert {n for n, where in found[CTCKDTask].items() if where == ours} == {
        "speech",
        "teacher",
    }
    assert ours not in found[ASRTask].values()
    assert {kind: entry["func"] for kind, entry in DATA_TYPES.items()} == STOCK
