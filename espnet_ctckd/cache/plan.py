"""Division of the data of a cache into shards of batches, by length."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import EmptyAudioError, audio_info
from espnet_ctckd.data.batches import batch_by_length
from espnet_ctckd.data.containers import UnusableAudioError
from espnet_ctckd.data.files import shorten
from espnet_ctckd.data.kaldi import (
    UNUSABLE,
    limit_bad,
    read_scp,
    read_wav_scp,
    refuse_all_bad,
)

# A killed job loses one shard: 1/64 of the data, but between 20 s and 1 h of audio.
_SHARD_SECONDS = (20.0, 3600.0)
_SHARDS_WANTED = 64
# Number of utterances that an error or a warning names.
_NAMED = 50


@dataclass(frozen=True)
class Utterance:
    """One line of ``wav.scp``, with the number of samples of its file."""

    name: str
    path: str
    samples: int


@dataclass(frozen=True)
class Plan:
    """Shards of batches of utterances."""

    shards: Sequence[Sequence[Sequence[Utterance]]]
    rate: int

    @property
    def utterances(self) -> List[Utterance]:
        """All utterances, in the order of the shards."""
        return [u for shard in self.shards for batch in shard for u in batch]


@dataclass
class Unheard:
    """Utterances without any frame, whose hypotheses are empty.

    Attributes:
        max_bad_share: largest percentage of utterances with unusable audio; unless it
            is 0, one utterance is always allowed, but never all of a set.
        wav_scp: Kaldi's list of audio files.
        total: number of utterances of the set.
        short: utterance -> why it is too short for the model.
        bad: utterance -> why its audio cannot be used, or is too long for the model.
    """

    max_bad_share: float
    wav_scp: str
    total: int = 0
    short: Dict[str, str] = field(default_factory=dict)
    bad: Dict[str, str] = field(default_factory=dict)

    def note_bad(self, bad: Mapping[str, str]) -> None:
        """Record unusable audio, and warn of each utterance.

        Args:
            bad: utterance -> why its audio cannot be used.

        Raises:
            InputError: there are more unusable utterances than `max_bad_share`
                allows, or no usable ones.
        """
        for utt, why in bad.items():
            self.bad[utt] = why
            logging.warning(f"{why.rstrip('.')}. It counts as an empty hypothesis")
        possible = self.total - len(self.short)
        refuse_all_bad(self.bad, possible, self.wav_scp, "the log")
        limit_bad(self.bad, self.total, self.max_bad_share, self.wav_scp, "the log")

    def note_short(self, short: Mapping[str, str]) -> None:
        """Record utterances that are too short, with one warning.

        Args:
            short: utterance -> why it is too short.
        """
        self.short.update(short)
        if short:
            logging.warning(
                f"{len(short)} of {self.total} utterances are too short for the model, "
                f"and count as empty hypotheses: {shorten(list(short), _NAMED)}"
            )

    @property
    def names(self) -> List[str]:
        """Names of all these utterances."""
        return [*self.short, *self.bad]


def list_audio(
    wav_scp: str,
    rate: int,
    shortest: int,
    longest: Optional[int] = None,
    unheard: Optional[Unheard] = None,
) -> List[Utterance]:
    """List the utterances of a set by length.

    Args:
        wav_scp: Kaldi's list of audio files.
        rate: required sample rate in Hz.
        shortest: smallest number of samples of an utterance.
        longest: largest number of samples of an utterance; None for no limit.
        unheard: collects utterances that are too short or unusable; if None, these
            are refused.

    Returns:
        The usable utterances, the shortest first.

    Raises:
        InputError: files are missing, damaged, too short, too long, or of another
            format; all of these utterances are named.
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
        except EmptyAudioError:
            samples = 0
        except UnusableAudioError as error:
            bad[name] = str(error)
            continue
        where = f"utterance {name}: {path} has"
        if samples < shortest:
            short[name] = (
                f"{where} {samples} samples, too few for the model, which needs "
                f"{shortest}: remove it from {wav_scp}"
            )
        elif longest is not None and samples > longest:
            bad[name] = (
                f"{where} {samples / rate:g} s, and the model hears "
                f"{longest / rate:g} s at most: segment it, or remove it from "
                f"{wav_scp} (--max_wav_duration)"
            )
        else:
            utterances.append(Utterance(name, path, samples))
    wrong = {**bad, **short}
    if unheard is not None:
        unheard.total = len(wavs)
        unheard.note_short(short)
        unheard.note_bad(bad)
    elif wrong:
        first = next(iter(wrong.values()))
        more = f". So it is with {len(wrong)} of {len(wavs)} utterances of {wav_scp}: "
        named = more + shorten(list(wrong), _NAMED) if len(wrong) > 1 else ""
        raise InputError(first.rstrip(".") + named)
    utterances.sort(key=lambda u: (u.samples, u.name))
    return utterances


def _found_unusable(wav_scp: str, wavs: Mapping[str, str]) -> Dict[str, str]:
    """Read the utterances that format_audio listed as unusable, with the reasons."""
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
    """Divide the data into shards and batches, by length.

    Args:
        wav_scp: Kaldi's list of audio files.
        rate: required sample rate in Hz.
        shortest: smallest number of samples of an utterance.
        batch_seconds: seconds of audio in a batch, padding included; a longer
            utterance is a batch by itself.
        longest: largest number of samples of an utterance; None for no limit.
        unheard: see `list_audio`.

    Returns:
        The plan.

    Raises:
        InputError: see `list_audio`.
    """
    utterances = list_audio(wav_scp, rate, shortest, longest, unheard)
    batches = batch_by_length(utterances, lambda u: u.samples, batch_seconds * rate)
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
