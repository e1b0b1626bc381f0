"""Utterances to look at: audio, spectrogram, what models say of them, and errors."""

import base64
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import jiwer
import numpy as np
import soundfile
import torch
import torchaudio

from espnet_ctckd.align import DROPPED, map_tokens
from espnet_ctckd.choices import look_up
from espnet_ctckd.data import read_audio
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.select import SELECTOR_CHOICES
from espnet_ctckd.teachers.espnet import EspnetTeacher

# Tokens that some model holds as probable as this are drawn, and at most so many.
_LIKELY, _MOST = 0.1, 40
_MELS, _MEL_SHIFT = 40, 0.02  # seconds
_MEL_RANGE = 60.0  # dB


@dataclass(frozen=True)
class Model:
    """A model whose posteriors are drawn.

    Attributes:
        name: of the system.
        model: it.
        selector: what the system learns from, and its options, if it does.
    """

    name: str
    model: EspnetTeacher
    selector: Optional[Tuple[str, Dict[str, Any]]]

    @classmethod
    def open(
        cls, name: str, folder: Path, selector: Optional[Tuple[str, Dict[str, Any]]]
    ) -> "Model":
        """Open an exported model."""
        files = (folder / "config.yaml", folder / "model.pth")
        return cls(name, EspnetTeacher(*files), selector)


def diff(reference: str, hypothesis: str) -> List[Tuple[str, str]]:
    """What a hypothesis has of its reference, word by word.

    Args:
        reference: words, at least one.
        hypothesis: words.

    Returns:
        Pairs of a kind (``equal``, ``substitute``, ``delete``, ``insert``) and words;
        of a substitution ``right → wrong``.

    Examples:
        >>> diff("a b c", "a x c d")
        [('equal', 'a'), ('substitute', 'b → x'), ('equal', 'c'), ('insert', 'd')]
    """
    out = jiwer.process_words(reference, hypothesis)
    words, said = out.references[0], out.hypotheses[0]
    pairs = []
    for chunk in out.alignments[0]:
        right = " ".join(words[chunk.ref_start_idx : chunk.ref_end_idx])
        wrong = " ".join(said[chunk.hyp_start_idx : chunk.hyp_end_idx])
        if chunk.type == "substitute":
            pairs.append((chunk.type, f"{right} → {wrong}"))
        else:
            pairs.append((chunk.type, right or wrong))
    return pairs


def look_at(
    utt: str, path: str, models: Sequence[Model], teacher: Optional[Model]
) -> Dict[str, Any]:
    """What is drawn of an utterance.

    Args:
        utt: its name.
        path: its audio.
        models: whose posteriors are drawn, in the tokens of the first.
        teacher: from whose posteriors the models' selectors choose.

    Returns:
        ``audio`` (data URL), ``seconds``, ``mel``, ``tokens``, ``heat`` (name ->
        picture), ``selected`` (selector -> picture) and ``shares`` (selector -> of the
        frames); a picture has ``rows``, ``columns`` and ``data``, a byte each, row by
        row, compressed by zlib, in base64.
    """
    samples = read_audio(utt, path, models[0].model.rate)
    rate = models[0].model.rate
    said, probs = {}, {}
    for each in models:
        audio = torch.from_numpy(samples).unsqueeze(0)
        said[each.name] = each.model.posteriors(audio, torch.tensor([len(samples)]))
        probs[each.name] = _in_tokens_of(models[0], each, said[each.name])
    rows = _rows(list(probs.values()), models[0].model.blank)
    tokens = models[0].model.token_list
    found: Dict[str, Any] = {
        "audio": encode_audio(samples, rate),
        "seconds": len(samples) / rate,
        "mel": picture(spectrogram(samples, rate)),
        "tokens": [tokens[row] for row in rows],
        "heat": {name: picture(p[:, rows].T) for name, p in probs.items()},
        "selected": {},
        "shares": {},
    }
    if teacher is not None:
        for name, weights in select_all(said[teacher.name], models).items():
            found["selected"][name] = picture(weights[None])
            found["shares"][name] = float(weights.mean())
    return found


