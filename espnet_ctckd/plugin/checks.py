"""Checks of the training data against the configuration, before training starts."""

import argparse
import inspect
import math
from fractions import Fraction
from typing import (
    Any,
    Callable,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import encoder_choices

from espnet_ctckd.cache.check import (
    LEAST_FRAMES,
    Student,
    check_dense,
    check_dropped,
    check_frame_ratio,
    check_transcripts,
)
from espnet_ctckd.cache.nbest import NBEST, read_nbest_meta
from espnet_ctckd.cache.reader import SCP, CacheMeta, hashes_of, read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import FrameConfig, KDConfig, NBestConfig
from espnet_ctckd.data.files import shorten
from espnet_ctckd.data.kaldi import read_lines, read_scp, refuse_segments
from espnet_ctckd.data.spelling import check_splits
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.plugin.preprocessor import TEACHER, PosteriorReader
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.tokens import map_tokens

# Utterances from which the share of selected frames is estimated.
_SELECTED_SAMPLE = 200
# The same for an online teacher, unless its output is all blank.
_ONLINE_SAMPLE = 8
# Transcripts of a set that are tokenized before training: once the longest for their
# audio, and once evenly spread.
_CHECKED_TEXTS = 5000


def path_of(data: List[Tuple[str, str, str]], wanted: str) -> Optional[str]:
    """Return the path of the data with a name, or None."""
    return next((path for path, name, _ in data if name == wanted), None)


def check_data(args: argparse.Namespace, config: KDConfig) -> None:
    """Check the data of a training against its configuration, before it starts.

    Args:
        args: the training arguments.
        config: ``model_conf.kd``.

    Raises:
        InputError: labels or posteriors are missing, or the cache does not match the
            utterances or tokens.
    """
    _check_epochs(args.max_epoch, config)
    check_labels(args, config)
    metas = []
    for part in ("train", "valid"):
        data = getattr(args, f"{part}_data_path_and_name_and_type")
        shapes = getattr(args, f"{part}_shape_file")
        flag = f"--{part}_data_path_and_name_and_type"
        if config.needs_labels and path_of(data, "text") is None:
            raise InputError(
                f"{config.label_reader}, but {flag} has no 'text': give the "
                f"transcripts{config.without_labels}"
            )
        wanted = read_scp(shapes[0] if shapes else data[0][0])
        if config.needs_labels:
            _check_text(data, config, wanted, part)
        if config.nbest is not None:
            _check_nbest(path_of(data, NBEST), config.nbest, wanted, part)
        _check_types(data, flag)
        path = path_of(data, TEACHER)
        if path is not None and config.online:
            raise InputError(
                f"kd.teacher.mode is online, and {flag} names the cache {path}: "
                "remove it, or set kd.teacher.mode: cached"
            )
        if path is not None:
            metas.append(_check_teacher(path, args, config, wanted, part))
        elif config.reads_cache:
            raise InputError(
                f"kd learns from a teacher, but {flag} has no 'teacher': give "
                f"the cache, e.g. {flag} <cache>/teacher.scp,teacher,kaldi_ark; or "
                "run the teacher in the training step, with kd.teacher: {mode: "
                "online, teacher: <folder>}"
            )
    if len(metas) == 2:
        _check_alike(*metas)


def student_of(
    model: ESPnetASRModel,
    preprocess: Optional[Callable[..., Any]],
    shift: Fraction,
    shortest: int,
) -> Student:
    """Return the requirements of a model on its data.

    Args:
        model: a model of ESPnet, distilled or not.
        preprocess: deterministic preprocessor, which converts a transcript to labels.
        shift: frame shift of the model in samples.
        shortest: samples of the model's first frame.
    """

    def labels(text: str) -> List[int]:
        assert preprocess is not None
        return list(preprocess("", {"text": text})["text"])

    tokens = list(model.token_list)
    config: Optional[KDConfig] = getattr(model, "kd_config", None)
    return Student(
        token_list=tokens,
        blank=model.blank_id,
        frame_shift=shift,
        shortest=shortest,
        frame_ratio=Fraction(1) if config is None else config.ratio,
        needs_dense=config is not None and config.target == "occupancies",
        needs_labels=config is None or config.needs_labels,
        labels=labels,
        unknown=tokens.index("<unk>") if "<unk>" in tokens else None,
    )


def check_texts(args: argparse.Namespace, student: Student) -> None:
    """Refuse transcripts that CTC cannot align, or that the tokens cannot spell.

    In a large set, the transcripts with the most characters per sample of audio are
    checked, and as many others, evenly spread.

    Args:
        args: the training arguments, whose shape files have the lengths.
        student: the student's requirements, from `student_of`.

    Raises:
        InputError: a transcript is unusable, as in `check_cache`.
    """
    if not student.needs_labels or not args.use_preprocessor:
        return
    for part in ("train", "valid"):
        data = getattr(args, f"{part}_data_path_and_name_and_type")
        path, shapes = path_of(data, "text"), getattr(args, f"{part}_shape_file")
        if path is None or not shapes:
            continue
        text = read_scp(path)
        sizes = {u: int(n) for u, n in read_scp(shapes[0]).items() if n.isdecimal()}
        dense = sorted(sizes, key=lambda utt: sizes[utt] / max(len(text[utt]), 1))
        spread = list(sizes)[:: max(1, len(sizes) // _CHECKED_TEXTS)]
        chosen = dict.fromkeys([*dense[:_CHECKED_TEXTS], *spread])
        check_transcripts(path, text, {utt: sizes[utt] for utt in chosen}, student)


def check_labels(args: argparse.Namespace, config: KDConfig) -> None:
    """Refuse transcripts that cannot be split into the teacher's word pieces.

    Args:
        args: the training arguments.
        config: ``model_conf.kd``.

    Raises:
        InputError: labels are read, the tokens are word pieces, and there is no model
            that splits words into these pieces.
    """
    if config.needs_labels:
        check_splits(
            token_list_of(args),
            args.token_type,
            args.bpemodel,
            str(config.label_reader),
            config.without_labels,
        )


def _check_types(data: List[Tuple[str, str, str]], flag: str) -> None:
    kinds = {TEACHER: "kaldi_ark", NBEST: "text"}
    for path, name, kind in data:
        if kind == "sound":
            refuse_segments(path)
        if kind != kinds.get(name, kind):
            raise InputError(
                f"{flag} reads {name!r} as {kind!r}; give {path},{name},{kinds[name]}"
            )


def _check_epochs(last: int, config: KDConfig) -> None:
    for part in (config, *config.parts.values()):
        if isinstance(part, FrameConfig) and part.from_epoch > last:
            raise InputError(
                f"{part.place}.from_epoch is {part.from_epoch}, after the last epoch "
                f"(max_epoch {last}): the selector would never choose"
            )
    if config.feature is not None and config.feature.alone_epochs >= last:
        raise InputError(
            f"kd.feature.alone_epochs is {config.feature.alone_epochs}, and max_epoch "
            f"{last}: nothing would ever train the output; train for longer"
        )


def _check_teacher(
    path: str,
    args: argparse.Namespace,
    config: KDConfig,
    wanted: Mapping[str, str],
    part: str,
) -> CacheMeta:
    meta = read_meta(path)
    index, _, _ = match_tokens(meta, args)
    check_dropped(meta, index)
    check_states(meta, config)
    check_frames(meta, config)
    places = read_scp(path)
    missing = sorted(set(wanted) - set(places))
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of {len(wanted)} utterances of the "
            f"{part} data: {shorten(missing)}. Dump the teacher for this data"
        )
    for utt in wanted:
        meta.locate(utt, places[utt])
    return meta


def _check_alike(train: CacheMeta, valid: CacheMeta) -> None:
    if hashes_of(train.teacher) != hashes_of(valid.teacher):
        raise InputError(
            f"the caches {train.folder} and {valid.folder} are of different teachers: "
            "dump both with the same"
        )
    if train.codec != valid.codec:
        raise InputError(
            f"the caches of train and valid are compressed differently: {train.codec} "
            f"and {valid.codec}. Dump both with the same --top_k"
        )
    if train.batching != valid.batching:
        raise InputError(
            f"the posteriors of {train.folder} were computed in batches of the kind "
            f"{train.batching}, those of {valid.folder} of the kind {valid.batching}: "
            "dump both with this version"
        )
    if (train.token_list, train.blank) != (valid.token_list, valid.blank):
        raise InputError(
            f"the caches {train.folder} and {valid.folder} have different tokens: "
            "dump both with the same teacher"
        )


def check_states(meta: CacheMeta, config: KDConfig) -> None:
    """Refuse a cache without the hidden states that a student learns.

    Args:
        meta: metadata of the cache.
        config: ``model_conf.kd``.

    Raises:
        InputError: the cache has no states, or states of another size.
    """
    if config.feature is None or meta.codec.states == config.feature.size:
        return
    if not meta.codec.states:
        raise InputError(
            f"kd.feature learns hidden states, and the cache {meta.folder} has none: "
            "dump the teacher with --states"
        )
    raise InputError(
        f"kd.feature.size is {config.feature.size}, and the states of the cache "
        f"{meta.folder} have {meta.codec.states} dimensions: set kd.feature.size: "
        f"{meta.codec.states}"
    )


def check_frames(meta: CacheMeta, config: KDConfig) -> None:
    """Refuse a cache that lacks frames that the student learns from.

    Args:
        meta: metadata of the cache.
        config: ``model_conf.kd``.

    Raises:
        InputError: the cache holds only the frames of another selector.
    """
    cached = (meta.codec.selector, dict(meta.codec.selector_conf))
    if meta.codec.selector is None:
        return
    readers = [config]
    if config.inter is not None and config.inter.target == "teacher":
        readers.append(config.inter)
    for reader in readers:
        wanted = dict(reader.selector_conf)
        changes = reader.from_epoch > 1 or reader.until_epoch or reader.prior_file
        if (reader.selector, wanted) != cached or changes or reader.ratio != 1:
            raise InputError(
                f"the cache {meta.folder} keeps the frames of the selector {cached[0]} "
                f"{cached[1]} only, and {reader.place} takes others (selector "
                f"{reader.selector} {wanted}, or a schedule, prior or frame_ratio): "
                "train with what it keeps, or dump the teacher without --selector"
            )


def check_selected(
    meta: CacheMeta,
    reader: PosteriorReader,
    objective: KDObjective,
    last_epoch: int,
    sample: int = _SELECTED_SAMPLE,
) -> str:
    """Refuse a cache without a frame that the selector takes.

    Args:
        meta: metadata of the cache.
        reader: reads the cache's records in the student's tokens.
        objective: objective that selects the frames.
        last_epoch: last epoch of the training.
        sample: number of utterances that are read, evenly spread.

    Returns:
        One line with the share of frames that the selector takes in its last epoch,
        and the share of utterances without a selected frame.

    Raises:
        InputError: the selector takes no frame of the sample.
    """
    places = read_scp(meta.folder / SCP)

    def read(utt: str) -> FramePosteriors:
        found = reader.read(utt, meta.vector(utt, places[utt]), None)
        log_probs, ids = found[TEACHER], found.get(f"{TEACHER}_ids")
        return FramePosteriors(
            torch.from_numpy(log_probs).unsqueeze(0),
            torch.tensor([len(log_probs)]),
            reader.blank,
            None if ids is None else torch.from_numpy(ids).unsqueeze(0),
        )

    utterances = list(places)[:: max(1, len(places) // sample)]
    found = _count_selected(utterances, read, objective, last_epoch)
    return _describe_selected(
        found, objective, f"utterances of the cache {meta.folder}"
    )


def check_selected_online(
    utterances: Sequence[str],
    ask: Callable[[str], FramePosteriors],
    objective: KDObjective,
    last_epoch: int,
) -> str:
    """Refuse an online teacher without a frame that the selector takes.

    A few utterances suffice if one of their frames is selected; otherwise as many are
    tried as in `check_selected`.

    Args:
        utterances: names of the training utterances.
        ask: returns the teacher's posteriors of an utterance in the student's tokens.
        objective: objective that selects the frames.
        last_epoch: last epoch of the training.

    Returns:
        One line, see `check_selected`.

    Raises:
        InputError: the selector takes no frame of the sample.
    """
    for most in (_ONLINE_SAMPLE, _SELECTED_SAMPLE):
        some = list(utterances)[:: max(1, len(utterances) // most)]
        found = _count_selected(some, ask, objective, last_epoch)
        if found.selected > 0:
            break
    return _describe_selected(found, objective, "utterances from the online teacher")


class _Selected(NamedTuple):
    """Counts of selected frames.

    Attributes:
        utterances: number of utterances.
        frames: number of their frames.
        selected: total weight of the selected frames.
        empty: utterances without a selected frame.
    """

    utterances: int
    frames: int
    selected: float
    empty: List[str]


def _count_selected(
    utterances: Iterable[str],
    read: Callable[[str], FramePosteriors],
    objective: KDObjective,
    last_epoch: int,
) -> _Selected:
    config = objective.config
    last_epoch = min(config.until_epoch or last_epoch, last_epoch)
    epoch, objective.epoch = objective.epoch, last_epoch
    count, frames, selected, empty = 0, 0, 0.0, []
    for utt in utterances:
        teacher = read(utt)
        lengths = torch.tensor(
            [-(-int(teacher.lengths) // config.ratio)], device=teacher.lengths.device
        )
        _, lengths, weights, _ = objective.select(teacher, lengths, int(lengths))
        count, frames = count + 1, frames + int(lengths)
        selected += float(weights.sum())
        empty += [utt] if not bool((weights > 0).any()) else []
    objective.epoch = epoch
    return _Selected(count, frames, selected, empty)


def _describe_selected(found: _Selected, objective: KDObjective, where: str) -> str:
    config = objective.config
    chosen = f"the selector {config.selector} {dict(config.selector_conf)}"
    if found.selected == 0:
        raise InputError(
            f"{config.place}: {chosen} takes none of {found.frames} frames in "
            f"{found.utterances} {where}, so there is "
            "nothing to learn from: take a teacher for this data (does it output "
            "anything but blank?), or another selector"
        )
    taken = 100 * found.selected / max(found.frames, 1)
    line = f"{config.place}: {chosen} takes {taken:.1f} % of "
    line += f"the frames of {found.utterances} utterances"
    if found.empty:
        share = 100 * len(found.empty) / found.utterances
        line += f"; none of {len(found.empty)} of them ({share:.1f} %): "
        line += shorten(found.empty)
    return line


def _check_nbest(
    path: Optional[str], config: NBestConfig, wanted: Mapping[str, str], part: str
) -> None:
    if path is None:
        flag = f"--{part}_data_path_and_name_and_type"
        raise InputError(
            f"kd.nbest learns from n-best lists, but {flag} has no 'nbest': give e.g. "
            f"{flag} <folder>/nbest,nbest,text, as dump_nbest writes it"
        )
    meta = read_nbest_meta(path)
    most = meta["nbest"] * len(meta["teachers"])
    if config.hypotheses > most:
        raise InputError(
            f"kd.nbest.hypotheses is {config.hypotheses}, and {path} has {most} of an "
            "utterance at most: set that, or dump longer lists (--nbest)"
        )
    lists = read_scp(path)
    lacks = sorted(utt for utt in wanted if not lists.get(utt))
    if lacks:
        raise InputError(
            f"{path} lacks {len(lacks)} of {len(wanted)} utterances of the {part} "
            f"data: {shorten(lacks)}. Dump the n-best lists for this data"
        )


def _check_text(
    data: List[Tuple[str, str, str]],
    config: KDConfig,
    wanted: Mapping[str, str],
    part: str,
) -> None:
    path = next(path for path, name, _ in data if name == "text")
    text = read_scp(path)
    lacks = [utt for utt in wanted if not text.get(utt)]
    if lacks:
        raise InputError(
            f"{path} has no words for {len(lacks)} of {len(wanted)} utterances of the "
            f"{part} data: {shorten(lacks)}. Transcribe or remove "
            f"them{config.without_labels}"
        )


def check_layers(args: argparse.Namespace, config: KDConfig) -> None:
    """Refuse intermediate layers that the encoder does not have.

    Args:
        args: the training arguments.
        config: ``model_conf.kd``.

    Raises:
        InputError: a layer is the last layer or above it.
    """
    conf = args.encoder_conf or {}
    layers = conf.get("interctc_layer_idx") or []
    if config.inter is None or not layers:
        return
    encoder = encoder_choices.get_class(args.encoder)
    if "interctc_layer_idx" not in inspect.signature(encoder).parameters:
        raise InputError(
            f"kd.inter is given, and encoder is {args.encoder!r}, which gives no "
            "intermediate outputs: take conformer, e_branchformer or transformer, or "
            "remove kd.inter and encoder_conf.interctc_layer_idx"
        )
    whole = isinstance(layers, (list, tuple)) and all(type(n) is int for n in layers)
    if not whole or len(set(layers)) < len(layers):
        raise InputError(
            f"encoder_conf.interctc_layer_idx is {layers!r}; give a list of different "
            "whole numbers, as [4, 8]"
        )
    default = inspect.signature(encoder).parameters.get("num_blocks")
    blocks = conf.get("num_blocks", default.default if default else None)
    if isinstance(blocks, int) and not all(0 < layer < blocks for layer in layers):
        raise InputError(
            f"encoder_conf.interctc_layer_idx is {layers}, and the encoder has "
            f"{blocks} layers: give numbers from 1 to {blocks - 1}"
        )


def check_lengths(args: argparse.Namespace, shift: Fraction, shortest: int) -> None:
    """Refuse utterances whose length in the shape files is too short for training.

    A batch of one utterance with one frame has no variance to normalise by.

    Args:
        args: the training arguments.
        shift: frame shift of the student in samples.
        shortest: samples of the student's first frame.

    Raises:
        InputError: an utterance is too short.
    """
    for part, least in (("train", LEAST_FRAMES), ("valid", 1)):
        for path in getattr(args, f"{part}_shape_file")[:1]:
            needed = shortest + (least - 1) * shift
            sizes = read_scp(path)
            short = [
                f"{utt} ({size} samples)"
                for utt, size in sizes.items()
                if size.isdecimal() and int(size) < needed
            ]
            if short:
                raise InputError(
                    f"{len(short)} of {len(sizes)} utterances of {path} are too short "
                    f"for the student, which needs {math.ceil(needed)} samples for "
                    f"{least} frame(s): {shorten(short)}. Leave them out, as `python "
                    "-m espnet_ctckd.bin.filter_data --asr_config …` does"
                )


def check_rate(path: str, config: KDConfig, shift: Fraction) -> None:
    """Refuse a cache whose frame rate does not match the student's.

    Args:
        path: path of the cache.
        config: ``model_conf.kd``.
        shift: frame shift of the student in samples.

    Raises:
        InputError: the ratio of the frame rates is not ``frame_ratio``.
    """
    meta = read_meta(path)
    check_frame_ratio(meta, shift, config.ratio)
    if config.target == "occupancies":
        check_dense(meta)


def match_tokens(
    meta: CacheMeta, args: argparse.Namespace
) -> Tuple[Optional[List[int]], int, int]:
    """Map the tokens of a cache to the tokens of the student.

    Args:
        meta: metadata of the cache.
        args: the training arguments.

    Returns:
        The index from `map_tokens`, V of the student, and the index of its blank.

    Raises:
        InputError: a token has no counterpart.
    """
    tokens = token_list_of(args)
    symbol = (args.model_conf or {}).get("sym_blank", "<blank>")
    if symbol not in tokens:
        raise InputError(
            f"the token list has no blank {symbol!r}: add it, or name the blank with "
            "model_conf.sym_blank"
        )
    blank = tokens.index(symbol)
    index = map_tokens(
        meta.token_list, meta.blank, tokens, blank, f"cache {meta.folder}"
    )
    return index, len(tokens), blank


def token_list_of(args: argparse.Namespace) -> List[str]:
    """Return the student's tokens, which are given as a list or as a file."""
    tokens = args.token_list
    if isinstance(tokens, str):
        tokens = read_lines(tokens, "token list")
    return list(tokens)
