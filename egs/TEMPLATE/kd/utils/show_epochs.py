#!/usr/bin/env python3
"""Runs an ESPnet training, and shows a line an epoch from its log.

The line has the training loss, the error rate on the dev set and the time that is left.
"""

import argparse
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ \(trainer:\d+\) INFO: (.*)")
_BEGUN = re.compile(r"(\d+)/(\d+)epoch started")
_ENDED = re.compile(r"(\d+)epoch results: \[train\] (.*?)(?:, \[valid\] (.*))?$")
# Error rates on the dev set, the one that students are chosen by first.
_ERRORS = {"cer_ctc": "CER", "cer": "CER", "wer": "WER"}


class Epochs:
    """Reads the log of a training line by line.

    Attributes:
        durations: Seconds that each epoch of this run took.
    """

    def __init__(self) -> None:
        self.durations: list[float] = []
        self._last = 0
        self._begun: datetime | None = None

    def read(self, line: str) -> str | None:
        """Takes a line of the log.

        Returns:
            What is to be shown of an epoch that has ended, else None.
        """
        found = _LINE.match(line)
        if found is None:
            return None
        at, message = datetime.fromisoformat(found[1]), found[2]
        if begun := _BEGUN.match(message):
            self._last, self._begun = int(begun[2]), at
        ended = _ENDED.match(message)
        if ended is None:
            return None
        epoch = int(ended[1])
        shown = f"epoch {epoch:>{len(str(self._last))}}/{self._last}: "
        shown += f"loss {_values(ended[2]).get('loss', 'unknown')}"
        valid = _values(ended[3] or "")
        for key, name in _ERRORS.items():
            if key in valid:
                shown += f", dev {name} {float(valid[key]):.1%}".replace("%", " %")
                break
        else:
            if "loss" in valid:
                shown += f", dev loss {valid['loss']}"
        if self._begun is not None:
            self.durations.append((at - self._begun).total_seconds())
            if epoch < self._last:
                left = median(self.durations) * (self._last - epoch)
                shown += f", {_duration(left)} left"
        return shown


def _values(text: str) -> dict[str, str]:
    """Parses "a=1, b=2"."""
    return dict(re.findall(r"(\w+)=([^ ,]+)", text))


def _duration(seconds: float) -> str:
    """Formats a duration by its two largest units."""
    minutes, whole = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {whole} s" if minutes else f"{whole} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class NewLines:
    """The lines that are written to a file from now on.

    What is in the file already is passed over; a file that is replaced or cut off is
    read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._position = self._state()
        self._rest = b""

    def _state(self) -> tuple[int, int]:
        try:
            state = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return state.st_ino, state.st_size

    def read(self) -> Iterator[str]:
        """Yields the whole lines that have come since the last call."""
        inode, size = self._state()
        if inode != self._inode or size < self._position:
            self._inode, self._position, self._rest = inode, 0, b""
        if size == self._position:
            return
        with open(self._path, "rb") as file:
            file.seek(self._position)
            found = self._rest + file.read()
            self._position = file.tell()
        *lines, self._rest = found.split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")


def get_parser() -> argparse.ArgumentParser:
    """Builds the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True, help="the training's log")
    parser.add_argument("command", nargs="+", help="after --: the command that trains")
    return parser


def main() -> int:
    """Runs the script; returns the exit status of the command."""
    args = get_parser().parse_args()
    lines, epochs = NewLines(args.log), Epochs()
    with subprocess.Popen(args.command) as training:
        # A terminal's Ctrl-C reaches the training, too, and its status shows that.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        running = True
        while running:
            running = training.poll() is None
            for line in lines.read():
                shown = epochs.read(line)
                if shown is not None:
                    print(shown, flush=True)
            if running:
                time.sleep(1)
    return training.returncode if training.returncode >= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
