"""Utterances of the report: audio, spectrogram, posteriors and errors."""

import base64
import io
import zlib
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import jiwer
import numpy as np
import soundfile
import torch
import torchaudio

from espnet_ctckd.choices import look_up
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.evaluation.experiments import System
from espnet_ctckd.evaluation.score import read_errors
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.report.spikes import Source
from espnet_ctckd.select import SELECTOR_CHOICES
from espnet_ctckd.tokens import place_tokens

# Tokens are drawn if their probability reaches _LIKELY in some model; at most _MOST.
_LIKELY, _MOST = 0.1, 40
_MELS, _MEL_SHIFT = 40, 0.02  # seconds
_MEL_RANGE = 60.0  # dB


@dataclass(frozen=True)
class PlottedSystem:
    """A system whose posteriors are drawn.

    Attributes:
        name: name of the system.
        source: cache or model that gives the posteriors.
        places: index of each of its tokens in the token list of the first system;
            None if the lists are equal.
        selector: name and options of the system's selector; None without
            distillation.
    """

    name: str
    source: Source
    places: Optional[List[int]] = None
    selector: Optional[Tuple[str, Dict[str, Any]]] = None


def diff(reference: str, hypothesis: str) -> List[Tuple[str, str]]:
    """Align a hypothesis with its reference, word by word.

    Args:
        reference: text of the reference; may be empty.
        hypothesis: text of the hypothesis; may be empty.

    Returns:
        Pairs of a kind (``equal``, ``substitute``, ``delete``, ``insert``) and words;
        for a substitution ``right → wrong``.

    Examples:
        >>> diff("a b c", "a x c d")
        [('equal', 'a'), ('substitute', 'b → x'), ('equal', 'c'), ('insert', 'd')]
    """
    # White space of any kind is one separator, as in the scores.
    reference, hypothesis = (" ".join(t.split()) for t in (reference, hypothesis))
    if not reference:
        return [("insert", hypothesis)] if hypothesis else []
    out = jiwer.process_words(reference, hypothesis)
    words, recognised = out.references[0], out.hypotheses[0]
    pairs = []
    for chunk in out.alignments[0]:
        right = " ".join(words[chunk.ref_start_idx : chunk.ref_end_idx])
        wrong = " ".join(recognised[chunk.hyp_start_idx : chunk.hyp_end_idx])
        if chunk.type == "substitute":
            pairs.append((chunk.type, f"{right} → {wrong}"))
        else:
            pairs.append((chunk.type, right or wrong))
    return pairs


def look_at(
    utt: str,
    path: str,
    voices: Sequence[PlottedSystem],
    teacher: Optional[PlottedSystem],
) -> Dict[str, Any]:
    """Compute the plots of an utterance.

    Args:
        utt: name of the utterance.
        path: audio file.
        voices: systems whose posteriors are drawn, in the tokens of the first.
        teacher: the system among these from whose posteriors selectors choose, or
            None.

    Returns:
        ``audio`` (data URL), ``seconds``, ``mel``, ``tokens``, ``heat`` (name ->
        picture), ``teacher`` (name), ``selected`` (selector -> picture) and ``shares``
        (selector -> share of the frames). A picture has ``rows``, ``columns`` and
        ``data``: one byte per value, row by row, compressed by zlib, in base64.
    """
    first = voices[0].source
    samples = read_audio(utt, path, first.rate)
    posteriors = {each.name: each.source.say(utt) for each in voices}
    size = len(first.token_list)
    probs = {v.name: _in_tokens_of(size, v, posteriors[v.name]) for v in voices}
    rows = _rows(list(probs.values()), first.blank)
    found: Dict[str, Any] = {
        "audio": encode_audio(samples, first.rate),
        "seconds": len(samples) / first.rate,
        "mel": picture(spectrogram(samples, first.rate)),
        "tokens": [first.token_list[row] for row in rows],
        "heat": {name: picture(p[:, rows].T) for name, p in probs.items()},
        "teacher": teacher and teacher.name,
        "selected": {},
        "shares": {},
    }
    if teacher is not None:
        for name, weights in select_all(posteriors[teacher.name], voices).items():
            found["selected"][name] = picture(weights[None])
            found["shares"][name] = float(weights.mean())
    return found


