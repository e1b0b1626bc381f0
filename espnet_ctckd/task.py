"""ESPnet's ASR task, for training configurations with ``model: ctckd``.

Any other configuration is handed to the stock task unchanged.
"""

import argparse
import inspect
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np
import yaml
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask, encoder_choices

from espnet_ctckd import MODEL_NAME, register
from espnet_ctckd.align import map_tokens
from espnet_ctckd.cache.check import check_dense, check_dropped, check_frame_ratio
from espnet_ctckd.cache.codec import rename_tokens
from espnet_ctckd.cache.reader import CacheMeta, read_meta
from espnet_ctckd.cache.record import Records, fingerprint
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import KDConfig
from espnet_ctckd.data import read_scp, shorten
from espnet_ctckd.nbest import NBEST, NBestReader, read_nbest_meta
from espnet_ctckd.teachers.espnet import measure_frame_shift
from espnet_ctckd.trainer import CTCKDTrainer

TEACHER = "teacher"
STATES = "teacher_states"


class CTCKDTask(ASRTask):
    """ASR training with a cached teacher, with or without transcripts.

    Beside the data of the stock task, ``teacher`` names the posteriors:
    ``<cache>/teacher.scp,teacher,kaldi_ark``, and ``nbest`` the teacher's hypotheses:
    ``<folder>/nbest,nbest,text``. ``text`` is required as in the stock
    task, except where ``model_conf.kd.weight`` is 1.
    """

    trainer = CTCKDTrainer

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Tuple[str, ...]:
        """Names without which nothing runs; `check_data` looks for the others."""
        return ("speech",)

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Tuple[str, ...]:
        """Names that are understood where they are given."""
        stock = super().optional_data_names(train, inference)
        return (*stock, "text", TEACHER, NBEST)

    @classmethod
    def get_parser(cls) -> argparse.ArgumentParser:
        """The parser of the stock task, which takes ``--model ctckd``, too."""
        register()
        return super().get_parser()  # type: ignore[no-any-return]

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train in this process; spawned workers start here and register first."""
        register()
        if args.model != MODEL_NAME:
            if "kd" in (args.model_conf or {}):
                raise InputError(
                    f"model_conf has the key 'kd', but model is {args.model!r}: set "
                    "model: ctckd, or remove kd"
                )
            ASRTask.main_worker(args)
            return
        config = read_kd_config(args)
        if not args.collect_stats:
            # A warning before ESPnet sets up its log would leave it at that level.
            handlers = list(logging.root.handlers)
            check_data(args, config)
            check_rate(args, config)
            logging.root.handlers[:] = handlers
        super().main_worker(args)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ESPnetASRModel:
        """Build the model, refusing unknown keys of ``model_conf`` by name."""
        register()
        if getattr(args, "model", None) == MODEL_NAME:
            check_layers(args, read_kd_config(args))
        model: ESPnetASRModel = super().build_model(args)
        return model

    @classmethod
    def build_preprocess_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> Optional[Callable[[str, Dict[str, Any]], Dict[str, np.ndarray]]]:
        """Preprocess as the stock task does, and decode what the teacher said."""
        stock = super().build_preprocess_fn(args, train)
        given = args.train_data_path_and_name_and_type
        path, lists = path_of(given, TEACHER), path_of(given, NBEST)
        if path is None and lists is None:
            return stock  # type: ignore[no-any-return]
        posteriors = nbest = None
        if path is not None:
            meta = read_meta(path)
            posteriors = PosteriorReader(meta.records, *match_tokens(meta, args))
        config = read_kd_config(args).nbest if args.model == MODEL_NAME else None
        if lists is not None and config is not None:
            tokens = _token_list(args)
            index = {token: i for i, token in enumerate(tokens)}
            nbest = NBestReader(config, index)
        return TeacherDecoder(stock, posteriors, nbest)


@dataclass(frozen=True)
class PosteriorReader:
    """From a record of a cache to what the training reads, in the data workers.

    Args:
        records: of the cache.
        index: where the teacher's tokens stand in the student's list, as
            `map_tokens` gives it.
        tokens: V of the student.
    """

    records: Records
    index: Optional[List[int]]
    tokens: int

    def read(
        self, utt: str, record: np.ndarray, speech: Optional[np.ndarray]
    ) -> Dict[str, np.ndarray]:
        """Log-probabilities (U, K), and where there are some, ids and states.

        Args:
            utt: the utterance.
            record: from the cache.
            speech: its audio (S,), to be held against what the teacher heard.

        Raises:
            InputError: the record is damaged, or not of this utterance and audio.
        """
        said = self.records.open(utt, record)
        if speech is not None and speech.ndim == 1:
            heard = fingerprint(speech)
            if heard != said.audio:
                raise InputError(
                    f"utterance {utt}: its audio ({heard}) is not what the teacher of "
                    f"{self.records.where} heard ({said.audio}): dump the teacher for "
                    "this data"
                )
        log_probs, ids = said.log_probs, said.ids
        if self.index is not None:
            log_probs, ids = rename_tokens(log_probs, ids, self.index, self.tokens)
        found = {TEACHER: log_probs, f"{TEACHER}_ids": ids, STATES: said.states}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class TeacherDecoder:
    """Preprocessor of what the teacher said of an utterance, in the data workers.

    Args:
        stock: what else is to be done, or None.
        posteriors: reads the cache; None where there is none.
        nbest: reads the n-best lists; None where nothing learns from them.
    """

    stock: Optional[Callable[..., Any]]
    posteriors: Optional[PosteriorReader]
    nbest: Optional[NBestReader]

    def __call__(self, uid: str, data: Dict[str, Any]) -> Dict[str, np.ndarray]:
        """Preprocess one utterance."""
        record, line = data.pop(TEACHER, None), data.pop(NBEST, None)
        speech = data.get("speech")
        if self.stock is not None:
            data = self.stock(uid, data)
        if record is not None and self.posteriors is not None:
            data.update(self.posteriors.read(uid, record, speech))
        if line is not None and self.nbest is not None:
            data.update(self.nbest.read(uid, line, data.get("text")))
        return data


def read_kd_config(args: argparse.Namespace) -> KDConfig:
    """Read ``model_conf`` of a configuration with ``model: ctckd``.

    Args:
        args: the training arguments.

    Returns:
        The checked ``model_conf.kd``.

    Raises:
        InputError: a key is unknown or missing, or a value makes no sense.
    """
    conf = args.model_conf or {}
    if "kd" not in conf:
        raise InputError("model is 'ctckd', but model_conf has no key 'kd'")
    conf["kd"] = read_kd_file(conf["kd"])
    takes = {*inspect.signature(ESPnetASRModel.__init__).parameters, "kd"}
    for key in conf:
        if key not in takes:
            raise InputError(f"unknown key {key!r} in model_conf")
    return KDConfig.from_dict(conf["kd"])


def read_kd_file(conf: object) -> object:
    """Replace the name of a file by what stands in it.

    Args:
        conf: ``model_conf.kd``: a mapping; or a YAML file that holds one; or a mapping
            whose key ``base`` names such a file, and whose other keys win over it,
            key by key; another selector, loss or reduction brings its own options.

    Returns:
        The mapping, or what else was given.

    Raises:
        InputError: the file is missing or holds no mapping.
    """
    if isinstance(conf, str):
        conf = {"base": conf}
    if not isinstance(conf, dict) or "base" not in conf:
        return conf
    path = conf["base"]
    try:
        base = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, TypeError, yaml.YAMLError) as error:
        raise InputError(
            f"model_conf.kd names {path!r}, which cannot be read: {error}"
        ) from None
    if not isinstance(base, dict) or "base" in base:
        raise InputError(
            f"{path} holds no mapping of kd's keys: give a file like those of conf/kd, "
            "which names no other (base)"
        )
    own = {key: value for key, value in conf.items() if key != "base"}
    if {"weight", "selector", "loss", "reduction"} <= own.keys():
        raise InputError(
            f"model_conf.kd.base is {path!r}, but kd has all that the file could say, "
            "from the configuration: replace it as a whole, with "
            f"--model_conf kd={path}, or kd={{base: {path}, <key>: <value>}}"
        )
    return _merge(base, own)


def _merge(base: Dict[str, Any], own: Mapping[str, Any]) -> Dict[str, Any]:
    """What is its own wins, key by key, in mappings inside of it, too."""
    merged = dict(base)
    for family in ("selector", "loss", "reduction"):
        if own.get(family, base.get(family)) != base.get(family):
            merged.pop(f"{family}_conf", None)
    for key, value in own.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def path_of(data: List[Tuple[str, str, str]], wanted: str) -> Optional[str]:
    """The path of the data of a name, if any."""
    return next((path for path, name, _ in data if name == wanted), None)


def check_data(args: argparse.Namespace, config: KDConfig) -> None:
    """Hold the data of a training against its configuration, before it starts.

    Args:
        args: the training arguments.
        config: ``model_conf.kd``.

    Raises:
        InputError: labels or posteriors are missing, or the cache is not of these
            utterances or tokens.
    """
    if config.from_epoch > args.max_epoch:
        raise InputError(
            f"kd.from_epoch is {config.from_epoch}, after the last epoch (max_epoch "
            f"{args.max_epoch}): the selector would never choose"
        )
    metas = []
    for part in ("train", "valid"):
        data = getattr(args, f"{part}_data_path_and_name_and_type")
        shapes = getattr(args, f"{part}_shape_file")
        flag = f"--{part}_data_path_and_name_and_type"
        if config.needs_labels and path_of(data, "text") is None:
            raise InputError(
                f"{config.ctc_key} keeps the CTC loss, but {flag} has no 'text': give "
                "the transcripts, or set kd.weight: 1"
            )
        wanted = read_scp(shapes[0] if shapes else data[0][0])
        if config.needs_labels:
            _check_text(data, wanted, part)
        if config.nbest is not None:
            _check_nbest(path_of(data, NBEST), wanted, part)
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


def _check_teacher(
    path: str,
    args: argparse.Namespace,
    config: KDConfig,
    wanted: Mapping[str, str],
    part: str,
) -> CacheMeta:
    meta = read_meta(path)
    index, _ = match_tokens(meta, args)
    check_dropped(meta, index)
    check_states(meta, config)
    missing = sorted(set(wanted) - set(read_scp(path)))
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of {len(wanted)} utterances of the "
            f"{part} data: {shorten(missing)}. Dump the teacher for this data"
        )
    return meta


def _check_alike(train: CacheMeta, valid: CacheMeta) -> None:
    if train.codec != valid.codec:
        raise InputError(
            f"the caches of train and valid are packed differently: {train.codec} "
            f"and {valid.codec}. Dump both with the same --top_k"
        )
    if (train.token_list, train.blank) != (valid.token_list, valid.blank):
        raise InputError(
            f"the caches {train.folder} and {valid.folder} have different tokens: "
            "dump both with the same teacher"
        )


def check_states(meta: CacheMeta, config: KDConfig) -> None:
    """Refuse a cache without the hidden states that a student learns.

    Args:
        meta: what the cache says of itself.
        config: ``model_conf.kd``.

    Raises:
        InputError: it has none, or of another size.
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


