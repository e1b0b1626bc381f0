"""N-best lists of a teacher: a text file that a person can read.

A line is an utterance and, as JSON, a seal and its hypotheses, the likeliest first,
each a probability and tokens, ``utt ["24000 1a2b3c4d 5e6f7a8b", [0.9, "A"], [0.1]]``;
the probabilities of a list add up to 1. The seal is the length and checksum of the
audio that the teacher heard, and a checksum of all the rest. ESPnet reads the file as
data of the type ``text``.
"""

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import edit_distance

from espnet_ctckd.cache.record import Audio, fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import NBestConfig
from espnet_ctckd.data.kaldi import Pathlike, read_json
from espnet_ctckd.decode.prefix_beam import prefix_beam_search
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors

NBEST = "nbest"
META = "nbest.json"
FORMAT = 2

# Tokens of a hypothesis, and its probability.
Weighted = Tuple[Tuple[str, ...], float]


def nbest_of(
    teacher: FramePosteriors, tokens: Sequence[str], beam: int, number: int
) -> List[Weighted]:
    """The best hypotheses of an utterance, with their exact probabilities.

    Args:
        teacher: one utterance, log_probs (1, U, K).
        tokens: V.
        beam: of the search.
        number: N.

    Returns:
        At most N, the likeliest first; their probabilities add up to 1.
    """
    ids = None if teacher.ids is None else teacher.ids[0].numpy()
    found = prefix_beam_search(teacher.log_probs[0].numpy(), teacher.blank, beam, ids)[
        :number
    ]
    # The beam has lost alignments; CTC has them all.
    sequences = [list(hypothesis.tokens) for hypothesis in found]
    log_probs = _log_probabilities(teacher, sequences, len(tokens))
    shares = log_probs.softmax(0).tolist()
    ordered = sorted(zip(shares, sequences), key=lambda pair: -pair[0])
    return [(tuple(tokens[i] for i in ids), share) for share, ids in ordered]


def _log_probabilities(
    teacher: FramePosteriors, sequences: Sequence[Sequence[int]], size: int
) -> Tensor:
    """Log P of each sequence (N,), float64."""
    said = teacher.log_probs[0].double()  # (U, K)
    if teacher.ids is not None:
        all_of_them = said.new_full((said.size(0), size), LOG_ZERO)
        said = all_of_them.scatter(1, teacher.ids[0], said)  # (U, V)
    number = len(sequences)
    losses = F.ctc_loss(
        said.clamp(min=LOG_ZERO).unsqueeze(1).expand(-1, number, -1),
        torch.tensor([i for ids in sequences for i in ids], dtype=torch.long),
        torch.full((number,), said.size(0)),
        torch.tensor([len(ids) for ids in sequences]),
        blank=teacher.blank,
        reduction="none",
    )
    return -losses


def join(
    lists: Sequence[Sequence[Weighted]], weights: Sequence[float]
) -> List[Weighted]:
    """The hypotheses of several teachers of one utterance, as a mixture.

    Args:
        lists: of each teacher.
        weights: of the teachers, adding up to 1.

    Returns:
        Distinct hypotheses, the likeliest first; their probabilities add up to 1.

    References:
        Gao, Parcollet, Lane, Distilling Knowledge from Ensembles of Acoustic Models
        for Joint CTC-Attention End-to-End Speech Recognition (2020),
        https://arxiv.org/abs/2005.09310
    """
    joined: Dict[Tuple[str, ...], float] = {}
    for hypotheses, weight in zip(lists, weights):
        for tokens, share in hypotheses:
            joined[tokens] = joined.get(tokens, 0.0) + weight * share
    return sorted(joined.items(), key=lambda pair: -pair[1])


def to_line(utterance: str, audio: Audio, hypotheses: Sequence[Weighted]) -> str:
    """The rest of a line of the file.

    Args:
        utterance: its beginning.
        audio: that the teacher heard.
        hypotheses: what it says.
    """
    listed = [[float(f"{share:.6g}"), *tokens] for tokens, share in hypotheses]
    sealed = f"{audio.entry} {_seal(utterance, audio.entry, listed)}"
    return json.dumps([sealed, *listed], ensure_ascii=False)


def _seal(utterance: str, heard: str, listed: Sequence[Any]) -> str:
    text = json.dumps([utterance, heard, *listed], ensure_ascii=False)
    return f"{zlib.crc32(text.encode()):08x}"


def _is_hypothesis(found: Tuple[Tuple[Any, ...], Any]) -> bool:
    tokens, share = found
    probability = type(share) in (int, float) and 0 <= share <= 1
    return probability and all(type(token) is str for token in tokens)


