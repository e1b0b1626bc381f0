"""A tiny ESPnet CTC model and its data, as files, and commands called in-process."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Optional, Sequence, Tuple

import kaldiio
import numpy as np
import soundfile
import torch
import yaml
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

from espnet_ctckd.bin.cli import run
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.cache.record import DecodedRecord
from espnet_ctckd.plugin.task import CTCKDTask

RATE = 16000
TOKENS = ("<blank>", "<unk>", "<space>", "a", "b", "c", "d", "<sos/eos>")
KD: Dict[str, Any] = {
    "weight": 0.5,
    "selector": "all",
    "loss": "kl",
    "loss_conf": {"temperature": 1.0},
    "reduction": "utt_sum",
}
CONF: Dict[str, Any] = {
    "frontend": "default",
    "frontend_conf": {"fs": RATE, "n_fft": 512, "hop_length": 160, "n_mels": 20},
    "specaug": None,
    "normalize": None,
    "model": "espnet",
    "model_conf": {"ctc_weight": 1.0},
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 1,
        "input_layer": "conv2d",
        "macaron_style": True,
        "rel_pos_type": "latest",
        "pos_enc_layer_type": "rel_pos",
        "selfattention_layer_type": "rel_selfattn",
        "activation_type": "swish",
        "use_cnn_module": True,
        "cnn_module_kernel": 7,
    },
}


@dataclass(frozen=True)
class Model:
    """A training's ``config.yaml`` and its weights."""

    config: Path
    weights: Path


@dataclass(frozen=True)
class Data:
    """A Kaldi data folder."""

    folder: Path

    @property
    def wav_scp(self) -> Path:
        return self.folder / "wav.scp"

    @property
    def text(self) -> Path:
        return self.folder / "text"

    def wavs(self) -> Dict[str, str]:
        """Utterance -> path."""
        return dict(line.split() for line in self.wav_scp.read_text().splitlines())

    def copy(self, folder: Path, wavs: Dict[str, str]) -> "Data":
        """The same transcripts, with another wav.scp."""
        folder.mkdir()
        lines = [f"{utt} {path}\n" for utt, path in wavs.items()]
        (folder / "wav.scp").write_text("".join(lines))
        (folder / "text").write_text(self.text.read_text())
        return Data(folder)


def write_conf(path: Path, kd: Optional[Dict[str, Any]] = None, **changes: Any) -> Path:
    """Write a training configuration (YAML), as a user does.

    Args:
        path: to write.
        kd: ``model_conf.kd``; None is a plain model.
        **changes: a mapping is merged into that of `CONF`, anything else replaces it.
    """
    conf = dict(CONF)
    if kd is not None:
        conf.update(model="ctckd", model_conf={**CONF["model_conf"], "kd": kd})
    for key, value in changes.items():
        merge = isinstance(value, dict) and isinstance(conf.get(key), dict)
        conf[key] = {**conf[key], **value} if merge else value
    path.write_text(yaml.safe_dump(conf))
    return path


def write_model(
    folder: Path,
    kd: Optional[Dict[str, Any]] = None,
    tokens: Sequence[str] = TOKENS,
    seed: int = 0,
    **changes: Any,
) -> Model:
    """Build a model with random weights, and write what ESPnet's training would."""
    folder.mkdir(parents=True)
    (folder / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens))
    conf = write_conf(folder / "train.yaml", kd, **changes)
    flags = ["--config", conf, "--token_list", folder / "tokens.txt"]
    flags += ["--token_type", "char", "--output_dir", folder]
    args = CTCKDTask.get_parser().parse_args([str(flag) for flag in flags])
    torch.manual_seed(seed)
    model = CTCKDTask.build_model(args)
    spread(model.eval())
    config, weights = folder / "config.yaml", folder / "valid.cer_ctc.ave.pth"
    config.write_text(yaml_no_alias_safe_dump(vars(args), indent=4, sort_keys=False))
    torch.save(model.state_dict(), weights)
    return Model(config, weights)


@torch.no_grad()
def spread(model: ESPnetASRModel) -> ESPnetASRModel:
    """Change the output layer so that all tokens are the best of some frames."""
    output = model.ctc.ctc_lo
    audio = torch.from_numpy(sound(4.0, 0)).float().unsqueeze(0)  # (1, S)
    encoded, _ = model.encode(audio, torch.tensor([audio.size(1)]))  # (1, T, dim)
    if isinstance(encoded, tuple):
        encoded = encoded[0]
    output.weight.normal_(0.0, 4.0)
    output.bias.copy_(-output.weight @ encoded.mean((0, 1)))
    return model


def sound(seconds: float, seed: int) -> np.ndarray:
    """Tones and noise in turn, (S,)."""
    generator = np.random.default_rng(seed)
    samples = int(seconds * RATE)
    parts: List[np.ndarray] = []
    for _ in range(0, samples, 1600):
        time = np.arange(1600) / RATE
        tone = np.sin(2 * np.pi * generator.uniform(100, 4000) * time)
        noise = generator.normal(size=1600)
        parts.append(generator.uniform(0.01, 0.2) * (tone, noise)[len(parts) % 2])
    return np.concatenate(parts)[:samples].clip(-1, 1)


def write_data(folder: Path, seconds: Sequence[float], seed: int = 0) -> Data:
    """Write utterances of given lengths, with transcripts."""
    (folder / "audio").mkdir(parents=True)
    wavs, texts = [], []
    for i, length in enumerate(seconds):
        path = folder / "audio" / f"utt{i:02d}.wav"
        soundfile.write(path, sound(length, 1000 * seed + i), RATE, "PCM_16")
        wavs.append(f"utt{i:02d} {path}\n")
        texts.append(f"utt{i:02d} {('ab cd', 'da', 'b c')[i % 3]}\n")
    (folder / "wav.scp").write_text("".join(wavs))
    (folder / "text").write_text("".join(texts))
    return Data(folder)


def read_cache(cache: Path) -> Dict[str, DecodedRecord]:
    """What a cache says of each utterance."""
    records = read_meta(cache).records
    vectors = kaldiio.load_scp(str(cache / "teacher.scp"))
    return {utt: records.open(utt, vectors[utt]) for utt in vectors}


def dump_args(model: Model, data: Data, cache: Path, *more: object) -> List[str]:
    """The flags of dump_teacher."""
    flags = ["--teacher_config", model.config, "--teacher_model", model.weights]
    flags += ["--wav_scp", data.wav_scp, "--output_dir", cache, *more]
    return [str(flag) for flag in flags]


def call(module: ModuleType, *flags: object) -> Tuple[int, str]:
    """Run a command as ``python -m`` does, in this process.

    Returns:
        Exit status and standard error.
    """
    stderr, status = io.StringIO(), 0
    argv, sys.argv = sys.argv, [str(module.__file__), *map(str, flags)]
    try:
        with contextlib.redirect_stderr(stderr):
            run(module.main)  # type: ignore[attr-defined]
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = argv
    return status, stderr.getvalue()


def the_error(stderr: str) -> str:
    """The one line of the user's mistake, and that there is no traceback."""
    assert "Traceback" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert stderr.rstrip().endswith(lines[0]), stderr
    return lines[0]
