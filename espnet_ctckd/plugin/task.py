"""ESPnet's ASR task, for training configurations with ``model: ctckd``.

The stock task handles any other configuration, unchanged.
"""

import argparse
import inspect
import logging
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch
import torch.distributed as dist
import yaml
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.tasks.asr import ASRTask
from espnet2.train.dataset import ESPnetDataset
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_ctckd import MODEL_NAME, register
from espnet_ctckd.cache.nbest import NBEST
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import KDConfig, NBestConfig
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.models.espnet import measure_frame_shift, named_errors, shortest_input
from espnet_ctckd.plugin.checks import (
    check_data,
    check_layers,
    check_lengths,
    check_rate,
    check_selected,
    check_selected_online,
    check_texts,
    match_tokens,
    path_of,
    student_of,
    token_list_of,
)
from espnet_ctckd.plugin.model import ESPnetCTCKDModel
from espnet_ctckd.plugin.nbest import NBestReader
from espnet_ctckd.plugin.preprocessor import TEACHER, PosteriorReader, TeacherDecoder
from espnet_ctckd.plugin.readers import check_caches, datasets_of, name_what_fails
from espnet_ctckd.plugin.terms import TERM_CHOICES
from espnet_ctckd.plugin.trainer import CTCKDTrainer
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.teachers.online import open_online
from espnet_ctckd.tokens import espnet_names


class CTCKDTask(ASRTask):
    """ASR training with a cached teacher, with or without transcripts.

    In addition to the data of the stock task, ``teacher`` names the posteriors
    (``<cache>/teacher.scp,teacher,kaldi_ark``) and ``nbest`` the teacher's hypotheses
    (``<folder>/nbest,nbest,text``). ``text`` is required as in the stock task, unless
    ``model_conf.kd.weight`` is 1.
    """

    trainer = CTCKDTrainer

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Tuple[str, ...]:
        """Return the names of the required data; `check_data` checks the others."""
        return ("speech",)

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Tuple[str, ...]:
        """Return the names of the optional data."""
        stock = super().optional_data_names(train, inference)
        own = {name for term in TERM_CHOICES.values() for name in term.data}
        return (*stock, "text", TEACHER, *sorted(own))

    @classmethod
    def get_parser(cls) -> argparse.ArgumentParser:
        """Return the parser of the stock task, extended by ``--model ctckd``."""
        register()
        parser: argparse.ArgumentParser = super().get_parser()
        stock = next(a for a in parser._actions if a.dest == "model_conf")
        group = stock.container  # type: ignore[attr-defined]
        group.conflict_handler = "resolve"
        group.add_argument(
            "--model_conf",
            action=_ModelConf,
            default={},
            help="options of the model; kd=<file> is the base of kd, and "
            "kd.<key>=<value> overrides it, in any order",
        )
        group.conflict_handler = "error"
        return parser

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train in this process; it may be a spawned worker, so register first."""
        register()
        cached = _check_caches(args)
        if args.model != MODEL_NAME:
            if cached:
                raise InputError(
                    f"model is {args.model!r}, which does not learn from posteriors, "
                    f"but the data {cached[0]!r} are records of a cache: remove "
                    "them, or set model: ctckd"
                )
            if "kd" in (args.model_conf or {}):
                raise InputError(
                    f"model_conf has the key 'kd', but model is {args.model!r}: set "
                    "model: ctckd, or remove kd"
                )
            with named_errors(args):
                ASRTask.main_worker(args)
            return
        super().main_worker(args)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ESPnetASRModel:
        """Build the model, refusing unknown keys of ``model_conf`` by name."""
        register()
        if getattr(args, "model", None) != MODEL_NAME:
            with named_errors(args):
                model: ESPnetASRModel = super().build_model(args)
            return model
        config = read_kd_config(args)
        check_layers(args, config)
        # The model gets the parsed configuration, and config.yaml the mapping.
        conf = args.model_conf
        args.model_conf = {**conf, "kd": config}
        try:
            with named_errors(args):
                model = super().build_model(args)
        finally:
            args.model_conf = conf
        return model

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> List[torch.optim.Optimizer]:
        """Check the data on rank 0, then build the optimizers of the stock task.

        This is the first hook that ESPnet calls after opening the log and building
        the model.
        """
        if not args.collect_stats and _is_rank0():
            assert isinstance(model, ESPnetCTCKDModel)
            _check_training(args, model)
        optimizers: List[torch.optim.Optimizer] = super().build_optimizers(args, model)
        return optimizers

    @classmethod
    def build_iter_factory(cls, *args: Any, **kwargs: Any) -> AbsIterFactory:
        """Build the iterator factory of the stock task.

        Errors of its readers name utterance and file.
        """
        factory = super().build_iter_factory(*args, **kwargs)
        for dataset in datasets_of(factory):
            name_what_fails(dataset)
        return factory

    @classmethod
    def build_streaming_iterator(
        cls,
        data_path_and_name_and_type: List[Tuple[str, str, str]],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Build the iterator of the statistics collection, without posteriors.

        No statistics of posteriors are needed, and ESPnet's iterator would read the
        records of a cache with kaldiio, which unpickles objects.
        """
        flag = "--train_data_path_and_name_and_type"
        cached = check_caches(data_path_and_name_and_type, flag)
        data = [each for each in data_path_and_name_and_type if each[1] not in cached]
        return super().build_streaming_iterator(data, *args, **kwargs)

    @classmethod
    def build_preprocess_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> Optional[Callable[[str, Dict[str, Any]], Dict[str, np.ndarray]]]:
        """Extend the stock preprocessor by decoding of the teacher's targets."""
        stock = super().build_preprocess_fn(args, train)
        given = args.train_data_path_and_name_and_type
        path, lists = path_of(given, TEACHER), path_of(given, NBEST)
        if path is None and lists is None:
            return stock  # type: ignore[no-any-return]
        posteriors = nbest = None
        if path is not None:
            meta = read_meta(path)
            posteriors = PosteriorReader(meta.records, *match_tokens(meta, args))
        kd = args.model_conf["kd"] if args.model == MODEL_NAME else {}
        if lists is not None and kd.get("nbest") is not None:
            tokens = token_list_of(args)
            # Tokens are named as dump_nbest or as the student's list names them.
            index = {name: i for i, name in enumerate(espnet_names(tokens))}
            index |= {token: i for i, token in enumerate(tokens)}
            nbest = NBestReader(NBestConfig.from_dict(kd["nbest"]), index)
        return TeacherDecoder(stock, posteriors, nbest)


