"""Dump the posteriors of a teacher, in any number of jobs, resumably.

The order of the utterances, their batches and the division into shards follow from
the data alone. So it does not matter how many jobs there are, or which of them were
killed how often: the bytes of the finished cache are the same.
"""

import json
import logging
import os
import shutil
import socket
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import (
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import kaldiio
import numpy as np
import torch

from espnet_ctckd import __version__
from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.reader import (
    META,
    SCP,
    TOKENS,
    UTT2AUDIO,
    UTT2FRAMES,
    CacheMeta,
    key_of,
    read_meta,
)
from espnet_ctckd.cache.record import Audio, Records, fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import (
    audio_info,
    beside,
    file_crc32,
    read_audio,
    read_scp,
    write_beside,
    write_scp,
)
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.teachers import Teacher

PLAN = "plan.json"
_SHARDS = "shards"

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
        for name, path in read_scp(wav_scp).items()
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


def forecast(teacher: Teacher, utterances: Sequence[Utterance], codec: Codec) -> float:
    """Bytes of a cache to a sample of audio, as some utterances have it.

    Args:
        teacher: says the posteriors.
        utterances: to try.
        codec: how they are packed.
    """
    records = Records(codec, teacher.blank, "", "")
    size = 0
    for utt, _, _, record in _compute(teacher, records, [[u] for u in utterances]):
        # The record, its head in the ark, and a line in each of the lists.
        size += record.nbytes + 6 * len(utt) + 160
    return size / sum(u.samples for u in utterances)


def dump(
    teacher: Teacher,
    plan: Plan,
    codec: Codec,
    folder: Path,
    batch_seconds: float,
    job: int = 1,
    num_jobs: int = 1,
) -> bool:
    """Compute the shards of a job, and finish the cache if they were the last.

    Args:
        teacher: says the posteriors.
        plan: the same in all jobs.
        codec: how they are packed.
        folder: of the cache.
        batch_seconds: that the plan was made with.
        job: 1 to num_jobs.
        num_jobs: how many share the work.

    Returns:
        Whether the cache is finished.

    Raises:
        InputError: the folder holds another cache, or an utterance is too short.
    """
    _claim(folder, _describe_plan(teacher, plan, codec, batch_seconds))
    if (folder / META).exists():
        # Finishing it anew would take the sizes of arks that were damaged since.
        logging.info(
            f"{folder} is finished, and left as it is; whether it belongs to the "
            "audio is for check_cache to say"
        )
        return True
    mine = range(job - 1, len(plan.shards), num_jobs)
    todo = [index for index in mine if not _shard_scp(folder, index).exists()]
    logging.info(
        f"job {job} of {num_jobs}: {len(todo)} of {len(plan.shards)} shards to do"
    )
    key = key_of(
        teacher.describe(),
        teacher.token_list,
        teacher.blank,
        plan.rate,
        teacher.frame_shift,
        codec,
    )
    records = Records(codec, teacher.blank, key, str(folder))
    for index in _progress(todo, plan):
        _write_shard(teacher, plan, records, folder, index)
    if not all(_shard_scp(folder, i).exists() for i in range(len(plan.shards))):
        logging.info(f"the other jobs have not finished; the last completes {folder}")
        return False
    _finish(teacher, plan, codec, folder)
    return True


def _progress(todo: Sequence[int], plan: Plan) -> Iterator[int]:
    """The shards to do, logging after each how far it is and when it will end."""
    seconds = [
        sum(u.samples for batch in plan.shards[i] for u in batch) / plan.rate
        for i in todo
    ]
    start, done, total = time.monotonic(), 0.0, sum(seconds)
    for index, audio in zip(todo, seconds):
        yield index
        done += audio
        spent = time.monotonic() - start
        left = spent / done * (total - done)
        logging.info(
            f"{done / 60:.1f} of {total / 60:.1f} minutes of audio, "
            f"{done / spent:.0f} times real time, {left:.0f} s left"
        )


def _describe_plan(
    teacher: Teacher, plan: Plan, codec: Codec, batch_seconds: float
) -> Dict[str, object]:
    described = teacher.describe()
    listed = "".join(f"{u.name} {u.samples}\n" for u in plan.utterances)
    return {
        "teacher": {k: v for k, v in described.items() if k.endswith("_sha256")},
        "dtype": described.get("dtype", "float32"),
        "utterances": len(plan.utterances),
        "utterances_crc32": zlib.crc32(listed.encode()),
        "packing": asdict(codec),
        "batch_seconds": batch_seconds,
        "version": __version__,
    }


def _claim(folder: Path, request: Mapping[str, object]) -> None:
    """Note what the folder is for, or refuse it if it is for something else."""
    path = folder / PLAN
    if not path.exists():
        if (folder / META).exists():
            raise InputError(f"{folder} holds a cache without {PLAN}; delete it")
        with write_beside(path) as f:
            json.dump(request, f, indent=1)
    begun = json.loads(path.read_text(encoding="utf-8"))
    differs = [key for key in request if begun.get(key) != request[key]]
    if differs:
        was = ", ".join(f"{key} {begun.get(key)} -> {request[key]}" for key in differs)
        raise InputError(
            f"{folder} was begun for something else ({was}); delete it, or choose "
            "another --output_dir"
        )


def _shard_ark(folder: Path, index: int) -> Path:
    return folder / _SHARDS / f"{index:05d}" / f"posteriors.{index:05d}.ark"


def _shard_scp(folder: Path, index: int) -> Path:
    return _shard_ark(folder, index).with_suffix(".scp")


def _write_shard(
    teacher: Teacher, plan: Plan, records: Records, folder: Path, index: int
) -> None:
    """Write ark and scp in a folder that gets its name when both are whole.

    A line of the scp is: utterance, offset in the ark, frames, samples, crc32. Of two
    jobs that were given the same shard by mistake the first one's is taken.
    """
    final = _shard_ark(folder, index).parent
    owner = f"{socket.gethostname()}.{os.getpid()}"
    partial = final.with_name(f".{final.name}.{owner}.part")
    try:
        _write_into(partial, teacher, plan.shards[index], records, index)
        os.rename(partial, final)
    except OSError as error:
        if not _shard_scp(folder, index).exists():
            error.filename = error.filename or str(final)  # a full disk names none
            raise
        logging.warning(f"another job has written {final}, too: its files are kept")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_into(
    folder: Path,
    teacher: Teacher,
    shard: Sequence[Sequence[Utterance]],
    records: Records,
    index: int,
) -> None:
    """Write ark and scp of a shard."""
    folder.mkdir(parents=True, exist_ok=True)
    ark, lines = folder / f"posteriors.{index:05d}.ark", []
    with open(ark, "wb") as f:
        for utt, frames, audio, record in _compute(teacher, records, shard):
            offset = f.tell() + len(utt.encode()) + 1
            kaldiio.save_ark(f, {utt: record})
            lines.append(f"{utt} {offset} {frames} {audio.samples} {audio.crc32:08x}\n")
        f.flush()
        os.fsync(f.fileno())
    with write_beside(ark.with_suffix(".scp")) as text:
        text.writelines(lines)


def _compute(
    teacher: Teacher, records: Records, batches: Sequence[Sequence[Utterance]]
) -> Iterator[Tuple[str, int, Audio, np.ndarray]]:
    """Utterance, its frames, its audio and its record, batch by batch.

    While the teacher is at one batch, the next is read and the last one packed.
    """
    with ThreadPoolExecutor(2) as pool:
        ahead = [pool.submit(_hear, batches[0], teacher.rate)]
        behind: List[Future[List[Tuple[str, int, Audio, np.ndarray]]]] = []
        for number, batch in enumerate(batches):
            audio = ahead.pop().result()
            if number + 1 < len(batches):
                ahead.append(pool.submit(_hear, batches[number + 1], teacher.rate))
            speech = torch.nn.utils.rnn.pad_sequence(
                [torch.from_numpy(a) for a in audio], batch_first=True
            )  # (B, S)
            lengths = torch.tensor([len(a) for a in audio])
            said = teacher.posteriors(speech, lengths)
            if behind:
                yield from behind.pop().result()
            behind.append(pool.submit(_seal, records, batch, audio, said))
        yield from behind.pop().result()


def _hear(batch: Sequence[Utterance], rate: int) -> List[np.ndarray]:
    """The audio of a batch."""
    return [read_audio(u.name, u.path, rate) for u in batch]


def _seal(
    records: Records,
    batch: Sequence[Utterance],
    audio: Sequence[np.ndarray],
    said: FramePosteriors,
) -> List[Tuple[str, int, Audio, np.ndarray]]:
    """Utterance, its frames, its audio and its record, for a batch."""
    sealed = []
    for i, utterance in enumerate(batch):
        frames = int(said.lengths[i])
        states = None if said.states is None else said.states[i, :frames]
        heard = fingerprint(audio[i])
        record = records.seal(utterance.name, said.log_probs[i, :frames], states, heard)
        sealed.append((utterance.name, frames, heard, record))
    return sealed


def _finish(teacher: Teacher, plan: Plan, codec: Codec, folder: Path) -> None:
    """Join the shards; two jobs that end together write the same."""
    for left in (folder / _SHARDS).glob(".*.part"):  # by killed jobs
        shutil.rmtree(left, ignore_errors=True)
    placed = []
    arks, files = [], [folder / PLAN]
    for index in range(len(plan.shards)):
        ark = _shard_ark(folder, index)
        arks.append(ark)
        files.append(_shard_scp(folder, index))
        for name, rest in read_scp(_shard_scp(folder, index)).items():
            offset, frames, samples, crc = rest.split()
            placed.append(Placed(name, f"{ark}:{offset}", frames, f"{samples} {crc}"))
    versions = {name: metadata.version(name) for name in ("torch", "kaldiio")}
    meta = CacheMeta(
        folder=folder,
        teacher={**teacher.describe(), **versions, "espnet_ctckd": __version__},
        token_list=teacher.token_list,
        blank=teacher.blank,
        rate=plan.rate,
        frame_shift=teacher.frame_shift,
        codec=codec,
        utterances=0,
        frames=0,
        arks={},
        files={},
    )
    write_index(meta, placed, arks, files)


class Placed(NamedTuple):
    """Where an utterance lies in a cache, and its entries in the lists."""

    name: str
    place: str
    frames: str
    audio: str


def write_index(
    meta: CacheMeta, placed: Sequence[Placed], arks: Sequence[Path], files: List[Path]
) -> None:
    """Finish a cache whose arks are written: lists, tokens and, last, ``meta.json``.

    Args:
        meta: of the cache, but for what is counted here.
        placed: all utterances.
        arks: all arks.
        files: others that belong to it.
    """
    folder = meta.folder
    write_scp(folder / SCP, [(p.name, p.place) for p in placed])
    write_scp(folder / UTT2FRAMES, [(p.name, p.frames) for p in placed])
    write_scp(folder / UTT2AUDIO, [(p.name, p.audio) for p in placed])
    with write_beside(folder / TOKENS) as f:
        f.writelines(f"{token}\n" for token in meta.token_list)
    lists = [folder / name for name in (UTT2FRAMES, UTT2AUDIO, TOKENS)]
    whole = replace(
        meta,
        utterances=len(placed),
        frames=sum(int(p.frames) for p in placed),
        arks=_sizes(folder, arks),
        files=_sizes(folder, [*files, *lists]),
    )
    with write_beside(folder / META) as f:
        json.dump(whole.to_json(), f, indent=1, ensure_ascii=False)
        f.write("\n")


def _sizes(folder: Path, paths: Sequence[Path]) -> Dict[str, Tuple[int, int]]:
    """Bytes and crc32 of files, by their paths inside the folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, file_crc32(path))
        for path in paths
    }


def merge(sources: Sequence[CacheMeta], folder: Path) -> CacheMeta:
    """Join caches of one teacher, of different utterances; or move one.

    Args:
        sources: the caches.
        folder: of the new one; it holds copies, and the others may be deleted.

    Returns:
        What the new one says of itself.

    Raises:
        InputError: they are of different teachers, tokens or packings; an utterance is
            in two of them; an ark is damaged; or the folder holds a cache.
    """
    if (folder / META).exists():
        raise InputError(f"{folder} holds a finished cache; choose another folder")
    first = sources[0]
    placed: Dict[str, Placed] = {}
    arks: List[Path] = []
    for meta in sources:
        _check_mergeable(first, meta)
        frames = read_scp(meta.folder / UTT2FRAMES)
        audio = read_scp(meta.folder / UTT2AUDIO)
        copies = {}
        for name, (size, crc) in meta.arks.items():
            copies[Path(name).name] = _shard_ark(folder, len(arks))
            arks.append(copies[Path(name).name])
            _copy_ark(meta.folder / name, arks[-1], size, crc)
        for utt, place in read_scp(meta.folder / SCP).items():
            if utt in placed:
                raise InputError(
                    f"utterance {utt} is in two of the caches, {meta.folder} and one "
                    "before it: merge caches of different utterances"
                )
            ark, _, offset = place.rpartition(":")
            here = f"{copies[Path(ark).name]}:{offset}"
            placed[utt] = Placed(utt, here, frames[utt], audio[utt])
    write_index(replace(first, folder=folder), list(placed.values()), arks, [])
    return read_meta(folder)


def _check_mergeable(first: CacheMeta, other: CacheMeta) -> None:
    if first.records.key == other.records.key:
        return
    differs = [
        name
        for name in ("token_list", "blank", "rate", "frame_shift", "codec", "teacher")
        if getattr(first, name) != getattr(other, name)
    ]
    raise InputError(
        f"the caches {first.folder} and {other.folder} differ in "
        f"{', '.join(differs)}: merge what one teacher has said, packed alike"
    )


def _copy_ark(source: Path, target: Path, size: int, crc: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with beside(target) as partial:
        shutil.copyfile(source, partial)
        if (partial.stat().st_size, file_crc32(partial)) != (size, crc):
            raise InputError(
                f"{source} is damaged: it is not what was written (crc32). Dump that "
                "cache again"
            )
