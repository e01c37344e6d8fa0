"""A document of headings, texts, facts, tables and plots, in the order in which they were added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from trimtab.core.errors import Misuse
from trimtab.report.markup import Markup
from trimtab.report.tables import Cell, Table

Tone = Literal["good", "bad", "warning", "plain"]


class Heading(msgspec.Struct, frozen=True):
    """The title of a section (level 2) or of a part of a section (level 3)."""

    text: str
    level: Literal[2, 3] = 2


class Paragraph(msgspec.Struct, frozen=True):
    """A text. A text with a tone is a statement that is set apart, such as the result of a test."""

    text: str
    tone: Tone | None = None

    @property
    def prefix(self) -> str:
        """The tone as a word, because colour alone is not enough."""
        return {"good": "Good: ", "bad": "Bad: ", "warning": "Warning: "}.get(self.tone or "", "")


class Facts(msgspec.Struct, frozen=True):
    """Names with their values."""

    values: dict[str, Cell]


class Plot(msgspec.Struct, frozen=True):
    """A drawing, with a table or lines of text to show where drawings cannot be shown."""

    svg: Markup
    caption: str = ""
    plain: Table | tuple[str, ...] = ()


Content = Heading | Paragraph | Facts | Table | Plot


class Part(msgspec.Struct, frozen=True):
    """A part of a document."""

    content: Content
    detail: bool = False  # whether the part is left out when the document is shown in a terminal
    most: int | None = None  # the maximum number of table rows shown in a terminal


class Document:
    """A document to which parts are added in order. Write it with `html_page`, `markdown_text` or `terminal_text`.

    The methods that add a part, except `facts`, have the option `detail`. A terminal, which shows a summary, leaves out
    parts with this option. If a heading has the option, its whole section is left out.

    >>> from trimtab.report import html_page, terminal_text
    >>> document = Document("Late flights, July")
    >>> document.heading("Quality")
    >>> document.facts({"AUC": 0.759, "rows": 29_425})
    >>> print(terminal_text(document))
    Late flights, July
    <BLANKLINE>
    Quality
    AUC   0.759
    rows  29,425
    >>> "<dd>0.759</dd>" in html_page(document)
    True
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self.parts: list[Part] = []

    def heading(self, text: str, level: Literal[2, 3] = 2, *, detail: bool = False) -> None:
        """Begin a section. A page with three or more sections of level 2 lists them at its top."""
        self.parts.append(Part(Heading(text, level), detail))

    def paragraph(self, text: str, *, detail: bool = False) -> None:
        """Add plain text."""
        self.parts.append(Part(Paragraph(text), detail))

    def note(self, text: str, tone: Tone = "plain", *, detail: bool = False) -> None:
        """Add a statement that is set apart. A tone other than "plain" is shown by a word and by a colour."""
        self.parts.append(Part(Paragraph(text, tone), detail))

    def facts(self, facts: Mapping[str, Cell]) -> None:
        """Add names and values, shown side by side."""
        self.parts.append(Part(Facts(dict(facts))))

    def table(self, table: Table, *, detail: bool = False, most: int | None = None) -> None:
        """Add a table. A table without rows is left out.

        Args:
            detail: Whether to leave the table out in a terminal.
            most: The maximum number of rows shown in a terminal. Further rows are only counted. None: all rows.
        """
        if table.rows:
            self.parts.append(Part(table, detail, most))

    def plot(
        self,
        svg: Markup,
        caption: str = "",
        *,
        plain: Table | Sequence[str] = (),
        detail: bool = False,
        most: int | None = None,
    ) -> None:
        """Add a drawing.

        Args:
            svg: The drawing, as returned by a function of `trimtab.report`.
            caption: One or two sentences under the drawing.
            plain: A table, or lines such as those of `text_chart`, to show in Markdown and in a terminal instead of the
                drawing.
            detail: Whether to leave it out in a terminal.
            most: If `plain` is a table: the maximum number of its rows shown in a terminal.

        Raises:
            Misuse: `svg` is an ordinary string, which may contain unsafe markup.
        """
        if not isinstance(svg, Markup):
            raise Misuse(f"document: a plot must come from a plot function, found {type(svg).__name__}.")
        lines = plain if isinstance(plain, Table) else tuple(plain)
        self.parts.append(Part(Plot(svg, caption, lines), detail, most))
