"""What a cache says of itself."""

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import Pathlike, read_token_list

FORMAT = 1
META = "meta.json"
SCP = "teacher.scp"
TOKENS = "tokens.txt"
UTT2AUDIO = "utt2audio"
UTT2FRAMES = "utt2num_frames"


@dataclass(frozen=True)
class CacheMeta:
    """Contents of ``meta.json``, which is written when all else is whole.

    Attributes:
        folder: where it stands.
        teacher: type, hashes and versions of the teacher.
        token_list: V tokens in the order of the posteriors.
        blank: index of the blank.
        rate: samples per second of the audio.
        frame_shift: samples from one frame to the next, exact.
        codec: how the matrices are packed.
        utterances: how many.
        frames: how many in all.
        arks: bytes and crc32 of each ark, by its path inside the folder.
    """

    folder: Path
    teacher: Mapping[str, str]
    token_list: List[str]
    blank: int
    rate: int
    frame_shift: Fraction
    codec: Codec
    utterances: int
    frames: int
    arks: Mapping[str, Tuple[int, int]]

    def to_json(self) -> Dict[str, Any]:
        """What stands in the file; the tokens have one of their own."""
        return {
            "format": FORMAT,
            "teacher": dict(self.teacher),
            "blank": self.blank,
            "rate": self.rate,
            "frame_shift": str(self.frame_shift),
            "frame_shift_seconds": float(self.frame_shift / self.rate),
            "codec": asdict(self.codec),
            "utterances": self.utterances,
            "frames": self.frames,
            "arks": dict(self.arks),
        }


def read_meta(path: Pathlike) -> CacheMeta:
    """Read what belongs to a cache.

    Args:
        path: the cache's folder, or its ``teacher.scp``.

    Returns:
        The contents of its ``meta.json`` and ``tokens.txt``.

    Raises:
        InputError: it is not a finished cache, or of another version.
    """
    folder = Path(path)
    if folder.suffix == ".scp":
        folder = folder.parent
    try:
        found = json.loads((folder / META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a finished cache of posteriors: it has no {META}. Run "
            "`python -m espnet_ctckd.bin.dump_teacher`, which resumes what it began"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{folder / META} is damaged: {error}. Dump again") from None
    if found.get("format") != FORMAT:
        raise InputError(
            f"{folder / META} has format {found.get('format')!r}; this version reads "
            f"{FORMAT}. Dump the teacher again"
        )
    return CacheMeta(
        folder=folder,
        teacher=found["teacher"],
        token_list=read_token_list(folder / TOKENS),
        blank=found["blank"],
        rate=found["rate"],
        frame_shift=Fraction(found["frame_shift"]),
        codec=Codec(**found["codec"]),
        utterances=found["utterances"],
        frames=found["frames"],
        arks={name: tuple(ark) for name, ark in found["arks"].items()},
    )
