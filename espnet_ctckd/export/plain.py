"""Export of a trained student as a plain ESPnet model."""

import os
import shutil
from pathlib import Path
from typing import Any, Dict

import torch
import yaml

from espnet_ctckd import ENCODER_NAME, FRONTEND_NAME, MODEL_NAME
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import own_parameters
from espnet_ctckd.data.files import Pathlike, atomic_path, atomic_write
from espnet_ctckd.models.checkpoint import load_config, load_weights
from espnet_ctckd.models.espnet import load_espnet_model, task_of


def export(config_file: Pathlike, model_file: Pathlike, folder: Pathlike) -> str:
    """Write config.yaml (``model: espnet``) and model.pth, for ESPnet's own commands.

    Weights that only the training uses are dropped, keys of this package are removed
    from the configuration, and the files that it names are copied to the folder.

    Args:
        config_file: ``config.yaml`` of the training.
        model_file: checkpoint of the training.
        folder: output folder.

    Returns:
        A note on the modules of this package that the model needs, which is also the
        first line of config.yaml; empty if it needs none.

    Raises:
        InputError: a file is missing or damaged, the weights are of another model, or
            the folder is the training's.
    """
    folder = Path(folder)
    conf = load_config(config_file)
    if (folder / "config.yaml").exists() and os.path.samefile(
        folder / "config.yaml", config_file
    ):
        raise InputError(
            f"{folder} is the folder of the training itself, whose config.yaml would "
            "be lost; choose another folder"
        )
    # Fail here if the weights do not match the configuration.
    load_espnet_model(config_file, model_file, task=task_of(conf))
    states = {
        name: value
        for name, value in load_weights(model_file).items()
        if not name.startswith(own_parameters())
    }
    folder.mkdir(parents=True, exist_ok=True)
    plain = plain_config(conf)
    for owner, key in (
        (plain, "bpemodel"),
        (plain.get("normalize_conf"), "stats_file"),
    ):
        if owner and owner.get(key):
            owner[key] = _copy(owner[key], folder, config_file)
    with atomic_path(folder / "model.pth") as partial:
        try:
            torch.save(states, partial)
        except RuntimeError as error:
            raise InputError(
                f"{folder / 'model.pth'} cannot be written; is the disk full? "
                f"({str(error).splitlines()[0]})"
            ) from None
    needs = _describe_needs(plain)
    with atomic_write(folder / "config.yaml") as f:
        f.write(f"# {needs}\n" if needs else "")
        yaml.safe_dump(plain, f, allow_unicode=True, sort_keys=False)
    return needs


def _describe_needs(plain: Dict[str, Any]) -> str:
    own = [
        f"{key}: {name}"
        for key, name in (("encoder", ENCODER_NAME), ("frontend", FRONTEND_NAME))
        if plain.get(key) == name
    ]
    if not own:
        return ""
    return (
        f"it has {' and '.join(own)}, so it decodes where espnet_ctckd is installed: "
        "with espnet_ctckd.bin.decode, or ESPnet's commands through ctckd-python"
    )


def plain_config(conf: Dict[str, Any]) -> Dict[str, Any]:
    """Return the configuration of a student as a plain ESPnet model.

    Args:
        conf: contents of a training's ``config.yaml``.

    Returns:
        The configuration without the keys of this package; unchanged if it is not of
        a student.
    """
    if conf.get("model") != MODEL_NAME:
        return dict(conf)
    model_conf = {k: v for k, v in conf["model_conf"].items() if k != "kd"}
    model_conf["ctc_weight"] = 1.0
    plain = {**conf, "model": "espnet", "model_conf": model_conf}
    kd = conf["model_conf"].get("kd")
    encoder_conf = conf.get("encoder_conf") or {}
    # A configuration from elsewhere may name a file for ``kd``, which is not read here.
    inter = kd.get("inter") if isinstance(kd, dict) else None
    if inter and not encoder_conf.get("interctc_use_conditioning"):
        # Only the training uses the outputs of the intermediate layers.
        plain["encoder_conf"] = {**encoder_conf, "interctc_layer_idx": []}
    return plain


def _copy(path: str, folder: Path, config_file: Pathlike) -> str:
    if not os.path.isfile(path):
        raise InputError(
            f"{config_file} names the file {path}, which is not there; run this in the "
            "folder that the training was run in"
        )
    target = folder / os.path.basename(path)
    if not (target.exists() and os.path.samefile(path, target)):
        with atomic_path(target) as partial:
            shutil.copyfile(path, partial)
    return str(target.resolve())