def select_all(
    said: FramePosteriors, voices: Sequence[PlottedSystem]
) -> Dict[str, np.ndarray]:
    """Apply each distinct selector of some systems to the teacher's posteriors.

    Args:
        said: posteriors of the teacher, of one utterance.
        voices: systems whose selectors are applied.

    Returns:
        Description of the selector -> weights (U,).
    """
    found = {}
    for each in voices:
        if each.selector is None:
            continue
        name, options = each.selector
        words = ", ".join([name, *(f"{k} {v}" for k, v in options.items())])
        if words not in found:
            choice = look_up("selector", name, SELECTOR_CHOICES)
            weights = choice.fn(said, 1, **options)[0]  # (U,)
            found[words] = weights[: int(said.lengths)].float().numpy()
    return found


def _in_tokens_of(
    size: int, system: PlottedSystem, posteriors: FramePosteriors
) -> np.ndarray:
    """Return the probabilities (U, V) in the tokens of the first system."""
    probs = posteriors.dense(len(system.source.token_list))[0]
    if system.places is not None:
        probs = place_tokens(probs, system.places, size, 0.0)
    return np.asarray(probs)


def _rows(probs: Sequence[np.ndarray], blank: int) -> List[int]:
    """Return the tokens to draw, in the order of their first peaks, blank last."""
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
    """Compress values from 0 to 1 (rows, columns) as one byte each."""
    scaled = np.clip(np.rint(255.0 * values), 0, 255).astype(np.uint8)
    rows, columns = scaled.shape
    data = base64.b64encode(zlib.compress(scaled.tobytes(), 9)).decode()
    return {"rows": rows, "columns": columns, "data": data}


def spectrogram(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return a mel spectrogram (bands, frames) from 0 to 1, the highest band first."""
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
    """Encode audio as a data URL that any browser plays."""
    kind = "MP3" if "MP3" in soundfile.available_formats() else "WAV"
    buffer = io.BytesIO()
    if kind == "MP3":
        soundfile.write(buffer, samples, rate, format="MP3")
    else:
        soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    media = {"MP3": "audio/mpeg", "WAV": "audio/wav"}[kind]
    return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def list_utterances(
    systems: Sequence[System], subset: str, references: Mapping[str, str]
) -> List[Dict[str, Any]]:
    """List the hypotheses of a set, from the decoding that most systems have.

    Args:
        systems: systems with their results.
        subset: name of the set.
        references: utterance -> transcript.

    Returns:
        For each utterance ``set``, ``name``, ``reference``, ``wrong`` (WER over all
        students in percent), ``systems`` (names) and ``said`` (name -> result of
        `diff`); the highest WER first.
    """
    decodings = [d for s in systems for d, name in s.results if name == subset]
    decoding = max(sorted(set(decodings)), key=decodings.count)
    results = {
        s: s.results[decoding, subset]
        for s in systems
        if (decoding, subset) in s.results
    }
    texts = {s.name: read_scp(r.folder / "text") for s, r in results.items()}
    students = [s for s in results if not s.is_teacher] or list(results)
    errors = [read_errors(results[s].folder / "wer.tsv") for s in students]
    found = []
    for utt in filter(references.__contains__, errors[0]):
        right = references[utt]
        diffs = {n: diff(right, t[utt]) for n, t in texts.items() if utt in t}
        errors_of_all = sum(of_one.get(utt, 0) for of_one in errors)
        # The rate of a reference without words is relative to one word.
        wrong = 100 * errors_of_all / (len(errors) * max(len(right.split()), 1))
        found.append(
            {
                "set": subset,
                "name": utt,
                "reference": right,
                "wrong": round(wrong, 1),
                "systems": list(texts),
                "said": diffs,
            }
        )
    return sorted(found, key=lambda u: (-u["wrong"], u["name"]))
