"""Checks that a cache matches the audio, the transcripts and the student."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import (
    Callable,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

import numpy as np

from espnet_ctckd.cache.reader import (
    SCP,
    UTT2AUDIO,
    UTT2FRAMES,
    CacheMeta,
    read_audio_list,
    read_meta,
)
from espnet_ctckd.cache.record import Audio, fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import audio_info, read_audio
from espnet_ctckd.data.files import Pathlike, file_crc32, shorten
from espnet_ctckd.data.kaldi import read_scp, read_wav_scp
from espnet_ctckd.frames import check_shift
from espnet_ctckd.tokens import DROPPED, MOST_DROPPED, map_tokens

# Highest share of unknown labels: a few odd characters are below it, wrong case is not.
_MOST_UNKNOWN = 0.1

# A batch of a single frame has no variance, so it cannot be normalised.
LEAST_FRAMES = 2

_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Student:
    """A student's requirements for the cache and the transcripts.

    Attributes:
        token_list: V tokens.
        blank: index of the blank.
        frame_shift: samples from one frame to the next.
        shortest: smallest number of samples that gives one frame.
        frame_ratio: configured teacher frames per student frame.
        labels: maps a transcript to token ids.
        unknown: id of the unknown token, or None.
        needs_dense: True if the target needs the posteriors of all tokens.
        needs_labels: True if the student is trained on transcripts.
    """

    token_list: Sequence[str]
    blank: int
    frame_shift: Fraction
    shortest: int
    frame_ratio: Fraction
    labels: Callable[[str], Sequence[int]]
    unknown: Optional[int] = None
    needs_dense: bool = False
    needs_labels: bool = True

    def frames(self, samples: int) -> int:
        """Return the number of frames for a number of samples."""
        if samples < self.shortest:
            return 0
        return int((samples - self.shortest) // self.frame_shift) + 1

    def misfit(self, samples: int, transcript: Optional[str]) -> Optional[str]:
        """Return why the student cannot be trained on an utterance, or None.

        Args:
            samples: length of the audio.
            transcript: text of the utterance, or None if unlabelled.
        """
        frames = self.frames(samples)
        if frames < LEAST_FRAMES:
            return f"too short: {samples} samples make {frames} frames of the student"
        if transcript is None or not self.needs_labels:
            return None
        labels = self.labels(transcript)
        needs = len(labels) + sum(a == b for a, b in pairwise(labels))
        if needs > frames:
            return f"{len(labels)} labels need {needs} frames, and it has {frames}"
        if self.unknown in labels:
            return f"the tokens do not spell its transcript: {transcript}"
        return None


def check_cache(
    cache: Pathlike,
    wav_scp: Pathlike,
    text: Optional[Pathlike] = None,
    student: Optional[Student] = None,
    audio_sample: Optional[int] = None,
) -> CacheMeta:
    """Refuse a cache that does not match the data or the student.

    Args:
        cache: folder of the cache.
        wav_scp: ``wav.scp`` of the training data.
        text: ``text`` of the training data; None for unlabelled data.
        student: requirements of the student; None checks the data only.
        audio_sample: number of utterances, evenly spread, whose audio is read and
            compared with the fingerprints in the cache; None reads all. The lengths
            of all utterances are compared in any case.

    Returns:
        The metadata of the cache.

    Raises:
        InputError: the cache does not match.
    """
    meta = read_meta(cache)
    check_files(meta, {**meta.files, **meta.arks})
    wavs = read_wav_scp(wav_scp)
    cached = read_scp(meta.folder / SCP)
    check_listed(meta, cached)
    _check_utterances(meta, cached, wavs, wav_scp)
    audio_list = read_audio_list(meta)
    check_records(meta, cached)
    _check_audio(meta, wavs, audio_list, audio_sample)
    if student is not None:
        check_dropped(meta, match_student(meta, student))
        check_frame_ratio(meta, student.frame_shift, student.frame_ratio)
        if student.needs_dense:
            check_dense(meta)
        _check_lengths(student, wavs, wav_scp, audio_list)
    if text is not None:
        _check_text(text, wavs, audio_list, student)
    return meta


def match_student(meta: CacheMeta, student: Student) -> Optional[List[int]]:
    """Map the tokens of a cache to the student's token list; see `map_tokens`."""
    return map_tokens(
        meta.token_list,
        meta.blank,
        student.token_list,
        student.blank,
        f"cache {meta.folder}",
    )


def check_files(meta: CacheMeta, files: Mapping[str, Tuple[int, int]]) -> None:
    """Refuse missing or damaged files of a cache.

    Args:
        meta: metadata of the cache.
        files: path inside the folder -> size in bytes and crc32.

    Raises:
        InputError: files are missing or damaged; the first few are named.
    """

    def compare(entry: Tuple[str, Tuple[int, int]]) -> Optional[str]:
        name, (size, crc) = entry
        path = meta.folder / name
        if not path.exists():
            return f"{path} is not there"
        has = path.stat().st_size
        if has != size:
            return f"{path} has {has} bytes; {size} were written"
        if file_crc32(path) != crc:
            return f"{path} is damaged: it is not what was written (crc32)"
        return None

    _refuse_all(meta, _in_parallel(compare, files.items()))


