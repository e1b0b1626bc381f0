"""A teacher that anybody wrote: an object that maps audio to log-probabilities."""

import hashlib
import importlib
import inspect
import os
import sys
from collections import Counter
from fractions import Fraction
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.models.probe import (
    SHORT,
    alone,
    frames_per_shift,
    least_samples,
    together,
)
from espnet_ctckd.posteriors import FramePosteriors

_WANTED = (
    "an object with the attributes token_list (V names), blank (index) and rate "
    "(samples per second), which maps a waveform (S,) to log-probabilities (U, V)"
)


class PythonTeacher:
    """Posteriors of an object from another package.

    ``package.module:factory`` is imported, from the working directory too, and called
    with the given options. What it returns must have

    - ``token_list``: V names in the order of its outputs;
    - ``blank``: index of the blank;
    - ``rate``: samples per second of the audio that it expects;
    - ``__call__(speech)``: from a waveform (S,), float32 in [-1, 1], to the
      log-probabilities (U, V) of its frames, as an array or a tensor;

    and may have ``describe()``, a mapping of strings for the cache, and, if its tokens
    are word pieces, ``bpemodel``, the path of the sentencepiece model that splits text
    into these: without it students are trained without transcripts alone. What it says
    of a probe goes into the cache's hashes, so that other weights are another teacher.

    Args:
        source: ``package.module:factory``.
        device: handed to the factory as ``device`` where it takes that.
        **options: handed to the factory.

    Raises:
        InputError: it cannot be imported, or what it returns is not such an object.
    """

    state_size = 0
    longest: Optional[int] = None
    batching = "single"

    def __init__(self, source: str, *, device: str = "cpu", **options: Any) -> None:
        module, _, name = source.partition(":")
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            factory = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                f"the teacher {source!r} cannot be imported ({error}): give "
                "package.module:factory, importable from the working directory"
            ) from None
        self._source, self._options = source, options
        try:
            inspect.signature(factory).bind(**options)
        except TypeError as error:
            raise InputError(
                f"the teacher {source} is not made with the options {options}: {error}"
            ) from None
        self._say = factory(**options)
        for attribute in ("token_list", "blank", "rate", "__call__"):
            if not hasattr(self._say, attribute):
                raise InputError(
                    f"the teacher {source} has made {type(self._say).__name__}, which "
                    f"has no {attribute}: it should make {_WANTED}"
                )
        self.token_list: List[str] = [str(token) for token in self._say.token_list]
        self.blank, self.rate = int(self._say.blank), int(self._say.rate)
        bad = [t for t in self.token_list if not t or t.split() != [t]]
        twice = [t for t, n in Counter(self.token_list).items() if n > 1]
        if bad or twice:
            raise InputError(
                f"the teacher {source} has the token {(bad or twice)[0]!r} "
                f"{'with a space, or empty' if bad else 'twice'}: a student learns "
                "tokens by their names (a space is <space>)"
            )
        self.bpemodel = self._read_bpemodel()
        if not 0 <= self.blank < len(self.token_list):
            raise InputError(
                f"the teacher {source} has the blank {self.blank} of "
                f"{len(self.token_list)} tokens"
            )
        noise = np.random.default_rng(0).standard_normal(SHORT).astype(np.float32) * 0.1
        self._heard = self._of(noise)
        if not torch.equal(self._heard, self._of(noise)):
            raise InputError(
                f"the teacher {source} says something else each time that it hears the "
                "same: switch off its dropout and augmentation (eval())"
            )
        self.frame_shift: Fraction = frames_per_shift(
            lambda samples: len(self._of(np.zeros(samples, np.float32)))
        )
        self.shortest = least_samples(
            lambda samples: len(self._of(np.zeros(samples, np.float32)))
        )

    def _read_bpemodel(self) -> Optional[bytes]:
        path = getattr(self._say, "bpemodel", None)
        if path is None:
            return None
        if not os.path.isfile(path):
            raise InputError(
                f"the teacher {self._source} has the bpemodel {path}, and there is no "
                "such file"
            )
        with open(path, "rb") as f:
            return f.read()

    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Frame posteriors of a batch, each utterance heard by itself.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V), dense.

        Raises:
            InputError: what it says are no log-probabilities.
        """
        heard = zip(speech.cpu(), lengths.tolist())
        return together([alone(self._of(s[:n].numpy()), self.blank) for s, n in heard])

    @torch.no_grad()
    def _of(self, speech: np.ndarray) -> Tensor:
        said = torch.as_tensor(self._say(speech)).float().cpu()
        tokens = len(self.token_list)
        if said.ndim != 2 or said.size(1) != tokens:
            raise InputError(
                f"the teacher {self._source} says an array of the shape "
                f"{tuple(said.shape)}; it should be (frames, {tokens} tokens)"
            )
        sums = said.logsumexp(-1)
        if not bool((sums.abs() < 1e-2).all()):
            raise InputError(
                f"the teacher {self._source} says what are no log-probabilities: those "
                f"of a frame add up to {float(sums.exp().max()):g} and not to 1; apply "
                "log_softmax"
            )
        return said

    def describe(self) -> Dict[str, str]:
        """Provenance: its own, its source and options, and a hash of what it says."""
        heard = (self._heard.numpy() * 100).round().astype("<i4")
        own: Optional[Any] = getattr(self._say, "describe", None)
        return {
            **({k: str(v) for k, v in own().items()} if own else {}),
            "type": "python",
            "source": self._source,
            "options": repr(self._options),
            "probe_sha256": hashlib.sha256(heard.tobytes()).hexdigest(),
            "tokens_sha256": hashlib.sha256(
                "\n".join(self.token_list).encode()
            ).hexdigest(),
        }
