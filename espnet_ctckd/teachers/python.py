"""Teachers from user code: objects that map audio to log-probabilities."""

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
    frames_per_shift,
    least_samples,
    pad_batch,
    single,
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
    into them; without it, students can be trained only without transcripts. A hash of
    the output for fixed noise identifies the weights of the teacher in a cache.

    Args:
        source: ``package.module:factory``.
        device: unused.
        **options: options passed to the factory.

    Raises:
        InputError: the factory cannot be imported, or returns another kind of object.
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
        self._model = factory(**options)
        for attribute in ("token_list", "blank", "rate", "__call__"):
            if not hasattr(self._model, attribute):
                raise InputError(
                    f"the teacher {source} has made {type(self._model).__name__}, "
                    f"which has no {attribute}: it should make {_WANTED}"
                )
        self.token_list: List[str] = [str(token) for token in self._model.token_list]
        self.blank, self.rate = int(self._model.blank), int(self._model.rate)
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
        self._probe = self._of(noise)
        if not torch.equal(self._probe, self._of(noise)):
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
        path = getattr(self._model, "bpemodel", None)
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
        """Compute the frame posteriors of a batch, utterance by utterance.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V), dense.

        Raises:
            InputError: the output is not an array of log-probabilities.
        """
        audio = zip(speech.cpu(), lengths.tolist())
        return pad_batch(
            [single(self._of(s[:n].numpy()), self.blank) for s, n in audio]
        )

    @torch.no_grad()
    def _of(self, speech: np.ndarray) -> Tensor:
        log_probs = torch.as_tensor(self._model(speech)).float().cpu()
        tokens = len(self.token_list)
        if log_probs.ndim != 2 or log_probs.size(1) != tokens:
            raise InputError(
                f"the teacher {self._source} outputs an array of shape "
                f"{tuple(log_probs.shape)}; it should be (frames, {tokens} tokens)"
            )
        sums = log_probs.logsumexp(-1)
        if not bool((sums.abs() < 1e-2).all()):
            raise InputError(
                f"the teacher {self._source} outputs what are no log-probabilities: "
                f"those of a frame add up to {float(sums.exp().max()):g} and not to 1; "
                "apply log_softmax"
            )
        return log_probs

    def describe(self) -> Dict[str, str]:
        """Return the provenance: own entries, source, options and hash of a probe."""
        probe = (self._probe.numpy() * 100).round().astype("<i4")
        own: Optional[Any] = getattr(self._model, "describe", None)
        return {
            **({k: str(v) for k, v in own().items()} if own else {}),
            "type": "python",
            "source": self._source,
            "options": repr(self._options),
            "probe_sha256": hashlib.sha256(probe.tobytes()).hexdigest(),
            "tokens_sha256": hashlib.sha256(
                "\n".join(self.token_list).encode()
            ).hexdigest(),
        }
