"""Loading of Hugging Face models, with checks for missing weights."""

import importlib
import re
from typing import Any, Iterable, List, Optional

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import shorten

# Parameters unused at inference: SpecAugment's mask, BatchNorm's counters.
_UNREAD = re.compile(r"(^|\.)(masked_spec_embed|num_batches_tracked)$")
# Names of the methods that map the lengths of a model's input to those of its output.
_OUTPUT_LENGTHS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
# Names of the padding mask in the output of feature extractors.
_MASKS = ("attention_mask", "padding_mask")


def transformers_library(user: str) -> Any:
    """Import transformers.

    Args:
        user: the feature that needs it, in the plural, for the error.

    Raises:
        InputError: transformers is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise InputError(
            f"{user} need transformers: pip install 'espnet_ctckd[hf]'"
        ) from None


def load_pretrained(auto: Any, source: str, where: str, **options: Any) -> Any:
    """Load a model in float32, regardless of the type of its checkpoint.

    Args:
        auto: auto class of the library for models.
        source: id on the hub, or a local folder.
        where: description of the model, for the errors.
        **options: options of ``from_pretrained``.

    Returns:
        The model.

    Raises:
        InputError: the checkpoint lacks weights of the model, has weights of other
            sizes, or weights that have no place in the model.
    """
    model, info = auto.from_pretrained(
        source,
        dtype=torch.float32,
        # Mismatches are reported below, with names and sizes.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **options,
    )
    # The adapter of a language and its output layer are in a separate file, which the
    # library has already loaded.
    own = set(model._get_adapters()) if options.get("target_lang") else set()
    others = sorted(m for m in info["mismatched_keys"] if m[0] not in own)
    if others:
        sizes = [
            f"{name} {tuple(stored)} and not {tuple(built)}"
            for name, stored, built in others
        ]
        raise InputError(
            f"{where}: {len(sizes)} weights of the checkpoint have other sizes than "
            f"its config.json asks for: {shorten(sizes, 3)}. Restore the files of one "
            "model"
        )
    missing = [n for n in info["missing_keys"] if n not in own]
    missing = sorted(name for name in missing if not _UNREAD.search(name))
    if missing:
        raise InputError(
            f"{where}: the checkpoint has no {shorten(missing, 3)} "
            f"({len(missing)} of the model's weights are missing), which would be "
            "random. Give a checkpoint that was trained as a "
            f"{type(model).__name__}, with all of its weights"
        )
    unused = sorted(_unused(model, info["unexpected_keys"]))
    if unused:
        raise InputError(
            f"{where}: {len(unused)} weights of the checkpoint have no place in the "
            f"{type(model).__name__} of its config.json: {shorten(unused, 3)}. "
            "Restore the files of one model"
        )
    return model


def _unused(model: Any, names: Iterable[str]) -> List[str]:
    """Return the unused weights of parts that a model has, not those of other heads."""
    prefix = f"{model.base_model_prefix}."
    base = getattr(model, model.base_model_prefix, model)

    def has_part(name: str) -> bool:
        part = name.removeprefix(prefix).split(".")[0]
        return hasattr(base, part) or hasattr(model, part)

    return [name for name in names if has_part(name) and not _UNREAD.search(name)]


def mask_of(features: Any) -> Optional[Tensor]:
    """Return the padding mask (B, S) of a feature extractor's output, or None."""
    return next((features[name] for name in _MASKS if name in features), None)


def output_lengths(model: Any, lengths: Tensor) -> Optional[Tensor]:
    """Compute the number of output frames of a model from its input lengths.

    Args:
        model: model of transformers.
        lengths: input lengths in samples or feature frames (B,).

    Returns:
        Number of frames (B,), or None if the model cannot compute it.
    """
    for name in _OUTPUT_LENGTHS:
        if hasattr(model, name):
            counted: Tensor = getattr(model, name)(lengths)
            return counted.to(torch.long).clamp(min=0)
    return None