def from_line(line: str, utterance: str) -> Tuple[Audio, List[Weighted]]:
    """Read the rest of a line.

    Args:
        line: JSON.
        utterance: whose it is.

    Returns:
        The audio that the teacher heard, and the hypotheses.

    Raises:
        InputError: it is no n-best list, damaged, or of another utterance.
    """
    try:
        sealed, *listed = json.loads(line)
        heard, _, seal = sealed.rpartition(" ")
        audio = Audio.read(heard)
        found = [(tuple(tokens), share) for share, *tokens in listed]
        whole = seal == _seal(utterance, heard, listed) and all(
            map(_is_hypothesis, found)
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        found, whole = [], False
    if not (found and whole):
        raise InputError(
            f"utterance {utterance}: the n-best list {line[:60]!r} is damaged, or of "
            "another utterance, or not of dump_nbest: dump it again"
        )
    return audio, found


@dataclass(frozen=True)
class NBestReader:
    """From a line to what the training reads, in the data workers.

    Args:
        config: which hypotheses, and their weights.
        index: the student's index of each token.
    """

    config: NBestConfig
    index: Mapping[str, int]

    def read(
        self,
        utterance: str,
        line: str,
        text: Optional[np.ndarray],
        speech: Optional[np.ndarray] = None,
    ) -> Dict[str, np.ndarray]:
        """Tokens (L,), sizes (N,) and weights (N,) of an utterance.

        Args:
            utterance: its name.
            line: of the file.
            text: its labels, where the weights need them.
            speech: its audio (S,), to be held against what the teacher heard.

        Raises:
            InputError: the list is damaged or not of this utterance and audio, or a
                token is not the student's.
        """
        audio, hypotheses = from_line(line, utterance)
        if speech is not None and speech.ndim == 1:
            heard = fingerprint(speech)
            if heard != audio:
                raise InputError(
                    f"utterance {utterance}: its audio ({heard}) is not what the "
                    f"teacher of the n-best list heard ({audio}): dump teacher and "
                    "lists for this data"
                )
        hypotheses = hypotheses[: self.config.hypotheses]
        lacks = sorted({t for ids, _ in hypotheses for t in ids} - self.index.keys())
        if lacks:
            raise InputError(
                f"utterance {utterance}: the student's token list lacks {lacks[0]!r} "
                "of the n-best list: dump the n-best list of a teacher that has the "
                "student's tokens"
            )
        ids = [[self.index[token] for token in tokens] for tokens, _ in hypotheses]
        weights = self._weigh([share for _, share in hypotheses], ids, text)
        return {
            NBEST: np.array([i for sequence in ids for i in sequence], dtype=np.int64),
            f"{NBEST}_sizes": np.array([len(s) for s in ids], dtype=np.int64),
            f"{NBEST}_weights": weights.astype(np.float32),
        }

    def _weigh(
        self,
        shares: Sequence[float],
        ids: Sequence[Sequence[int]],
        text: Optional[np.ndarray],
    ) -> np.ndarray:
        kind, scale = self.config.weights, self.config.scale
        scores = [0.0] * len(shares)
        if kind == "posterior":
            scores = [scale * math.log(max(share, 1e-300)) for share in shares]
        elif kind == "accuracy":
            assert text is not None
            right = [
                1 - edit_distance(text.tolist(), s) / max(len(text), 1) for s in ids
            ]
            scores = [scale * share for share in right]
        elif kind == "best":
            scores[1:] = [-math.inf] * len(scores[1:])
        likely = np.exp(np.array(scores) - max(scores))
        weights: np.ndarray = likely / likely.sum()
        return weights


def read_nbest_meta(path: Pathlike) -> Dict[str, Any]:
    """What an n-best file says of itself.

    Args:
        path: the file.

    Returns:
        The contents of the ``nbest.json`` beside it.

    Raises:
        InputError: it is not there, or of another version.
    """
    meta = Path(path).with_name(META)
    try:
        found = read_json(meta, "dump the n-best lists again")
    except OSError:
        raise InputError(
            f"{path} is not a finished n-best list: there is no {meta}. Run `python -m "
            "espnet_ctckd.bin.dump_nbest`"
        ) from None
    if found.get("format") != FORMAT:
        raise InputError(
            f"{meta} has format {found.get('format')!r}; this version reads {FORMAT}. "
            "Dump the n-best lists again"
        )
    if type(found.get("nbest")) is not int or type(found.get("teachers")) is not list:
        raise InputError(
            f"{meta} is damaged (nbest is {found.get('nbest')!r:.80}, teachers "
            f"{found.get('teachers')!r:.80}; they should be a whole number and a "
            "list): dump the n-best lists again"
        )
    return found
