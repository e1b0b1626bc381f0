"""Small charts as SVG, coloured by the page's style sheet."""

import math
from html import escape
from typing import List, Sequence, Tuple

Points = Sequence[Tuple[float, float]]

_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 18, 22, 36


def ticks(low: float, high: float, about: int = 5) -> List[float]:
    """Return round tick values between two numbers.

    Args:
        low: lower limit.
        high: upper limit.
        about: approximate number of ticks.

    Examples:
        >>> ticks(0, 0.93)
        [0.0, 0.2, 0.4, 0.6, 0.8]
    """
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.999 * rough)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first
    return [round((first + i) * step, 10) + 0.0 for i in range(count + 1)]  # no -0


def lines(series: Sequence[Tuple[int, str, Points]], xlabel: str, ylabel: str) -> str:
    """Draw several curves on one pair of axes.

    Args:
        series: number (which gives the colour), name and points of each curve.
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.

    Returns:
        SVG. Values above 2.5 times the median are drawn at the upper edge, unless a
        value is negative; NaN is a gap.
    """
    every = [p for _, _, points in series for p in points if math.isfinite(p[1])]
    if not every:
        return ""
    right = max(x for x, _ in every)
    values = sorted(y for _, y in every)
    low, top = min(0.0, values[0]), values[-1]
    if low == 0.0:
        # The first losses of a training would compress the rest of the curve.
        top = min(top, 2.5 * values[len(values) // 2] or top)
    frame = _Frame(0.0, right, low, top)
    drawn = [
        _line(frame, number, name, [(x, min(y, top)) for x, y in points])
        for number, name, points in series
    ]
    return frame.wrap("".join(drawn), xlabel, ylabel)


def _line(frame: "_Frame", number: int, name: str, points: Points) -> str:
    """Draw a curve, with a gap at NaN."""
    path, pen = "", "M"
    for x, y in points:
        finite = math.isfinite(y)
        if finite:
            path += f"{pen}{frame.x(x):.1f},{frame.y(y):.1f}"
        pen = "L" if finite else "M"
    return (
        f'<path class="line c{number % 10} d{number // 10 % 3}" data-system="{number}" '
        f'd="{path}"><title>{escape(name)}</title></path>'
    )


def densities(
    series: Sequence[Tuple[int, str, Sequence[float]]],
    low: float,
    high: float,
    bins: int,
    xlabel: str,
) -> str:
    """Draw the outlines of several histograms on one pair of axes.

    Args:
        series: number (which gives the colour), name and values of each histogram;
            values outside the range count in the first or the last bin.
        low: lower edge of the first bin.
        high: upper edge of the last bin.
        bins: number of bins.
        xlabel: label of the horizontal axis.

    Returns:
        SVG, with percent on the vertical axis.
    """
    width = (high - low) / bins
    outlines = []
    for number, name, values in series:
        if not values:
            continue
        counts = [0] * bins
        for value in values:
            place = math.floor((value - low) / width)
            counts[min(max(place, 0), bins - 1)] += 1
        shares = [100.0 * count / len(values) for count in counts]
        points = [(low, 0.0), (high, 0.0)]
        points[1:1] = [
            (low + (i + side) * width, share)
            for i, share in enumerate(shares)
            for side in (0, 1)
        ]
        outlines.append((number, name, points))
    if not outlines:
        return ""
    top = max(y for _, _, points in outlines for _, y in points)
    frame = _Frame(low, high, 0.0, top)
    return frame.wrap("".join(_line(frame, *each) for each in outlines), xlabel, "%")


class _Frame:
    """Axes, and the mapping of values to pixels."""

    def __init__(self, left: float, right: float, low: float, high: float) -> None:
        self._x = (left, right if right > left else left + 1.0)
        self._y = (low, high if high > low else low + 1.0)

    def x(self, value: float) -> float:
        """Return the pixels from the left."""
        left, right = self._x
        return _LEFT + (value - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return the pixels from the top."""
        low, high = self._y
        share = (value - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def wrap(self, drawn: str, xlabel: str, ylabel: str) -> str:
        """Return the SVG of the axes with the drawn curves."""
        parts = []
        for tick in ticks(*self._y):
            y = self.y(tick)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" '
                f'y2="{y:.1f}"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" '
                f'text-anchor="end">{tick:g}</text>'
            )
        for tick in ticks(*self._x):
            parts.append(
                f'<text x="{self.x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 15}" '
                f'text-anchor="middle">{tick:g}</text>'
            )
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{escape(ylabel)} by {escape(xlabel)}">{"".join(parts)}{drawn}'
            f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">'
            f'{escape(xlabel)}</text><text class="ylabel" x="4" y="13">'
            f"{escape(ylabel)}</text></svg>"
        )
