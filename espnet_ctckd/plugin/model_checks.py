"""Checks of a student's parts against its configuration, when it is built."""

import logging
from typing import Any, Dict

from espnet_ctckd.choices import InputError
from espnet_ctckd.config import InterConfig, KDConfig


def check_model(config: KDConfig, kwargs: Dict[str, Any]) -> None:
    """Refuse a model that cannot be distilled; the error names the YAML key."""
    tokens, symbol = list(kwargs["token_list"]), kwargs.get("sym_blank", "<blank>")
    if symbol not in tokens:
        raise InputError(
            f"the token list has no blank {symbol!r}: add it as the first token, or "
            "name the one that is there with model_conf.sym_blank"
        )
    if tokens.index(symbol) != 0:
        raise InputError(
            f"the token list has the blank {symbol!r} at {tokens.index(symbol)}, and "
            "ESPnet's CTC takes the first token for it: put it first. The teacher may "
            "have it anywhere"
        )
    specaug = kwargs.get("specaug")
    if specaug is None and config.views is not None:
        logging.warning(
            "kd.views without specaug: the views of an utterance differ by dropout only"
        )
    warps = specaug is not None and getattr(specaug, "apply_time_warp", False)
    if warps and config.needs_teacher:
        raise InputError(
            "specaug_conf.apply_time_warp is true (which is its default): it moves "
            "frames under the teacher's targets. Set specaug_conf.apply_time_warp: "
            "false"
        )
    ctc_weight = kwargs.get("ctc_weight", 1.0)
    if ctc_weight != 1.0:
        raise InputError(
            f"model_conf.ctc_weight is {ctc_weight}, but the student is a CTC model "
            "without a decoder: set model_conf.ctc_weight: 1.0 or remove the key"
        )
    if kwargs.get("joint_network") is not None:
        raise InputError(
            "decoder is 'transducer', but the student is a CTC model without a "
            "decoder: remove the key decoder"
        )
    if config.inter is not None:
        _check_inter(config.inter, kwargs)
    elif (
        hasattr(kwargs.get("encoder"), "skip_after")
        and kwargs.get("interctc_weight", 0.0) == 0
    ):
        raise InputError(
            "encoder is 'ctckd_skip_conformer', and nothing trains its lower layers to "
            "say what is blank: give kd.inter, as conf/kd/layer_skipping.yaml does"
        )
    if kwargs.get("interctc_weight", 0.0) > 0 and not config.uses_ctc:
        raise InputError(
            f"model_conf.interctc_weight is {kwargs['interctc_weight']}, which is "
            f"added to CTC, but {config.ctc_key} trains without: set "
            "interctc_weight: 0, or kd.weight below 1"
        )


def _check_inter(config: InterConfig, kwargs: Dict[str, Any]) -> None:
    """Refuse an encoder or a head that does not support ``kd.inter``."""
    if not getattr(kwargs.get("encoder"), "interctc_layer_idx", None):
        raise InputError(
            "kd.inter is given, but the encoder gives no intermediate outputs: set "
            "encoder_conf.interctc_layer_idx, e.g. [4, 8], on a Conformer, "
            "E-Branchformer or Transformer"
        )
    if hasattr(kwargs["encoder"], "skip_after") and config.head != "shared":
        raise InputError(
            "encoder is 'ctckd_skip_conformer', which asks the student's own output "
            f"layer what is blank, and kd.inter.head is {config.head!r}: set "
            "kd.inter.head: shared"
        )
    if kwargs.get("interctc_weight", 0.0) > 0:
        raise InputError(
            f"model_conf.interctc_weight is {kwargs['interctc_weight']} beside "
            "kd.inter, which has a CTC loss of its own (kd.inter.ctc_weight): set "
            "interctc_weight: 0"
        )
    kind = getattr(kwargs.get("ctc"), "ctc_type", "builtin")
    if kind not in ("builtin", "builtin2"):
        raise InputError(f"ctc_conf.ctc_type is {kind!r}; kd.inter needs 'builtin'")
