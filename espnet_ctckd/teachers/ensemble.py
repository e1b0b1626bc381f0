"""Frame-wise ensembles of teachers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import torch
import yaml
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, sha256
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors
from espnet_ctckd.teachers.registry import SINGLE_CHOICES, open_kind
from espnet_ctckd.tokens import DROPPED, map_tokens, place_tokens

# Number of spikes after which the agreement of the teachers is checked.
_ENOUGH_SPIKES = 30
_KEYS = {"weight", "teacher_type", "teacher"}
_MORE = {"teacher_conf"}


class EnsembleTeacher:
    """An ensemble that outputs the weighted mean of several teachers' posteriors.

    Teachers that were trained independently spike at different frames, and the mean of
    two spikes one frame apart is blank in both frames; teachers whose spikes do not
    agree are refused. Their hypotheses can always be merged (``dump_nbest``).

    Args:
        source: YAML file with ``teachers``, a list of mappings with the keys weight,
            teacher_type, teacher and, optionally, teacher_conf; and
            ``min_agreement``, the minimum share of spikes that two teachers must have
            in common.
        device: device of the teachers.

    Raises:
        InputError: the file is invalid, or the teachers differ in tokens, frame shift
            or sample rate.

    References:
        Kurata, Audhkhasi, Guiding CTC Posterior Spike Timings for Improved Posterior
        Fusion and Knowledge Distillation (2019), https://arxiv.org/abs/1904.08311
    """

    state_size = 0

    def __init__(self, source: str, *, device: str = "cpu") -> None:
        self._file = source
        conf = _read(source)
        total = sum(entry["weight"] for entry in conf["teachers"])
        self._weights = [entry["weight"] / total for entry in conf["teachers"]]
        self._least: float = conf["min_agreement"]
        self._teachers = [
            open_kind(
                SINGLE_CHOICES,
                entry["teacher_type"],
                entry["teacher"],
                device,
                entry.get("teacher_conf") or {},
            )
            for entry in conf["teachers"]
        ]
        first = self._teachers[0]
        self._places = [self._place(teacher) for teacher in self._teachers]
        self._spikes = torch.zeros(len(self._teachers), dtype=torch.long)
        self._shared = torch.zeros(len(self._teachers), dtype=torch.long)
        self.token_list, self.blank = first.token_list, first.blank
        self.bpemodel: Optional[bytes] = first.bpemodel
        self.rate, self.frame_shift = first.rate, first.frame_shift
        self.shortest = max(teacher.shortest for teacher in self._teachers)
        limits = [t.longest for t in self._teachers if t.longest is not None]
        self.longest: Optional[int] = min(limits, default=None)
        padded = any(teacher.batching == "padded" for teacher in self._teachers)
        self.batching = "padded" if padded else "single"

    def _place(self, teacher: Any) -> Optional[List[int]]:
        """Map the tokens of a teacher to those of the first teacher."""
        first = self._teachers[0]
        for key in ("rate", "frame_shift"):
            ours, theirs = getattr(first, key), getattr(teacher, key)
            if ours != theirs:
                raise InputError(
                    f"the teachers of {self._file} have the {key} {ours} and {theirs} "
                    "(in samples): take teachers of one, or join their hypotheses "
                    "with dump_nbest"
                )
        place = map_tokens(
            teacher.token_list,
            teacher.blank,
            first.token_list,
            first.blank,
            str(self._file),
        )
        if place is not None and DROPPED in place:
            token = teacher.token_list[place.index(DROPPED)]
            raise InputError(
                f"a teacher of {self._file} has the token {token!r}, which the first "
                "one has not: take teachers of the same tokens"
            )
        return place

    @torch.no_grad()
    def posteriors(self, speech: Tensor, lengths: Tensor) -> FramePosteriors:
        """Compute the frame posteriors of a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,).

        Returns:
            log_probs (B, U, V), dense.

        Raises:
            InputError: the teachers' spikes do not agree.
        """
        outputs = [
            _in_order(
                teacher.posteriors(speech, lengths),
                place,
                self.blank,
                len(self.token_list),
            )
            for teacher, place in zip(self._teachers, self._places)
        ]
        self._compare(outputs)
        logs = [
            posteriors.log_probs + (math.log(weight) if weight else LOG_ZERO)
            for posteriors, weight in zip(outputs, self._weights)
        ]
        mean = torch.stack(logs).logsumexp(0)  # (B, U, V)
        return FramePosteriors(mean, outputs[0].lengths, self.blank)

    def _compare(self, outputs: List[FramePosteriors]) -> None:
        """Count spikes shared with the first teacher; refuse too low an agreement."""
        first = outputs[0]
        for i, other in enumerate(outputs):
            same = (other.argmax() == first.argmax()) & first.nonblank()
            self._shared[i] += 2 * same.sum().cpu()
            self._spikes[i] += (first.nonblank().sum() + other.nonblank().sum()).cpu()
        agreement = self._shared / self._spikes.clamp(min=1)
        worst = int(agreement.argmin())
        if self._spikes[worst] >= 2 * _ENOUGH_SPIKES and agreement[worst] < self._least:
            raise InputError(
                f"the spikes of the teachers 1 and {worst + 1} of {self._file} agree "
                f"in {100 * float(agreement[worst]):.0f} % of their frames, and "
                f"min_agreement is {self._least}: the mean of spikes at different "
                "frames is blank at both. Dump each teacher by itself and join their "
                "hypotheses (dump_nbest --cache A --cache B), or train the teachers "
                "with the spikes of one of them (loss guided_ctc)"
            )

    def describe(self) -> Dict[str, str]:
        """Return the provenance: kind, and provenance of each teacher."""
        described = {
            "type": "ensemble",
            "config": str(self._file),
            "config_sha256": sha256(self._file),
        }
        for number, teacher in enumerate(self._teachers, start=1):
            for key, value in teacher.describe().items():
                described[f"teacher{number}_{key}"] = value
        return described


def _in_order(
    posteriors: FramePosteriors, place: Optional[List[int]], blank: int, tokens: int
) -> FramePosteriors:
    """Reorder posteriors to the token list of the first teacher."""
    if place is not None:
        log_probs = place_tokens(posteriors.log_probs, place, tokens, LOG_ZERO)
        posteriors = replace(posteriors, log_probs=log_probs, blank=blank)
    return replace(posteriors, states=None)


def _read(path: Pathlike) -> Dict[str, Any]:
    try:
        conf = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    wanted = (
        f"{path} is no ensemble: give `teachers`, a list of mappings with the keys "
        f"{', '.join(sorted(_KEYS))}, and `min_agreement`, a number in [0, 1]"
    )
    if not isinstance(conf, Mapping):
        raise InputError(wanted)
    for key in {"teachers", "min_agreement"} ^ set(conf):
        raise InputError(f"{wanted}; it {'has' if key in conf else 'lacks'} {key!r}")
    teachers, least = conf["teachers"], conf["min_agreement"]
    if not _number(least, 1.0):
        raise InputError(f"{wanted}; its min_agreement is {least!r}")
    if not isinstance(teachers, list) or not teachers:
        raise InputError(f"{wanted}; its teachers are {teachers!r}")
    for entry in teachers:
        _check_entry(path, wanted, entry)
    if sum(entry["weight"] for entry in teachers) == 0:
        raise InputError(f"{path}: all weights are 0")
    return dict(conf)


def _check_entry(path: Pathlike, wanted: str, entry: object) -> None:
    if not isinstance(entry, Mapping):
        raise InputError(f"{wanted}; a teacher is {entry!r}")
    for key in sorted(set(map(str, entry)) ^ _KEYS):
        if key not in _MORE:
            has = "has" if key in entry else "lacks"
            raise InputError(f"{wanted}; a teacher {has} {key!r}: {dict(entry)}")
    if not isinstance(entry.get("teacher_conf") or {}, Mapping):
        raise InputError(
            f"{path}: teacher_conf is {entry['teacher_conf']!r}; give a mapping"
        )
    if not _number(entry["weight"], float("inf")):
        raise InputError(f"{path}: the weight {entry['weight']!r} is no number >= 0")


def _number(value: object, most: float) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= most and value != float("inf")  # type: ignore
