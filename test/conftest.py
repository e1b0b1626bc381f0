"""What the tests of the pure core share: batches, teachers, and quick hypothesis."""

import shutil
from dataclasses import dataclass, replace
from typing import Optional, Sequence

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from espnet_ctckd.data.kaldi import read_scp, write_scp
from espnet_ctckd.posteriors import FramePosteriors

# The machine may be busy, so no deadline; the same examples in every run.
settings.register_profile("ctckd", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("ctckd")


def pytest_collection_modifyitems(items):
    """Begin with whole recipes, so that nobody waits for the last of them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@dataclass(frozen=True)
class Batch:
    """Student and teacher on the same frames."""

    logits: Tensor  # (B, T, V)
    lengths: Tensor  # (B,)
    teacher: FramePosteriors
    labels: Tensor  # (B,), how many


def make_batch(
    lengths: Sequence[int] = (6, 4, 1, 3),
    *,
    tokens: int = 5,
    blank: int = 1,
    kept: Optional[int] = None,
    extra: int = 1,
    paths: Optional[Sequence[Sequence[int]]] = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Batch:
    """Draw a batch; its padding holds random posteriors, no blanks of convenience.

    Args:
        lengths: frames of each utterance.
        tokens: V.
        blank: index of the blank.
        kept: K, the blank among them; None for a dense teacher.
        extra: padding after the longest utterance.
        paths: most probable tokens of the teacher, utterance by utterance; drawn, with
            half of them blank, where None.
        dtype: of logits and log-probabilities.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    size = (len(lengths), max(lengths, default=0) + extra)
    logits = torch.randn(*size, tokens, generator=generator, dtype=torch.float64)
    path = torch.randint(tokens, size, generator=generator)
    blanks = torch.rand(size, generator=generator) < 0.5
    path = torch.where(blanks, torch.full_like(path, blank), path)
    for row, given in zip(path, paths or ()):
        row[: len(given)] = torch.tensor(given, dtype=torch.long)
    noise = torch.rand(*size, tokens, generator=generator, dtype=torch.float64)
    peaks = torch.nn.functional.one_hot(path, tokens)
    log_probs = (noise + 2.0 * peaks).log_softmax(-1)
    counts = torch.tensor(lengths, dtype=torch.long)
    teacher = FramePosteriors(log_probs.to(dtype), counts, blank)
    if kept is not None:
        teacher = keep_top(teacher, kept)
    return Batch(logits.to(dtype), counts, teacher, labels=counts // 2 + 1)


def keep_top(teacher: FramePosteriors, kept: int) -> FramePosteriors:
    """Keep the blank and the kept - 1 best others, by falling id."""
    wanted = teacher.log_probs.clone()
    wanted[..., teacher.blank] = float("inf")
    ids = wanted.topk(kept, dim=-1).indices.sort(dim=-1, descending=True).values
    return replace(teacher, log_probs=teacher.log_probs.gather(-1, ids), ids=ids)


def pad_time(x: Tensor, frames: int, value: float) -> Tensor:
    """Append frames of a value to (B, T, ...)."""
    pad = x.new_full((x.size(0), frames, *x.shape[2:]), value)
    return torch.cat([x, pad], dim=1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A plain ESPnet CTC model of random weights."""
    import tiny  # here, because it imports ESPnet, which takes seconds

    return tiny.write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Four utterances of 0.5 to 1.1 s."""
    import tiny

    return tiny.write_data(
        tmp_path_factory.mktemp("data") / "tiny", (0.8, 0.5, 1.1, 0.65)
    )


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory, tiny_model, tiny_data):
    """The posteriors of the tiny model on the tiny data."""
    import tiny

    from espnet_ctckd.bin import dump_teacher

    cache = tmp_path_factory.mktemp("cache") / "tiny"
    dump_teacher.main(tiny.dump_args(tiny_model, tiny_data, cache))
    return cache


@pytest.fixture
def cache(tmp_path, tiny_cache):
    """A copy of the tiny cache to be changed, whose list names files of the copy."""
    copied = tmp_path / "cache"
    shutil.copytree(tiny_cache, copied)
    scp = read_scp(copied / "teacher.scp")
    moved = [(u, p.replace(str(tiny_cache), str(copied))) for u, p in scp.items()]
    write_scp(copied / "teacher.scp", moved)
    return copied
