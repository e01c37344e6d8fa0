"""Swarm chart: how much each feature changes predictions. Each point stands for one prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from trimtab.core.errors import Misuse
from trimtab.report.drawing import WIDTH, scale, shortened, standing_grid, svg, text, text_width
from trimtab.report.markup import Markup, join, tag
from trimtab.report.ticks import number_ticks

_TOP, _LINE, _SPREAD = 54, 30, 11.0
_BIN = 5.0  # points in the same interval of this length on the axis are stacked
# colours that are distinguishable with all kinds of colour blindness
_LOW, _HIGH, _NONE = (0, 114, 178), (213, 94, 0), "var(--faint,#999)"


class Swarm(msgspec.Struct, frozen=True, kw_only=True):
    """A line of points in a swarm chart. A point is a position and a shade.

    The shade is from 0 (a low value) to 1 (a high value). None: the value is null, or values have no order.
    """

    label: str
    points: Sequence[tuple[float, float | None]]


def swarm_chart(swarms: Sequence[Swarm], *, title: str, x_label: str = "", shades: str = "") -> Markup:
    """Draw lines of points, and return them as SVG. Points at the same position are moved up and down.

    Args:
        swarms: The lines, from top to bottom.
        title: The text above the plot, which screen readers read aloud.
        x_label: The text under the axis.
        shades: What the colours mean, such as "value of the feature".

    Raises:
        Misuse: There is nothing to draw, or a position is not finite.
    """
    places = [at for swarm in swarms for at, _ in swarm.points]
    if not places:
        raise Misuse(f"plot {title!r}: needs at least one point, found none.")
    wrong = sum(not math.isfinite(at) for at in places)
    if wrong:
        raise Misuse(f"plot {title!r}: {wrong} of {len(places)} positions are not finite. Leave these points out.")
    left = 24 + min(240.0, max(text_width(swarm.label) for swarm in swarms))
    ticks = number_ticks(min(0.0, *places), max(0.0, *places))
    x = scale(ticks[0], ticks[-1], left, WIDTH - 16)
    bottom = _TOP + _LINE * len(swarms)
    grid = standing_grid(ticks, x, _TOP, bottom)
    lines = []
    for number, swarm in enumerate(swarms):
        middle = _TOP + _LINE * (number + 0.5)
        lines.append(text(left - 8, middle + 4, shortened(swarm.label, 240.0), anchor="end"))
        lines += [
            tag("circle", cx=at, cy=round(middle + up, 1), r=2.4, style=f"fill:{_shade(shade)};opacity:.75")
            for at, up, shade in _spread([(x(at), shade) for at, shade in swarm.points])
        ]
    zero = tag("line", x1=x(0.0), x2=x(0.0), y1=_TOP, y2=bottom, style="stroke:var(--ink,#222)")
    below = text((left + WIDTH - 16) / 2, bottom + 34, x_label, anchor="middle", faint=True) if x_label else None
    described = f"{len(places)} points on {len(swarms)} lines"
    return svg(title, described, bottom + (40 if x_label else 24), _key(shades), *grid, zero, *lines, below)


def _spread(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float, float | None]]:
    """Return each point with a distance from its line, so that points at the same position do not overlap.

    Such points are moved down and up by turns.
    """
    by_bin: dict[int, list[tuple[float, float | None]]] = {}
    for at, shade in points:
        by_bin.setdefault(int(at // _BIN), []).append((at, shade))
    most = max(len(those) for those in by_bin.values())
    step = min(3.0, 2 * _SPREAD / most)
    return [
        (at, (number + 1) // 2 * step * (1 if number % 2 else -1), shade)
        for those in by_bin.values()
        for number, (at, shade) in enumerate(those)
    ]


def _shade(share: float | None) -> str:
    if share is None:
        return _NONE
    red, green, blue = (round(low + (high - low) * share) for low, high in zip(_LOW, _HIGH, strict=True))
    return f"rgb({red},{green},{blue})"


def _key(shades: str) -> Markup | None:
    if not shades:
        return None
    names = [(0.0, f"low {shades}"), (1.0, f"high {shades}"), (None, "null, or not ordered")]
    parts, at = [], 0.0
    for share, name in names:
        parts += [tag("circle", cx=at + 5, cy=33, r=4, style=f"fill:{_shade(share)}"), text(at + 14, 37, name)]
        at += 30 + text_width(name)
    return join(*parts)
