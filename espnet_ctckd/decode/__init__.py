"""Decoding of frame posteriors to tokens and words.

`DECODER_CHOICES` holds the decoders, by name.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # Whoever wants one decoder need not have the libraries of all of them.
    if name == "DECODER_CHOICES":
        from espnet_ctckd.decode.registry import DECODER_CHOICES

        return DECODER_CHOICES
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
