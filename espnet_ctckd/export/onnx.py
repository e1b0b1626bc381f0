"""A student from waveform to log-probabilities, in operations that ONNX has."""

import contextlib
import math
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.utterance_mvn import UtteranceMVN
from torch import Tensor

from espnet_ctckd import ENCODER_NAME
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.kaldi import beside, write_beside
from espnet_ctckd.models.ctc_model import CTCModel

# What sherpa-onnx takes for the frame shift of such models, in seconds.
_SHERPA_SHIFT = 0.02
_OPSET = 17
# What is traced gives the same output for audio of whatever length.
_ENCODERS = (ConformerEncoder, EBranchformerEncoder, TransformerEncoder)


class WaveformModel(torch.nn.Module):
    """The front-end's Fourier transform as a convolution, and the rest as it is.

    Args:
        model: an ESPnet model with a CTC branch.
        volume: peak to which each utterance is scaled, or None.

    Raises:
        InputError: its front-end is another than ``default``.
    """

    def __init__(self, model: ESPnetASRModel, volume: Optional[float] = None) -> None:
        super().__init__()
        self.volume = volume
        frontend = model.frontend
        if not isinstance(frontend, DefaultFrontend):
            raise InputError(
                f"frontend is {type(frontend).__name__}; ONNX is written of models "
                "with frontend: default"
            )
        if hasattr(model.encoder, "skip_after"):
            raise InputError(
                f"encoder is {ENCODER_NAME}, whose frames are chosen by the audio; "
                "that is not written as ONNX: train with encoder: conformer"
            )
        if not isinstance(model.encoder, _ENCODERS):
            raise InputError(
                f"encoder is {type(model.encoder).__name__}; ONNX is written of "
                f"{', '.join(encoder.__name__ for encoder in _ENCODERS)}, with which "
                "it was tried"
            )
        if model.preencoder is not None or model.postencoder is not None:
            raise InputError("ONNX is written of models without pre- or postencoder")
        stft = frontend.stft
        self.hop, self.size = stft.hop_length, stft.n_fft
        self.pad = self.size // 2 if stft.center else 0
        window = torch.ones(stft.win_length, dtype=torch.float64)
        if stft.window is not None:
            window = getattr(torch, f"{stft.window}_window")(
                stft.win_length, dtype=torch.float64
            )
        left = (self.size - stft.win_length) // 2
        window = torch.nn.functional.pad(
            window, (left, self.size - stft.win_length - left)
        )
        if stft.normalized:
            window = window / math.sqrt(self.size)
        bins = torch.arange(self.size // 2 + 1, dtype=torch.float64)
        time = torch.arange(self.size, dtype=torch.float64)
        angle = 2.0 * math.pi * bins[:, None] * time / self.size
        basis = torch.cat([angle.cos(), -angle.sin()]) * window  # (2 F, size)
        self.basis: Tensor
        self.register_buffer("basis", basis.float().unsqueeze(1))
        self.melmat: Tensor = frontend.logmel.melmat
        self.log_scale = 1.0
        if frontend.logmel.log_base is not None:
            self.log_scale = 1.0 / math.log(frontend.logmel.log_base)
        self.normalize, self.encoder = model.normalize, model.encoder
        self.ctc_lo = model.ctc.ctc_lo

    def forward(self, speech: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Map a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: (B,), samples.

        Returns:
            Log-probabilities (B, T, V), and frames (B,).
        """
        if self.volume is not None:
            beyond = _pad_mask(lengths, speech, 1)
            peak = speech.abs().masked_fill(beyond, 0.0).amax(1, keepdim=True)
            speech = speech * (self.volume / peak.masked_fill(peak == 0.0, 1.0))
        padded = self._reflect(speech, lengths) if self.pad else speech
        waves = torch.nn.functional.conv1d(
            padded.unsqueeze(1), self.basis, stride=self.hop
        )
        real, imaginary = waves.chunk(2, dim=1)  # (B, F, frames)
        power = (real.square() + imaginary.square()).transpose(1, 2)
        feats = (power @ self.melmat).clamp(min=1e-10).log() * self.log_scale
        size = (lengths + 2 * self.pad - self.size).div(self.hop, rounding_mode="floor")
        size = size + 1
        feats = feats.masked_fill(_pad_mask(size, feats, 1), 0.0)
        if self.normalize is not None:
            feats, size = self.normalize(feats, size)
        with self._without_padding(feats, size):
            states, frames, _ = self.encoder(feats, size)
        if isinstance(states, tuple):
            states = states[0]
        log_probs: Tensor = self.ctc_lo(states).log_softmax(-1)
        return log_probs, frames

    def _reflect(self, speech: Tensor, lengths: Tensor) -> Tensor:
        """Reflect each row (B, S) at its own end: (B, S + 2 pad)."""
        places = torch.arange(speech.size(1) + 2 * self.pad, device=speech.device)
        places = (places - self.pad).abs().unsqueeze(0)  # (1, S + 2 pad)
        last = lengths.unsqueeze(1) - 1
        places = torch.minimum(places, 2 * last - places).clamp(min=0)
        return speech.gather(1, places)

    @contextlib.contextmanager
    def _without_padding(self, feats: Tensor, size: Tensor) -> Iterator[None]:
        """Let the encoder compute each row (B, frames, dim) as if it were alone.

        ESPnet's subsampling counts frames that reach into the padding, and its
        convolutions read what lies there.
        """
        embed = self.encoder.embed
        strided = [m for m in embed.modules() if isinstance(m, torch.nn.Conv2d)]
        frames, most = size, feats.size(1)
        for conv in strided:
            kernel, stride = int(conv.kernel_size[0]), int(conv.stride[0])
            frames = (frames - kernel).div(stride, rounding_mode="floor") + 1
            most = (most - kernel) // stride + 1
        inside = torch.arange(most, device=feats.device) < frames.unsqueeze(1)
        inside = inside.unsqueeze(1)  # (B, 1, T)

        def count(_module: object, _inputs: object, output: Any) -> Any:
            return output[0], inside

        def clear(_module: object, inputs: Tuple[Tensor]) -> Tuple[Tensor]:
            return (inputs[0].masked_fill(~inside, 0.0),)

        hooks = [embed.register_forward_hook(count)] if strided else []
        hooks += [
            module.register_forward_pre_hook(clear)
            for module in self.encoder.encoders.modules()
            if isinstance(module, torch.nn.Conv1d) and module.kernel_size[0] > 1
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _pad_mask(
    lengths: Any, xs: Optional[Tensor] = None, length_dim: int = -1, maxlen: Any = None
) -> Tensor:
    """What lies behind the lengths; ESPnet's own cannot be traced."""
    if not isinstance(lengths, Tensor):
        lengths = torch.tensor(lengths)
    most: Any = lengths.max() if maxlen is None else maxlen
    if xs is not None:
        most = xs.size(length_dim)
    mask: Tensor = torch.arange(most, device=lengths.device) >= lengths.unsqueeze(1)
    if xs is None:
        return mask
    shape = [1] * xs.dim()
    shape[0], shape[length_dim] = xs.size(0), xs.size(length_dim)
    return mask.view(shape).expand_as(xs)


def _encode_relatively(self: Any, x: Tensor) -> Tuple[Tensor, Tensor]:
    """Positions computed for the audio's length; ESPnet's own come from a long table.

    A table is more than half of a small student's file, and ends after 5000 frames.
    """
    frames = x.size(1)
    places = torch.arange(2 * frames - 1, device=x.device)
    position = (frames - 1 - places).to(x.dtype).unsqueeze(1)  # (2 T - 1, 1)
    even = torch.arange(0, self.d_model, 2, dtype=torch.float32)
    rates = torch.exp(even * -(math.log(10000.0) / self.d_model))
    angles = position * rates
    encoded = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
    return x * self.xscale, encoded.unsqueeze(0)


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """Let ESPnet's modules use masks and positions that can be traced."""
    changed, tables = [], {}
    for name, module in list(sys.modules.items()):
        if name.startswith("espnet") and hasattr(module, "make_pad_mask"):
            changed.append((module, module.make_pad_mask))
            module.make_pad_mask = _pad_mask  # type: ignore[attr-defined]
        kind = getattr(module, "RelPositionalEncoding", None)
        if name.startswith("espnet") and kind is not None and kind not in tables:
            tables[kind] = kind.forward
            kind.forward = _encode_relatively
    try:
        yield
    finally:
        for kind, table in tables.items():
            kind.forward = table
        for module, own in changed:
            module.make_pad_mask = own  # type: ignore[attr-defined]


def write_onnx(model: CTCModel, folder: Path) -> Path:
    """Write ``model.onnx`` and ``tokens.txt``.

    Args:
        model: a student.
        folder: of the files.

    Returns:
        The model's path.

    Raises:
        InputError: its parts cannot be written.
    """
    shift = float(model.frame_shift / model.rate)
    told = {
        "sample_rate": str(model.rate),
        "frame_shift_seconds": f"{shift:g}",
        "shortest_samples": str(model.shortest),
        "blank": str(model.blank),
        "vocab_size": str(len(model.tokens)),
        "token_type": model.token_type,
    }
    _write(
        WaveformModel(model.model, model.volume),
        (torch.randn(2, 2 * model.rate), torch.tensor([2, 1]) * model.rate),
        {"speech": "BS", "speech_lengths": "B"},
        {"log_probs": "BT", "log_probs_lengths": "B"},
        told,
        folder / "model.onnx",
    )
    with write_beside(folder / "tokens.txt") as f:
        f.writelines(f"{token} {i}\n" for i, token in enumerate(model.tokens))
    return folder / "model.onnx"


class _Sherpa(torch.nn.Module):
    """One input, and a frame every 20 ms, which is what the times are computed with."""

    def __init__(self, model: CTCModel, repeat: int) -> None:
        super().__init__()
        self.model = WaveformModel(model.model, model.volume)
        self.repeat = repeat

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (B, T * repeat, V) of audio (B, S) of any level."""
        lengths = torch.ones_like(x[:, 0], dtype=torch.long) * x.size(1)
        # ESPnet's logarithm has a floor, so that a usual level is needed.
        log_probs, _ = self.model(0.05 * x, lengths)
        return torch.as_tensor(log_probs.repeat_interleave(self.repeat, dim=1))


def check_sherpa(model: CTCModel) -> None:
    """Refuse a model to which the level of the audio matters."""
    if not isinstance(model.model.normalize, UtteranceMVN):
        raise InputError(
            "--sherpa: sherpa-onnx scales all audio to one level, and this model would "
            "hear that: train it with --normalize utterance_mvn (in a recipe: "
            "--feats_normalize utterance_mvn)"
        )


def write_sherpa(model: CTCModel, folder: Path) -> Path:
    """Write ``model.sherpa.onnx`` and ``tokens.sherpa.txt``.

    Args:
        model: a student.
        folder: of the files.

    Returns:
        The model's path.

    Raises:
        InputError: the level of the audio matters to the model, or its parts cannot be
            written.
    """
    check_sherpa(model)
    repeat = max(1, round(float(model.frame_shift / model.rate) / _SHERPA_SHIFT))
    path = folder / "model.sherpa.onnx"
    _write(
        _Sherpa(model, repeat),
        (torch.randn(2, 2 * model.rate),),
        {"x": "BS"},
        {"logits": "BT"},
        {"model_type": "omnilingual-asr", "vocab_size": str(len(model.tokens))},
        path,
    )
    names = {model.blank: "<blk>"}
    with write_beside(folder / "tokens.sherpa.txt") as f:
        for i, token in enumerate(model.tokens):
            shown = " " if token == "<space>" else token.replace("\u2581", " ")
            f.write(f"{names.get(i, shown)} {i}\n")
    return path


def _write(
    module: torch.nn.Module,
    example: Tuple[Tensor, ...],
    inputs: Dict[str, str],
    outputs: Dict[str, str],
    told: Dict[str, str],
    path: Path,
) -> None:
    """Trace a module and write it; letters name the axes that may change."""
    try:
        import onnx
    except ImportError:
        raise InputError("there is no onnx here: pip install -e .[onnx]") from None
    axes = {
        name: dict(enumerate(letters))
        for name, letters in {**inputs, **outputs}.items()
    }
    with beside(path) as partial, warnings.catch_warnings(), traceable():
        warnings.simplefilter("ignore")  # of the tracer, about sizes that are checked
        with torch.no_grad():
            torch.onnx.export(
                module.eval(),
                example,
                str(partial),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes=axes,
                opset_version=_OPSET,
                dynamo=False,
            )
        written = onnx.load(str(partial))
        for key, value in told.items():
            entry = written.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.checker.check_model(written)
        onnx.save(written, str(partial))


def quantize(path: Path) -> Path:
    """Write the weights of a model's matrices in 8 bits, beside it.

    Args:
        path: of an ONNX file.

    Returns:
        That of the other.

    Raises:
        InputError: ONNX Runtime is missing.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        raise InputError("there is no onnxruntime: pip install -e .[onnx]") from None
    target = path.with_suffix(".int8.onnx")
    with beside(target) as partial:
        quantize_dynamic(
            str(path), str(partial), op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    return target
