"""Teachers from torchaudio: the CTC bundles of ``torchaudio.pipelines``."""

import importlib
import inspect
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.models.probe import (
    SHORT,
    frames_per_shift,
    hash_of,
    least_samples,
    pad_batch,
    single,
)
from espnet_ctckd.posteriors import FramePosteriors


def _open(bundle: Any) -> Tuple[Any, Tuple[str, ...]]:
    """Open the model and labels of a bundle, without the star token.

    Bundles for forced alignment add a star for untranscribed audio. Its log-probability
    is 0 in every frame, so the probabilities would sum to 2.
    """
    if "with_star" in inspect.signature(bundle.get_model).parameters:
        return bundle.get_model(with_star=False), bundle.get_labels(star=None)
    return bundle.get_model(), bundle.get_labels()


class TorchaudioTeacher:
    """CTC posteriors of a pretrained bundle, e.g. ``WAV2VEC2_ASR_BASE_960H``.

    Utterances are computed one by one, as these models have no mask for padding.

    Args:
        source: name of the bundle, which torchaudio downloads.
        device: device of the model.

    Raises:
        InputError: the bundle does not exist, or is not a CTC model.
    """

    state_size = 0
    longest: Optional[int] = None
    batching = "single"
    bpemodel: Optional[bytes] = None

    def __init__(self, source: str, *, device: str = "cpu") -> None:
        pipelines = importlib.import_module("torchaudio.pipelines")
        bundle: Any = getattr(pipelines, source, None)
        if not hasattr(bundle, "get_labels") or not hasattr(bundle, "get_model"):
            known = [
                name
                for name in dir(pipelines)
                if hasattr(getattr(pipelines, name), "get_labels")
            ]
            raise InputError(
                f"torchaudio.pipelines has no bundle {source!r} for CTC; it has "
                f"{', '.join(known)}"
            )
        try:
            self._model, labels = _open(bundle)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"the bundle {source} cannot be downloaded: {error}. Check the network"
            ) from None
        self._model.to(device).eval().requires_grad_(False)
        self._source, self._device = source, device
        self.token_list: List[str] = list(labels)
        self.blank = 0  # the first of torchaudio's labels
        self.rate = int(bundle.sample_rate)
        outputs = self._of(torch.zeros(SHORT)).size(1)
        if outputs != len(self.token_list):
            raise InputError(
                f"the bundle {source} has {outputs} outputs and "
                f"{len(self.token_list)} labels: its outputs are not known"
            )
        self.frame_shift = frames_per_shift(self._frames)
        self.shortest = least_samples(self._frames)
        self._hash = hash_of(self._model.state_dict())

    def _frames(self, samples: int) -> int:
        return self._of(torch.zeros(samples)).size(0)

    @torch.no_grad()
    def _of(self, speech: Tensor) -> Tensor:
        logits, _ = self._model(speech.unsqueeze(0).to(self._device))  # (1, U, V)
        log_probs: Tensor = logits[0].float().log_softmax(-1).cpu()
        return log_probs

    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Compute the frame posteriors of a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V), dense.
        """
        audio = zip(speech.cpu(), lengths.tolist())
        return pad_batch([single(self._of(s[:n]), self.blank) for s, n in audio])

    def describe(self) -> Dict[str, str]:
        """Return the provenance: kind, bundle, hash and version of torchaudio."""
        torchaudio = importlib.import_module("torchaudio")
        return {
            "type": "torchaudio",
            "source": self._source,
            "torchaudio": torchaudio.__version__,
            "weights_sha256": self._hash,
        }
