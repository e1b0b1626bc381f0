"""Division of the data of a cache into shards of batches, from their lengths alone."""

import logging
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence

from espnet_ctckd.choices import InputError
from espnet_ctckd.containers import UnusableAudioError
from espnet_ctckd.data import (
    audio_info,
    limit_bad,
    read_wav_scp,
    shorten,
)

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


@dataclass
class Unheard:
    """Utterances of a set that a model outputs nothing for.

    Attributes:
        max_bad_share: percent of the set whose audio may be unusable; one always may,
            unless it is 0.
        short: utterance -> why it is too short for the model.
        bad: utterance -> why its audio cannot be used.
    """

    max_bad_share: float
    short: Dict[str, str] = field(default_factory=dict)
    bad: Dict[str, str] = field(default_factory=dict)

    def note_bad(self, utt: str, why: str, wav_scp: str, total: int) -> None:
        """Note unusable audio, or refuse the set."""
        self.bad[utt] = why
        logging.warning(f"{why}; it counts as an empty hypothesis")
        limit_bad(self.bad, total, self.max_bad_share, wav_scp, "the log")


def list_audio(
    wav_scp: str, rate: int, shortest: int, unheard: Optional[Unheard] = None
) -> List[Utterance]:
    """The utterances of a set, by length.

    Args:
        wav_scp: Kaldi's list of audio files.
        rate: samples per second that they must have.
        shortest: samples that an utterance must have.
        unheard: gets those that cannot be used; without it they are refused.

    Returns:
        The others, the shortest first.

    Raises:
        InputError: a file is missing, damaged, too short, or of another format.
    """
    wavs = read_wav_scp(wav_scp)
    utterances: List[Utterance] = []
    short: Dict[str, str] = {}
    for name, path in wavs.items():
        try:
            samples = audio_info(name, path, rate)
        except UnusableAudioError as error:
            if unheard is None:
                raise
            unheard.note_bad(name, str(error), wav_scp, len(wavs))
            continue
        if samples < shortest:
            short[name] = f"{path} has {samples} samples"
        else:
            utterances.append(Utterance(name, path, samples))
    if short and unheard is None:
        listed = [f"utterance {name}: {why}" for name, why in short.items()]
        raise InputError(
            f"{'; '.join(listed[:3])}{f'; {len(listed)} in all' if listed[3:] else ''}:"
            f" too few for the model, which needs {shortest}: remove them from "
            f"{wav_scp}"
        )
    if unheard is not None:
        unheard.short.update(short)
        if short:
            logging.warning(
                f"{len(short)} of {len(wavs)} utterances are too short for the model, "
                f"which needs {shortest} samples, and count as empty hypotheses: "
                f"{shorten(list(short))}"
            )
    utterances.sort(key=lambda u: (u.samples, u.name))
    return utterances


def make_plan(
    wav_scp: str,
    rate: int,
    shortest: int,
    batch_seconds: float,
    longest: Optional[int] = None,
    unheard: Optional[Unheard] = None,
) -> Plan:
    """Divide the data by length.

    Args:
        wav_scp: Kaldi's list of audio files.
        rate: samples per second that they must have.
        shortest: samples that an utterance must have.
        batch_seconds: audio of a batch, padding included; a longer utterance is a
            batch of its own.
        longest: samples that an utterance may have, None for any number.
        unheard: as of `list_audio`.

    Returns:
        The division.

    Raises:
        InputError: as of `list_audio`, or a file is too long.
    """
    utterances = list_audio(wav_scp, rate, shortest, unheard)
    most = utterances[-1].samples if utterances else 0
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
