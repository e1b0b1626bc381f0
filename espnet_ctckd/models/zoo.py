"""Location of ESPnet models: a folder, an archive, or a tag of a model zoo."""

import contextlib
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Dict, List, Tuple

from espnet2.main_funcs.pack_funcs import unpack

from espnet_ctckd.choices import InputError
from espnet_ctckd.models.checkpoint import load_config

# File names of weights from our export and ESPnet's recipes, in order of preference.
_WEIGHTS = ("model.pth", "valid.cer_ctc.ave.pth", "valid.acc.ave.pth", "*.ave.pth")


def find_model(model: str) -> Tuple[Path, Path]:
    """Find the configuration and weights of a model.

    Args:
        model: a folder with config.yaml and weights; an archive of ESPnet's packing,
            which is unpacked to the same folder; or a tag.

    Returns:
        Paths of both.

    Raises:
        InputError: they do not exist, or the tag cannot be downloaded.
    """
    folder = Path(model)
    if folder.is_file():
        return _unpack(folder)
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
    except Exception as error:  # any error of the network or the hub
        raise InputError(
            f"{tag} is no folder, and cannot be downloaded as a tag: {error}. Check "
            "the tag and the network, or give a folder"
        ) from None
    return _recogniser(found, tag)


def _recogniser(found: Dict[str, str], where: object) -> Tuple[Path, Path]:
    for prefix in ("asr", "s2t"):
        if f"{prefix}_train_config" in found:
            config = Path(found[f"{prefix}_train_config"])
            weights = Path(found[f"{prefix}_model_file"])
            _check_files(config, weights)
            return config, weights
    raise InputError(f"{where} is not a model for speech recognition: {sorted(found)}")


def _check_files(config: Path, weights: Path) -> None:
    """Refuse a model from an archive that names files outside of the archive."""
    root = next((f for f in config.parents if (f / "meta.yaml").is_file()), None)
    if root is None:
        raise InputError(
            f"the archive names {str(config)!r} as its configuration, which lies "
            "outside of the archive: pack the model again, by relative paths"
        )
    conf = load_config(config)
    parts = {**conf, **(conf.get("normalize_conf") or {}), "weights": str(weights)}
    keys = ("bpemodel", "token_list", "non_linguistic_symbols", "stats_file", "weights")
    for key in keys:
        path = parts.get(key)
        if isinstance(path, str) and not _lies_in(root, path):
            raise InputError(
                f"{config} names {path!r} as {key}, which lies outside of the archive "
                f"that was unpacked to {root}: pack the model again"
            )


def _lies_in(root: Path, path: str) -> bool:
    return Path(path).resolve().is_relative_to(root.resolve())


def _moved_inside(found: Dict[str, str], folder: Path) -> Dict[str, str]:
    """Map the files of an archive, including absolute paths, to paths in its folder."""
    return {
        key: path if _lies_in(folder, path) else str(folder / path.lstrip("/"))
        for key, path in found.items()
    }


def _unpack(archive: Path) -> Tuple[Path, Path]:
    """Unpack an archive next to it; safe for concurrent jobs."""
    folder = archive.with_name(f"{archive.stem}.unpacked").resolve()
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    wanted = f"{archive} is no model: give a folder, or an archive of espnet2.bin.pack"
    try:
        names = _names(archive)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{wanted} ({error})") from None
    for name in names:
        if not (partial / name).resolve().is_relative_to(partial):
            raise InputError(f"{archive} holds {name!r}, which lies outside of it")
    if "meta.yaml" not in names:
        raise InputError(f"{wanted} (it has no meta.yaml)")
    if not folder.is_dir():
        try:
            found = unpack(archive, partial, use_cache=False)
            for path in _moved_inside(found, partial).values():
                if path.endswith(".yaml") and Path(path).is_file():
                    # Paths refer to the final folder.
                    text = Path(path).read_text(encoding="utf-8")
                    text = text.replace(str(partial), str(folder))
                    for name in names:  # that were packed by absolute paths
                        text = text.replace(f": /{name}\n", f": {folder / name}\n")
                    Path(path).write_text(text, encoding="utf-8")
            with contextlib.suppress(OSError):  # another job was faster
                os.rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return _recogniser(_moved_inside(unpack(archive, folder), folder), archive)


def _names(archive: Path) -> List[str]:
    """List the names in a zip or tar; links are refused, as they may lead outside."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            return packed.namelist()
    with tarfile.open(archive) as packed_tar:
        members = packed_tar.getmembers()
    for member in members:
        if not (member.isfile() or member.isdir()):
            raise InputError(f"{archive} holds the link {member.name!r}")
    return [member.name for member in members]
