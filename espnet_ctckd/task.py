"""ESPnet's ASR task, for training configurations with ``model: ctckd``.

Any other configuration is handed to the stock task unchanged.
"""

import argparse
import inspect
import logging
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import numpy as np
import yaml
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask

from espnet_ctckd import MODEL_NAME, register
from espnet_ctckd.align import espnet_names
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.checks import (
    check_data,
    check_layers,
    check_rate,
    match_tokens,
    path_of,
    token_list_of,
)
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import KDConfig
from espnet_ctckd.espnet_model import measure_frame_shift
from espnet_ctckd.loading import name_what_fails
from espnet_ctckd.nbest import NBEST, NBestReader
from espnet_ctckd.preprocess import TEACHER, PosteriorReader, TeacherDecoder
from espnet_ctckd.trainer import CTCKDTrainer


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
            cache = path_of(args.train_data_path_and_name_and_type, TEACHER)
            if cache is not None and args.frontend is not None:
                shift = measure_frame_shift(cls.build_model(args).eval())
                check_rate(cache, config, shift)
            logging.root.handlers[:] = handlers
        name_what_fails()
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
            tokens = token_list_of(args)
            # As dump_nbest names them, or as the student's own list does.
            index = {name: i for i, name in enumerate(espnet_names(tokens))}
            index |= {token: i for i, token in enumerate(tokens)}
            nbest = NBestReader(config, index)
        return TeacherDecoder(stock, posteriors, nbest)


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
