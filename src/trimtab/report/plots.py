"""Draw plots as SVG without scripts: lines over time, bars, and calibration. A page can set their colours."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from trimtab.core.errors import Misuse
from trimtab.report.drawing import (
    GRID,
    WIDTH,
    Scale,
    colour_of,
    legend_of,
    lying_grid,
    scale,
    shortened,
    standing_grid,
    stroke,
    svg,
    text,
    text_width,
    upright,
)
from trimtab.report.markup import Markup, join, tag
from trimtab.report.tables import written
from trimtab.report.ticks import number_ticks, time_ticks, utc

MarkKind = Literal["alarm", "promotion", "change", "note"]

_MARKS: dict[MarkKind, tuple[str, str | None]] = {
    "alarm": ("var(--bad,#c0392b)", None),
    "promotion": ("var(--good,#1e7d4f)", "5 3"),
    "change": ("var(--ink,#222)", "1 3"),
    "note": ("var(--faint,#777)", "2 2"),
}
_LEFT, _RIGHT = 62, 16
_LANES = 4  # rows for the labels of marks; a mark whose label has no room there only has a line and a tooltip


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A named line. A value of None makes a gap. `low` and `high` are the edges of a band around the line."""

    name: str
    x: Sequence[int]  # UTC microseconds since 1970, ascending
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None

    def __post_init__(self) -> None:
        for what, values in (("y", self.y), ("low", self.low), ("high", self.high)):
            if values is not None and len(values) != len(self.x):
                raise Misuse(f"series {self.name!r}: {len(values)} values of {what} for {len(self.x)} of x.")
        if (self.low is None) != (self.high is None):
            raise Misuse(f"series {self.name!r}: a band needs both low and high.")


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """An event, drawn as a vertical line with a label."""

    at_us: int
    label: str
    kind: MarkKind = "note"


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A bar, which may have an interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


class CalibrationPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The mean score, the share of positive labels and the number of rows in one bin of scores."""

    mean_score: float
    label_share: float
    rows: int


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    marks: Sequence[Mark] = (),
    height: int = 300,
) -> Markup:
    """Draw lines over time with a legend, bands and marks, and return them as SVG.

    Args:
        series: The series, at least one of them with a value. Values that are not finite make gaps.
        title: The text above the plot, which screen readers read aloud.
        x_label: The text under the time axis, which is in UTC.
        y_label: The text along the value axis.
        marks: Events such as alarms, promotions and changes. The axis is extended to include all of them.
        height: The height of the plotted area, plus 100. The unit is 1/760 of the width of the drawing.

    Raises:
        Misuse: There is nothing to draw.
    """
    times = [at for one in series for at in one.x] + [mark.at_us for mark in marks]
    values = [
        v
        for one in series
        for row in (one.y, one.low or (), one.high or ())
        for v in map(_finite, row)
        if v is not None
    ]
    if not values:
        raise Misuse(f"plot {title!r}: no finite value in {len(series)} series. Write a sentence instead of a plot.")
    lanes = _lanes(marks, x := scale(min(times), max(times), _LEFT, WIDTH - _RIGHT))
    legend, legend_height = legend_of([one.name for one in series])
    head = 30 + legend_height
    top = head + 15 * (max(lanes.values(), default=-1) + 1) + (12 if lanes else 4)
    bottom = top + height - 100
    ticks = number_ticks(min(values), max(values))
    y = scale(ticks[0], ticks[-1], bottom, top)
    lines = [
        part
        for number, one in enumerate(series)
        for part in (_band(one, number, x, y), _line(one, number, x, y))
        if part is not None
    ]
    time_labels = [
        join(
            tag("line", x1=x(at), x2=x(at), y1=bottom, y2=bottom + 4, style="stroke:var(--faint,#777)"),
            text(x(at), bottom + 18, label, anchor="middle"),
        )
        for at, label in time_ticks(min(times), max(times), most=11)
    ]
    described = (
        f"{len(series)} series ({', '.join(one.name for one in series)}), {_day(min(times))} to {_day(max(times))}"
    )
    return svg(
        title,
        described,
        bottom + (42 if x_label else 26),
        _frame(ticks, y, y_label, top, bottom),
        *time_labels,
        text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 36, x_label, anchor="middle", faint=True) if x_label else None,
        *lines,
        *(_mark_line(mark, x(mark.at_us), lanes.get(n), head, bottom) for n, mark in enumerate(marks)),
        *(_mark_label(marks[n], x(marks[n].at_us), lane, head) for n, lane in lanes.items()),
        legend,
    )


def bar_chart(bars: Sequence[Bar], *, title: str) -> Markup:
    """Draw horizontal bars from zero as SVG, in the given order, each with its value and its interval."""
    ends = [v for bar in bars for v in (bar.value, bar.low, bar.high) if v is not None]
    if not ends or not all(map(math.isfinite, ends)):
        raise Misuse(f"plot {title!r}: needs at least one bar and only finite values, found {len(bars)} bars.")
    left = 24 + min(240.0, max(text_width(bar.label) for bar in bars))
    ticks = number_ticks(min(0.0, *ends), max(0.0, *ends))
    x = scale(ticks[0], ticks[-1], left, WIDTH - 70)
    top, step = 36, 24
    bottom = top + step * len(bars)
    drawn = []
    for number, bar in enumerate(bars):
        middle = top + step * (number + 0.5)
        start, end = sorted((x(0.0), x(bar.value)))
        right = max(end, x(bar.high) if bar.high is not None else end)
        drawn += [
            text(left - 8, middle + 4, shortened(bar.label, 240.0), anchor="end"),
            tag(
                "rect",
                x=start,
                y=middle - 8,
                width=max(end - start, 0.5),
                height=16,
                style=f"fill:{colour_of(0)};opacity:.85",
            ),
            _whisker(bar, x, middle),
            text(right + 6, middle + 4, written(bar.value)),
        ]
    zero = tag("line", x1=x(0.0), x2=x(0.0), y1=top, y2=bottom, style="stroke:var(--ink,#222)")
    return svg(title, f"{len(bars)} bars", bottom + 24, *standing_grid(ticks, x, top, bottom), *drawn, zero)


def calibration_plot(curves: Sequence[tuple[str, Sequence[CalibrationPoint]]], *, title: str) -> Markup:
    """Draw the share of positive labels against the mean score as SVG, with larger points for larger bins.

    The points of a calibrated model lie on the diagonal.

    Args:
        curves: The name and the points of each model.
        title: The text above the plot.
    """
    points = [point for _, curve in curves for point in curve]
    if not points:
        raise Misuse(f"plot {title!r}: no bin with rows. Write a sentence instead of a plot.")
    legend, legend_height = legend_of([name for name, _ in curves])
    top, size = 34 + legend_height, 330
    ticks = number_ticks(0.0, max(max(p.mean_score, p.label_share) for p in points))
    left = (WIDTH - size) / 2
    x, y = scale(0.0, ticks[-1], left, left + size), scale(0.0, ticks[-1], top + size, top)
    grid = [
        join(
            tag("line", x1=x(tick), x2=x(tick), y1=top, y2=top + size, style=GRID),
            tag("line", x1=left, x2=left + size, y1=y(tick), y2=y(tick), style=GRID),
            text(x(tick), top + size + 16, written(tick), anchor="middle"),
            text(left - 8, y(tick) + 4, written(tick), anchor="end"),
        )
        for tick in ticks
    ]
    diagonal = tag(
        "line", x1=left, y1=top + size, x2=left + size, y2=top, style="stroke:var(--faint,#777);stroke-dasharray:4 4"
    )
    most = max(point.rows for point in points)
    drawn = []
    for number, (_, curve) in enumerate(curves):
        path = "M" + "L".join(f"{x(p.mean_score):.1f} {y(p.label_share):.1f}" for p in curve) if curve else ""
        drawn.append(tag("path", d=path, style=stroke(number)))
        drawn += [
            tag(
                "circle",
                tag("title", f"score {p.mean_score:.3f}, share {p.label_share:.3f}, {p.rows:,} rows"),
                cx=x(p.mean_score),
                cy=y(p.label_share),
                r=2.5 + 5.5 * math.sqrt(p.rows / most),
                style=f"fill:{colour_of(number)};opacity:.75",
            )
            for p in curve
        ]
    return svg(
        title,
        f"{len(curves)} models against the diagonal",
        top + size + 42,
        *grid,
        diagonal,
        *drawn,
        text(left + size / 2, top + size + 36, "mean score", anchor="middle", faint=True),
        upright(left - 46, top + size / 2, "share of positive labels"),
        legend,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _frame(ticks: list[float], y: Scale, label: str, top: float, bottom: float) -> Markup:
    rows = lying_grid(ticks, y, _LEFT, WIDTH - _RIGHT)
    axis = tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, style="stroke:var(--faint,#777)")
    return join(*rows, axis, upright(13, (top + bottom) / 2, label) if label else None)


def _line(one: Series, number: int, x: Scale, y: Scale) -> Markup:
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(one.x, map(_finite, one.y), strict=True):
        if value is not None:
            runs[-1].append((x(at), y(value)))
        elif runs[-1]:
            runs.append([])
    path = "".join("M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in run) for run in runs if len(run) > 1)
    alone = [
        tag("circle", cx=run[0][0], cy=run[0][1], r=2.5, style=f"fill:{colour_of(number)}")
        for run in runs
        if len(run) == 1
    ]
    drawn = tag("path", d=path, style=stroke(number)) if path else None
    return tag("g", tag("title", one.name), drawn, *alone)


def _band(one: Series, number: int, x: Scale, y: Scale) -> Markup | None:
    if one.low is None or one.high is None:
        return None
    path, run = "", list[tuple[float, float, float]]()
    for at, low, high in [*zip(one.x, one.low, one.high, strict=True), (0, None, None)]:
        bottom, top = _finite(low), _finite(high)
        if bottom is not None and top is not None:
            run.append((x(at), y(bottom), y(top)))
        elif run:
            there = [f"{px:.1f} {high_y:.1f}" for px, _, high_y in run]
            back = [f"{px:.1f} {low_y:.1f}" for px, low_y, _ in reversed(run)]
            path += "M" + "L".join(there + back) + "Z"
            run = []
    return tag("path", d=path, style=f"fill:{colour_of(number)};opacity:.16") if path else None


def _lanes(marks: Sequence[Mark], x: Scale) -> dict[int, int]:
    """Return a row for the label of each mark, so that labels do not overlap. Marks without room are left out."""
    ends = [-math.inf] * _LANES
    lanes: dict[int, int] = {}
    for number in sorted(range(len(marks)), key=lambda n: marks[n].at_us):
        start, end = _label_span(marks[number], x(marks[number].at_us))
        lane = next((k for k, taken in enumerate(ends) if start > taken + 8), None)
        if lane is not None:
            lanes[number], ends[lane] = lane, end
    return lanes


def _label_span(mark: Mark, at: float) -> tuple[float, float]:
    width = text_width(shortened(mark.label, 200.0))
    start = min(max(at - width / 2, 0.0), WIDTH - width)
    return start, start + width


def _mark_line(mark: Mark, at: float, lane: int | None, top: float, bottom: float) -> Markup:
    colour, dash = _MARKS[mark.kind]
    style = f"stroke:{colour};stroke-width:1.5" + (f";stroke-dasharray:{dash}" if dash else "")
    hint = tag("title", f"{mark.label} ({utc(mark.at_us):%Y-%m-%d %H:%M} UTC)")
    return tag("line", hint, x1=at, x2=at, y1=top + 16 + 15 * (lane or 0), y2=bottom, style=style)


def _mark_label(mark: Mark, at: float, lane: int, top: float) -> Markup:
    start, end = _label_span(mark, at)
    # draws a halo around the text
    style = f"fill:{_MARKS[mark.kind][0]};paint-order:stroke;stroke:var(--paper,#fff);stroke-width:5px"
    middle, height = round((start + end) / 2, 2), top + 12 + 15 * lane
    return tag("text", shortened(mark.label, 200.0), x=middle, y=height, text_anchor="middle", style=style)


def _whisker(bar: Bar, x: Scale, middle: float) -> Markup | None:
    if bar.low is None or bar.high is None:
        return None
    low, high = x(bar.low), x(bar.high)
    path = f"M{low} {middle}H{high}M{low} {middle - 4}V{middle + 4}M{high} {middle - 4}V{middle + 4}"
    return tag("path", d=path, style="stroke:var(--ink,#222);fill:none")


def _day(at_us: int) -> str:
    return f"{utc(at_us):%Y-%m-%d}"
