"""The demo's table by month and its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trimtab.app.definitions import Definitions
from trimtab.core.time import DAY_US, format_moment
from trimtab.report import Mark, Page, Series, Table, line_chart, text_table
from trimtab.report.markup import Markup
from trimtab.simulation.results import Comparison, LineResult, ReplayResult
from trimtab.stats import log_loss

_SMOOTH_DAYS = 14
_DRAWN = 4  # more lines than these hide each other
_FIGURES = {"log loss": "log_loss", "AUC": "auc", "mean score": "mean_score"}


def months_tables(result: ReplayResult) -> list[str]:
    """Three tables for a terminal, a row a month and a column a line: log loss, AUC, mean score."""
    lines = list(result.lines.values())
    months = list(zip(*(line.months() for line in lines), strict=True))
    out: list[str] = []
    for title, figure in _FIGURES.items():
        rows = [
            [parts[0].month, f"{parts[0].predictions:,}", f"{parts[0].labelled:,}", _written(parts[0].label_rate)]
            + [_written(getattr(part, figure)) for part in parts]
            for parts in months
        ]
        headers = ["month", "predictions", "labelled", "rate", *(line.name for line in lines)]
        out += ["", f"{title} by month", *text_table(headers, rows).splitlines()]
    return out


def comparison_lines(found: list[Comparison]) -> list[str]:
    """What the first line gained over each other one, in words, with 95 % intervals from whole weeks."""
    out = [f"{found[0].line} against" if found else "nothing to compare"]
    for c in found:
        area = f"AUC {c.auc.estimate:+.4f} ({c.auc.low:+.4f} to {c.auc.high:+.4f})"
        loss = f"log loss {c.log_loss.estimate:+.4f} ({c.log_loss.low:+.4f} to {c.log_loss.high:+.4f})"
        verdict = "better" if c.log_loss.below(0.0) else "worse" if c.log_loss.above(0.0) else "no difference shown"
        out.append(f"  {c.rival:12} {area}, {loss}: {verdict}")
    return out


def comparisons(result: ReplayResult) -> list[Comparison]:
    """The first line against every other one."""
    main, *rivals = result.lines
    return [result.compare(main, rival) for rival in rivals]


def write_report(result: ReplayResult, found: list[Comparison], definitions: Definitions, file: Path) -> None:
    """A self-contained page, and the picture alone as `quality.svg` beside it."""
    name = definitions.deployment(None).name
    picture = quality_picture(result)
    page = Page(f"{name}: a year of the loop", f"{format_moment(result.start_us)} to {format_moment(result.until_us)}")
    page.heading("Quality over time")
    page.figure(picture, f"Log loss over the {_SMOOTH_DAYS} days before each day; lower is better.")
    page.heading("By month")
    for line in result.lines.values():
        page.heading(line.name, level=3)
        page.table(_line_table(line))
    page.heading("How the first line compares")
    page.paragraph(
        "Differences on the same rows, with 95 % intervals from a bootstrap of whole weeks. A positive AUC difference "
        "and a negative loss difference speak for the first line; an interval that holds 0 decides nothing."
    )
    page.table(_comparison_table(found))
    page.heading("What was decided")
    for line in result.lines.values():
        if line.decisions:
            page.heading(line.name, level=3)
            page.table(_decision_table(line))
    page.heading("Beneath")
    page.facts(
        {
            "events in the log": f"{result.entered:,}",
            "rows quarantined": f"{result.quarantined:,}",
            "questions read again online": f"{result.checked_rows:,}",
            "values compared": f"{result.checked_values:,}",
            "values that differ": f"{result.mismatches:,}",
        }
    )
    file.write_text(page.render(), "utf-8")
    file.with_name("quality.svg").write_text(str(picture), "utf-8")


def quality_picture(result: ReplayResult) -> Markup:
    """The first four lines' log loss over a moving window; the first one's alarms and promotions are marked."""
    lines = list(result.lines.values())[:_DRAWN]
    series = [_moving(line) for line in reversed(lines)]  # the first one is drawn on top
    marks = [Mark(at_us=s.raised_at_us, label="alarm", kind="alarm") for s in lines[0].signals]
    marks += [
        Mark(at_us=d.at_us, label="promoted", kind="promotion")
        for d in lines[0].decisions
        if d.act == "promote" and d.at_us > result.start_us
    ]
    marks.sort(key=lambda mark: mark.at_us)
    return line_chart(series, title=f"Log loss, {_SMOOTH_DAYS} days", y_label="log loss", marks=marks)


def _moving(line: LineResult) -> Series:
    days = np.unique(line.at_us // DAY_US)
    there = ~np.isnan(line.labels)
    values: list[float | None] = []
    for day in days.tolist():
        rows = there & (line.at_us // DAY_US <= day) & (line.at_us // DAY_US > day - _SMOOTH_DAYS)
        values.append(log_loss(line.labels[rows], line.scores[rows]) if rows.any() else None)
    return Series(name=line.name, x=[int(day) * DAY_US for day in days], y=values)


def _line_table(line: LineResult) -> Table:
    return Table(
        headers=("month", "predictions", "labelled", "label rate", "mean score", "log loss", "AUC"),
        rows=tuple(
            (
                row.month,
                f"{row.predictions:,}",
                f"{row.labelled:,}",
                *(_written(value) for value in (row.label_rate, row.mean_score, row.log_loss, row.auc)),
            )
            for row in line.months()
        ),
    )


def _comparison_table(found: list[Comparison]) -> Table:
    return Table(
        headers=("against", "AUC difference", "from", "to", "log loss difference", "from", "to"),
        rows=tuple(
            (c.rival, *(f"{v:+.4f}" for i in (c.auc, c.log_loss) for v in (i.estimate, i.low, i.high))) for c in found
        ),
    )


def _decision_table(line: LineResult) -> Table:
    return Table(
        headers=("when", "act", "version", "cause"),
        rows=tuple((format_moment(d.at_us)[:10], d.act, (d.version or "")[:8], d.cause) for d in line.decisions),
    )


def _written(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
