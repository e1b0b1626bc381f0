"""ESPnet's ASR task, for training configurations with ``model: ctckd``.

Any other configuration is handed to the stock task unchanged.
"""

import argparse
import contextlib
import inspect
import logging
import re
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np
import torch
import torch.distributed as dist
import yaml
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask
from espnet2.train.dataset import ESPnetDataset
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_ctckd import MODEL_NAME, register
from espnet_ctckd.align import espnet_names
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.checks import (
    check_data,
    check_layers,
    check_lengths,
    check_rate,
    check_selected,
    check_selected_online,
    check_texts,
    match_tokens,
    path_of,
    selecting,
    student_of,
    token_list_of,
)
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import KDConfig, NBestConfig
from espnet_ctckd.data import read_scp
from espnet_ctckd.espnet_model import measure_frame_shift, shortest_input
from espnet_ctckd.loading import check_caches, name_what_fails
from espnet_ctckd.model import ESPnetCTCKDModel
from espnet_ctckd.nbest import NBEST, NBestReader
from espnet_ctckd.online import open_online
from espnet_ctckd.posteriors import FramePosteriors
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
        parser: argparse.ArgumentParser = super().get_parser()
        stock = next(a for a in parser._actions if a.dest == "model_conf")
        group = stock.container  # type: ignore[attr-defined]
        group.conflict_handler = "resolve"
        group.add_argument(
            "--model_conf",
            action=_ModelConf,
            default={},
            help="options of the model; kd=<file> is the base of kd, and "
            "kd.<key>=<value> wins over it, in whatever order they are given",
        )
        group.conflict_handler = "error"
        return parser

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train in this process; spawned workers start here and register first."""
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
            with _named_errors(args):
                ASRTask.main_worker(args)
            return
        name_what_fails()
        super().main_worker(args)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ESPnetASRModel:
        """Build the model, refusing unknown keys of ``model_conf`` by name."""
        register()
        if getattr(args, "model", None) != MODEL_NAME:
            with _named_errors(args):
                model: ESPnetASRModel = super().build_model(args)
            return model
        config = read_kd_config(args)
        check_layers(args, config)
        # The model gets what was read, and config.yaml the mapping.
        conf = args.model_conf
        args.model_conf = {**conf, "kd": config}
        try:
            with _named_errors(args):
                model = super().build_model(args)
        finally:
            args.model_conf = conf
        return model

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> List[torch.optim.Optimizer]:
        """Build them as the stock task does, once rank 0 has checked the data.

        ESPnet calls this first when a training has its log and its model.
        """
        if not args.collect_stats and _is_rank0():
            assert isinstance(model, ESPnetCTCKDModel)
            _check_training(args, model)
        optimizers: List[torch.optim.Optimizer] = super().build_optimizers(args, model)
        return optimizers

    @classmethod
    def build_streaming_iterator(
        cls,
        data_path_and_name_and_type: List[Tuple[str, str, str]],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Build the iterator that collects statistics, which posteriors have none of.

        ESPnet's reads an entry without its list, by kaldiio, which unpickles what it
        finds: the records of a cache are left out.
        """
        flag = "--train_data_path_and_name_and_type"
        cached = check_caches(data_path_and_name_and_type, flag)
        data = [each for each in data_path_and_name_and_type if each[1] not in cached]
        return super().build_streaming_iterator(data, *args, **kwargs)

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
        kd = args.model_conf["kd"] if args.model == MODEL_NAME else {}
        if lists is not None and kd.get("nbest") is not None:
            tokens = token_list_of(args)
            # As dump_nbest names them, or as the student's own list does.
            index = {name: i for i, name in enumerate(espnet_names(tokens))}
            index |= {token: i for i, token in enumerate(tokens)}
            nbest = NBestReader(NBestConfig.from_dict(kd["nbest"]), index)
        return TeacherDecoder(stock, posteriors, nbest)


# How ESPnet's ``build_model`` calls the constructor of a part.
_CONSTRUCTOR = re.compile(r"= (\w+?)(?:_class)?\(", re.IGNORECASE)


@contextlib.contextmanager
def _named_errors(args: argparse.Namespace) -> Iterator[None]:
    """Let what ESPnet's constructors refuse name the configuration.

    Raises:
        InputError: a part cannot be built as it is configured.
    """
    try:
        yield
    except (InputError, ImportError, OSError):
        raise
    # Constructors assert, divide and look up what they are given.
    except Exception as error:
        lines = [
            frame.line or ""
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.name == "build_model"
        ]
        if not lines:  # it comes from the training
            raise
        found = _CONSTRUCTOR.search(lines[-1])
        part = found[1].lower() if found else "model"
        name = getattr(args, part, None)
        conf = getattr(args, f"{part}_conf", None) or {}
        if part == "model":
            conf = {key: value for key, value in conf.items() if key != "kd"}
        raise InputError(
            f"ESPnet cannot build {part}{f' {name!r}' if name else ''} with "
            f"{part}_conf {conf}: {type(error).__name__}: {error}"
        ) from error


class _ModelConf(NestedDictAction):  # type: ignore[misc]
    """ESPnet's action, with which single keys of ``kd`` win over the file it names."""

    _seen: Optional[argparse.Namespace] = None
    _single: List[str]

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str,
        option_strings: Optional[str] = None,
    ) -> None:
        """Take one flag."""
        if namespace is not self._seen:  # ESPnet parses twice, for --config
            self._seen, self._single = namespace, []
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
    """The names of the data that are records of a cache, whose lists are checked.

    `check_data` checks the student's own, of the utterances that it is trained on.
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
    """Refuse data that does not fit the student that was built for it."""
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
        for objective in selecting(model.kd_config, model.objectives):
            line = check_selected(meta, reader, objective, args.max_epoch)
            logging.info(f"{part}: {line}")


def _check_online(args: argparse.Namespace, model: ESPnetCTCKDModel) -> None:
    """Refuse an online teacher of whose frames the selectors take none.

    The teacher stays with the student, so that the trainer need not open it again.
    """
    objectives = selecting(model.kd_config, model.objectives)
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
    """What is its own wins, key by key, in mappings inside of it, too."""
    merged = dict(base)
    for family in ("selector", "loss", "reduction"):
        if own.get(family, base.get(family)) != base.get(family):
            merged.pop(f"{family}_conf", None)
    for key, value in own.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged
