"""A Conformer whose upper layers skip blank frames."""

import contextlib
from typing import Any, Callable, List, Optional, Tuple

import torch
from espnet2.asr.ctc import CTC
from espnet2.asr.encoder import conformer_encoder as stock
from torch import Tensor

from espnet_ctckd.choices import InputError


def _mask_convolution(layer: Any, mask: Tensor) -> Callable[[], None]:
    """Zero the input of a layer's convolution outside of the mask (B, 1, T).

    Returns:
        Function that removes the hook.
    """
    if layer.conv_module is None:
        return lambda: None

    def clear(_module: object, inputs: Tuple[Tensor]) -> Tuple[Tensor]:
        return (inputs[0].masked_fill(~mask, 0.0),)

    hook = layer.conv_module.depthwise_conv.register_forward_pre_hook(clear)
    undo: Callable[[], None] = hook.remove
    return undo


class CTCKDSkipConformerEncoder(stock.ConformerEncoder):
    """ESPnet's Conformer with blank-triggered skipping of the upper layers.

    The CTC output layer is applied after the lower layers. The upper layers run on the
    sequence of frames whose blank probability is below the threshold, and their
    neighbours; attention and convolution operate on this shorter time axis. Skipped
    frames keep the output of the lower layers. In training, frames are skipped in a
    part of the batches only.

    Parameters and their names are those of ``conformer``.

    Args:
        input_size: size of the features.
        skip_after: l, the number of layers that run on all frames.
        skip_threshold: theta; frames with a blank probability of at least theta are
            skipped. Above 1, no frame is skipped.
        skip_neighbours: k; frames within k frames of a non-skipped frame are not
            skipped.
        skip_ratio: share of the training batches in which frames are skipped.
        skip_factorized: predict blank from the lower layers with a separate output,
            without computing all V outputs (factorized CTC).
        **kwargs: options of ESPnet's ``conformer``, with the latest relative positions.

    Raises:
        InputError: an option is invalid.

    References:
        Hou et al., Blank-triggered Dynamic Layer-skipping for Efficient CTC-based
        Speech Recognition (2024), https://arxiv.org/abs/2401.02046; the rules for
        neighbours and training are this package's, the paper's are not known.
    """

    def __init__(
        self,
        input_size: int,
        skip_after: int,
        skip_threshold: float = 0.99,
        skip_neighbours: int = 1,
        skip_ratio: float = 0.5,
        skip_factorized: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs = {**kwargs, "interctc_layer_idx": [skip_after]}
        blocks = kwargs.get("num_blocks", 6)
        number, most = (int, float), float("inf")
        for name, value, kinds, limit, wanted in (
            ("skip_after", skip_after, int, most, "a whole number above 0"),
            ("skip_neighbours", skip_neighbours, int, most, "a whole number >= 0"),
            ("skip_threshold", skip_threshold, number, most, "a number >= 0"),
            ("skip_ratio", skip_ratio, number, 1.0, "a number from 0 to 1"),
        ):
            fits = isinstance(value, kinds) and not isinstance(value, bool)
            if not fits or not 0 <= value <= limit:
                raise InputError(f"encoder_conf.{name} is {value!r}; give {wanted}")
        if not 0 < skip_after < blocks:
            raise InputError(
                f"encoder_conf.skip_after is {skip_after}, and the encoder has "
                f"{blocks} layers: give one from 1 to {blocks - 1}"
            )
        positions = (kwargs.get("pos_enc_layer_type"), kwargs.get("rel_pos_type"))
        if positions != ("rel_pos", "latest"):
            raise InputError(
                f"encoder_conf has pos_enc_layer_type and rel_pos_type {positions}; "
                "ctckd_skip_conformer takes rel_pos and latest"
            )
        super().__init__(input_size, **kwargs)
        self.skip_after = skip_after
        self.skip_threshold, self.skip_neighbours = skip_threshold, skip_neighbours
        self.skip_ratio = skip_ratio
        self.skip_blank: Optional[torch.nn.Linear] = None
        if skip_factorized:
            self.skip_blank = torch.nn.Linear(self.output_size(), 1)
        # ESPnet passes the CTC module to encoders with this attribute.
        self.ctc_trim = True
        self.frames = self.frames_run = 0

    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: Optional[Tensor] = None,
        masks: Optional[Tensor] = None,
        ctc: Optional[CTC] = None,
        return_all_hs: bool = False,
    ) -> Tuple[Tuple[Tensor, List[Tuple[int, Tensor]]], Tensor, Optional[Tensor]]:
        """Encode a batch.

        Args:
            xs_pad: features (B, frames, dim).
            ilens: (B,).
            prev_states: unused.
            masks: unused.
            ctc: CTC module whose output layer predicts blank. Without it, and without
                `skip_factorized`, no frame is skipped.
            return_all_hs: unused.

        Returns:
            States (B, T, dim) of the last layer and of layer ``skip_after``; lengths
            (B,).
        """
        valid = (~stock.make_pad_mask(ilens)[:, None, :]).to(xs_pad.device)
        short, least = stock.check_short_utt(self.embed, xs_pad.size(1))
        if short:
            raise stock.TooShortUttError(
                f"has {xs_pad.size(1)} frames and needs more than {least}",
                xs_pad.size(1),
                least,
            )
        hidden, valid = self.embed(xs_pad, valid)
        layers = list(self.encoders)
        for layer in layers[: self.skip_after]:
            hidden, valid = layer(hidden, valid)
        x, positions = hidden  # (B, T, dim), (1, 2 T - 1, dim)
        shallow = self.after_norm(x) if self.normalize_before else x
        runs = self._gate(shallow, valid.squeeze(1), ctc)  # (B, T)
        if not self.training:
            self.frames += int(valid.sum())
            self.frames_run += int(runs.sum())
        x = self._run(layers[self.skip_after :], x, positions, valid, runs)
        if self.normalize_before:
            x = self.after_norm(x)
        return (x, [(self.skip_after, shallow)]), valid.squeeze(1).sum(1), None

    def lower_logits(self, states: Tensor, ctc_lo: torch.nn.Module) -> Tensor:
        """Compute the CTC logits of the lower layers.

        Args:
            states: output of the lower layers (..., dim).
            ctc_lo: the CTC output layer.

        Returns:
            Logits (..., V). With `skip_factorized` their softmax is sigmoid(u) for the
            blank, and 1 - sigmoid(u) times the softmax of the others for the others.
        """
        logits: Tensor = ctc_lo(states)
        if self.skip_blank is None:
            return logits
        others = logits[..., 1:].log_softmax(-1)
        return torch.cat([self.skip_blank(states), others], -1)

    def _gate(self, shallow: Tensor, valid: Tensor, ctc: Optional[CTC]) -> Tensor:
        """Mask the frames of the upper layers (B, T), at least one per utterance."""
        no_blank = ctc is None and self.skip_blank is None
        whole = no_blank or self.skip_threshold > 1.0
        if not whole and self.training:
            whole = bool(torch.rand(()) >= self.skip_ratio)
        if whole:
            return valid
        with torch.no_grad():
            if self.skip_blank is not None:
                blank = torch.sigmoid(self.skip_blank(shallow).squeeze(-1))  # (B, T)
            else:
                assert ctc is not None
                blank = ctc.softmax(shallow)[..., 0]
        blank = blank.masked_fill(~valid, 2.0)
        runs: Tensor = blank < self.skip_threshold
        runs |= torch.nn.functional.one_hot(blank.argmin(1), blank.size(1)).bool()
        if self.skip_neighbours > 0:
            width = 2 * self.skip_neighbours + 1
            runs = (
                torch.nn.functional.max_pool1d(
                    runs.float().unsqueeze(1), width, 1, self.skip_neighbours
                ).squeeze(1)
                > 0
            )
        runs &= valid
        return runs

    def _run(
        self,
        layers: List[torch.nn.Module],
        x: Tensor,
        positions: Tensor,
        valid: Tensor,
        runs: Tensor,
    ) -> Tensor:
        """Run layers on the frames of a mask, and scatter their outputs back."""
        frames = x.size(1)
        counts = runs.sum(1)  # (B,)
        size = int(counts.max())
        # Frames of the mask first, in temporal order.
        index = (~runs).int().argsort(dim=1, stable=True)[:, :size]  # (B, T')
        every = index.unsqueeze(-1).expand(-1, -1, x.size(2))
        inside = torch.arange(size, device=x.device) < counts.unsqueeze(1)  # (B, T')
        # Relative positions up to T' - 1, around position 0 in the middle.
        near = positions[:, frames - size : frames + size - 1]
        hidden: Any = (x.gather(1, every), near)
        mask = inside.unsqueeze(1)  # (B, 1, T')
        with contextlib.ExitStack() as hooks:
            if not torch.equal(runs, valid.squeeze(1)):
                # ESPnet's convolution reads beyond the end of an utterance; here, this
                # would be skipped frames of the same utterance.
                for layer in layers:
                    hooks.callback(_mask_convolution(layer, mask))
            for layer in layers:
                hidden, mask = layer(hidden, mask)
        outputs = torch.where(inside.unsqueeze(-1), hidden[0], x.gather(1, every))
        return x.scatter(1, every, outputs)
