"""Tables as text and HTML: the first and last rows, and the types of the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from trimtab.core.columns.column import Column
from trimtab.core.shown import count_of
from trimtab.core.time import format_time

_MOST_ROWS, _MOST_COLUMNS, _MOST_CHARACTERS = 10, 12, 32
_WIDE = 100  # characters of a line of a terminal
_NULL, _GAP = "null", "…"
_RIGHT = ("float", "int")  # columns of these types are right-aligned


def text_table(table: Mapping[str, Column]) -> str:
    """Return a table as text for a terminal.

    >>> from trimtab.core.columns import Columns
    >>> Columns.of({"who": ("str", ["ann", None]), "x": ("float", [1.5, 20.0])})
    2 rows x 2 columns
    who       x
    str   float
    ----  -----
    ann     1.5
    null   20.0
    """
    for most in range(_MOST_COLUMNS, 0, -1):
        names, cells = _cells(table, most)
        dtypes = [_dtype(table, name) for name in names]
        shown = [[_plain(name) for name in names], dtypes, *cells]
        widths = [max(len(row[i]) for row in shown) for i in range(len(names))]
        if sum(widths) + 2 * len(widths) - 2 <= _WIDE:
            break
    right = [_is_right(table, name) for name in names]
    lines = [_line(row, widths, right) for row in shown]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([_size(table), *lines[:2], rule, *lines[2:]] if names else [_size(table)])


def html_table(table: Mapping[str, Column]) -> str:
    """Return a table as HTML for a notebook. Special characters in values are escaped."""
    names, cells = _cells(table)
    heads = "".join(
        f"<th>{escape(_plain(name))}<br><small>{escape(_dtype(table, name))}</small></th>" for name in names
    )
    aligned = ["right" if _is_right(table, name) else "left" for name in names]
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{side}">{"<em>null</em>" if cell == _NULL else escape(cell)}</td>'
            for cell, side in zip(row, aligned, strict=True)
        )
        + "</tr>"
        for row in cells
    )
    return (
        f"<table><caption>{escape(_size(table))}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _rows(table: Mapping[str, Column]) -> int:
    return next(map(len, table.values()), 0)


def _size(table: Mapping[str, Column]) -> str:
    rows, columns = _rows(table), len(table)
    return f"{count_of(rows, 'row')} x {count_of(columns, 'column')}"


def _cells(table: Mapping[str, Column], most: int = _MOST_COLUMNS) -> tuple[list[str], list[list[str]]]:
    """Return the names of the shown columns (at most `most`), and the texts of the shown rows."""
    names = list(table)
    if len(names) > most:
        names = [*names[: most - most // 2], _GAP, *names[len(names) - most // 2 :]]
    rows = _rows(table)
    gap = rows > _MOST_ROWS
    head = slice(0, _MOST_ROWS // 2 if gap else rows)
    tail = slice(rows - _MOST_ROWS // 2 if gap else rows, rows)
    lists = []
    for name in names:
        if name not in table:
            lists.append([_GAP] * ((head.stop - head.start) + gap + (tail.stop - tail.start)))
            continue
        column = table[name]
        lists.append([*_texts(column, head), *([_GAP] if gap else []), *_texts(column, tail)])
    return names, [list(row) for row in zip(*lists, strict=True)]


def _texts(column: Column, rows: slice) -> list[str]:
    return [_text(column, value) for value in column.take(rows).to_list()]


def _text(column: Column, value: Any) -> str:
    if value is None or value != value:
        return _NULL
    if column.dtype == "time":
        try:
            return format_time(value)
        except OverflowError:  # `datetime` only covers the years 1 to 9999
            return f"{value} us"
    if column.dtype == "float":
        return f"{value:.6g}" if abs(value) >= 1e6 or 0 < abs(value) < 1e-4 else str(round(value, 6))
    if column.dtype == "str":
        text = _plain(value)
        return repr(text) if text in (_NULL, _GAP, "") or text != text.strip() else text
    return str(value)


def _plain(text: str) -> str:
    """Return a text as one line: shortened to fit, and with control characters escaped."""
    kept = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: _MOST_CHARACTERS + 1])
    return kept if len(kept) <= _MOST_CHARACTERS else kept[: _MOST_CHARACTERS - 1] + _GAP


def _dtype(table: Mapping[str, Column], name: str) -> str:
    return table[name].dtype if name in table else ""


def _is_right(table: Mapping[str, Column], name: str) -> bool:
    return _dtype(table, name) in _RIGHT


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
    return "  ".join(padded).rstrip()
