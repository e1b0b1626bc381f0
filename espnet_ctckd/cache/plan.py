"""Division of the data of a cache into shards of batches, from their lengths alone."""

from dataclasses import dataclass
from typing import List, Optional, Sequence

from espnet_ctckd.choices import InputError
from espnet_ctckd.data import audio_info, read_wav_scp

# A shard is what a kill can cost: a 64th of the data, but 20 s to an hour of audio.
_SHARD_SECONDS = (20.0, 3600.0)
_SHARDS_WANTED = 64


@dataclass(frozen=True)
class Utterance:
    """One line of ``wav.scp``, and the samples that its file holds."""

    name: str
    path: str
    samples: int


@dataclass(frozen=True)
class Plan:
    """Division of the data: shards of batches of utterances."""

    shards: Sequence[Sequence[Sequence[Utterance]]]
    rate: int

    @property
    def utterances(self) -> List[Utterance]:
        """All of them, in the order of the shards."""
        return [u for shard in self.shards for batch in shard for u in batch]


def make_plan(
    wav_scp: str,
    rate: int,
    shortest: int,
    batch_seconds: float,
    longest: Optional[int] = None,
) -> Plan:
    """Divide the data by length.

    Args:
        wav_scp: Kaldi's list of audio files.
        rate: samples per second that they must have.
        shortest: samples that an utterance must have.
        batch_seconds: audio of a batch, padding included; a longer utterance is a
            batch of its own.
        longest: samples that an utterance may have, None for any number.

    Returns:
        The division.

    Raises:
        InputError: a file is missing, damaged, too short or long, or of another format.
    """
    utterances = [
        Utterance(name, path, audio_info(name, path, rate))
        for name, path in read_wav_scp(wav_scp).items()
    ]
    utterances.sort(key=lambda u: (u.samples, u.name))
    if utterances[0].samples < shortest:
        raise InputError(
            f"utterance {utterances[0].name}: {utterances[0].path} has "
            f"{utterances[0].samples} samples, too few for the model, which needs "
            f"{shortest}: remove it from {wav_scp}"
        )
    most = utterances[-1].samples
    if longest is not None and most > longest:
        raise InputError(
            f"utterance {utterances[-1].name}: {utterances[-1].path} has "
            f"{most / rate:g} s, and the model hears {longest / rate:g} s at most: "
            f"segment it, or remove it from {wav_scp} (--max_wav_duration)"
        )
    batches: List[List[Utterance]] = []
    for utterance in utterances:
        padded = (len(batches[-1]) + 1) * utterance.samples if batches else 0
        if not batches or padded > batch_seconds * rate:
            batches.append([])
        batches[-1].append(utterance)
    total = sum(u.samples for u in utterances)
    low, high = (seconds * rate for seconds in _SHARD_SECONDS)
    size = min(max(total / _SHARDS_WANTED, low), high)
    shards: List[List[List[Utterance]]] = [[]]
    filled = 0
    for batch in batches:
        if shards[-1] and filled >= size:
            shards.append([])
            filled = 0
        shards[-1].append(batch)
        filled += sum(u.samples for u in batch)
    return Plan(shards, rate)
