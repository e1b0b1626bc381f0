"""A teacher of Hugging Face: any model for CTC that `transformers` knows."""

import hashlib
import importlib
import os
from importlib import metadata
from typing import Any, Dict, List, Optional

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.probe import (
    SHORT,
    frames_per_shift,
    hash_of,
    least_samples,
    together,
)

# Names that models have for "how many frames do so many samples make?".
_LENGTHS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")


class HuggingFaceTeacher:
    """CTC posteriors of wav2vec 2.0, HuBERT, WavLM, MMS and their like.

    The audio is normalised as the model's own processor does it. Whether padding
    changes what the model says is tried; where it does, each utterance is heard alone.

    Args:
        source: id on the hub, or a local folder.
        device: where it computes.
        revision: branch, tag or commit on the hub.
        language: of a model with adapters (MMS), e.g. ``deu``.
        states: keep the last hidden states, for ``kd.feature``.

    Raises:
        InputError: it cannot be loaded, or is no CTC model.
    """

    longest: Optional[int] = None

    def __init__(
        self,
        source: str,
        *,
        device: str = "cpu",
        revision: Optional[str] = None,
        language: Optional[str] = None,
        states: bool = False,
    ) -> None:
        transformers = _transformers()
        if _is_path(source) and not os.path.isdir(source):
            raise InputError(f"the teacher {source}: there is no such folder")
        self._source, self._device, self._states = source, device, states
        chosen = {} if revision is None else {"revision": revision}
        spoken = {} if language is None else {"target_lang": language}
        try:
            self._processor = transformers.AutoFeatureExtractor.from_pretrained(
                source, **chosen
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                source, **chosen, **spoken
            )
            self._model = transformers.AutoModelForCTC.from_pretrained(
                source,
                **chosen,
                **spoken,
                **({"ignore_mismatched_sizes": True} if spoken else {}),
            )
        except (OSError, ValueError, KeyError) as error:
            asked = f" with the language {language!r}" if language else ""
            raise InputError(
                f"the teacher {source} cannot be loaded as a CTC model{asked}: "
                f"{str(error).splitlines()[0]}. Give the id of one on the hub (and "
                "check the network), or a folder that save_pretrained has written, "
                "with its tokenizer"
                + (", which has an adapter for that language" if language else "")
            ) from None
        self._model.to(device).eval().requires_grad_(False)
        self.token_list = _tokens(tokenizer, self._model.config.vocab_size)
        self.blank = int(tokenizer.pad_token_id)
        self.rate = int(self._processor.sampling_rate)
        self.state_size = self._model.config.hidden_size if states else 0
        self._batched = self._padding_is_harmless()
        self.frame_shift = frames_per_shift(self._frames)
        self.shortest = least_samples(self._frames)
        self._hashes = {
            "weights_sha256": hash_of(self._model.state_dict()),
            "config_sha256": hashlib.sha256(
                repr(
                    (
                        self._model.config.to_json_string(),
                        self._processor.to_json_string(),
                        self.token_list,
                        language,
                    )
                ).encode()
            ).hexdigest(),
        }

    def _padding_is_harmless(self) -> bool:
        if not getattr(self._processor, "return_attention_mask", False):
            return False
        generator = torch.Generator().manual_seed(0)
        audio = [torch.randn(n, generator=generator) for n in (SHORT, SHORT * 3 // 5)]
        together, alone = self._say(audio), self._say(audio[1:])
        frames = int(alone.lengths[0])
        if int(together.lengths[1]) != frames:
            return False
        padded = together.log_probs[1, :frames]
        return bool(torch.allclose(padded, alone.log_probs[0], rtol=0, atol=1e-4))

    def _frames(self, samples: int) -> int:
        """Frames that so many samples make."""
        if hasattr(self._model, _LENGTHS[0]):
            # Of the family of wav2vec 2.0, whose convolutions are counted.
            counted = self._model._get_feat_extract_output_lengths(
                torch.tensor(samples)
            )
            return max(int(counted), 0)
        said = self._say([torch.zeros(samples)])
        return int(said.lengths[0])

    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Frame posteriors of a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V), dense, and the states (B, U, D) where they are kept.
        """
        audio = [s[:n] for s, n in zip(speech.cpu(), lengths.tolist())]
        if self._batched:
            return self._say(audio)
        return together([self._say([one]) for one in audio])

    @torch.no_grad()
    def _say(self, audio: List[Tensor]) -> FramePosteriors:
        given = self._processor(
            [a.numpy() for a in audio],
            sampling_rate=self.rate,
            padding=True,
            return_tensors="pt",
        ).to(self._device)
        out = self._model(**given, output_hidden_states=self._states)
        log_probs = out.logits.float().log_softmax(-1)  # (B, U, V)
        lengths = self._lengths(given, log_probs.size(1), len(audio))
        states = out.hidden_states[-1] if self._states else None
        return FramePosteriors(log_probs, lengths, self.blank, states=states)

    def _lengths(self, given: Any, frames: int, utterances: int) -> Tensor:
        mask = given.get("attention_mask")
        if utterances == 1 or mask is None:
            return torch.full((utterances,), frames)
        for name in _LENGTHS:
            if hasattr(self._model, name):
                counted: Tensor = getattr(self._model, name)(mask.sum(-1))
                return counted.cpu().clamp(max=frames)
        raise InputError(
            f"the teacher {self._source} does not say how many frames an utterance has "
            "in a batch: dump it with --batch_seconds 0.1, one utterance at a time"
        )

    def describe(self) -> Dict[str, str]:
        """Provenance: kind, source, commit, hashes and the version of transformers."""
        commit = getattr(self._model.config, "_commit_hash", None)
        return {
            "type": "huggingface",
            "source": self._source,
            "commit": str(commit or "local"),
            "transformers": metadata.version("transformers"),
            **self._hashes,
        }


def _is_path(source: str) -> bool:
    """Whether it can be no id on the hub, which is a name, or two and a slash."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise InputError(
            "teachers of Hugging Face need transformers: pip install 'espnet_ctckd[hf]'"
        ) from None


def _tokens(tokenizer: Any, size: int) -> List[str]:
    """The V tokens in the order of the outputs; what has no name gets one."""
    named = {index: token for token, index in tokenizer.get_vocab().items()}
    return [named.get(index, f"<unused{index}>") for index in range(size)]
