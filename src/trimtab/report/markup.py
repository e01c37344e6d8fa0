"""Build HTML and SVG safely: everything except `Markup` is escaped, so data cannot inject markup."""

import html
import re

_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = {"br", "hr", "meta"}


class Markup(str):
    """A string that is already markup, so it is not escaped again. Only `tag` and `join` should make such strings."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an HTML or SVG element. Children are escaped unless they are markup, and attributes always.

    Attributes that are None or False are left out, and attributes that are True have no value. The argument `class_`
    becomes the attribute `class`, and `stroke_width` becomes `stroke-width`.

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
    """Join children, which are escaped unless they are markup. None is left out."""
    parts = [child if isinstance(child, Markup) else escaped(child) for child in children if child is not None]
    return Markup(between.join(parts))


def escaped(value: object) -> str:
    """Return a value as text that is safe in content and in quoted attributes.

    Floats are written with up to 6 digits, and invalid characters are replaced.
    """
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return html.escape(_UNFIT.sub("\ufffd", text), quote=True)
