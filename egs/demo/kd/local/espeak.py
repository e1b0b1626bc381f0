"""eSpeak NG: a voice says a sentence, at 16 kHz."""

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

Signal = NDArray[np.float64]

SAMPLE_RATE = 16000
ESPEAK_RATE = 22050
# Values of speak_lib.h.
AUDIO_OUTPUT_SYNCHRONOUS, INITIALIZE_DONT_EXIT, CHARS_UTF8 = 2, 0x8000, 1
ESPEAK_PARAMETERS = {"rate": 1, "pitch": 3, "range": 4}


class DemoError(RuntimeError):
    """An error the user can act on; shown without a traceback."""


@dataclass(frozen=True)
class Voice:
    """An eSpeak NG voice with its prosody."""

    name: str
    rate: int
    pitch: int
    range: int


class Espeak:
    """The C interface of eSpeak NG, as far as it is needed here."""

    def __init__(self) -> None:
        """Load the library; raise DemoError where that is not possible."""
        try:
            import espeakng_loader

            self._data = Path(espeakng_loader.get_data_path())
            self._lib: Any = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        except (ImportError, OSError) as error:
            raise DemoError(
                f"cannot load eSpeak NG into {sys.executable} ({error}); expected the"
                " package espeakng-loader, which brings the library and its voices;"
                " install it with 'python3 -m pip install espeakng-loader'"
            ) from error
        rate = self._lib.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, 0, str(self._data).encode(), INITIALIZE_DONT_EXIT
        )
        if rate != ESPEAK_RATE:
            raise DemoError(
                f"espeak_Initialize returned {rate} with the data in {self._data};"
                f" expected the sample rate {ESPEAK_RATE}; reinstall espeakng-loader"
                " (its path must be shorter than 150 characters)"
            )
        self._chunks: list[bytes] = []
        prototype = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
        )
        self._callback = prototype(self._collect)  # kept alive as long as the library
        self._lib.espeak_SetSynthCallback(self._callback)

    def _collect(self, wav: int | None, num_samples: int, _events: int | None) -> int:
        if wav and num_samples > 0:
            self._chunks.append(ctypes.string_at(wav, 2 * num_samples))
        return 0

    def set_voice(self, voice: Voice) -> None:
        """Set voice and prosody; raise DemoError where eSpeak NG lacks the voice."""
        # An unknown variant is not an error to eSpeak NG: it takes the plain voice.
        variant = self._data / "voices" / "!v" / voice.name.partition("+")[2]
        status = self._lib.espeak_SetVoiceByName(voice.name.encode())
        if status != 0 or not variant.is_file():
            raise DemoError(
                f"cannot set the voice '{voice.name}' (status {status}, variant file"
                f" {variant} {'exists' if variant.is_file() else 'is missing'});"
                " expected a voice of espeakng-loader 0.2.4; install that version or"
                " edit ACCENTS and VARIANTS in make_speech.py"
            )
        for parameter, number in ESPEAK_PARAMETERS.items():
            self._lib.espeak_SetParameter(number, getattr(voice, parameter), 0)

    def set_seed(self, seed: int) -> None:
        """Seed the generator that some voices use."""
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))

    def speak(self, voice: Voice, sentence: str) -> Signal:
        """Return the sentence spoken by the voice, at 16 kHz and unit power."""
        self.set_voice(voice)
        self._chunks.clear()
        text = sentence.lower().encode()  # a capital letter can be read as an initial
        size = ctypes.c_size_t(len(text) + 1)
        self._lib.espeak_Synth(text, size, 0, 1, 0, CHARS_UTF8, None, None)
        self._lib.espeak_Synchronize()
        pcm = np.frombuffer(b"".join(self._chunks), dtype=np.int16).astype(np.float64)
        if not pcm.any():
            raise DemoError(
                f"no sound for '{sentence}' from '{voice.name}'; expected speech;"
                " remove the voice from VARIANTS in make_speech.py"
            )
        return unit_power(resample_poly(pcm, SAMPLE_RATE, ESPEAK_RATE))


def unit_power(signal: Signal) -> Signal:
    """Scale a signal to unit mean power."""
    return np.asarray(signal / np.sqrt(np.mean(signal**2)), dtype=np.float64)
