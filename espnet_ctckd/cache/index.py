"""Lists and ``meta.json`` of a cache, written after its arks; merging of caches."""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

from espnet_ctckd.cache.check import check_files, check_listed, check_records
from espnet_ctckd.cache.reader import (
    META,
    SCP,
    TOKENS,
    UTT2AUDIO,
    UTT2FRAMES,
    CacheMeta,
    read_meta,
)
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_path, atomic_write, file_crc32
from espnet_ctckd.data.kaldi import read_scp, write_scp

SHARDS = "shards"


def shard_ark(folder: Path, index: int) -> Path:
    """Return the path of the ark of a shard."""
    return folder / SHARDS / f"{index:05d}" / f"posteriors.{index:05d}.ark"


class Placed(NamedTuple):
    """Location of an utterance in a cache, and its entries in the lists."""

    name: str
    place: str
    frames: str
    audio: str


def write_index(
    meta: CacheMeta, placed: Sequence[Placed], arks: Sequence[Path], files: List[Path]
) -> None:
    """Finish a cache whose arks are written: lists, tokens and, last, ``meta.json``.

    Args:
        meta: metadata of the cache; counts, arks and files are filled in here.
        placed: all utterances.
        arks: all arks.
        files: other files of the cache.
    """
    folder = meta.folder
    write_scp(folder / SCP, [(p.name, p.place) for p in placed])
    write_scp(folder / UTT2FRAMES, [(p.name, p.frames) for p in placed])
    write_scp(folder / UTT2AUDIO, [(p.name, p.audio) for p in placed])
    with atomic_write(folder / TOKENS) as f:
        f.writelines(f"{token}\n" for token in meta.token_list)
    lists = [folder / name for name in (UTT2FRAMES, UTT2AUDIO, TOKENS)]
    whole = replace(
        meta,
        utterances=len(placed),
        frames=sum(int(p.frames) for p in placed),
        arks=_sizes(folder, arks),
        files=_sizes(folder, [*files, *lists]),
    )
    with atomic_write(folder / META) as f:
        json.dump(whole.to_json(), f, indent=1, ensure_ascii=False)
        f.write("\n")


def _sizes(folder: Path, paths: Sequence[Path]) -> Dict[str, Tuple[int, int]]:
    """Return size in bytes and crc32 of files, by their paths inside the folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, file_crc32(path))
        for path in paths
    }


def merge(sources: Sequence[CacheMeta], folder: Path) -> CacheMeta:
    """Merge caches of one teacher with different utterances, or move a cache.

    Args:
        sources: the caches.
        folder: folder of the new cache; it gets copies, so the sources may be deleted
            afterwards.

    Returns:
        The metadata of the new cache.

    Raises:
        InputError: the teachers, tokens or compressions of the caches differ; an
            utterance is in two of them; a file is damaged; or the folder already
            holds a cache.
    """
    if (folder / META).exists():
        raise InputError(f"{folder} holds a finished cache; choose another folder")
    first = sources[0]
    placed: Dict[str, Placed] = {}
    copies: List[Tuple[CacheMeta, str, Path]] = []
    for meta in sources:
        _check_mergeable(first, meta)
        check_files(meta, {**meta.files, **meta.arks})
        listed = read_scp(meta.folder / SCP)
        check_listed(meta, listed)
        frames = read_scp(meta.folder / UTT2FRAMES)
        audio = read_scp(meta.folder / UTT2AUDIO)
        sources_by_name, targets_by_name = {}, {}
        for name in meta.arks:
            target = shard_ark(folder, len(copies))
            copies.append((meta, name, target))
            sources_by_name[Path(name).name] = meta.folder / name
            targets_by_name[Path(name).name] = target
        found = {}
        for utt, place in listed.items():
            if utt in placed:
                raise InputError(
                    f"utterance {utt} is in two of the caches, {meta.folder} and one "
                    "before it: merge caches of different utterances"
                )
            # Compare file names only, as the folder may have been moved.
            ark, _, offset = place.rpartition(":")
            if Path(ark).name not in sources_by_name or not offset.isdecimal():
                raise InputError(
                    f"{meta.folder / SCP} has {place!r} for the utterance {utt}, which "
                    "is not of this cache. Delete the folder and dump the teacher again"
                )
            found[utt] = f"{sources_by_name[Path(ark).name]}:{offset}"
            moved = f"{targets_by_name[Path(ark).name]}:{offset}"
            placed[utt] = Placed(utt, moved, frames.get(utt, ""), audio.get(utt, ""))
        check_records(meta, found)
    try:
        for meta, name, target in copies:
            _copy_ark(meta.folder / name, target, *meta.arks[name])
        arks = [target for _, _, target in copies]
        write_index(replace(first, folder=folder), list(placed.values()), arks, [])
    except BaseException:
        _remove(folder, [target for _, _, target in copies])
        raise
    return read_meta(folder)


def _remove(folder: Path, arks: Sequence[Path]) -> None:
    """Remove the files of a failed merge, and the folders that are then empty."""
    lists = (folder / name for name in (SCP, UTT2FRAMES, UTT2AUDIO, TOKENS, META))
    for path in (*arks, *lists):
        path.unlink(missing_ok=True)
    for emptied in (*(ark.parent for ark in arks), folder / SHARDS, folder):
        with contextlib.suppress(OSError):  # the folder holds other files
            emptied.rmdir()


def _check_mergeable(first: CacheMeta, other: CacheMeta) -> None:
    if (first.records.key, first.batching) == (other.records.key, other.batching):
        return
    compared = ("token_list", "blank", "rate", "frame_shift", "codec", "teacher")
    differs = [
        name
        for name in (*compared, "batching")
        if getattr(first, name) != getattr(other, name)
    ]
    raise InputError(
        f"the caches {first.folder} and {other.folder} differ in "
        f"{', '.join(differs)}: merge what one teacher has said, packed alike"
    )


def _copy_ark(source: Path, target: Path, size: int, crc: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as partial:
        shutil.copyfile(source, partial)
        if (partial.stat().st_size, file_crc32(partial)) != (size, crc):
            raise InputError(
                f"{source} is damaged: it is not what was written (crc32). Dump that "
                "cache again"
            )