def select_all(said: FramePosteriors, models: Sequence[Model]) -> Dict[str, np.ndarray]:
    """The frames of a teacher that each selector of some models takes.

    Args:
        said: by the teacher, of one utterance.
        models: of whose selectors each is asked once.

    Returns:
        Selector, in words -> weights (U,).
    """
    found = {}
    for each in models:
        if each.selector is None:
            continue
        name, options = each.selector
        words = ", ".join([name, *(f"{k} {v}" for k, v in options.items())])
        if words not in found:
            choice = look_up("selector", name, SELECTOR_CHOICES)
            weights = choice.fn(said, 1, **options)[0]  # (U,)
            found[words] = weights[: int(said.lengths)].float().numpy()
    return found


def _in_tokens_of(first: Model, other: Model, said: FramePosteriors) -> np.ndarray:
    """Probabilities (U, V) in the tokens of another model."""
    probs = said.log_probs[0, : int(said.lengths)].exp().numpy()
    index = map_tokens(
        other.model.token_list,
        other.model.blank,
        first.model.token_list,
        first.model.blank,
        other.name,
    )
    if index is None:
        return np.asarray(probs)
    moved = np.zeros((len(probs), len(first.model.token_list)), probs.dtype)
    for token, place in enumerate(index):
        if place != DROPPED:
            moved[:, place] += probs[:, token]
    return moved


def _rows(probs: Sequence[np.ndarray], blank: int) -> List[int]:
    """Tokens to draw: in the order of their first peaks, the blank at the bottom."""
    peak = np.max([p.max(0) for p in probs], axis=0)  # (V,)
    likely = [int(t) for t in np.argsort(-peak)[:_MOST] if peak[t] >= _LIKELY]
    when = {}
    for token in likely:
        peaks = [p[:, token].argmax() / len(p) for p in probs if _peaks(p, token)]
        when[token] = min(map(float, peaks))
    when.pop(blank, None)
    return [*sorted(when, key=lambda token: when[token]), blank]


def _peaks(probs: np.ndarray, token: int) -> bool:
    return bool(probs[:, token].max() >= _LIKELY)


def picture(values: np.ndarray) -> Dict[str, Any]:
    """Values of 0 to 1 (rows, columns) as bytes, which mostly are 0, compressed."""
    scaled = np.clip(np.rint(255.0 * values), 0, 255).astype(np.uint8)
    rows, columns = scaled.shape
    data = base64.b64encode(zlib.compress(scaled.tobytes(), 9)).decode()
    return {"rows": rows, "columns": columns, "data": data}


def spectrogram(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mel spectrogram (bands, frames), the highest band first, as 0 to 1."""
    transform = torchaudio.transforms.MelSpectrogram(
        rate,
        n_fft=int(rate * 0.032),
        hop_length=int(rate * _MEL_SHIFT),
        n_mels=_MELS,
    )
    power = transform(torch.from_numpy(samples)).numpy()
    level = 10.0 * np.log10(np.maximum(power, 1e-10))
    scaled: np.ndarray = (level - level.max()) / _MEL_RANGE + 1.0
    return scaled[::-1]


def encode_audio(samples: np.ndarray, rate: int) -> str:
    """Audio as a data URL that any browser plays."""
    kind = "MP3" if "MP3" in soundfile.available_formats() else "WAV"
    buffer = io.BytesIO()
    if kind == "MP3":
        soundfile.write(buffer, samples, rate, format="MP3")
    else:
        soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    media = {"MP3": "audio/mpeg", "WAV": "audio/wav"}[kind]
    return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def worst(
    references: Mapping[str, str], errors: Mapping[str, Sequence[int]], most: int
) -> List[str]:
    """Utterances with most errors for their length, all systems together."""
    rate = {
        utt: sum(errors[utt]) / max(len(words.split()), 1)
        for utt, words in references.items()
        if utt in errors
    }
    return sorted(rate, key=lambda utt: (-rate[utt], utt))[:most]
