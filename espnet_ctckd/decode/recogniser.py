"""Recognition of a list of audio files with the CTC branch of an ESPnet model."""

import collections
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from espnet_ctckd.cache.plan import Plan, Unheard, Utterance, make_plan
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.containers import UnusableAudioError
from espnet_ctckd.data.files import Pathlike
from espnet_ctckd.data.progress import Progress
from espnet_ctckd.data.spelling import text_maker
from espnet_ctckd.decode.align import align
from espnet_ctckd.decode.pool import Asked, SearchPool
from espnet_ctckd.decode.search import Hypothesis, Search, SearchConfig
from espnet_ctckd.models.ctc_model import CTCModel


@dataclass(frozen=True)
class Speed:
    """Speed and counts of a recognition.

    Attributes:
        audio_seconds: duration of all audio.
        compute_seconds: wall time of front-end, encoder and search, without reading
            and writing of files.
        rtf: compute_seconds / audio_seconds.
        encoder_seconds: wall time of front-end and encoder.
        utterances: number of recognised utterances.
        too_short: number of utterances too short for a frame; their hypotheses are
            empty.
        unusable: number of utterances whose audio cannot be read; likewise.
        frames: number of frames of the model.
        frames_searched: number of frames that Blank Collapse kept.
        parameters: number of the model's parameters that CTC decoding uses.
        device: ``cpu`` or ``cuda``.
        threads: number of CPU threads.
        processes: number of worker processes of the search; 0 for none.
    """

    audio_seconds: float
    compute_seconds: float
    rtf: float
    encoder_seconds: float
    utterances: int
    too_short: int
    unusable: int
    frames: int
    frames_searched: int
    parameters: int
    device: str
    threads: int
    processes: int

    def unheard(self) -> str:
        """Describe the number of empty hypotheses of unusable or too short audio."""
        if not self.too_short + self.unusable:
            return ""
        return (
            f" and {self.too_short + self.unusable} with an empty hypothesis "
            f"({self.too_short} too short, {self.unusable} unusable)"
        )


class TimedWord(NamedTuple):
    """A word with its time and confidence.

    Attributes:
        word: the word.
        start: start in seconds.
        duration: duration in seconds.
        confidence: mean probability of a token in its frames, the minimum over the
            tokens of the word.
    """

    word: str
    start: float
    duration: float
    confidence: float


@dataclass(frozen=True)
class Recognised:
    """Result for a set, by utterance.

    Attributes:
        tokens: tokens of the best hypothesis.
        text: text of the best hypothesis.
        nbest: scores and texts of the n-best hypotheses; empty for n = 1.
        words: timed words of the best hypothesis; empty unless requested.
        speed: speed and counts.
    """

    tokens: Dict[str, List[str]]
    text: Dict[str, str]
    nbest: Dict[str, List[Tuple[float, str]]]
    words: Dict[str, List[TimedWord]]
    speed: Speed

    def summary(self) -> Dict[str, object]:
        """Return the speed, for a JSON file."""
        return asdict(self.speed)


class BatchPosteriors(NamedTuple):
    """The posteriors of a batch, and the seconds that their computation took."""

    batch: Sequence[Utterance]
    log_probs: torch.Tensor  # (B, U, V)
    lengths: torch.Tensor  # (B,)
    seconds: float


# Largest number of batches with a pending search, which limits the memory.
_AHEAD = 16

# A batch, and its audio (S,) each.
Read = Tuple[Sequence[Utterance], List[torch.Tensor]]


