"""Draw a bar chart of a series as text for a terminal, with a reference line."""

from __future__ import annotations

import math
from collections.abc import Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_WIDTH = 78  # the width of a line in characters, including the values at the left
_LABEL = 10  # the width of the values at the left, in characters


def text_chart(values: Sequence[float | None], *, level: float | None = None, height: int = 8) -> list[str]:
    """Return the lines of a bar chart, from top to bottom; none if no value is known.

    Args:
        values: The values, oldest first. None makes a gap. If there are too many to fit, neighbours are averaged.
        level: A value to draw as a dashed line, such as the normal value.
        height: The number of lines.

    >>> print("\\n".join(text_chart([1.0, 2.0, None, 3.0], level=2.0, height=3)))
             3     █
             2  ┄█┄█
             1  ██ █
    """
    columns = _fitting(values, _WIDTH - _LABEL - 2)
    known = [one for one in columns if one is not None] + ([] if level is None else [level])
    if not known or not any(one is not None for one in columns):
        return []
    low, high = min(known), max(known)
    spread = (high - low) or abs(high) or 1.0
    low -= spread / max(1, height - 1)  # lower, so that even the lowest value has a bar
    step = (high - low) / height
    lines = []
    for row in range(height - 1, -1, -1):
        bottom = low + row * step
        dashed = level is not None and bottom < level <= bottom + step
        cells = "".join(_cell(one, bottom, step, dashed) for one in columns).rstrip()
        lines.append(f"{bottom + step:>{_LABEL}.4g}  {cells}")
    return lines


def _cell(value: float | None, bottom: float, step: float, dashed: bool) -> str:
    eighths = 0 if value is None else min(8, max(0, math.ceil(8 * (value - bottom) / step - 1e-9)))
    return "┄" if dashed and not eighths else _EIGHTHS[eighths]


def _fitting(values: Sequence[float | None], width: int) -> list[float | None]:
    """Return at most as many values as fit into the width. If there are too many, neighbours are averaged."""
    each = max(1, math.ceil(len(values) / width))
    groups = [[one for one in values[n : n + each] if one is not None] for n in range(0, len(values), each)]
    return [sum(group) / len(group) if group else None for group in groups]
