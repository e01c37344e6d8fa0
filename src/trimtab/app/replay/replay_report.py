"""What a replay found, for a terminal, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, format_time
from trimtab.report import Document, Mark, Series, Table, html_page, line_chart, text_table
from trimtab.report.markup import Markup
from trimtab.report.text_chart import text_chart
from trimtab.simulation.faults import in_words
from trimtab.simulation.policy_search import PolicyChoice
from trimtab.simulation.results import Comparison, MonthRow, ReplayResult, ScenarioResult
from trimtab.simulation.scorecard import Scorecard, scorecards

_SMOOTH_DAYS = 14
_DECISIONS, _CAUSE = 40, 150  # rows, and letters of each, in the terminal
_DRAWN = 4  # more lines than these hide each other


def report_lines(result: ReplayResult) -> list[str]:
    """A replay for a terminal: a table of lines, what rang, what was refused, and the course of each line's loss."""
    cards = scorecards(result)
    out = [
        f"{result.entered:,} events, {result.quarantined:,} quarantined"
        + (
            f"; {result.mismatches:,} of {result.checked_values:,} values differ between training and serving"
            if result.checked_values
            else ""
        ),
        text_table(_HEADERS, [_card_row(card, result.lines[card.line].cpu_s) for card in cards]),
    ]
    own = list(dict.fromkeys(one.name for line in result.lines.values() for one in line.measures[1:]))
    if own:
        rows = [
            [name, *(_written(line.months()[-1].metrics.get(metric)) for metric in own)]
            for name, line in result.lines.items()
        ]
        out += ["", text_table(["line", *map(shown_name, own)], rows)]
    for card in cards:
        out += _told(card)
    if result.faults:
        out += ["", "faults that were put in", *(f"  {one}" for one in in_words(result.faults))]
    out += _decided(next(iter(result.lines.values())))
    for card in cards:
        values = [day.value for day in card.days]
        known = [day.best for day in card.days if day.best is not None]
        chart = text_chart(values, level=sum(known) / len(known) if known else None, height=5)
        if chart:
            out += ["", f"{card.line}: {shown_name(card.metric)} by day; dashed: the mean of {card.reference}", *chart]
    return out


def _decided(line: ScenarioResult) -> list[str]:
    """The newest decisions of a line, what was fitted and judged left out: its verdict is in the row that follows."""
    shown = [one for one in line.decisions if one.act not in ("train", "gate")]
    if not shown:
        return []
    more = [f"  ({len(shown) - _DECISIONS} before)"] if len(shown) > _DECISIONS else []
    rows = [f"  {format_time(one.at_us)[:10]}  {one.act:9} {one.cause[:_CAUSE]}" for one in shown[-_DECISIONS:]]
    return ["", f"{line.name}: what was decided", *more, *(row.rstrip() for row in rows)]


def report_document(result: ReplayResult) -> dict[str, Any]:
    """A replay as JSON values: the same for the same seed, so without measured times."""
    cards = {card.line: card for card in scorecards(result)}
    found: dict[str, Any] = {
        "start_us": result.start_us,
        "until_us": result.until_us,
        "entered": result.entered,
        "quarantined": result.quarantined,
        "checked_values": result.checked_values,
        "mismatches": result.mismatches,
        "faults": msgspec.to_builtins(result.faults),
        "shifts": msgspec.to_builtins(result.shifts),
        "lines": {},
    }
    for name, line in result.lines.items():
        found["lines"][name] = {
            "months": msgspec.to_builtins(line.months()),
            "decisions": msgspec.to_builtins(line.decisions),
            **{key: value for key, value in msgspec.to_builtins(cards[name]).items() if key != "line"},
            "true_alarms": cards[name].true_alarms,
            "false_alarms": cards[name].false_alarms,
        }
    return found


def search_lines(found: PolicyChoice) -> list[str]:
    """What a search over policies came to: quality and trainings in both parts, and what was chosen."""
    headers = [
        "policy",
        "trainings",
        f"{shown_name(found.metric)}",
        "then trainings",
        f"then {shown_name(found.metric)}",
        "",
    ]
    rows = [
        [
            one.policy,
            f"{one.first.trainings}",
            _written(one.first.loss),
            f"{one.second.trainings}",
            _written(one.second.loss),
            "chosen" if one.policy == found.chosen else "no better with as few" if one.best else "",
        ]
        for one in found.trials
    ]
    out = [
        f"chosen on what was before {format_time(found.split_us)[:10]}, shown on what came then",
        text_table(headers, rows),
        f"{found.chosen}: {found.why}",
        "",
        f"{found.chosen} against, in the second part",
    ]
    for name, i in found.gains.items():
        verdict = "better" if i.below(0.0) else "worse" if i.above(0.0) else "no difference shown"
        out.append(
            f"  {name:12} {shown_name(found.metric)} {i.estimate:+.4f} ({i.low:+.4f} to {i.high:+.4f}): {verdict}"
        )
    return out


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


