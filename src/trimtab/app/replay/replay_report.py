"""Reports of a replay: text for a terminal, JSON, and an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, format_time
from trimtab.report import Document, Mark, Series, Table, html_page, line_chart, terminal_text, text_table
from trimtab.report.markup import Markup
from trimtab.report.text_chart import text_chart
from trimtab.simulation.faults import in_words
from trimtab.simulation.policy_search import PolicyChoice
from trimtab.simulation.results import Comparison, ReplayResult, ScenarioResult
from trimtab.simulation.scorecard import Scorecard, scorecards

_SMOOTH_DAYS = 14
_DECISIONS = 40  # the maximum number of decisions shown in a terminal
_DRAWN = 4  # the maximum number of scenarios in a plot, because more lines would hide each other


def report_lines(result: ReplayResult, found: Sequence[Comparison]) -> list[str]:
    """Return a replay as lines of text: scorecards, alarms, refusals, decisions, losses over time and comparisons."""
    return terminal_text(replay_document(result, found, "Replay", cpu=True)).splitlines()


def write_report(result: ReplayResult, found: Sequence[Comparison], title: str, file: Path) -> None:
    """Write a replay as a self-contained HTML page. The same seed gives the same page."""
    file.write_text(html_page(replay_document(result, found, title)), "utf-8")


def replay_document(result: ReplayResult, found: Sequence[Comparison], title: str, *, cpu: bool = False) -> Document:
    """Return a document with everything about a replay.

    With `cpu`, it includes CPU seconds, which differ from run to run.
    """
    cards = scorecards(result)
    scenarios = list(result.lines.values())
    document = Document(title, f"{format_time(result.start_us)} to {format_time(result.until_us)}")
    text = (
        f"{result.entered:,} events, {result.quarantined:,} quarantined; {result.checked_rows:,} requests read again "
    )
    text += f"online: {result.mismatches:,} of {result.checked_values:,} values differ between training and serving."
    document.paragraph(f"{text} {result.first_mismatch}".rstrip())
    document.table(_card_table(cards, [one.cpu_s for one in scenarios] if cpu else None))
    own = list(dict.fromkeys(one.name for scenario in scenarios for one in scenario.measures[1:]))
    if own:
        rows = [(one.name, *(_written(one.months()[-1].metrics.get(name)) for name in own)) for one in scenarios]
        document.table(_table(("scenario", *map(shown_name, own)), rows))
    if result.faults:
        document.heading("Faults that were put in")
        for text in in_words(result.faults):
            document.paragraph(text)
    metric = shown_name(scenarios[0].metric)
    document.heading("Quality over time")
    caption = f"The mean {metric} over the {_SMOOTH_DAYS} days before each day; lower is better."
    document.plot(quality_picture(result), caption, plain=_text_charts(cards))
    _add_months(document, scenarios)
    document.heading("Alarms and refusals")
    for card in cards:
        document.heading(card.line, 3)
        for text in _alarms(card) or ["None."]:
            document.paragraph(text)
    if found:
        document.heading(f"{scenarios[0].name} against the others")
        document.paragraph(
            "Differences on the same rows, with 95 % intervals from a bootstrap of whole weeks. A negative difference "
            "of the first metric, a loss, is in favour of the first scenario; an interval that holds 0 shows nothing.",
            detail=True,
        )
        document.table(_comparison_table(found))
    document.heading("Decisions")
    for number, scenario in enumerate(scenarios):
        if scenario.decisions:
            document.heading(scenario.name, 3, detail=number > 0)
            rows = [
                (format_time(one.at_us)[:10], one.act, (one.version or "")[:8], one.cause)
                for one in reversed(scenario.decisions)
            ]
            document.table(_table(("when", "act", "version", "cause"), rows), most=_DECISIONS)
    return document


def _add_months(document: Document, scenarios: Sequence[ScenarioResult]) -> None:
    """Add a table for each metric, with a row for each month and a column for each scenario."""
    document.heading("By month")
    months = list(zip(*(one.months() for one in scenarios), strict=True))
    names = [one.name for one in scenarios]
    for number, measure in enumerate(scenarios[0].measures):
        document.heading(shown_name(measure.name), 3, detail=number > 0)
        rows = [
            (
                *(parts[0].month, f"{parts[0].predictions:,}", f"{parts[0].labelled:,}", _written(parts[0].label_rate)),
                *(_written(part.metrics.get(measure.name)) for part in parts),
            )
            for parts in months
        ]
        document.table(_table(("month", "predictions", "labelled", "rate", *names), rows))
    if scenarios[0].lists is None:
        document.heading("mean score", 3, detail=True)
        rows = [(parts[0].month, *(_written(part.mean_score) for part in parts)) for parts in months]
        document.table(_table(("month", *names), rows))


def _text_charts(cards: Sequence[Scorecard]) -> list[str]:
    out: list[str] = []
    for card in cards:
        known = [day.best for day in card.days if day.best is not None]
        level = sum(known) / len(known) if known else None
        if chart := text_chart([day.value for day in card.days], level=level, height=5):
            out += ["", f"{card.line}: {shown_name(card.metric)} by day; dashed: the mean of {card.reference}", *chart]
    return out[1:]


def report_document(result: ReplayResult) -> dict[str, Any]:
    """Return a replay as JSON values.

    Measured times are left out, so that the same seed gives the same values.
    """
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
    """Return a search over policies as lines: the choice, and all results in both parts of the history."""
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
        f"chosen on the time before {format_time(found.split_us)[:10]}, shown on the time after it",
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


def shown_name(metric: str) -> str:
    """Return the name of a metric as it is shown to people.

    >>> shown_name("root_mean_squared_error"), shown_name("auc")
    ('root mean squared error', 'AUC')
    """
    return "AUC" if metric == "auc" else metric.replace("_", " ")


def comparisons(result: ReplayResult) -> list[Comparison]:
    """Compare the first scenario with every other scenario for the same requests, if there are enough weeks."""
    main, *others = result.lines
    found = []
    for other in others:
        with suppress(Misuse):  # the scenario has other requests, or lasts only one week
            found.append(result.compare(main, other))
    return found


def quality_picture(result: ReplayResult) -> Markup:
    """Return a plot of the metric over a moving window, for the first four scenarios.

    Alarms and promotions of the first scenario are marked.
    """
    lines = list(result.lines.values())[:_DRAWN]
    series = [_moving(line) for line in reversed(lines)]  # the first scenario is drawn last, on top
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


def _comparison_table(found: Sequence[Comparison]) -> Table:
    names = list(dict.fromkeys(name for one in found for name in one.metrics))
    rows = []
    for one in found:
        intervals = [one.metrics.get(name) for name in names]
        cells = ["-" if i is None else f"{i.estimate:+.4f} ({i.low:+.4f} to {i.high:+.4f})" for i in intervals]
        rows.append((one.rival, *cells, one.verdict))
    return _table(("against", *map(shown_name, names), "verdict"), rows)


_HEADERS = (
    "scenario", "predictions", "loss", "best", "days above", "bad requests", "staleness", "alarms", "false", "inputs",
    "promoted", "refused", "fits",
)  # fmt: skip


def _card_table(cards: Sequence[Scorecard], cpu_s: Sequence[float] | None) -> Table:
    rows = [
        (
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
        )
        for card in cards
    ]
    if cpu_s is None:
        return _table(_HEADERS, rows)
    return _table((*_HEADERS, "CPU s"), [(*row, f"{cpu:.1f}") for row, cpu in zip(rows, cpu_s, strict=True)])


def _alarms(card: Scorecard) -> list[str]:
    """Return a line of text for each alarm and for each refused candidate."""
    out = []
    for one in [*card.alarms, *card.input_alarms]:
        subject = f" of {one.subject}" if one.subject else ""
        text = f"{format_time(one.at_us)[:16]} {one.kind}{subject}, since {format_time(one.onset_us)[:16]}"
        if one.explained_by is not None and one.delay_us is not None and one.onset_off_us is not None:
            days = f"{one.delay_us / DAY_US:.1f} days after it, onset off by {one.onset_off_us / DAY_US:+.1f}"
            text += f": {one.explained_by}, {days}"
        elif card.changes_known:
            text += ": false, nothing was put in"
        out.append(text)
    return out + [f"{format_time(one.at_us)[:16]} refused: {one.why}" for one in card.refusals]


def _table(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(headers=headers, rows=tuple(rows))


def _written(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
