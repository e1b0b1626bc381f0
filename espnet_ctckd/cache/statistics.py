"""What a cache says, utterance by utterance, in any order."""

from typing import Iterator, Mapping, Optional

import torch

from espnet_ctckd.cache.reader import META, SCP, read_meta
from espnet_ctckd.cache.record import fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.files import Pathlike, file_crc32, shorten
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.posteriors import FramePosteriors


class Cached:
    """The posteriors of a cache.

    Args:
        folder: of the cache.
        wavs: utterance -> audio file, of the utterances to ask for; without it those
            of the cache are, and no audio is held against them.

    Raises:
        InputError: it is not a finished cache.
    """

    def __init__(
        self, folder: Pathlike, wavs: Optional[Mapping[str, str]] = None
    ) -> None:
        self.meta = read_meta(folder)
        self.folder = self.meta.folder
        self.token_list, self.blank = self.meta.token_list, self.meta.blank
        self.rate, self.frame_shift = self.meta.rate, self.meta.frame_shift
        self.shortest = 0  # what it holds, it has frames of
        self._wavs = wavs
        self._scp = read_scp(self.folder / SCP)

    def __iter__(self) -> Iterator[str]:
        """The utterances."""
        return iter(self._scp if self._wavs is None else self._wavs)

    def __contains__(self, utt: object) -> bool:
        """Whether it says something of an utterance."""
        return utt in self._scp

    def stamp(self) -> int:
        """Differs between caches that say something else."""
        return file_crc32(self.folder / META)

    def say(self, utt: str) -> FramePosteriors:
        """What it says of an utterance, as a batch of one.

        Args:
            utt: its name.

        Raises:
            InputError: it has none of that name, its record is damaged, or it is of
                other audio.
        """
        if utt not in self._scp:
            raise InputError(
                f"the cache {self.folder} has no utterance {utt!r}; it has "
                f"{shorten(list(self._scp))}"
            )
        found = self.meta.read(utt, self._scp[utt])
        if self._wavs is not None:
            path = self._wavs[utt]
            if fingerprint(read_audio(utt, path, self.rate)) != found.audio:
                raise InputError(
                    f"utterance {utt}: {path} is not the audio that the teacher of "
                    f"{self.folder} heard; dump it again"
                )
        log_probs = torch.from_numpy(found.log_probs).unsqueeze(0)
        ids = None if found.ids is None else torch.from_numpy(found.ids).unsqueeze(0)
        lengths = torch.tensor([log_probs.size(1)])
        return FramePosteriors(log_probs, lengths, self.blank, ids)
