"""Draw a curve over a numeric axis, with named positions on that axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.core.errors import Misuse
from trimtab.report.drawing import WIDTH, lying_grid, scale, shortened, stroke, svg, text, text_width
from trimtab.report.markup import Markup, join, tag
from trimtab.report.tables import written
from trimtab.report.ticks import number_ticks

_LEFT, _RIGHT, _TOP, _HEIGHT = 62, 16, 34, 240
_LINE = 15  # the height of each line of labels above the plot


def curve_chart(
    points: Sequence[tuple[float, float]], *, title: str, x_label: str = "", places: Sequence[tuple[float, str]] = ()
) -> Markup:
    """Draw a curve through points in the given order, and return it as SVG.

    Args:
        points: At least one pair of x and y, all of them finite, and y at least 0.
        title: The text above the plot, which screen readers read aloud.
        x_label: The text under the axis.
        places: Named positions on the x axis, drawn as vertical lines. Each name has its own line of text above the
            plot.

    Raises:
        Misuse: There is nothing to draw.
    """
    if not points or not all(math.isfinite(value) for point in points for value in point):
        raise Misuse(f"plot {title!r}: needs at least one point and only finite values, found {len(points)} points.")
    wide = [at for at, _ in points] + [at for at, _ in places]
    top = _TOP + _LINE * len(places)
    bottom = top + _HEIGHT
    x_ticks, y_ticks = number_ticks(min(wide), max(wide)), number_ticks(0.0, max(0.0, *(v for _, v in points)))
    x, y = scale(x_ticks[0], x_ticks[-1], _LEFT, WIDTH - _RIGHT), scale(y_ticks[0], y_ticks[-1], bottom, top)
    grid = lying_grid(y_ticks, y, _LEFT, WIDTH - _RIGHT)
    below = [text(x(tick), bottom + 18, written(tick), anchor="middle") for tick in x_ticks]
    path = "M" + "L".join(f"{x(at)} {y(value)}" for at, value in points)
    return svg(
        title,
        f"{len(points)} points" + "".join(f", {name} at {written(at)}" for at, name in places),
        bottom + (42 if x_label else 26),
        *grid,
        *below,
        text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 36, x_label, anchor="middle", faint=True) if x_label else None,
        tag("path", d=path, style=stroke(0)),
        *(_place(x(at), name, _TOP + _LINE * number, bottom) for number, (at, name) in enumerate(places)),
    )


def _place(at: float, name: str, height: float, bottom: float) -> Markup:
    shown = shortened(name, 300.0)
    right = at + 6 + text_width(shown) > WIDTH
    return join(
        tag("line", x1=at, x2=at, y1=height - 9, y2=bottom, style="stroke:var(--ink,#222);stroke-dasharray:3 3"),
        text(at - 6 if right else at + 6, height, shown, anchor="end" if right else None),
    )
