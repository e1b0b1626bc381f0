"""Where an ESPnet model is: a folder, or a tag of a model zoo."""

from pathlib import Path
from typing import Tuple

from espnet_ctckd.choices import InputError

# In this order: what our export and ESPnet's recipes call the weights to use.
_WEIGHTS = ("model.pth", "valid.cer_ctc.ave.pth", "valid.acc.ave.pth", "*.ave.pth")


def find_model(model: str) -> Tuple[Path, Path]:
    """Configuration and weights of a model.

    Args:
        model: a folder with config.yaml and weights, or a tag.

    Returns:
        Paths of both.

    Raises:
        InputError: they are not there, or the tag cannot be downloaded.
    """
    folder = Path(model)
    if not folder.is_dir():
        return _download(model)
    config = folder / "config.yaml"
    found = [path for name in _WEIGHTS for path in sorted(folder.glob(name))]
    if not config.is_file() or not found:
        raise InputError(
            f"{folder} is not a model: expected config.yaml and one of "
            f"{', '.join(_WEIGHTS)} in it"
        )
    return config, found[0]


def _download(tag: str) -> Tuple[Path, Path]:
    try:
        from espnet_model_zoo.downloader import ModelDownloader
    except ImportError:
        raise InputError(
            f"{tag} is no folder, and to download it as a tag espnet_model_zoo is "
            "missing: pip install 'espnet_ctckd[hf]'"
        ) from None
    try:
        found = ModelDownloader().download_and_unpack(tag)
    except Exception as error:  # whatever the network or the hub raises
        raise InputError(
            f"{tag} is no folder, and cannot be downloaded as a tag: {error}. Check "
            "the tag and the network, or give a folder"
        ) from None
    for prefix in ("asr", "s2t"):
        if f"{prefix}_train_config" in found:
            paths = found[f"{prefix}_train_config"], found[f"{prefix}_model_file"]
            return Path(paths[0]), Path(paths[1])
    raise InputError(f"{tag} is not a model for speech recognition: {sorted(found)}")