class _ModelConf(NestedDictAction):  # type: ignore[misc]
    """ESPnet's action, extended so that keys of ``kd`` override its base file."""

    _namespace: Optional[argparse.Namespace] = None
    _single: List[str]

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str,
        option_strings: Optional[str] = None,
    ) -> None:
        """Parse one flag."""
        if namespace is not self._namespace:  # ESPnet parses twice, for --config
            self._namespace, self._single = namespace, []
        key = values.partition("=")[0].strip()
        if "=" in values and key.startswith("kd."):
            self._single.append(values)
            conf = getattr(namespace, self.dest, None) or {}
            if isinstance(conf.get("kd"), str):
                setattr(namespace, self.dest, {**conf, "kd": {"base": conf["kd"]}})
        super().__call__(parser, namespace, values, option_strings)
        whole = "kd" in getattr(namespace, self.dest) and "=" not in values
        if key == "kd" or whole:
            again, self._single = self._single, []
            for flag in again:
                self(parser, namespace, flag, option_strings)


def _check_caches(args: argparse.Namespace) -> List[str]:
    """Check the lists of caches, and return the names of their data.

    `check_data` checks the cache of the student itself, for its training utterances.
    """
    later = args.model == MODEL_NAME and not args.collect_stats
    names = []
    for part in ("train", "valid"):
        flag = f"{part}_data_path_and_name_and_type"
        data = [d for d in getattr(args, flag) if not (later and d[1] == TEACHER)]
        names += check_caches(data, f"--{flag}")
    return names


def _is_rank0() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _check_training(args: argparse.Namespace, model: ESPnetCTCKDModel) -> None:
    """Refuse data that does not match the student."""
    model.build_objectives()
    check_data(args, model.kd_config)
    cache = path_of(args.train_data_path_and_name_and_type, TEACHER)
    shift = None
    if args.frontend is not None:
        mode = model.training
        shift, shortest = measure_frame_shift(model.eval()), shortest_input(model)
        model.train(mode)
        check_lengths(args, shift, shortest)
        stock = ASRTask.build_preprocess_fn(args, train=False)
        check_texts(args, student_of(model, stock, shift, shortest))
    if model.kd_config.online:
        _check_online(args, model)
    if cache is None:
        return
    if shift is not None:
        check_rate(cache, model.kd_config, shift)
    for part in ("train", "valid"):
        path = path_of(getattr(args, f"{part}_data_path_and_name_and_type"), TEACHER)
        if path is None:
            continue
        meta = read_meta(path)
        reader = PosteriorReader(meta.records, *match_tokens(meta, args))
        for objective in model.selecting():
            line = check_selected(meta, reader, objective, args.max_epoch)
            logging.info(f"{part}: {line}")


def _check_online(args: argparse.Namespace, model: ESPnetCTCKDModel) -> None:
    """Refuse an online teacher without a frame that the selectors take.

    The student holds the opened teacher, so that the trainer does not open it again.
    """
    objectives = model.selecting()
    if not objectives:
        return
    device = "cuda" if args.ngpu > 0 else "cpu"
    config, blank = model.kd_config.teacher, model.blank_id
    teacher = model.online = open_online(config, model.token_list, blank, device)
    for part in ("train", "valid"):
        given = getattr(args, f"{part}_data_path_and_name_and_type")
        audio = [entry for entry in given if entry[1] == "speech"]
        stock = ASRTask.build_preprocess_fn(args, train=False)
        data = ESPnetDataset(audio, preprocess=stock)
        name_what_fails(data)

        def ask(utt: str, data: ESPnetDataset = data) -> FramePosteriors:
            speech = torch.from_numpy(data[utt][1]["speech"]).unsqueeze(0).to(device)
            lengths = torch.tensor([speech.size(1)], device=device)
            posteriors: FramePosteriors = teacher(speech, lengths)[0]
            return posteriors

        utterances = list(read_scp(audio[0][0]))
        for objective in objectives:
            line = check_selected_online(utterances, ask, objective, args.max_epoch)
            logging.info(f"{part}: {line}")


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
    """Replace the name of a file by the mapping in the file.

    Args:
        conf: ``model_conf.kd``: a mapping; or the path of a YAML file with a mapping;
            or a mapping whose key ``base`` names such a file, and whose other keys
            override the file key by key. Another selector, loss or reduction replaces
            its options, too.

    Returns:
        The mapping; any other value is returned unchanged.

    Raises:
        InputError: the file is missing or is not a mapping.
    """
    if isinstance(conf, str):
        conf = {"base": conf}
    if not isinstance(conf, dict) or "base" not in conf:
        return conf
    path = conf["base"]
    try:
        base = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
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
    """Recursively override `base` with `own`."""
    merged = dict(base)
    for family in ("selector", "loss", "reduction"):
        if own.get(family, base.get(family)) != base.get(family):
            merged.pop(f"{family}_conf", None)
    for key, value in own.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged
