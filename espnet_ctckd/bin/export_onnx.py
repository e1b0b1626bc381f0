"""Export a student to ONNX, from waveform to log-probabilities.

<output_dir>/model.onnx maps `speech` (B, S), in [-1, 1], and `speech_lengths` (B,) to
`log_probs` (B, T, V) and `log_probs_lengths` (B,). Its metadata: `sample_rate`,
`frame_shift_seconds`, `shortest_samples` (minimum length of the input), `blank` (its
id), `vocab_size`, `token_type`. tokens.txt lists the tokens, `<token> <id>` per line.
--quantize adds model.int8.onnx with weights of 8 bits. --sherpa adds model.sherpa.onnx
for sherpa-onnx's OfflineRecognizer.from_omnilingual_asr_ctc, and tokens.sherpa.txt;
sherpa-onnx normalizes mean and level of the audio, which hardly affects a student
trained with --normalize utterance_mvn. --wav_scp compares all written models with the
student.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence

import numpy as np

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import shorten
from espnet_ctckd.data.kaldi import read_scp, read_wav_scp
from espnet_ctckd.evaluation.score import error_rate

if TYPE_CHECKING:
    from espnet_ctckd.decode.recogniser import Recogniser


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Export a student."""
    p = parser(__doc__)
    p.add_argument("--asr_train_config", required=True, help="config.yaml of the model")
    p.add_argument("--asr_model_file", required=True, help="weights of the model")
    p.add_argument("--output_dir", required=True, help="folder to write")
    p.add_argument("--quantize", action="store_true", help="add a model of 8 bits")
    p.add_argument("--sherpa", action="store_true", help="add a model for sherpa-onnx")
    p.add_argument("--wav_scp", help="audio to compare the models on")
    p.add_argument("--text", help="transcripts of the audio, for word error rates")
    args = p.parse_args(cmd)
    if args.text and not args.wav_scp:
        p.error("--text is read with --wav_scp only")
    from espnet_ctckd.decode.recogniser import Recogniser
    from espnet_ctckd.export.onnx import (
        check_sherpa,
        quantize,
        write_onnx,
        write_sherpa,
    )

    model = Recogniser(args.asr_train_config, args.asr_model_file)
    folder = Path(args.output_dir)
    if args.sherpa:
        check_sherpa(model)
    if folder.is_file():
        raise InputError(f"--output_dir: {folder} is a file: give a folder")
    written = [write_onnx(model, folder)]
    if args.quantize:
        written.append(quantize(written[0]))
    if args.sherpa:
        written.append(write_sherpa(model, folder))
    for path in written:
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    if args.wav_scp:
        _compare(model, written, args.wav_scp, args.text)


def _compare(
    model: Recogniser, paths: Sequence[Path], wav_scp: str, text: Optional[str]
) -> None:
    """Print the differences of each exported model from the student."""
    import torch

    wavs = read_wav_scp(wav_scp)
    references = None if text is None else read_scp(text)
    lacks = [] if references is None else [utt for utt in wavs if utt not in references]
    if lacks:
        raise InputError(
            f"{text} lacks {len(lacks)} of {len(wavs)} utterances of {wav_scp}: "
            f"{shorten(lacks)}"
        )
    audio = {
        utterance.name: samples.numpy()
        for batch, read in model.read(wav_scp, 0.0)
        for utterance, samples in zip(batch, read)
    }
    expected = {
        u: model.say([torch.from_numpy(a)])[0].numpy() for u, a in audio.items()
    }
    texts = {"model.pth": {u: _text(model, x) for u, x in expected.items()}}
    print(f"\n{'':20}{'same text':>14}{'largest difference':>20}{'WER %':>9}")
    for name in ("model.pth", *(path.name for path in paths)):
        distance = ""
        if name == "model.sherpa.onnx":
            texts[name] = _in_sherpa(model, paths[-1], audio)
        elif name != "model.pth":
            found = _in_onnxruntime(paths[0].with_name(name), audio)
            texts[name] = {u: _text(model, x) for u, x in found.items()}
            most = max(float(np.abs(found[u] - expected[u]).max()) for u in audio)
            distance = f"{most:.1e}"
        same = sum(texts[name][u] == texts["model.pth"][u] for u in audio)
        wer = "" if references is None else f"{error_rate(references, texts[name]):.2f}"
        print(f"{name:20}{f'{same} of {len(audio)}':>14}{distance:>20}{wer:>9}")


def _text(model: Recogniser, log_probs: np.ndarray) -> str:
    """Decode log-probabilities (1, T, V) greedily to text."""
    import torch

    from espnet_ctckd.decode.greedy import greedy
    from espnet_ctckd.decode.search import Hypothesis

    lengths = torch.tensor([log_probs.shape[1]])
    (tokens,) = greedy(torch.from_numpy(log_probs), lengths, model.blank)
    return model.text(Hypothesis(tuple(tokens), (), 0.0), by_words=False)


def _in_onnxruntime(path: Path, audio: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Compute log-probabilities (1, T, V) with ONNX Runtime."""
    ort = _library("onnxruntime")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return {
        utt: session.run(
            ["log_probs"],
            {"speech": a[None], "speech_lengths": np.array([len(a)])},
        )[0]
        for utt, a in audio.items()
    }


def _in_sherpa(
    model: Recogniser, path: Path, audio: Dict[str, np.ndarray]
) -> Dict[str, str]:
    """Decode audio with sherpa-onnx."""
    recognizer = _library("sherpa_onnx").OfflineRecognizer.from_omnilingual_asr_ctc(
        model=str(path), tokens=str(path.with_name("tokens.sherpa.txt"))
    )
    texts: Dict[str, str] = {}
    for utt, samples in audio.items():
        stream = recognizer.create_stream()
        stream.accept_waveform(model.rate, samples)
        recognizer.decode_stream(stream)
        texts[utt] = stream.result.text.strip()
    return texts


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"there is no {name} here: pip install -e .[onnx]") from None


if __name__ == "__main__":
    logging.getLogger("onnxruntime").setLevel(logging.ERROR)
    run(main)