def _check_nbest(path: Optional[str], wanted: Mapping[str, str], part: str) -> None:
    if path is None:
        flag = f"--{part}_data_path_and_name_and_type"
        raise InputError(
            f"kd.nbest learns from n-best lists, but {flag} has no 'nbest': give e.g. "
            f"{flag} <folder>/nbest,nbest,text, as dump_nbest writes it"
        )
    read_nbest_meta(path)
    lists = read_scp(path)
    lacks = sorted(utt for utt in wanted if not lists.get(utt))
    if lacks:
        raise InputError(
            f"{path} lacks {len(lacks)} of {len(wanted)} utterances of the {part} "
            f"data: {shorten(lacks)}. Dump the n-best lists for this data"
        )


def _check_text(
    data: List[Tuple[str, str, str]], wanted: Mapping[str, str], part: str
) -> None:
    path = next(path for path, name, _ in data if name == "text")
    text = read_scp(path)
    lacks = [utt for utt in wanted if not text.get(utt)]
    if lacks:
        raise InputError(
            f"{path} has no words for {len(lacks)} of {len(wanted)} utterances of the "
            f"{part} data: {shorten(lacks)}. Transcribe or remove them, or train with "
            "kd.weight: 1, without text"
        )


def check_layers(args: argparse.Namespace, config: KDConfig) -> None:
    """Refuse intermediate layers that the encoder has not.

    Args:
        args: the training arguments.
        config: ``model_conf.kd``.

    Raises:
        InputError: a layer is the last one or beyond.
    """
    conf = args.encoder_conf or {}
    layers = conf.get("interctc_layer_idx") or []
    if config.inter is None or not layers:
        return
    encoder = encoder_choices.get_class(args.encoder)
    default = inspect.signature(encoder).parameters.get("num_blocks")
    blocks = conf.get("num_blocks", default.default if default else None)
    if isinstance(blocks, int) and not all(0 < layer < blocks for layer in layers):
        raise InputError(
            f"encoder_conf.interctc_layer_idx is {layers}, and the encoder has "
            f"{blocks} layers: give numbers from 1 to {blocks - 1}"
        )


