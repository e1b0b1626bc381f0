"""Teachers from Hugging Face: all CTC models of `transformers`."""

import hashlib
import os
from collections import Counter
from dataclasses import replace
from importlib import metadata
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.spelling import model_of_tokenizer
from espnet_ctckd.models.pretrained import (
    load_pretrained,
    mask_of,
    output_lengths,
    transformers_library,
)
from espnet_ctckd.models.probe import (
    SHORT,
    frames_per_shift,
    hash_of,
    least_samples,
    pad_batch,
)
from espnet_ctckd.posteriors import FramePosteriors


class HuggingFaceTeacher:
    """CTC posteriors of wav2vec 2.0, HuBERT, WavLM, MMS, W2V-BERT and similar models.

    The audio is normalised by the model's feature extractor. Utterances are computed
    one by one, so posteriors do not depend on the batch; ``batched`` pads batches
    instead, as in the library, which can be faster on a GPU.

    Args:
        source: id on the hub, or a local folder.
        device: device of the model.
        revision: branch, tag or commit on the hub.
        language: language of a model with adapters (MMS), e.g. ``deu``.
        states: keep the last hidden states, for ``kd.feature``.
        batched: compute padded batches.
        blank: index of the blank among the outputs, if the model's configuration and
            tokenizer disagree.

    Raises:
        InputError: the model cannot be loaded, is not a CTC model, lacks weights, or
            its blank is unknown.
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
        batched: bool = False,
        blank: Optional[int] = None,
    ) -> None:
        transformers = transformers_library("teachers of Hugging Face")
        if _is_path(source) and not os.path.isdir(source):
            raise InputError(f"the teacher {source}: there is no such folder")
        self._source, self._device, self._states = source, device, states
        self.batching = "padded" if batched else "single"
        chosen = {} if revision is None else {"revision": revision}
        spoken = {} if language is None else {"target_lang": language}
        try:
            self._processor = transformers.AutoFeatureExtractor.from_pretrained(
                source, **chosen
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                source, **chosen, **spoken
            )
            self._model = load_pretrained(
                transformers.AutoModelForCTC,
                source,
                f"the teacher {source}",
                **chosen,
                **spoken,
            )
            if chosen and spoken:  # the library loads the adapter of the main branch
                self._model.load_adapter(language, force_load=True, **chosen)
        except InputError:
            raise
        # The libraries raise many types of errors for damaged or unknown files.
        except Exception as error:
            asked = f" with the language {language!r}" if language else ""
            raise InputError(
                f"the teacher {source} cannot be loaded as a CTC model{asked}: "
                f"{(str(error) or type(error).__name__).splitlines()[0]}. Give the id "
                "of one on the hub (and check the network), or a folder that "
                "save_pretrained has written, with its tokenizer"
                + (", which has an adapter for that language" if language else "")
            ) from None
        self._model.to(device).eval().requires_grad_(False)
        self.rate = int(self._processor.sampling_rate)
        self.blank = 0  # until the outputs are known
        log_probs, hidden = self._probe()
        self.token_list = _tokens(tokenizer, log_probs.size(1))
        twice = [t for t, n in Counter(self.token_list).items() if n > 1]
        if twice:
            raise InputError(
                f"the teacher {source} has the token {twice[0]!r} twice: correct the "
                "vocabulary of its tokenizer"
            )
        self.blank = self._find_blank(tokenizer, blank)
        self.bpemodel = model_of_tokenizer(tokenizer)
        self.state_size = 0 if hidden is None else hidden.size(1)
        if batched:
            self._check_batched()
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

    def _probe(self) -> Tuple[Tensor, Optional[Tensor]]:
        """Compute log-probabilities (U, V) and states (U, D), if kept, of noise."""
        found = self._single(_noise(SHORT))
        if not bool(found.log_probs.isfinite().all()):
            raise InputError(
                f"the teacher {self._source} outputs NaN or infinity for noise: its "
                "weights are damaged"
            )
        if found.states is None:
            return found.log_probs[0], None
        if found.states.size(1) != found.log_probs.size(1):
            raise InputError(
                f"the teacher {self._source} has {found.states.size(1)} hidden states "
                f"of {SHORT} samples and {found.log_probs.size(1)} output frames: its "
                "states are not those of its frames. Leave out states=true"
            )
        return found.log_probs[0], found.states[0]

    def _find_blank(self, tokenizer: Any, asked: Optional[int]) -> int:
        """Find the blank of the model's CTC loss.

        It is ``blank_token_id`` of the configuration, or else its ``pad_token_id``,
        which should match the tokenizer's.
        """
        config = self._model.config
        named = {
            "blank_token_id of config.json": getattr(config, "blank_token_id", None),
            "pad_token_id of config.json": getattr(config, "pad_token_id", None),
            "pad_token_id of the tokenizer": tokenizer.pad_token_id,
        }
        named = {where: index for where, index in named.items() if index is not None}
        if asked is not None:
            named = {"the option blank": asked}
        elif "blank_token_id of config.json" in named:
            named = dict([next(iter(named.items()))])
        size = len(self.token_list)
        listed = ", ".join(f"{where} is {index}" for where, index in named.items())
        wanted = "give it with --teacher_conf blank=INDEX"
        if not named:
            raise InputError(
                f"the teacher {self._source} does not tell which output is the blank "
                f"(neither config.json nor the tokenizer has a pad_token_id): {wanted}"
            )
        if not all(0 <= index < size for index in named.values()):
            raise InputError(
                f"the teacher {self._source} has {size} outputs, and the blank is not "
                f"among them: {listed}. Give one from 0 to {size - 1}: {wanted}"
            )
        if len(set(named.values())) > 1:
            silence = self._single(torch.zeros(SHORT)).log_probs.argmax(-1)  # (1, U)
            raise InputError(
                f"the teacher {self._source} does not tell which output is the blank: "
                f"{listed}. The library's CTC loss takes the first, its decoding the "
                f"second, and in silence the model mostly outputs "
                f"{int(silence.mode().values)}: {wanted}"
            )
        return int(next(iter(named.values())))

    def _check_batched(self) -> None:
        """Refuse padded batches for models without a padding mask."""
        features = self._features([_noise(SHORT), _noise(SHORT // 2)])
        mask = mask_of(features)
        if mask is None:
            raise InputError(
                f"the teacher {self._source}: its feature extractor gives no mask of "
                "the padding, which would change what the model outputs: leave out "
                "batched=true"
            )
        if output_lengths(self._model, mask.sum(-1)) is None:
            raise InputError(
                f"the teacher {self._source}: {type(self._model).__name__} does not "
                "tell how many frames an utterance has in a batch: leave out "
                "batched=true"
            )

    def _frames(self, samples: int) -> int:
        """Return the number of frames for a number of samples."""
        found = self._single(_noise(samples))
        # Some extractors compute an invalid variance for too few feature frames.
        return int(found.lengths[0]) if found.log_probs.isfinite().all() else 0

    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Compute the frame posteriors of a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V), dense, with the states (B, U, D) if kept.
        """
        audio = [s[:n] for s, n in zip(speech.cpu(), lengths.tolist())]
        if self.batching == "padded":
            return self._padded(audio)
        return pad_batch([self._single(one) for one in audio])

    def _features(self, audio: List[Tensor]) -> Any:
        """Compute the model's inputs for waveforms (S,)."""
        return self._processor(
            [a.numpy() for a in audio],
            sampling_rate=self.rate,
            padding=True,
            return_tensors="pt",
        ).to(self._device)

    def _single(self, audio: Tensor) -> FramePosteriors:
        """Compute the posteriors of one utterance (S,)."""
        return self._compute(self._features([audio]))

    def _padded(self, audio: List[Tensor]) -> FramePosteriors:
        """Compute the posteriors of utterances (S,), padded to the longest."""
        features = self._features(audio)
        found = self._compute(features)
        mask = mask_of(features)
        assert mask is not None  # see `_check_batched`
        lengths = output_lengths(self._model, mask.sum(-1))
        assert lengths is not None
        return replace(found, lengths=lengths.cpu().clamp(max=found.log_probs.size(1)))

    @torch.no_grad()
    def _compute(self, features: Any) -> FramePosteriors:
        out = self._model(**features, output_hidden_states=self._states)
        log_probs = out.logits.float().log_softmax(-1)  # (B, U, V)
        lengths = torch.full((log_probs.size(0),), log_probs.size(1))
        states = out.hidden_states[-1] if self._states else None
        return FramePosteriors(log_probs, lengths, self.blank, states=states)

    def describe(self) -> Dict[str, str]:
        """Return the provenance: kind, source, commit, hashes, transformers version."""
        commit = getattr(self._model.config, "_commit_hash", None)
        return {
            "type": "huggingface",
            "source": self._source,
            "commit": str(commit or "local"),
            "transformers": metadata.version("transformers"),
            **self._hashes,
        }


def _noise(samples: int) -> Tensor:
    """Return deterministic noise (S,)."""
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))


def _is_path(source: str) -> bool:
    """Return True if a source is a path, and not ``name`` or ``owner/name``."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1


def _tokens(tokenizer: Any, size: int) -> List[str]:
    """Return the V tokens in output order; unnamed ones become ``<unused…>``."""
    named = {index: token for token, index in tokenizer.get_vocab().items()}
    space = getattr(tokenizer, "word_delimiter_token", None)
    # A token list has one token per line, so names have no white space.
    return [_name(named.get(index, f"<unused{index}>"), space) for index in range(size)]


def _name(token: str, space: Optional[str]) -> str:
    """Return a token's name without white space; ``<space>`` for the word delimiter."""
    if token == " " or (token == space and token != "|"):
        return "<space>"
    if token.split() != [token]:
        return "<" + "".join(f"u{ord(character):04x}" for character in token) + ">"
    return token
