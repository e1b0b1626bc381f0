"""Resumable dump of the posteriors of a teacher, in any number of jobs.

The order of the utterances, their batches and the division into shards depend on the
data only. The bytes of the finished cache are therefore the same for any number of
jobs, however often these were killed.
"""

import json
import logging
import os
import shutil
import socket
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import (
    Dict,
    Iterator,
    List,
    Mapping,
    Sequence,
    Tuple,
)

import kaldiio
import numpy as np
import torch

from espnet_ctckd import __version__
from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.cache.index import SHARDS, Placed, shard_ark, write_index
from espnet_ctckd.cache.plan import Plan, Utterance
from espnet_ctckd.cache.reader import (
    META,
    SPEED,
    CacheMeta,
    hashes_of,
    key_of,
)
from espnet_ctckd.cache.record import Audio, Records, fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.files import atomic_write, read_json
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.data.progress import Progress
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.teachers import Teacher

PLAN = "plan.json"
# Seconds within which a job has certainly written one of the lists.
_FINISHING = 600.0


def forecast(teacher: Teacher, utterances: Sequence[Utterance], codec: Codec) -> float:
    """Estimate the bytes of a cache per sample of audio, from some utterances.

    Args:
        teacher: computes the posteriors.
        utterances: utterances to measure.
        codec: compression of the posteriors.
    """
    records = Records(codec, teacher.blank, "", "")
    size = 0
    for utt, _, _, record in _compute(teacher, records, [[u] for u in utterances]):
        # The record, its header in the ark, and a line in each of the lists.
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
        teacher: computes the posteriors.
        plan: division of the data, the same in all jobs.
        codec: compression of the posteriors.
        folder: folder of the cache.
        batch_seconds: seconds of audio in a batch of the plan.
        job: number of the job, from 1 to num_jobs.
        num_jobs: number of jobs.

    Returns:
        True if the cache is finished.

    Raises:
        InputError: the folder holds another cache, or an utterance is too short.
    """
    _claim(folder, _describe_plan(teacher, plan, codec, batch_seconds))
    if (folder / META).exists():
        # A second _finish would store the checksums of arks damaged in the meantime.
        logging.info(
            f"{folder} is finished, and left as it is; run check_cache to compare it "
            "with the audio"
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
    for index in _progress(todo, plan, folder / SPEED.format(job)):
        _write_shard(teacher, plan, records, folder, index)
    if not all(_shard_scp(folder, i).exists() for i in range(len(plan.shards))):
        logging.info(f"the other jobs have not finished; the last completes {folder}")
        return False
    _finish(teacher, plan, codec, folder)
    return True


def _progress(todo: Sequence[int], plan: Plan, speed: Path) -> Iterator[int]:
    """Iterate over the shards to do; write the speed so far after each."""
    seconds = [
        sum(u.samples for batch in plan.shards[i] for u in batch) / plan.rate
        for i in todo
    ]
    begun, done = time.monotonic(), 0.0
    with Progress(sum(seconds), "s of audio") as bar:
        for index, audio in zip(todo, seconds):
            yield index
            done += audio
            spent = time.monotonic() - begun
            bar.set_postfix_str(f"{done / spent:.0f} times real time", refresh=False)
            bar.update(audio)
            with atomic_write(speed) as f:
                json.dump({"audio": done, "seconds": spent}, f)


def _describe_plan(
    teacher: Teacher, plan: Plan, codec: Codec, batch_seconds: float
) -> Dict[str, object]:
    described = teacher.describe()
    listed = "".join(f"{u.name} {u.samples}\n" for u in plan.utterances)
    return {
        "teacher": hashes_of(described),
        "dtype": described.get("dtype", "float32"),
        "utterances": len(plan.utterances),
        "utterances_crc32": zlib.crc32(listed.encode()),
        "packing": asdict(codec),
        "batching": teacher.batching,
        "batch_seconds": batch_seconds,
        "version": __version__,
    }


def _claim(folder: Path, request: Mapping[str, object]) -> None:
    """Write the request to the folder, or refuse a folder with another request."""
    path = folder / PLAN
    if not path.exists():
        if (folder / META).exists():
            raise InputError(f"{folder} holds a cache without {PLAN}; delete it")
        with atomic_write(path) as f:
            json.dump(request, f, indent=1)
    begun = read_json(path, f"delete {folder}, and dump the teacher again")
    differs = [key for key in request if begun.get(key) != request[key]]
    if differs:
        hashes = {
            "utterances_crc32": "other utterances or lengths",
            "teacher": "another teacher, or another state of it",
        }
        was = ", ".join(
            hashes.get(key, f"{key} {begun.get(key)} -> {request[key]}")
            for key in differs
        )
        raise InputError(
            f"{folder} was begun for something else ({was}); delete it, or choose "
            "another folder"
        )


def _shard_scp(folder: Path, index: int) -> Path:
    return shard_ark(folder, index).with_suffix(".scp")


def _write_shard(
    teacher: Teacher, plan: Plan, records: Records, folder: Path, index: int
) -> None:
    """Write ark and scp of a shard to a temporary folder, and rename it.

    A line of the scp is: utterance, offset in the ark, frames, samples, crc32. If two
    jobs write the same shard by mistake, the first result is kept.
    """
    final = shard_ark(folder, index).parent
    owner = f"{socket.gethostname()}.{os.getpid()}"
    partial = final.with_name(f".{final.name}.{owner}.part")
    try:
        _write_into(partial, teacher, plan.shards[index], records, index)
        os.rename(partial, final)
    except OSError as error:
        if not _shard_scp(folder, index).exists():
            # The error of a full disk does not name a file.
            error.filename = error.filename or str(final)
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
            lines.append(f"{utt} {offset} {frames} {audio.entry}\n")
        f.flush()
        os.fsync(f.fileno())
    with atomic_write(ark.with_suffix(".scp")) as text:
        text.writelines(lines)


def _compute(
    teacher: Teacher, records: Records, batches: Sequence[Sequence[Utterance]]
) -> Iterator[Tuple[str, int, Audio, np.ndarray]]:
    """Iterate over utterance, number of frames, fingerprint and record.

    While the teacher computes one batch, the next is read and the previous one
    compressed, each in a thread.
    """
    with ThreadPoolExecutor(2) as pool:
        ahead = [pool.submit(_read_batch, batches[0], teacher.rate)]
        behind: List[Future[List[Tuple[str, int, Audio, np.ndarray]]]] = []
        for number, batch in enumerate(batches):
            audio = ahead.pop().result()
            if number + 1 < len(batches):
                ahead.append(
                    pool.submit(_read_batch, batches[number + 1], teacher.rate)
                )
            speech = torch.nn.utils.rnn.pad_sequence(
                [torch.from_numpy(a) for a in audio], batch_first=True
            )  # (B, S)
            lengths = torch.tensor([len(a) for a in audio])
            posteriors = teacher.posteriors(speech, lengths)
            if behind:
                yield from behind.pop().result()
            behind.append(pool.submit(_encode, records, batch, audio, posteriors))
        yield from behind.pop().result()


def _read_batch(batch: Sequence[Utterance], rate: int) -> List[np.ndarray]:
    """Read the audio of a batch."""
    return [read_audio(u.name, u.path, rate) for u in batch]


def _encode(
    records: Records,
    batch: Sequence[Utterance],
    audio: Sequence[np.ndarray],
    posteriors: FramePosteriors,
) -> List[Tuple[str, int, Audio, np.ndarray]]:
    """Return utterance, number of frames, fingerprint and record, for a batch."""
    encoded = []
    for i, utterance in enumerate(batch):
        frames = int(posteriors.lengths[i])
        log_probs = posteriors.log_probs[i, :frames]
        if bool(torch.isnan(log_probs).any()):
            raise InputError(
                f"utterance {utterance.name}: the teacher says NaN of "
                f"{utterance.path}: are its weights and the audio whole?"
            )
        states = None if posteriors.states is None else posteriors.states[i, :frames]
        source = fingerprint(audio[i])
        record = records.seal(utterance.name, log_probs, states, source)
        encoded.append((utterance.name, frames, source, record))
    return encoded


def _clear(folder: Path) -> None:
    """Remove the temporary files of killed jobs."""
    for left in (folder / SHARDS).glob(".*.part"):
        shutil.rmtree(left, ignore_errors=True)
    for left in folder.glob(".*.part"):
        # Another job may be writing the lists now; the plan is complete.
        planned = left.name.startswith(f".{PLAN}.")
        if planned or time.time() - left.stat().st_mtime > _FINISHING:
            left.unlink(missing_ok=True)


def _finish(teacher: Teacher, plan: Plan, codec: Codec, folder: Path) -> None:
    """Write the lists of all shards; jobs that end at once write the same bytes."""
    _clear(folder)
    placed = []
    arks, files = [], [folder / PLAN]
    for index in range(len(plan.shards)):
        ark = shard_ark(folder, index)
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
        batching=teacher.batching,
    )
    write_index(meta, placed, arks, files)
