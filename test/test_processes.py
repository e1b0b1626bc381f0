"""The whole student on two processes, against the same batch on one."""

import copy

import pytest
import torch
from student import INTER, KD, build, make_batch
from test_model_parts import FEATURE, NBEST, VIEWS, make_lists, make_states
from torch import nn

WORLD = 2
# What each system adds to the common configuration, and the encoder's layers.
SYSTEMS = {
    "symmetric": ({}, ()),
    "selected_mean": ({"reduction": "selected_mean"}, ()),
    "label_free": ({"weight": 1.0}, ()),
    "occupancies": ({"target": "occupancies"}, ()),
    "inter_kd": ({"inter": INTER}, (1,)),
    "self_distillation": (
        {"weight": 0.0, "inter": {**INTER, "target": "self", "head": "shared"}},
        (1,),
    ),
    "views": ({"views": VIEWS}, ()),
    "feature": ({"feature": FEATURE}, ()),
    "feature_alone": ({"feature": {**FEATURE, "alone_epochs": 1}}, ()),
    "nbest": ({"nbest": NBEST}, ()),
    "nbest_label_free": ({"weight": 0.0, "ctc_weight": 0.0, "nbest": NBEST}, ()),
}


class HalvesDiffer(nn.Module):
    """Stands for specaug: the second view of each utterance is louder."""

    def forward(self, x, lengths=None):
        half = x.size(0) // 2
        return torch.cat([x[:half], 1.5 * x[half:]]), lengths


def student(name):
    changes, layers = SYSTEMS[name]
    # No conformer: its batch norm sees the batch of its process alone.
    model = build(kd={**KD, **changes}, layers=layers, encoder="transformer").train()
    if "views" in changes:
        model.specaug = HalvesDiffer()
    return model


def share_of(*ranks):
    """The utterances of some processes: 0 and 2 of the first, 1 of the second."""
    data = {**make_batch(), **make_states(), **make_lists()}
    # Each process has an utterance of the greatest length: ESPnet's convolutions see
    # how much padding there is.
    data["speech_lengths"] = torch.tensor([16000, 16000, 9000])
    data["teacher_lengths"] = torch.tensor([24, 24, 15])
    rows = [row for rank in ranks for row in ((0, 2), (1,))[rank]]
    return copy.deepcopy({key: value[rows] for key, value in data.items()})


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def train_process(rank, folder):
    """One of the processes: what ESPnet's trainer does with a batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )
    found = {}
    for name in SYSTEMS:
        parallel = nn.parallel.DistributedDataParallel(student(name))
        loss, _, weight = parallel(**share_of(rank))
        loss = (loss * weight.type(loss.dtype)).sum()
        weight = weight.sum()
        torch.distributed.all_reduce(weight)
        loss = loss / weight * WORLD
        loss.backward()
        reported = loss.detach() / WORLD
        torch.distributed.all_reduce(reported)
        found[name] = reported, gradients(parallel.module)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    torch.multiprocessing.spawn(train_process, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("name", SYSTEMS)
def test_two_processes_learn_what_one_does(processes, name):
    model = student(name)
    loss, _, _ = model(**share_of(0, 1))
    loss.sum().backward()
    expected = gradients(model)
    assert any(bool(gradient.any()) for gradient in expected.values())
    for process in processes:
        reported, found = process[name]
        torch.testing.assert_close(
            reported, loss.detach().squeeze(), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
