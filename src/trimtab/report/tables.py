"""Write tables for terminals, as HTML, and as Markdown."""

import itertools
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Literal

import msgspec

from trimtab.core.errors import Misuse
from trimtab.report.markup import Markup, tag

Align = Literal["left", "right"]

_PAGE = 100  # the most characters in a line; longer texts are wrapped
_LEAST_TEXT = 30  # no column is made narrower than this
_LONGEST_WORD = 32  # longer words, such as hashes, may be broken


class Link(msgspec.Struct, frozen=True):
    """A text with a link to another page of the service. Outside of HTML, only the text is shown."""

    text: str
    path: str  # begins with "/"


Cell = str | int | float | bool | Link | None


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table with headers and rows. If `align` is not given, columns of numbers are right-aligned."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    align: tuple[Align, ...] | None = None
    caption: str = ""
    wraps: bool = False  # whether to wrap long texts in a terminal, so that lines fit on the page

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.headers):
                raise Misuse(f"table: row {number} has {len(row)} cells under {len(self.headers)} headers.")
        if self.align is not None and len(self.align) != len(self.headers):
            raise Misuse(f"table: {len(self.align)} alignments for {len(self.headers)} headers.")

    @property
    def sides(self) -> tuple[Align, ...]:
        """The alignment of each column."""
        return self.align or tuple(_side([row[i] for row in self.rows]) for i in range(len(self.headers)))


def text_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]], align: Sequence[Align] | None = None) -> str:
    """Return a table as plain text for a terminal, without a newline at its end.

    >>> print(text_table(["model", "AUC"], [["never", 0.705], ["ours", 0.7564]]))
    model     AUC
    -----  ------
    never   0.705
    ours   0.7564
    """
    aligned = None if align is None else tuple(align)
    return terminal_table(Table(headers=tuple(headers), rows=tuple(tuple(row) for row in rows), align=aligned))


def terminal_table(table: Table, most: int | None = None) -> str:
    """Return the first `most` rows of a table (None: all) as text. If there are more, a last line says how many."""
    shown = table.rows[:most]
    lines = [[one_line(header) for header in table.headers]]
    lines += [[one_line(written(cell)) for cell in row] for row in shown]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    if table.wraps:
        widths = _narrowed(widths)
        lines = [part for line in lines for part in _wrapped(line, widths)]
    lines.insert(1, ["-" * width for width in widths])
    text = "\n".join(
        "  ".join(
            _padded(cell, width, side) for cell, width, side in zip(line, widths, table.sides, strict=True)
        ).rstrip()
        for line in lines
    )
    hidden = len(table.rows) - len(shown)
    return f"{text}\n(and {hidden:,} more)" if hidden else text


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, without a newline at its end."""
    cells = [table.headers, ["---"] * len(table.headers), *([written(cell) for cell in row] for row in table.rows)]
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def html_table(table: Table) -> Markup:
    """Return a table as HTML, in a box that can be scrolled sideways on a narrow page."""
    sides = table.sides
    head = [tag("th", header, scope="col", class_=side) for header, side in zip(table.headers, sides, strict=True)]
    body = [tag("tr", *(_html_cell(cell, side) for cell, side in zip(row, sides, strict=True))) for row in table.rows]
    caption = tag("caption", table.caption) if table.caption else None
    inner = tag("table", caption, tag("thead", tag("tr", *head)), tag("tbody", *body))
    return tag("div", inner, class_="scroll", tabindex=0)


def _html_cell(cell: Cell, side: Align) -> Markup:
    text = written(cell)
    whole = len(text) <= _LONGEST_WORD and (" " not in text or text[4:5] == "-")  # dates are not broken
    inner = tag("a", text, href=cell.path) if isinstance(cell, Link) else text
    return tag("td", inner, class_=f"{side} whole" if whole else side)


def written(cell: Cell) -> str:
    """Return a cell as text. Floats are rounded to 4 digits (from 10,000 on to whole numbers), and None is a dash.

    >>> [written(cell) for cell in (336776, 0.123456, 12345.6, None, True)]
    ['336,776', '0.1235', '12,346', '–', 'yes']
    """
    if cell is None:
        return "–"
    if isinstance(cell, Link):
        return cell.text
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if 1e4 <= abs(cell) < 1e15 else f"{cell:.4g}"
    return cell


def _side(cells: list[Cell]) -> Align:
    numbers = [isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells if cell is not None]
    return "right" if numbers and all(numbers) else "left"


def one_line(text: str) -> str:
    """Return a text in a single line, without characters that could control a terminal."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in " ".join(text.split()))


def _narrowed(widths: Sequence[int]) -> list[int]:
    """Return widths with which a table fits on a page. The widest columns are reduced, but not below `_LEAST_TEXT`."""
    found = list(widths)
    for place in sorted(range(len(found)), key=lambda n: -found[n]):
        over = sum(found) + 2 * (len(found) - 1) - _PAGE
        if over > 0 and found[place] > _LEAST_TEXT:
            found[place] = max(_LEAST_TEXT, found[place] - over)
    return found


def _wrapped(line: Sequence[str], widths: Sequence[int]) -> list[list[str]]:
    """Return a line of cells as several lines, in which no cell is wider than its column."""
    cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(line, widths, strict=True)]
    return [list(part) for part in itertools.zip_longest(*cells, fillvalue="")]


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )


def _padded(text: str, width: int, side: Align) -> str:
    space = " " * (width - _width(text))
    return text + space if side == "left" else space + text
