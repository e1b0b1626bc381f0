"""N-best lists of a teacher, as a text file.

A line holds an utterance and, as JSON, a checksum field and its hypotheses, the most
probable first, each a probability and tokens:
``utt ["24000 1a2b3c4d 5e6f7a8b", [0.9, "A"], [0.1]]``. The probabilities of a list add
up to 1. The checksum field holds the length and checksum of the teacher's input audio,
and a checksum of the line. ESPnet reads the file as data of the type ``text``.
"""

import json
import zlib
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from espnet_ctckd.cache.record import Audio
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, read_json

NBEST = "nbest"
META = "nbest.json"
FORMAT = 2

# Tokens of a hypothesis, and its probability.
Weighted = Tuple[Tuple[str, ...], float]


def join(
    lists: Sequence[Sequence[Weighted]], weights: Sequence[float]
) -> List[Weighted]:
    """Merge the n-best lists of several teachers for one utterance, as a mixture.

    Args:
        lists: n-best list of each teacher.
        weights: weights of the teachers; they add up to 1.

    Returns:
        Distinct hypotheses, the most probable first; their probabilities add up to 1.

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
    """Format a line of the file, without the utterance at its beginning.

    Args:
        utterance: name of the utterance; the checksum covers it.
        audio: fingerprint of the teacher's input.
        hypotheses: n-best list of the teacher.
    """
    listed = [[float(f"{share:.6g}"), *tokens] for tokens, share in hypotheses]
    sealed = f"{audio.entry} {_seal(utterance, audio.entry, listed)}"
    return json.dumps([sealed, *listed], ensure_ascii=False)


def _seal(utterance: str, audio: str, listed: Sequence[Any]) -> str:
    text = json.dumps([utterance, audio, *listed], ensure_ascii=False)
    return f"{zlib.crc32(text.encode()):08x}"


def _is_hypothesis(found: Tuple[Tuple[Any, ...], Any]) -> bool:
    tokens, share = found
    probability = type(share) in (int, float) and 0 <= share <= 1
    return probability and all(type(token) is str for token in tokens)


def from_line(line: str, utterance: str) -> Tuple[Audio, List[Weighted]]:
    """Parse a line of the file, without the utterance at its beginning.

    Args:
        line: JSON.
        utterance: name of the utterance.

    Returns:
        The fingerprint of the teacher's input, and the hypotheses.

    Raises:
        InputError: the line is not an n-best list, is damaged, or is of another
            utterance.
    """
    try:
        sealed, *listed = json.loads(line)
        entry, _, seal = sealed.rpartition(" ")
        audio = Audio.read(entry)
        found = [(tuple(tokens), share) for share, *tokens in listed]
        whole = seal == _seal(utterance, entry, listed) and all(
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


def read_nbest_meta(path: Pathlike) -> Dict[str, Any]:
    """Read the metadata of an n-best file.

    Args:
        path: path of the n-best file.

    Returns:
        The contents of ``nbest.json`` in the same folder.

    Raises:
        InputError: the metadata is missing, damaged, or of another version.
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