class Recogniser(CTCModel):
    """A CTC model that recognises lists of audio files.

    Args:
        config_file: ``config.yaml`` of any ESPnet model with a CTC branch.
        model_file: weights of the model.
        device: ``cpu`` or ``cuda``.

    Raises:
        InputError: the model cannot be used.
    """

    def __init__(
        self, config_file: Pathlike, model_file: Pathlike, device: str = "cpu"
    ) -> None:
        super().__init__(config_file, model_file, device)
        bpemodel = self.args.bpemodel
        if bpemodel is not None and not Path(bpemodel).exists():
            raise InputError(
                f"there is no {bpemodel}, which {config_file} names as bpemodel: "
                "restore it, or export the model again"
            )
        self._text = text_maker(self.args.token_type, bpemodel, self.tokens)

    def frame_seconds(self) -> float:
        """Return the frame shift in seconds."""
        return float(self.frame_shift / self.rate)

    def text(self, hypothesis: Hypothesis, by_words: bool) -> str:
        """Return the text of a hypothesis, from its words or from its tokens."""
        if by_words:
            return " ".join(word for word, _, _ in hypothesis.words)
        named = [self.tokens[token] for token in hypothesis.tokens]
        # Leading, trailing and repeated spaces are not part of a text.
        return " ".join(self._text(named).split())

    def search(self, config: SearchConfig) -> Search:
        """Create a search for the tokens of this model."""
        return Search(config, self.tokens, self.blank, self.token_type)

    def hear(
        self, wav_scp: str, batch_seconds: float, unheard: Optional[Unheard] = None
    ) -> Iterator[BatchPosteriors]:
        """Compute the posteriors of a set in batches by length, and log the progress.

        Args:
            wav_scp: Kaldi's list of audio files.
            batch_seconds: seconds of audio in a batch, padding included.
            unheard: collects the utterances that cannot be used; if None, these are
                refused.

        Yields:
            The posteriors of each batch.

        Raises:
            InputError: audio cannot be used.
        """
        plan = self._plan(wav_scp, batch_seconds, unheard)
        total = sum(u.samples for u in plan.utterances)
        listed = len(plan.utterances) if unheard is None else unheard.total
        done = 0
        with Progress(total / self.rate, "s of audio") as bar:
            for batch, audio in self._read(plan, unheard):
                start = time.perf_counter()
                log_probs, lengths = self.say(audio)
                yield BatchPosteriors(
                    batch, log_probs, lengths, time.perf_counter() - start
                )
                done += len(batch)
                # Utterances with an empty hypothesis count, so that the sum is the
                # length of the list.
                empty = 0 if unheard is None else len(unheard.names)
                bar.set_description_str(
                    f"{done + empty} of {listed} utterances, ", refresh=False
                )
                bar.update(sum(map(len, audio)) / self.rate)

    def read(self, wav_scp: str, batch_seconds: float) -> Iterator[Read]:
        """Read the audio of a set, (S,) each, in batches by length; see `hear`."""
        return self._read(self._plan(wav_scp, batch_seconds))

    def _plan(
        self, wav_scp: str, batch_seconds: float, unheard: Optional[Unheard] = None
    ) -> Plan:
        return make_plan(
            wav_scp, self.rate, self.shortest, batch_seconds, unheard=unheard
        )

    def _read(self, plan: Plan, unheard: Optional[Unheard] = None) -> Iterator[Read]:
        for batch in (batch for shard in plan.shards for batch in shard):
            usable, audio = [], []
            for utterance in batch:
                try:
                    read = read_audio(utterance.name, utterance.path, self.rate)
                except UnusableAudioError as error:  # damaged behind its header
                    if unheard is None:
                        raise
                    unheard.note_bad({utterance.name: str(error)})
                    continue
                usable.append(utterance)
                audio.append(torch.from_numpy(read))
            if usable:
                yield usable, audio

    @torch.inference_mode()
    def say(self, audio: List[torch.Tensor]) -> Tuple[torch.Tensor, torch.Tensor]:
        """Compute log-probabilities (B, U, V) and lengths (B,) of audio, (S,) each."""
        return self.log_probs(audio)


