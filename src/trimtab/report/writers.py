"""Write documents as Markdown and as text for a terminal."""

from collections.abc import Iterator

from trimtab.report.document import Document, Facts, Heading, Paragraph, Part
from trimtab.report.tables import Table, markdown_table, one_line, terminal_table, written


def markdown_text(document: Document) -> str:
    """Return a document as Markdown, with a newline at its end.

    >>> document = Document("churn@7")
    >>> document.note("The gate passed it.", "good")
    >>> print(markdown_text(document), end="")
    # churn@7
    <BLANKLINE>
    > **Good:** The gate passed it.
    """
    head = [f"# {document.title}", *([document.subtitle] if document.subtitle else [])]
    return "\n\n".join([*head, *(text for part in document.parts if (text := _markdown(part)))]) + "\n"


def terminal_text(document: Document) -> str:
    """Return a document's summary, without details, for a terminal. There is no newline at its end."""
    head = one_line(document.title) + (f"\n{one_line(document.subtitle)}" if document.subtitle else "")
    out, after_heading = head, False
    for part in _summary(document):
        if text := _terminal(part):
            out += ("\n" if after_heading else "\n\n") + text
            after_heading = isinstance(part.content, Heading)
    return out


def _summary(document: Document) -> Iterator[Part]:
    """Yield the parts that are not marked as detail, and whose section has no heading that is marked as detail."""
    hidden: int | None = None  # the level of the heading that hides the following parts; None: they are shown
    for part in document.parts:
        if isinstance(part.content, Heading) and (hidden is None or part.content.level <= hidden):
            hidden = part.content.level if part.detail else None
        if hidden is None and not part.detail:
            yield part


def _markdown(part: Part) -> str:
    match part.content:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text, None):
            return text
        case Paragraph(text):
            prefix = part.content.prefix.rstrip()
            return f"> **{prefix}** {text}" if prefix else f"> {text}"
        case Facts(values):
            return "\n".join(f"- {name}: {written(value)}" for name, value in values.items())
        case Table():
            return markdown_table(part.content)
        case plot:
            text = markdown_table(plot.plain) if isinstance(plot.plain, Table) else "\n".join(plot.plain)
            text = f"```\n{text}\n```" if text and not isinstance(plot.plain, Table) else text
            return "\n\n".join(one for one in (text, plot.caption) if one) if text else ""


def _terminal(part: Part) -> str:
    match part.content:
        case Heading(text):
            return one_line(text)
        case Paragraph(text):
            return one_line(part.content.prefix + text)
        case Facts(values):
            wide = max((len(name) for name in values), default=0)
            return "\n".join(f"{one_line(name):{wide}}  {one_line(written(v))}" for name, v in values.items())
        case Table():
            return terminal_table(part.content, part.most)
        case plot:
            text = terminal_table(plot.plain, part.most) if isinstance(plot.plain, Table) else "\n".join(plot.plain)
            return f"{text}\n{one_line(plot.caption)}" if text and plot.caption else text
