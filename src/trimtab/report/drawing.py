"""The common parts of all plots: the sheet (the SVG element), scales, texts, colours and the legend."""

from collections.abc import Callable, Sequence

from trimtab.report.markup import Markup, join, tag
from trimtab.report.tables import written

# Okabe & Ito (2008): distinguishable with all common kinds of colour blindness. A page may set others (dark mode).
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#555555")
_DASHES = (None, "7 3", "2 3")  # the line styles when the palette is used for the first, second and third time
WIDTH = 760  # the width of every sheet, in SVG units
GRID = "stroke:var(--grid,#ddd);stroke-width:1"
Scale = Callable[[float], float]


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """Return a function that maps the range [low, high] to the range [start, end] on the sheet."""
    span = high - low or 1
    return lambda value: round(start + (value - low) / span * (end - start), 2)


def standing_grid(ticks: Sequence[float], x: Scale, top: float, bottom: float) -> list[Markup]:
    """Return a vertical line for each tick, with its value below."""
    return [
        join(
            tag("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, style=GRID),
            text(x(tick), bottom + 16, written(tick), anchor="middle"),
        )
        for tick in ticks
    ]


def lying_grid(ticks: Sequence[float], y: Scale, left: float, right: float) -> list[Markup]:
    """Return a horizontal line for each tick, with its value on the left."""
    return [
        join(
            tag("line", x1=left, x2=right, y1=y(tick), y2=y(tick), style=GRID),
            text(left - 8, y(tick) + 4, written(tick), anchor="end"),
        )
        for tick in ticks
    ]


def svg(title: str, described: str, height: float, *parts: Markup | None) -> Markup:
    """Return a sheet with these parts, with a title and a description for screen readers."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", described),
        tag("text", title, x=0, y=17, style="fill:var(--ink,#222);font-weight:600;font-size:15px"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_label=f"{title}: {described}",
        style="font-family:system-ui,sans-serif;font-size:12px",
    )


def legend_of(names: Sequence[str]) -> tuple[Markup, float]:
    """Return a legend with a sample line for each name, in as many rows as needed, and the height of the legend."""
    at, row = 0.0, 0
    parts = []
    for number, name in enumerate(names):
        shown = shortened(name, 300.0)
        width = 34 + text_width(shown)
        if at and at + width > WIDTH:
            at, row = 0.0, row + 1
        height = 34 + 17 * row
        parts += [
            tag("line", x1=at, x2=at + 20, y1=height, y2=height, style=stroke(number)),
            text(at + 26, height + 4, shown),
        ]
        at += width + 12
    return join(*parts), 17.0 * (row + 1) if names else 0.0


def text(x: float, y: float, content: str, *, anchor: str | None = None, faint: bool = False) -> Markup:
    """Return a line of text."""
    fill = "fill:var(--faint,#666)" if faint else "fill:var(--ink,#222)"
    return tag("text", content, x=x, y=y, text_anchor=anchor, style=fill)


def upright(x: float, y: float, content: str) -> Markup:
    """Return a line of vertical text."""
    return tag(
        "text",
        content,
        x=x,
        y=y,
        text_anchor="middle",
        transform=f"rotate(-90 {x:g} {y:g})",
        style="fill:var(--faint,#666)",
    )


def colour_of(number: int) -> str:
    """Return the colour of the series with this index. A page may set other colours."""
    place = number % len(PALETTE)
    return f"var(--series-{place + 1},{PALETTE[place]})"


def stroke(number: int) -> str:
    """Return the line style of the series with this index. If its colour is used again, the line is dashed."""
    dash = _DASHES[number // len(PALETTE) % len(_DASHES)]
    return f"stroke:{colour_of(number)};fill:none;stroke-width:1.8;stroke-linejoin:round" + (
        f";stroke-dasharray:{dash}" if dash else ""
    )


def text_width(content: str) -> float:
    """Return the approximate width of a text in a system font of 12 px."""
    return sum(10.0 if ord(c) > 0x2E7F else 6.6 for c in content)


def shortened(content: str, width: float) -> str:
    """Return a text. If it is wider than the limit, shorten it, with an ellipsis at its end."""
    if text_width(content) <= width:
        return content
    while content and text_width(content) > width - 8:
        content = content[:-1]
    return content + "…"
