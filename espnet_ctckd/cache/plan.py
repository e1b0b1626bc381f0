"""Division of the data of a cache into shards of batches, from their lengths alone."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

from espnet_ctckd.choices import InputError
from espnet_ctckd.data import (
    UNUSABLE,
    UnusableAudioError,
    audio_info,
    limit_bad,
    read_scp,
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
        bad: utterance -> why its audio cannot be used, or is too long for the model.
    """

    max_bad_share: float
    short: Dict[str, str] = field(default_factory=dict)
    bad: Dict[str, str] = field(default_factory=dict)

    def note_bad(self, utt: str, why: str, wav_scp: str, total: int) -> None:
        """Note unusable audio, or refuse the set."""
        self.note_all_bad({utt: why}, wav_scp, total)

    def note_all_bad(self, bad: Mapping[str, str], wav_scp: str, total: int) -> None:
        """Note several, all of them before the set is refused."""
        self.bad.update(bad)
        for why in bad.values():
            logging.warning(f"{why}; it counts as an empty hypothesis")
        limit_bad(self.bad, total, self.max_bad_share, wav_scp, "the log")


def list_audio(
    wav_scp: str,
    rate: int,
    shortest: int,
    unheard: Optional[Unheard] = None,
    longest: Optional[int] = None,
) -> List[Utterance]:
    """The utterances of a set, by length.

    Args:
        wav_scp: Kaldi's list of audio files.
        rate: samples per second that they must have.
        shortest: samples that an utterance must have.
        unheard: gets those that cannot be used; without it they are refused.
        longest: samples that an utterance may have, None for any number.

    Returns:
        The others, the shortest first.

    Raises:
        InputError: files are missing, damaged, too short, too long, or of another
            format.
    """
    wavs = read_wav_scp(wav_scp)
    utterances: List[Utterance] = []
    short: Dict[str, str] = {}
    bad = {} if unheard is None else _found_unusable(wav_scp, wavs)
    for name, path in wavs.items():
        if name in bad:
            continue
        try:
            samples = audio_info(name, path, rate)
        except UnusableAudioError as error:
            bad[name] = str(error)
            continue
        if samples < shortest:
            short[name] = f"{path} has {samples} samples"
        elif longest is not None and samples > longest:
            bad[name] = (
                f"utterance {name}: {path} has {samples / rate:g} s, and the model "
                f"hears {longest / rate:g} s at most: segment it, or remove it from "
                f"{wav_scp} (--max_wav_duration)"
            )
        else:
            utterances.append(Utterance(name, path, samples))
    if unheard is None:
        _refuse(bad, short, shortest, wav_scp)
    else:
        unheard.note_all_bad(bad, wav_scp, len(wavs))
        unheard.short.update(short)
        if short:
            logging.warning(
                f"{len(short)} of {len(wavs)} utterances are too short for the model, "
                f"which needs {shortest} samples, and count as empty hypotheses: "
                f"{shorten(list(short))}"
            )
    utterances.sort(key=lambda u: (u.samples, u.name))
    return utterances


def _refuse(
    bad: Mapping[str, str], short: Mapping[str, str], shortest: int, wav_scp: str
) -> None:
    """Refuse a set with utterances that cannot be used, naming the first few."""
    if bad:
        whys = list(bad.values())
        more = f"; {len(whys)} such utterances in all" if whys[1:] else ""
        raise InputError(f"{'; '.join(whys[:3])}{more}")
    if short:
        whys = [f"utterance {name}: {why}" for name, why in short.items()]
        more = f"; {len(whys)} in all" if whys[3:] else ""
        raise InputError(
            f"{'; '.join(whys[:3])}{more}, too few for the model, which needs "
            f"{shortest}: remove them from {wav_scp}"
        )


def _found_unusable(wav_scp: str, wavs: Mapping[str, str]) -> Dict[str, str]:
    """Utterances that format_audio has listed beside a wav.scp, and why."""
    path = Path(wav_scp).with_name(UNUSABLE)
    if not path.exists() or path.stat().st_size == 0:
        return {}
    return {utt: why for utt, why in read_scp(path).items() if utt in wavs}


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
        InputError: as of `list_audio`.
    """
    utterances = list_audio(wav_scp, rate, shortest, unheard, longest)
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
