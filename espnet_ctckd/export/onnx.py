"""Export of a student to ONNX, from waveform to log-probabilities."""

import contextlib
import copy
import math
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from torch import Tensor

from espnet_ctckd import ENCODER_NAME
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import atomic_path, atomic_write
from espnet_ctckd.models.ctc_model import CTCModel

# Frame shift that sherpa-onnx assumes for such models, in seconds.
_SHERPA_SHIFT = 0.02
_OPSET = 17
# Encoders whose traced graph gives the same output for audio of any length.
_ENCODERS = (ConformerEncoder, EBranchformerEncoder, TransformerEncoder)


class WaveformModel(torch.nn.Module):
    """An ESPnet model whose Fourier transform is a convolution.

    Args:
        model: an ESPnet model with a CTC branch.
        volume: peak to which each utterance is scaled, or None.

    Raises:
        InputError: the model has a module that cannot be exported.
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
        self.normalize = _normalization(model.normalize)
        self.encoder: Any = _with_computed_positions(model.encoder)
        self.ctc_lo = model.ctc.ctc_lo

    def forward(self, speech: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Compute the posteriors of a batch.

        Args:
            speech: (B, S), in [-1, 1].
            lengths: number of samples (B,).

        Returns:
            Log-probabilities (B, T, V), and numbers of frames (B,).
        """
        if self.volume is not None:
            beyond = _pad_mask(lengths, speech.size(1))
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
        beyond = _pad_mask(size, feats.size(1))  # (B, frames)
        feats = self.normalize(feats.masked_fill(beyond.unsqueeze(-1), 0.0), size)
        feats = feats.masked_fill(beyond.unsqueeze(-1), 0.0)
        with self._without_padding(feats, size):
            states, frames, _ = self.encoder(feats, size, masks=beyond)
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
        """Make the encoder's output independent of the padding.

        ESPnet's subsampling counts frames that reach into the padding, and its
        convolutions read the padding.

        Args:
            feats: (B, frames, dim).
            size: number of frames of each row (B,).
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


def _pad_mask(lengths: Tensor, most: int) -> Tensor:
    """Return the mask of padding (B, most), bool; ESPnet's own cannot be traced."""
    return torch.arange(most, device=lengths.device) >= lengths.unsqueeze(1)


class _NoNormalization(torch.nn.Module):
    """Identity, for models without normalization."""

    def forward(self, feats: Tensor, _lengths: Tensor) -> Tensor:
        """Return the features (B, frames, dim)."""
        return feats


class _GlobalMVN(torch.nn.Module):
    """ESPnet's `GlobalMVN`, in operations that can be traced.

    Args:
        own: normalization of a model.
    """

    def __init__(self, own: GlobalMVN) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        # Statistics are in double precision where ESPnet computed them with NumPy 2.
        self.register_buffer("mean", own.mean.float() if own.norm_means else None)
        self.register_buffer("std", own.std.float() if own.norm_vars else None)

    def forward(self, feats: Tensor, _lengths: Tensor) -> Tensor:
        """Normalize features (B, frames, dim)."""
        if self.mean is not None:
            feats = feats - self.mean
        return feats if self.std is None else feats / self.std


class _UtteranceMVN(torch.nn.Module):
    """ESPnet's `UtteranceMVN`, in operations that can be traced.

    Args:
        own: normalization of a model.
    """

    def __init__(self, own: UtteranceMVN) -> None:
        super().__init__()
        self._means, self._vars, self._eps = own.norm_means, own.norm_vars, own.eps

    def forward(self, feats: Tensor, lengths: Tensor) -> Tensor:
        """Normalize features (B, frames, dim), whose padding is 0, of lengths (B,)."""
        count = lengths.to(feats.dtype).view(-1, 1, 1)
        centred = feats - feats.sum(1, keepdim=True) / count
        if self._vars:
            beyond = _pad_mask(lengths, feats.size(1)).unsqueeze(-1)
            squares = centred.masked_fill(beyond, 0.0).square().sum(1, keepdim=True)
            deviation = (squares / count).sqrt().clamp(min=self._eps)
            centred, feats = centred / deviation, feats / deviation
        return centred if self._means else feats


def _normalization(own: Optional[torch.nn.Module]) -> torch.nn.Module:
    """Return the normalization of a model, in operations that can be traced."""
    if own is None:
        return _NoNormalization()
    if isinstance(own, GlobalMVN):
        return _GlobalMVN(own)
    if isinstance(own, UtteranceMVN):
        return _UtteranceMVN(own)
    raise InputError(
        f"normalize is {type(own).__name__}; ONNX is written of models with "
        "global_mvn, utterance_mvn or none"
    )


