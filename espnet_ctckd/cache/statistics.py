"""Random access to the posteriors of a cache, utterance by utterance."""

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
        folder: folder of the cache.
        wavs: utterance -> audio file; the audio is compared with the fingerprints in
            the cache. None takes all utterances of the cache, without a comparison.

    Raises:
        InputError: the folder is not a finished cache.
    """

    def __init__(
        self, folder: Pathlike, wavs: Optional[Mapping[str, str]] = None
    ) -> None:
        self.meta = read_meta(folder)
        self.folder = self.meta.folder
        self.token_list, self.blank = self.meta.token_list, self.meta.blank
        self.rate, self.frame_shift = self.meta.rate, self.meta.frame_shift
        self.shortest = 0  # every utterance of a cache has frames
        self._wavs = wavs
        self._scp = read_scp(self.folder / SCP)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the utterances."""
        return iter(self._scp if self._wavs is None else self._wavs)

    def __contains__(self, utt: object) -> bool:
        """Return True if the cache has a record of an utterance."""
        return utt in self._scp

    def stamp(self) -> int:
        """Return a checksum that differs between caches with different posteriors."""
        return file_crc32(self.folder / META)

    def say(self, utt: str) -> FramePosteriors:
        """Return the posteriors of an utterance, as a batch of one.

        Args:
            utt: name of the utterance.

        Raises:
            InputError: the cache does not have the utterance, its record is damaged,
                or the audio differs.
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
                    f"utterance {utt}: {path} is not the audio that the teacher's "
                    f"posteriors in {self.folder} were computed from; dump them again"
                )
        log_probs = torch.from_numpy(found.log_probs).unsqueeze(0)
        ids = None if found.ids is None else torch.from_numpy(found.ids).unsqueeze(0)
        lengths = torch.tensor([log_probs.size(1)])
        return FramePosteriors(log_probs, lengths, self.blank, ids)
