"""HTML and SVG that are safe from injection, because everything that is not `Markup` is escaped."""

import html
import re

_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = {"br", "hr", "meta"}


class Markup(str):
    """Text that is already markup. Only `tag` and `join` should create it."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return one element. Children that are not markup are escaped, attributes always.

    An attribute that is None or False is left out. An attribute that is True is written without a value. `class_`
    becomes `class`, and `stroke_width` becomes `stroke-width`.

    >>> tag("td", "a < b", class_="number", data_row=3)
    '<td class="number" data-row="3">a &lt; b</td>'
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escaped(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: object, between: str = "") -> Markup:
    """Join children, which are escaped if they are not markup. None is left out."""
    parts = [child if isinstance(child, Markup) else escaped(child) for child in children if child is not None]
    return Markup(between.join(parts))


def escaped(value: object) -> str:
    """Return text that is safe in content and in quoted attributes.

    Floats have at most 6 digits, and invalid characters are replaced.
    """
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return html.escape(_UNFIT.sub("\ufffd", text), quote=True)
