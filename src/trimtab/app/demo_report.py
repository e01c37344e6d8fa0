"""The demo's table by month and its page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from trimtab.app.definitions import Definitions
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, format_moment
from trimtab.report import Mark, Page, Series, Table, line_chart, text_table
from trimtab.report.markup import Markup
from trimtab.simulation.results import Comparison, LineResult, MonthRow, ReplayResult

_SMOOTH_DAYS = 14
_DRAWN = 4  # more lines than these hide each other


def months_tables(result: ReplayResult) -> list[str]:
    """A table for each metric of the first line and one of mean scores, a row a month and a column a line."""
    lines = list(result.lines.values())
    months = list(zip(*(line.months() for line in lines), strict=True))
    values: dict[str, Callable[[MonthRow], float | None]] = {
        shown_name(one.name): partial(_metric, one.name) for one in lines[0].measures
    }
    if lines[0].lists is None:
        values["mean score"] = lambda row: row.mean_score
    out: list[str] = []
    for title, value in values.items():
        rows = [
            [parts[0].month, f"{parts[0].predictions:,}", f"{parts[0].labelled:,}", _written(parts[0].label_rate)]
            + [_written(value(part)) for part in parts]
            for parts in months
        ]
        headers = ["month", "predictions", "labelled", "rate", *(line.name for line in lines)]
        out += ["", f"{title} by month", *text_table(headers, rows).splitlines()]
    return out


def comparison_lines(found: list[Comparison]) -> list[str]:
    """What the first line gained over each other one, in words, with 95 % intervals from whole weeks."""
    out = [f"{found[0].line} against" if found else "nothing to compare"]
    for c in found:
        parts = [f"{shown_name(k)} {i.estimate:+.4f} ({i.low:+.4f} to {i.high:+.4f})" for k, i in c.metrics.items()]
        out.append(f"  {c.rival:12} {', '.join(parts)}: {c.verdict}")
    return out


def shown_name(metric: str) -> str:
    """A metric's name for people.

    >>> shown_name("root_mean_squared_error"), shown_name("auc")
    ('root mean squared error', 'AUC')
    """
    return "AUC" if metric == "auc" else metric.replace("_", " ")


def comparisons(result: ReplayResult) -> list[Comparison]:
    """The first line against every other one that answers the same question, where there are weeks to draw."""
    main, *rivals = result.lines
    found = []
    for rival in rivals:
        with suppress(Misuse):  # another question, or one week only: nothing can be said
            found.append(result.compare(main, rival))
    return found


def write_report(result: ReplayResult, found: list[Comparison], definitions: Definitions, file: Path) -> None:
    """A self-contained page, and the picture alone as `quality.svg` beside it."""
    name = definitions.deployment(None).name
    picture = quality_picture(result)
    page = Page(f"{name}: a year of the loop", f"{format_moment(result.start_us)} to {format_moment(result.until_us)}")
    page.heading("Quality over time")
    own = shown_name(next(iter(result.lines.values())).metric)
    page.figure(picture, f"The mean {own} over the {_SMOOTH_DAYS} days before each day; lower is better.")
    page.heading("By month")
    for line in result.lines.values():
        page.heading(line.name, level=3)
        page.table(_line_table(line))
    page.heading("How the first line compares")
    page.paragraph(
        "Differences on the same rows, with 95 % intervals from a bootstrap of whole weeks. A negative difference of "
        "the first metric, a loss, speaks for the first line; an interval that holds 0 decides nothing."
    )
    if found:
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
    """The first four lines' metric over a moving window; the first one's alarms and promotions are marked."""
    lines = list(result.lines.values())[:_DRAWN]
    series = [_moving(line) for line in reversed(lines)]  # the first one is drawn on top
    marks = [Mark(at_us=s.raised_at_us, label="alarm", kind="alarm") for s in lines[0].signals]
    marks += [
        Mark(at_us=d.at_us, label="promoted", kind="promotion")
        for d in lines[0].decisions
        if d.act == "promote" and d.at_us > result.start_us
    ]
    marks.sort(key=lambda mark: mark.at_us)
    own = shown_name(lines[0].metric)
    return line_chart(series, title=f"{own.capitalize()}, {_SMOOTH_DAYS} days", y_label=own, marks=marks)


def _moving(line: LineResult) -> Series:
    days = np.unique(line.at_us // DAY_US)
    own = line.measures[0]
    values: list[float | None] = []
    for day in days.tolist():
        rows = line.judged & (line.at_us // DAY_US <= day) & (line.at_us // DAY_US > day - _SMOOTH_DAYS)
        values.append(own.value(line.rows(rows)) if rows.any() else None)
    return Series(name=line.name, x=[int(day) * DAY_US for day in days], y=values)


def _line_table(line: LineResult) -> Table:
    names = [one.name for one in line.measures]
    return Table(
        headers=("month", "predictions", "labelled", "label rate", "mean score", *map(shown_name, names)),
        rows=tuple(
            (
                row.month,
                f"{row.predictions:,}",
                f"{row.labelled:,}",
                *(_written(value) for value in (row.label_rate, row.mean_score, *row.metrics.values())),
            )
            for row in line.months()
        ),
    )


def _comparison_table(found: list[Comparison]) -> Table:
    names = list(dict.fromkeys(name for c in found for name in c.metrics))
    headers = [header for name in names for header in (f"{shown_name(name)} difference", "from", "to")]
    rows = []
    for c in found:
        intervals = [c.metrics.get(name) for name in names]
        parts = [(None, None, None) if i is None else (i.estimate, i.low, i.high) for i in intervals]
        rows.append((c.rival, *("-" if v is None else f"{v:+.4f}" for part in parts for v in part)))
    return Table(headers=("against", *headers), rows=tuple(rows))


def _metric(name: str, row: MonthRow) -> float | None:
    return row.metrics.get(name)


def _decision_table(line: LineResult) -> Table:
    return Table(
        headers=("when", "act", "version", "cause"),
        rows=tuple((format_moment(d.at_us)[:10], d.act, (d.version or "")[:8], d.cause) for d in line.decisions),
    )


def _written(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
