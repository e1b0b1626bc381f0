"""Compression of the posteriors of an utterance.

Dense: all V log-probabilities of a frame, as float32. Compressed: the blank, those of
the top K tokens whose removal would cost more than `worth` nats, and the tail mass. A
frame with a blank probability close to 1 takes two bytes before zlib: the count of
tokens, which is 0, and the tail mass.
"""

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from espnet_ctckd.choices import InputError, check_options, look_up
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors
from espnet_ctckd.select import SELECTOR_CHOICES
from espnet_ctckd.tokens import DROPPED, place_tokens

# A count of tokens has seven bits; the eighth marks frames whose argmax is not blank.
_MOST_KEPT = 127
_SPIKE = 128
# Level of a quantized log-probability that stands for probability 0.
_NONE = 255
# Nats by which all other tokens are decoded below the best one, so that the argmax of
# a frame is preserved.
_BELOW = 1e-4


@dataclass(frozen=True)
class Codec:
    """Compression of the records of a cache.

    Attributes:
        tokens: V.
        kept: K, the largest number of tokens of a frame, blank included; None for
            dense posteriors.
        step: quantization step of the log-probabilities in nats.
        worth: smallest gain in KL divergence, in nats, for which a token is kept.
        states: dimension D of the hidden states, stored as float16; 0 stores none.
        selector: name in `SELECTOR_CHOICES`; frames that it does not select are
            stored as blank with probability 1. None stores all frames.
        selector_conf: options of the selector.

    Raises:
        InputError: K is not in [2, V), or another value is out of range.
    """

    tokens: int
    kept: Optional[int] = None
    step: float = 0.25
    worth: float = 2e-4
    states: int = 0
    selector: Optional[str] = None
    selector_conf: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.selector is not None:
            self._check_selector()
        if self.kept is None:
            return
        # The blank is always kept, so K must leave room for another token.
        most = min(self.tokens - 1, _MOST_KEPT + 1)
        if not 1 < self.kept <= most:
            raise InputError(
                f"`kept` is {self.kept}; give one from 2 to {most}; without, all "
                f"{self.tokens} tokens are kept"
            )
        # With a smaller step, 255 levels would not cover improbable tokens.
        if not 0.1 <= self.step <= 1:
            raise InputError(f"`step` is {self.step}; give nats from 0.1 to 1")
        if not 0 <= self.worth < 1:
            raise InputError(f"`worth` is {self.worth}; give nats from 0 to 1")

    def _check_selector(self) -> None:
        if self.kept is None:
            raise InputError("`selector` packs fewer frames, so it needs `kept`")
        choice = look_up("selector", self.selector, SELECTOR_CHOICES)
        if choice.varies_with(self.selector_conf):
            raise InputError(
                f"`selector` {self.selector} {dict(self.selector_conf)} takes other "
                "frames in each epoch: give one that always takes the same"
            )
        check_options("selector", str(self.selector), choice.fn, self.selector_conf)
        one = FramePosteriors(torch.zeros(1, 1, 1), torch.ones(1).long(), 0)
        choice.fn(one, 1, **self.selector_conf)

    def encode(
        self, log_probs: Tensor, blank: int, states: Optional[Tensor] = None
    ) -> bytes:
        """Compress the posteriors of an utterance.

        Args:
            log_probs: (U, V).
            blank: index of the blank.
            states: hidden states (U, D); ignored if the codec stores none.

        Returns:
            The payload, for `decode`.
        """
        if self.kept is None:
            payload = log_probs.float().cpu().numpy().astype("<f4").tobytes()
        else:
            payload = self._compress(log_probs, blank)
        if not self.states:
            return payload
        assert states is not None
        hidden = states.float().cpu().numpy().astype("<f2").tobytes()
        return struct.pack("<I", len(payload)) + payload + hidden

    def decode(
        self, record: bytes, blank: int
    ) -> Tuple[np.ndarray, Optional[np.ndarray], Optional[np.ndarray]]:
        """Decompress the posteriors of an utterance.

        Args:
            record: from `encode`.
            blank: index of the blank.

        Returns:
            Log-probabilities (U, K) float32; token ids (U, K) int64, distinct in a
            frame, or None for dense posteriors; and hidden states (U, D) float32, or
            None. Frames with fewer than K stored tokens are filled up with other
            tokens, each with an equal share of the tail mass.
        """
        states = None
        if self.states:
            (size,) = struct.unpack_from("<I", record)
            hidden = np.frombuffer(record, "<f2", offset=4 + size)
            states = hidden.reshape(-1, self.states).astype(np.float32)
            record = record[4 : 4 + size]
        if self.kept is None:
            dense = np.frombuffer(record, "<f4").reshape(-1, self.tokens)
            return dense.astype(np.float32), None, states
        log_probs, ids = self._decompress(record, blank)
        return log_probs, ids, states

    def _compress(self, log_probs: Tensor, blank: int) -> bytes:
        """Compress counts, levels and ids, each of all frames in a row."""
        assert self.kept is not None
        log_probs = log_probs.float()
        others = log_probs.clone()
        others[:, blank] = -torch.inf
        best, ids = others.topk(self.kept - 1)  # (U, K - 1)
        counts, log_rest = self._choose_counts(others, best)  # (U,), (U, K)
        log_blank = log_probs[:, blank]
        spike = best[:, 0] > log_blank
        counts = torch.where(spike, counts.clamp(min=1), counts)
        log_rest = log_rest.gather(1, counts.unsqueeze(1)).squeeze(1)
        if self.selector is not None:
            frames = FramePosteriors(
                log_probs.unsqueeze(0),
                torch.tensor([len(log_probs)], device=log_probs.device),
                blank,
            )
            select = SELECTOR_CHOICES[self.selector].fn
            left = select(frames, 1, **self.selector_conf)[0] == 0  # (U,)
            counts = counts.masked_fill(left, 0)
            log_rest = log_rest.masked_fill(left, -torch.inf)
        # Levels are relative to the argmax, which needs none.
        peak = torch.where(spike, best[:, 0], log_blank)
        rows = torch.cat([log_rest.unsqueeze(1), best], 1)
        rows[:, 1] = torch.where(spike, log_blank, best[:, 0])
        levels = ((peak.unsqueeze(1) - rows) / self.step).round()
        levels = torch.where(rows > -torch.inf, levels.clamp(0, _NONE - 1), _NONE)
        levels = levels.to(torch.uint8)
        column = torch.arange(self.kept, device=log_probs.device)
        used = column <= counts.unsqueeze(1)  # the tail mass, and each kept token
        kept = (column[1:] <= counts.unsqueeze(1)).cpu().numpy()
        chosen = ids.cpu().numpy()[kept].astype("<u4")
        flags = (counts + _SPIKE * spike).to(torch.uint8).cpu().numpy()
        # Bytes of one kind are contiguous, which compresses best.
        planes = chosen.view(np.uint8).reshape(-1, 4).T[: self._id_bytes]
        parts = [flags, levels[used].cpu().numpy(), planes.ravel()]
        payload = zlib.compress(b"".join(p.tobytes() for p in parts), 9)
        return struct.pack("<I", len(flags)) + payload

    def _choose_counts(self, others: Tensor, best: Tensor) -> Tuple[Tensor, Tensor]:
        """Choose the number of tokens of each frame (U,).

        The cost of n tokens is n times ``worth``, plus the KL divergence of a uniform
        tail from the true one: sum p log(p / even) over the tail.

        Args:
            others: log-probabilities (U, V), -inf for the blank.
            best: the K - 1 greatest of them (U, K - 1).

        Returns:
            The numbers of tokens (U,), and the log of the tail mass (U, K) for 0 to
            K - 1 tokens.
        """
        tokens = self.tokens - 1
        p = others.double().exp()  # (U, V)
        plogp = torch.special.xlogy(p, p)
        top = best.double().exp()  # (U, K - 1)
        zero = top.new_zeros(len(top), 1)
        mass = p.sum(1, keepdim=True) - torch.cat([zero, top.cumsum(1)], 1)  # (U, K)
        mass = mass.clamp(min=0.0)
        known = torch.special.xlogy(top, top).cumsum(1)
        tail = plogp.sum(1, keepdim=True) - torch.cat([zero, known], 1)
        kept = torch.arange(mass.size(1), device=p.device)
        even = (tokens - kept).clamp(min=1)
        loss = tail - torch.special.xlogy(mass, mass / even)  # (U, K)
        counts = (loss + self.worth * kept).argmin(1)
        return counts, mass.log().float()

    def _decompress(self, record: bytes, blank: int) -> Tuple[np.ndarray, np.ndarray]:
        assert self.kept is not None
        (frames,) = struct.unpack_from("<I", record)
        data = np.frombuffer(zlib.decompress(record[4:]), np.uint8)
        flags, data = data[:frames], data[frames:]
        spike, counts = flags >= _SPIKE, (flags % _SPIKE).astype(np.int64)
        total = int(counts.sum())
        levels, planes = data[: frames + total], data[frames + total :]
        wide = np.zeros((total, 4), np.uint8)
        wide[:, : self._id_bytes] = planes.reshape(self._id_bytes, total).T
        chosen = wide.view("<u4").ravel().astype(np.int64)
        column = np.arange(self.kept)
        log = np.full((frames, self.kept), -np.inf)
        log[column <= counts[:, None]] = np.where(
            levels == _NONE, -np.inf, -self.step * levels.astype(np.float64) - _BELOW
        )
        log_rest = log[:, 0].copy()
        # The blank is in the first column, the stored tokens in the others.
        log[:, 0] = 0.0
        if self.kept > 1:
            log[spike, 0], log[spike, 1] = log[spike, 1], 0.0
        every = np.concatenate([log, log_rest[:, None]], 1)
        norm = np.logaddexp.reduce(every, 1, keepdims=True)
        ids = np.full((frames, self.kept), blank, np.int64)
        kept = column <= counts[:, None]
        ids[:, 1:][kept[:, 1:]] = chosen
        # The other places hold tokens of the tail, each with its share of the mass.
        ids = np.where(kept, ids, free_tokens(ids, kept, self.tokens))
        with np.errstate(divide="ignore"):
            share = log_rest - np.log(self.tokens - 1 - counts)  # (U,)
        log = np.where(kept, log, share[:, None])
        return np.maximum(log - norm, LOG_ZERO).astype(np.float32), ids

    @property
    def _id_bytes(self) -> int:
        return max(1, (max(self.tokens - 1, 1).bit_length() + 7) // 8)


def rename_tokens(
    log_probs: np.ndarray, ids: Optional[np.ndarray], index: Sequence[int], tokens: int
) -> Tuple[np.ndarray, Optional[np.ndarray]]:
    """Convert the posteriors of an utterance to the student's token list.

    Tokens that the student lacks are dropped, and the others are renormalized.

    Args:
        log_probs: (U, K).
        ids: token ids (U, K), or None for dense posteriors.
        index: the student's index of each of the teacher's tokens, as
            `espnet_ctckd.tokens.map_tokens` gives it.
        tokens: V of the student.

    Returns:
        log_probs (U, V) and None, or (U, K) and ids (U, K).
    """
    place = np.asarray(index)
    if ids is None:
        kept = place != DROPPED
        if not kept.all():
            log_kept = np.logaddexp.reduce(log_probs[:, kept], 1, keepdims=True)
            log_probs = log_probs - log_kept
        dense = torch.from_numpy(np.require(log_probs, requirements="W"))
        return place_tokens(dense, index, tokens, LOG_ZERO).numpy(), None
    ids = place[ids]
    lost = ids == DROPPED
    if not lost.any():
        return log_probs, ids
    mass = np.exp(np.where(lost, log_probs, -np.inf)).sum(1, keepdims=True)
    given = log_probs - np.log(np.maximum(1.0 - mass, np.finfo(np.float32).tiny))
    # Unused tokens take the places of the dropped ones, with probability 0.
    ids[lost] = free_tokens(ids, ~lost, tokens)[lost]
    return np.where(lost, LOG_ZERO, given).astype(log_probs.dtype), ids


def free_tokens(ids: np.ndarray, kept: np.ndarray, tokens: int) -> np.ndarray:
    """Return, for each frame, distinct tokens that are not among its kept ones.

    Args:
        ids: token ids (U, K).
        kept: mask of the ids that are kept (U, K), bool.
        tokens: V, at least K.

    Returns:
        Token ids (U, K), valid where ``kept`` is False.
    """
    pool = min(tokens, 2 * ids.shape[1])
    taken = np.zeros((len(ids), pool), bool)
    rows, columns = np.nonzero(kept & (ids < pool))
    taken[rows, ids[rows, columns]] = True
    free = np.argsort(taken, axis=1, kind="stable")  # (U, pool), those not taken first
    place = np.maximum((~kept).cumsum(1) - 1, 0)  # (U, K)
    return np.take_along_axis(free, place, 1)