class _RelativePositions(torch.nn.Module):
    """Relative positional encoding, computed for the length of the input.

    ESPnet reads it from a table, which takes more than half of a small student's file
    and ends after 5000 frames.

    Args:
        size: dimension of the encoding.
        scale: factor of the input.
    """

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the scaled input (B, T, dim) and the encoding (1, 2 T - 1, dim)."""
        frames = x.size(1)
        places = torch.arange(2 * frames - 1, device=x.device)
        position = (frames - 1 - places).to(x.dtype).unsqueeze(1)  # (2 T - 1, 1)
        even = torch.arange(0, self.size, 2, dtype=torch.float32)
        rates = torch.exp(even * -(math.log(10000.0) / self.size))
        angles = position * rates
        encoded = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        return x * self.scale, encoded.unsqueeze(0)


def _with_computed_positions(encoder: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of an encoder without tables of relative positions."""
    encoder = copy.deepcopy(encoder)
    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            # The path of the module differs between versions of ESPnet.
            if type(child).__name__ == "RelPositionalEncoding":
                own: Any = child
                positions = _RelativePositions(own.d_model, own.xscale)
                setattr(module, name, positions)
    return encoder


def write_onnx(model: CTCModel, folder: Path) -> Path:
    """Write ``model.onnx`` and ``tokens.txt``.

    Args:
        model: the student.
        folder: folder of the files.

    Returns:
        The path of the ONNX model.

    Raises:
        InputError: the model has a module that cannot be exported.
    """
    shift = float(model.frame_shift / model.rate)
    properties = {
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
        properties,
        folder / "model.onnx",
    )
    with atomic_write(folder / "tokens.txt") as f:
        f.writelines(f"{token} {i}\n" for i, token in enumerate(model.tokens))
    return folder / "model.onnx"


class _Sherpa(torch.nn.Module):
    """A model with one input and a frame shift of 20 ms, as sherpa-onnx assumes."""

    def __init__(self, model: CTCModel, repeat: int) -> None:
        super().__init__()
        self.model = WaveformModel(model.model, model.volume)
        self.repeat = repeat

    def forward(self, x: Tensor) -> Tensor:
        """Compute log-probabilities (B, T * repeat, V) of audio (B, S) of any level."""
        lengths = torch.ones_like(x[:, 0], dtype=torch.long) * x.size(1)
        # ESPnet's logarithm has a floor, so the audio needs a typical level.
        log_probs, _ = self.model(0.05 * x, lengths)
        return torch.as_tensor(log_probs.repeat_interleave(self.repeat, dim=1))


def check_sherpa(model: CTCModel) -> None:
    """Refuse a model whose output depends on the level of the audio."""
    if not isinstance(model.model.normalize, UtteranceMVN):
        raise InputError(
            "--sherpa: sherpa-onnx scales all audio to one level, which changes the "
            "output of this model: train it with --normalize utterance_mvn (in a "
            "recipe: --feats_normalize utterance_mvn)"
        )


def write_sherpa(model: CTCModel, folder: Path) -> Path:
    """Write ``model.sherpa.onnx`` and ``tokens.sherpa.txt``.

    Args:
        model: the student.
        folder: folder of the files.

    Returns:
        The path of the ONNX model.

    Raises:
        InputError: the output of the model depends on the level of the audio, or it
            has a module that cannot be exported.
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
    with atomic_write(folder / "tokens.sherpa.txt") as f:
        for i, token in enumerate(model.tokens):
            shown = " " if token == "<space>" else token.replace("\u2581", " ")
            f.write(f"{names.get(i, shown)} {i}\n")
    return path


def _write(
    module: torch.nn.Module,
    example: Tuple[Tensor, ...],
    inputs: Dict[str, str],
    outputs: Dict[str, str],
    properties: Dict[str, str],
    path: Path,
) -> None:
    """Trace a module and write it as ONNX.

    Args:
        module: the module.
        example: inputs to trace it with.
        inputs: name -> letters that name the dynamic axes.
        outputs: likewise.
        properties: metadata of the file.
        path: path of the file.
    """
    try:
        import onnx
    except ImportError:
        raise InputError("there is no onnx here: pip install -e .[onnx]") from None
    axes = {
        name: dict(enumerate(letters))
        for name, letters in {**inputs, **outputs}.items()
    }
    with atomic_path(path) as partial, warnings.catch_warnings():
        # The tracer warns of Python comparisons of sizes, which are intended.
        warnings.simplefilter("ignore")
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
        for key, value in properties.items():
            entry = written.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.checker.check_model(written)
        onnx.save(written, str(partial))


def quantize(path: Path) -> Path:
    """Write a model with the weights of its matrices in 8 bits, to the same folder.

    Args:
        path: path of an ONNX file.

    Returns:
        The path of the quantized file.

    Raises:
        InputError: ONNX Runtime is missing.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        raise InputError("there is no onnxruntime: pip install -e .[onnx]") from None
    target = path.with_suffix(".int8.onnx")
    with atomic_path(target) as partial:
        quantize_dynamic(
            str(path), str(partial), op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    return target