def recognise(
    model: Recogniser,
    wav_scp: str,
    batch_seconds: float,
    config: SearchConfig,
    processes: int = 0,
    times: bool = False,
    max_bad_share: float = 0.0,
) -> Recognised:
    """Decode a set in batches by length.

    Args:
        model: computes the posteriors.
        wav_scp: Kaldi's list of audio files.
        batch_seconds: seconds of audio in a batch, padding included.
        config: options of the search.
        processes: number of processes that search in parallel to the model; 0 searches
            in this process.
        times: True to compute the time of each word.
        max_bad_share: largest percentage of utterances with unusable audio.

    Returns:
        Tokens, text and speed. Audio that is too short or unusable has an empty
        hypothesis.

    Raises:
        InputError: audio or a file of the search cannot be used.
    """
    pool = SearchPool(model.search(config), processes)
    shift = model.frame_seconds() if times else 0.0
    found: Dict[str, List[Hypothesis]] = {}
    words: Dict[str, List[TimedWord]] = {}
    encoder = search = 0.0
    samples = frames = searched = 0
    asked: Deque[Tuple[BatchPosteriors, Sequence[Asked]]] = collections.deque()

    def finish(most: int) -> None:
        """Collect answers until at most so many batches are pending."""
        nonlocal search, searched
        while len(asked) > most:
            posteriors, awaited = asked.popleft()
            start = time.perf_counter()
            answers = [pool.answer(each) for each in awaited]
            search += time.perf_counter() - start
            for i, (utterance, (hypotheses, count)) in enumerate(
                zip(posteriors.batch, answers)
            ):
                found[utterance.name] = hypotheses
                searched += count
                if times:
                    length = int(posteriors.lengths[i])
                    log_probs = posteriors.log_probs[i, :length].cpu().numpy()
                    seconds = utterance.samples / model.rate
                    words[utterance.name] = _timed(
                        log_probs, hypotheses[0], model.blank, shift, seconds
                    )

    unheard = Unheard(max_bad_share, wav_scp)
    for computed in model.hear(wav_scp, batch_seconds, unheard):
        start = time.perf_counter()
        awaited = pool.ask(computed.log_probs, computed.lengths)
        search += time.perf_counter() - start
        asked.append((computed, awaited))
        encoder += computed.seconds
        samples += sum(utterance.samples for utterance in computed.batch)
        frames += int(computed.lengths.sum())
        finish(_AHEAD)
    finish(0)
    pool.close()
    recognised = len(found)
    for utt in unheard.names:
        found[utt] = [Hypothesis((), (), 0.0)]
        if times:
            words[utt] = []
    duration = samples / model.rate
    speed = Speed(
        audio_seconds=duration,
        compute_seconds=encoder + search,
        rtf=(encoder + search) / duration if duration else 0.0,
        encoder_seconds=encoder,
        utterances=recognised,
        too_short=len(unheard.short),
        unusable=len(unheard.bad),
        frames=frames,
        frames_searched=searched,
        parameters=model.parameters,
        device=model.device,
        threads=torch.get_num_threads(),
        processes=processes,
    )
    by_words = config.lexicon is not None
    best = {utt: hypotheses[0] for utt, hypotheses in found.items()}
    return Recognised(
        tokens={utt: [model.tokens[t] for t in h.tokens] for utt, h in best.items()},
        text={utt: model.text(h, by_words) for utt, h in best.items()},
        nbest={
            utt: _distinct([(h.score, model.text(h, by_words)) for h in hypotheses])
            for utt, hypotheses in found.items()
            if config.nbest > 1
        },
        words=words,
        speed=speed,
    )


def _distinct(scored: Sequence[Tuple[float, str]]) -> List[Tuple[float, str]]:
    """Keep the best of the hypotheses that differ only in spaces."""
    best: Dict[str, float] = {}
    for score, text in scored:
        best.setdefault(text, score)
    return [(score, text) for text, score in best.items()]


def _timed(
    log_probs: np.ndarray,
    hypothesis: Hypothesis,
    blank: int,
    shift: float,
    seconds: float,
) -> List[TimedWord]:
    """Return the timed words of a hypothesis, from its alignment to all frames.

    Args:
        log_probs: (U, V).
        hypothesis: the hypothesis.
        blank: index of the blank.
        shift: frame shift in seconds.
        seconds: duration of the audio; the last frame may end later.
    """
    spans = align(log_probs, hypothesis.tokens, blank)
    words = []
    for word, first, after in hypothesis.words:
        start = spans[first].start * shift
        end = min(spans[after - 1].end * shift, seconds)
        confidence = min(span.confidence for span in spans[first:after])
        words.append(TimedWord(word, start, end - start, confidence))
    return words