def check_rate(args: argparse.Namespace, config: KDConfig) -> None:
    """Refuse caches of another frame rate than the student's, before it trains.

    Args:
        args: the training arguments.
        config: ``model_conf.kd``.

    Raises:
        InputError: the rates are not as ``frame_ratio`` says.
    """
    path = path_of(args.train_data_path_and_name_and_type, TEACHER)
    if path is None or args.frontend is None:
        return
    meta = read_meta(path)
    shift = measure_frame_shift(CTCKDTask.build_model(args).eval())
    check_frame_ratio(meta, shift, config.ratio)
    if config.target == "occupancies":
        check_dense(meta)


def match_tokens(
    meta: CacheMeta, args: argparse.Namespace
) -> Tuple[Optional[List[int]], int]:
    """Hold the tokens of a cache against those of the student.

    Args:
        meta: what the cache says of itself.
        args: the training arguments.

    Returns:
        As of `map_tokens`, and V of the student.

    Raises:
        InputError: tokens have no counterpart.
    """
    tokens = _token_list(args)
    symbol = (args.model_conf or {}).get("sym_blank", "<blank>")
    if symbol not in tokens:
        raise InputError(
            f"the token list has no blank {symbol!r}: add it, or name the blank with "
            "model_conf.sym_blank"
        )
    index = map_tokens(
        meta.token_list,
        meta.blank,
        tokens,
        tokens.index(symbol),
        f"cache {meta.folder}",
    )
    return index, len(tokens)


def _token_list(args: argparse.Namespace) -> List[str]:
    tokens = args.token_list
    if isinstance(tokens, str):
        tokens = Path(tokens).read_text(encoding="utf-8").splitlines()
    return list(tokens)