def check_listed(meta: CacheMeta, scp: Mapping[str, str]) -> None:
    """Refuse a list of records whose utterances differ from the dumped ones."""
    written = set(read_scp(meta.folder / UTT2FRAMES))
    differs = sorted(written ^ set(scp))
    if differs:
        raise InputError(
            f"{meta.folder / SCP} and {meta.folder / UTT2FRAMES} have not the same "
            f"utterances: {shorten(differs)}. Delete the folder and dump the teacher "
            "again"
        )


def check_records(meta: CacheMeta, scp: Mapping[str, str]) -> None:
    """Open every record of a list, and compare it with the other lists.

    Args:
        meta: metadata of the cache.
        scp: utterance -> location of its record.

    Raises:
        InputError: records do not match the lists; the first few are named.
    """
    frames = read_scp(meta.folder / UTT2FRAMES)
    audio = read_scp(meta.folder / UTT2AUDIO)

    def compare(entry: Tuple[str, str]) -> Optional[str]:
        utt, place = entry
        try:
            record = meta.read(utt, place)
        except InputError as error:
            return str(error)
        found = (str(len(record.log_probs)), record.audio.entry)
        if found != (frames.get(utt), audio.get(utt)):
            return f"utterance {utt}: {place} is not of the frames or audio listed"
        return None

    _refuse_all(meta, _in_parallel(compare, scp.items()))


