"""Progress display of commands, with the remaining time."""

import io
import logging
import sys
from typing import Any

from tqdm import tqdm

_LINE = "{desc}{n:.0f} of {total:.0f} {unit}{postfix}, {remaining_s:.0f} s left"


class Progress(tqdm):
    """A progress bar on a terminal, or regular log lines otherwise.

    Nothing is displayed if messages of the level INFO are not.

    Args:
        total: total amount of work, in the unit.
        unit: name of the unit, in the plural.
        seconds: minimum time between two log lines, in seconds.
    """

    monitor_interval = 0  # no thread

    def __init__(self, total: float, unit: str, seconds: float = 5.0) -> None:
        self._logs, self._logged = not sys.stderr.isatty(), 0.0
        super().__init__(
            total=total,
            unit=unit,
            file=io.StringIO() if self._logs else sys.stderr,
            mininterval=seconds if self._logs else 0.1,
            miniters=0,
            smoothing=0,
            dynamic_ncols=not self._logs,
            bar_format=_LINE if self._logs else "{percentage:3.0f}%|{bar}| " + _LINE,
            disable=not logging.getLogger().isEnabledFor(logging.INFO),
        )

    def display(self, *args: Any, **kwargs: Any) -> Any:
        """Show the progress."""
        if not self._logs:
            return super().display(*args, **kwargs)
        if self.n > self._logged:  # no repeated line, and none at 0
            self._logged = self.n
            logging.info(str(self))
        return True