def write_report(result: ReplayResult, found: list[Comparison], title: str, file: Path) -> None:
    """A self-contained page, the same for the same seed."""
    picture = quality_picture(result)
    cards = scorecards(result)
    page = Document(title, f"{format_time(result.start_us)} to {format_time(result.until_us)}")
    page.table(Table(headers=_HEADERS[:-1], rows=tuple(tuple(_card_row(card, None)) for card in cards)))
    if result.faults:
        page.heading("Faults that were put in")
        for one in in_words(result.faults):
            page.paragraph(one)
    page.heading("Quality over time")
    own = shown_name(next(iter(result.lines.values())).metric)
    page.plot(picture, f"The mean {own} over the {_SMOOTH_DAYS} days before each day; lower is better.")
    page.heading("By month")
    for line in result.lines.values():
        page.heading(line.name, level=3)
        page.table(_line_table(line))
    page.heading("What rang and what was refused")
    for card in cards:
        page.heading(card.line, level=3)
        for text in _told(card)[2:] or ["Nothing."]:
            page.paragraph(text.strip())
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
    file.write_text(html_page(page), "utf-8")


def quality_picture(result: ReplayResult) -> Markup:
    """The first four lines' metric over a moving window; the first one's alarms and promotions are marked."""
    lines = list(result.lines.values())[:_DRAWN]
    series = [_moving(line) for line in reversed(lines)]  # the first one is drawn on top
    if result.optimum is not None:
        series.append(_moving(result.optimum))
    marks = [Mark(at_us=s.raised_at_us, label="alarm", kind="alarm") for s in lines[0].signals]
    marks += [
        Mark(at_us=d.at_us, label="promoted", kind="promotion")
        for d in lines[0].decisions
        if d.act == "promote" and d.at_us > result.start_us
    ]
    marks += [Mark(at_us=one.start_us, label=one.said, kind="change") for one in result.faults]
    marks += [
        Mark(at_us=result.start_us + round(one.day * DAY_US), label=f"{one.kind} shift", kind="change")
        for one in result.shifts
    ]
    marks.sort(key=lambda mark: mark.at_us)
    own = shown_name(lines[0].metric)
    return line_chart(series, title=f"{own.capitalize()}, {_SMOOTH_DAYS} days", y_label=own, marks=marks)


def _moving(line: ScenarioResult) -> Series:
    days = np.unique(line.at_us // DAY_US)
    own = line.measures[0]
    values: list[float | None] = []
    for day in days.tolist():
        rows = line.judged & (line.at_us // DAY_US <= day) & (line.at_us // DAY_US > day - _SMOOTH_DAYS)
        values.append(own.value(line.rows(rows)) if rows.any() else None)
    return Series(name=line.name, x=[int(day) * DAY_US for day in days], y=values)


def _line_table(line: ScenarioResult) -> Table:
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


_HEADERS = (
    "line", "predictions", "loss", "best", "days above", "bad requests", "staleness", "alarms", "false", "inputs",
    "promoted", "refused", "fits", "CPU s",
)  # fmt: skip


def _card_row(card: Scorecard, cpu_s: float | None) -> list[str]:
    row = [
        card.line,
        f"{card.predictions:,}",
        _written(card.value),
        _written(card.best),
        f"{card.days_above:,} of {len(card.days):,}",
        f"{card.bad_requests:,}",
        "-" if card.above is None else f"{card.above:+,.1f}",
        f"{len(card.alarms)}",
        "?" if card.false_alarms is None else f"{card.false_alarms}",
        f"{len(card.input_alarms)}",
        f"{card.promotions}",
        f"{len(card.refusals)}",
        f"{card.fits}",
    ]
    return row if cpu_s is None else [*row, f"{cpu_s:.1f}"]


def _told(card: Scorecard) -> list[str]:
    """What rang and what was refused, a line each, under the line's name; nothing where there was nothing."""
    out = []
    for one in [*card.alarms, *card.input_alarms]:
        of = f" of {one.subject}" if one.subject else ""
        text = f"  {format_time(one.at_us)[:16]} {one.kind}{of}, since {format_time(one.onset_us)[:16]}"
        if one.explained_by is not None and one.delay_us is not None and one.onset_off_us is not None:
            days = f"{one.delay_us / DAY_US:.1f} days after it, onset off by {one.onset_off_us / DAY_US:+.1f}"
            text += f": {one.explained_by}, {days}"
        elif card.changes_known:
            text += ": false, nothing was put in"
        out.append(text)
    out += [f"  {format_time(one.at_us)[:16]} refused: {one.why}" for one in card.refusals]
    return ["", card.line, *out] if out else []


def _metric(name: str, row: MonthRow) -> float | None:
    return row.metrics.get(name)


def _decision_table(line: ScenarioResult) -> Table:
    return Table(
        headers=("when", "act", "version", "cause"),
        rows=tuple((format_time(d.at_us)[:10], d.act, (d.version or "")[:8], d.cause) for d in line.decisions),
    )


def _written(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