def _in_parallel(
    compare: Callable[[_Entry], Optional[str]], entries: Iterable[_Entry]
) -> List[str]:
    """Collect the errors of many comparisons, made in threads.

    Checksums and decompression release the interpreter lock.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [wrong for wrong in pool.map(compare, entries) if wrong]


def _refuse_all(meta: CacheMeta, wrong: Sequence[str], most: int = 3) -> None:
    if wrong:
        more = f"; and {len(wrong) - most} more" if len(wrong) > most else ""
        raise InputError(
            f"{'; '.join(wrong[:most])}{more}. Delete {meta.folder} and dump the "
            "teacher again"
        )


def _check_utterances(
    meta: CacheMeta,
    cached: Mapping[str, str],
    wavs: Mapping[str, str],
    wav_scp: Pathlike,
) -> None:
    for utt, place in cached.items():
        meta.locate(utt, place)
    lacks = [u for u in wavs if u not in cached]
    if lacks:
        raise InputError(
            f"the cache {meta.folder} lacks {len(lacks)} of {len(wavs)} utterances of "
            f"{wav_scp}: {shorten(lacks)}. Dump the teacher for this data"
        )


def _check_audio(
    meta: CacheMeta,
    wavs: Mapping[str, str],
    audio_list: Mapping[str, Audio],
    sample: Optional[int],
) -> None:
    listed = list(wavs)
    step = 1 if sample is None else max(1, len(listed) // max(sample, 1))
    read = set(listed[::step])

    def compare(entry: Tuple[str, str]) -> Optional[str]:
        utt, path = entry
        samples = audio_info(utt, path, meta.rate)
        if samples != audio_list[utt].samples:
            return (
                f"utterance {utt}: {path} has {samples} samples; the teacher heard "
                f"{audio_list[utt].samples}"
            )
        if utt not in read:
            return None
        ours = fingerprint(read_audio(utt, path, meta.rate))
        if ours == audio_list[utt]:
            return None
        return (
            f"utterance {utt}: {path} is not what the teacher heard (crc32 "
            f"{ours.crc32:08x}, not {audio_list[utt].crc32:08x})"
        )

    wrong = _in_parallel(compare, wavs.items())
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"{'; '.join(wrong[:3])}{more}. The cache {meta.folder} belongs to other "
            "audio: dump the teacher for this data"
        )


def check_frame_ratio(meta: CacheMeta, shift: Fraction, asked: Fraction) -> None:
    """Refuse a cache whose frame rate differs from the configured ratio.

    Args:
        meta: metadata of the cache.
        shift: frame shift of the student in samples.
        asked: ``frame_ratio``, teacher frames per student frame.

    Raises:
        InputError: the frame rates do not match.
    """
    check_shift(f"the cache {meta.folder}", meta.frame_shift, meta.rate, shift, asked)


def check_dropped(
    meta: CacheMeta, index: Optional[Sequence[int]], sample: int = 100
) -> float:
    """Refuse a cache with much probability on tokens that the student lacks.

    Args:
        meta: metadata of the cache.
        index: from `map_tokens`.
        sample: number of utterances that are read, evenly spread.

    Returns:
        The share of the probability that is dropped.

    Raises:
        InputError: the share is greater than `MOST_DROPPED`.
    """
    if index is None or DROPPED not in index:
        return 0.0
    scp = read_scp(meta.folder / SCP)
    total, frames = np.zeros(len(meta.token_list)), 0
    for utt in list(scp)[:: max(1, len(scp) // sample)]:
        record = meta.read(utt, scp[utt])
        probs = np.exp(record.log_probs.astype(np.float64))
        frames += len(probs)
        if record.ids is None:
            total += probs.sum(0)
        else:
            np.add.at(total, record.ids, probs)
    lost = np.where(np.asarray(index) == DROPPED, total, 0.0) / max(frames, 1)
    share = float(lost.sum())
    if share > MOST_DROPPED:
        worst = [meta.token_list[i] for i in np.argsort(-lost)[:5] if lost[i] > 0]
        raise InputError(
            f"the student lacks tokens that have {100 * share:.1f} % of the mass of "
            f"the cache {meta.folder}, first of all {', '.join(map(repr, worst))}: at "
            f"most {100 * MOST_DROPPED:g} % is left out. Train the student with a "
            "token list that has them, each on a line of its own"
        )
    return share


def check_dense(meta: CacheMeta) -> None:
    """Refuse a top-K cache for a target that needs the posteriors of all tokens.

    Args:
        meta: metadata of the cache.

    Raises:
        InputError: the cache holds the top K tokens only.
    """
    if meta.codec.kept is not None:
        raise InputError(
            "kd.target is 'occupancies', which need the posteriors of all tokens, and "
            f"the cache {meta.folder} keeps {meta.codec.kept} of a frame: dump the "
            "teacher without --top_k"
        )


def _check_lengths(
    student: Student,
    wavs: Mapping[str, str],
    wav_scp: Pathlike,
    audio_list: Mapping[str, Audio],
) -> None:
    misfits = {utt: student.misfit(audio_list[utt].samples, None) for utt in wavs}
    short = [f"{utt} is {why}" for utt, why in misfits.items() if why is not None]
    if short:
        raise InputError(
            f"the student cannot be trained on {len(short)} of {len(wavs)} utterances "
            f"of {wav_scp}: {shorten(short, 3)}. Leave them out (`python -m "
            "espnet_ctckd.bin.filter_data --asr_config …`; the cache may hold more "
            "than the data)"
        )


def _check_text(
    text: Pathlike,
    wavs: Mapping[str, str],
    audio_list: Mapping[str, Audio],
    student: Optional[Student],
) -> None:
    transcripts = read_scp(text)
    lacks = [u for u in wavs if u not in transcripts]
    if lacks:
        raise InputError(
            f"{text} lacks {len(lacks)} of {len(wavs)} utterances: {shorten(lacks)}. "
            "Transcribe or remove them, or train with kd.weight: 1, without text"
        )
    empty = [u for u in wavs if not transcripts[u]]
    if empty:
        raise InputError(
            f"{text} has {len(empty)} empty transcripts: {shorten(empty)}. Transcribe "
            "or remove them, or train with kd.weight: 1, without text"
        )
    if student is not None:
        samples = {utt: audio_list[utt].samples for utt in wavs}
        check_transcripts(text, transcripts, samples, student)


def check_transcripts(
    text: Pathlike,
    transcripts: Mapping[str, str],
    samples: Mapping[str, int],
    student: Student,
) -> None:
    """Refuse transcripts that CTC cannot align, or that the tokens do not spell.

    Args:
        text: path of the transcripts, for the error.
        transcripts: utterance -> text.
        samples: utterance -> length of the audio; these utterances are checked.
        student: gives the numbers of frames and the labels.

    Raises:
        InputError: an utterance has too few frames, or too many labels are unknown.
    """
    total, unknown, unfit = 0, [], []
    for utt, size in samples.items():
        labels = student.labels(transcripts[utt])
        total += len(labels)
        unknown += [utt for label in labels if label == student.unknown]
        needs = len(labels) + sum(a == b for a, b in pairwise(labels))
        frames = student.frames(size)
        if needs > frames:
            unfit.append(
                f"{utt} needs {needs} frames for its {len(labels)} labels, and has "
                f"{frames}"
            )
    if unfit:
        raise InputError(
            f"CTC cannot align {len(unfit)} utterances of {text}: {shorten(unfit, 3)}. "
            "Leave them out (`python -m espnet_ctckd.bin.filter_data --asr_config …`; "
            "the cache may hold more than the data), or use a smaller frame shift or "
            "larger tokens"
        )
    if len(unknown) > _MOST_UNKNOWN * total:
        raise InputError(
            f"{len(unknown)} of {total} labels of {text} cannot be spelled in the "
            f"student's tokens, e.g. in {unknown[0]}: {transcripts[unknown[0]]!r}. "
            "Normalise the text (case, digits, punctuation) as the tokens have it"
        )
