"""Recognise a list of audio files with the CTC branch of an ESPnet model."""

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
    """What a recognition took.

    Attributes:
        audio_seconds: length of all audio.
        compute_seconds: wall time of front-end, encoder and search; files are read
            before and written after.
        rtf: compute_seconds / audio_seconds.
        encoder_seconds: of it, front-end and encoder.
        utterances: how many were recognised.
        too_short: others that make no frame, whose hypotheses are empty.
        unusable: others whose audio cannot be read, likewise.
        frames: of the model, in all.
        frames_searched: of them, what Blank Collapse has left.
        parameters: of the model, as far as CTC decoding uses it.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU.
        processes: that search; 0 where the main one does.
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
        """How many hypotheses are empty since there was nothing to recognise."""
        if not self.too_short + self.unusable:
            return ""
        return (
            f" and {self.too_short + self.unusable} with an empty hypothesis "
            f"({self.too_short} too short, {self.unusable} unusable)"
        )


class TimedWord(NamedTuple):
    """A word, when it is said, and how sure of it the model is.

    Attributes:
        word: it.
        start: seconds.
        duration: seconds.
        confidence: the least mean probability of its tokens in their frames.
    """

    word: str
    start: float
    duration: float
    confidence: float


@dataclass(frozen=True)
class Recognised:
    """Result for a set, by utterance.

    Attributes:
        tokens: of the best hypothesis.
        text: likewise.
        nbest: scores and texts, where several were asked for.
        words: of the best hypothesis, where times were asked for.
        speed: what it took.
    """

    tokens: Dict[str, List[str]]
    text: Dict[str, str]
    nbest: Dict[str, List[Tuple[float, str]]]
    words: Dict[str, List[TimedWord]]
    speed: Speed

    def summary(self) -> Dict[str, object]:
        """The speed, for a JSON file."""
        return asdict(self.speed)


class BatchPosteriors(NamedTuple):
    """A batch, and what the model says of it."""

    batch: Sequence[Utterance]
    log_probs: torch.Tensor  # (B, U, V)
    lengths: torch.Tensor  # (B,)
    seconds: float


# Batches whose search is waited for at a time: what is kept of a long set.
_AHEAD = 16

# A batch, and its audio (S,) each.
Read = Tuple[Sequence[Utterance], List[torch.Tensor]]


class Recogniser(CTCModel):
    """A CTC model that recognises lists of audio files.

    Args:
        config_file: ``config.yaml`` of a model with a CTC branch, ours or not.
        model_file: weights.
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
        """Seconds from one frame to the next."""
        return float(self.frame_shift / self.rate)

    def text(self, hypothesis: Hypothesis, by_words: bool) -> str:
        """What is written of a hypothesis."""
        if by_words:
            return " ".join(word for word, _, _ in hypothesis.words)
        named = [self.tokens[token] for token in hypothesis.tokens]
        # Spaces that were said before, after or twice are no part of a text.
        return " ".join(self._text(named).split())

    def search(self, config: SearchConfig) -> Search:
        """A search in the tokens of this model."""
        return Search(config, self.tokens, self.blank, self.token_type)

    def hear(
        self, wav_scp: str, batch_seconds: float, unheard: Optional[Unheard] = None
    ) -> Iterator[BatchPosteriors]:
        """Posteriors of a set, batch by batch, by length; logs how far it is.

        Args:
            wav_scp: Kaldi's list of audio files.
            batch_seconds: audio of a batch, padding included.
            unheard: gets the utterances that cannot be used; without it they are
                refused.

        Yields:
            Each batch, with what it took.

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
                # With those that have an empty hypothesis, so that all come to the
                # list.
                empty = 0 if unheard is None else len(unheard.names)
                bar.set_description_str(
                    f"{done + empty} of {listed} utterances, ", refresh=False
                )
                bar.update(sum(map(len, audio)) / self.rate)

    def read(self, wav_scp: str, batch_seconds: float) -> Iterator[Read]:
        """The audio of a set (S,) each, batch by batch, by length; as `hear`."""
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
        """Log-probabilities (B, U, V) and lengths (B,) of audio, (S,) each."""
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
    """Decode, in batches by length.

    Args:
        model: says the posteriors.
        wav_scp: Kaldi's list of audio files.
        batch_seconds: audio of a batch, padding included.
        config: of the search.
        processes: that search beside the model; 0 searches in this one.
        times: whether to say when each word was said.
        max_bad_share: percent of the utterances whose audio may be unusable.

    Returns:
        Tokens, text and speed; of what is too short or unusable an empty hypothesis.

    Raises:
        InputError: audio or a file of the search cannot be used.
    """
    searching = SearchPool(model.search(config), processes)
    shift = model.frame_seconds() if times else 0.0
    found: Dict[str, List[Hypothesis]] = {}
    words: Dict[str, List[TimedWord]] = {}
    encoder = search = 0.0
    samples = frames = searched = 0
    asked: Deque[Tuple[BatchPosteriors, Sequence[Asked]]] = collections.deque()

    def finish(most: int) -> None:
        """Take answers, until as many batches at most are asked for."""
        nonlocal search, searched
        while len(asked) > most:
            heard, awaited = asked.popleft()
            start = time.perf_counter()
            answers = [searching.answer(each) for each in awaited]
            search += time.perf_counter() - start
            for i, (utterance, (hypotheses, count)) in enumerate(
                zip(heard.batch, answers)
            ):
                found[utterance.name] = hypotheses
                searched += count
                if times:
                    said = heard.log_probs[i, : heard.lengths[i]].cpu().numpy()
                    seconds = utterance.samples / model.rate
                    words[utterance.name] = _timed(
                        said, hypotheses[0], model.blank, shift, seconds
                    )

    unheard = Unheard(max_bad_share, wav_scp)
    for heard in model.hear(wav_scp, batch_seconds, unheard):
        start = time.perf_counter()
        awaited = searching.ask(heard.log_probs, heard.lengths)
        search += time.perf_counter() - start
        asked.append((heard, awaited))
        encoder += heard.seconds
        samples += sum(utterance.samples for utterance in heard.batch)
        frames += int(heard.lengths.sum())
        finish(_AHEAD)
    finish(0)
    searching.close()
    heard_of = len(found)
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
        utterances=heard_of,
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
    """Of hypotheses that differ in spaces alone, the best."""
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
    """When the words of a hypothesis are said, by its alignment to all frames.

    The last frame may reach beyond the audio, which lasts so many seconds.
    """
    spans = align(log_probs, hypothesis.tokens, blank)
    words = []
    for word, first, after in hypothesis.words:
        start = spans[first].start * shift
        end = min(spans[after - 1].end * shift, seconds)
        sure = min(span.confidence for span in spans[first:after])
        words.append(TimedWord(word, start, end - start, sure))
    return words
