"""Tables of a replay: quality, the work of the loop, months, alarms, and the outcomes of decisions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from trimtab.core.shown import count_of
from trimtab.core.time import DAY_US, format_time
from trimtab.report import Align, Document, Table
from trimtab.simulation.results import Comparison, ReplayResult, ScenarioResult, shown_name
from trimtab.simulation.scorecard import Alarm, Scorecard

_NUMBER = re.compile(r"-|[-+]?[0-9][0-9,.]*").fullmatch
PAGE = 100  # the width of a line, in characters
_STEPS = ("trigger", "wait", "train", "gate")  # acts that precede an outcome; only the HTML page lists them


def about(result: ReplayResult) -> list[str]:
    """Return sentences about the start of the replay, what is not judged, and what was replayed."""
    why = result.start_why
    if result.refused_starts:
        why = f"of the {len(result.refused_starts) + 1} days tried, the first on which every scenario has a version."
    out = [f"Starts on {format_time(result.start_us)[:10]}: {why}"] if why else []
    out += [f"Not on {format_time(one.at_us)[:10]}: {one.why}" for one in result.refused_starts]
    line = next(iter(result.lines.values()))
    if line.final_until_us is not None:
        count = int((line.at_us >= line.final_until_us).sum())
        are = "is" if count == 1 else "are"
        out.append(
            f"{count_of(count, 'request')} from {format_time(line.final_until_us)[:10]} on {are} answered but not "
            "judged: the wait for their labels was not over when the recording ended."
        )
    text = f"{count_of(result.entered, 'event')}, {result.quarantined:,} quarantined"
    if result.checked_rows:
        text += f"; features of {count_of(result.checked_rows, 'request')} read again online: {result.mismatches:,} of "
        text += f"{result.checked_values:,} values differ between training and serving"
    return [*out, f"{text}. {result.first_mismatch}".rstrip(), f"Seed {result.seed}."]


def shifts_in_words(result: ReplayResult) -> list[str]:
    """Return each shift of generated data as one line of text."""
    out = []
    for one in result.shifts:
        at_us = result.start_us + round(one.day * DAY_US)
        of = "" if one.column is None else f" of {one.column}"
        until = f" to {format_time(at_us + one.over_us)[:16]}" if one.over_us else ""
        out.append(f"{one.said}{of}, size {one.size:g}: {format_time(at_us)[:16]}{until}")
    return out


def quality_table(cards: Sequence[Scorecard]) -> Table:
    """Return a table of the quality of each scenario's answers."""
    rows = [
        (
            card.line,
            f"{card.predictions:,}",
            f"{sum(day.judged for day in card.days):,}",
            number(card.value),
            number(card.best),
            f"{card.days_above:,} of {sum(day.judged > 0 for day in card.days):,}",
            f"{card.bad_requests:,}",
            "-" if card.above is None else f"{card.above:+,.1f}",
        )
        for card in cards
    ]
    metric = shown_name(cards[0].metric) if len({card.metric for card in cards}) == 1 else "loss"
    headers = ("scenario", "requests", "judged", metric, "best", "days above", "bad requests", "staleness")
    return table(headers, rows)


def loop_table(cards: Sequence[Scorecard], cpu_s: Sequence[float] | None) -> Table:
    """Return a table of the numbers of alarms, promotions, refusals and fits, with CPU seconds if they are given.

    The column of false alarms is left out if the true changes in the data are not known.
    """
    known = any(card.false_alarms is not None for card in cards)
    rows = [
        (
            card.line,
            f"{len(card.alarms)}",
            *(["?" if card.false_alarms is None else f"{card.false_alarms}"] if known else []),
            f"{len(card.input_alarms)}",
            f"{card.promotions}",
            f"{len(card.refusals)}",
            f"{card.fits}",
        )
        for card in cards
    ]
    headers = ("scenario", "alarms", *(["false"] if known else []), "input alarms", "promoted", "refused", "fits")
    if cpu_s is None:
        return table(headers, rows)
    return table((*headers, "CPU s"), [(*row, f"{cpu:.1f}") for row, cpu in zip(rows, cpu_s, strict=True)])


def alarm_table(cards: Sequence[Scorecard]) -> Table:
    """Return the alarms in order of time. An alarm that several scenarios raised is one row."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for card in cards:
        for one in [*card.alarms, *card.input_alarms]:
            row = (format_time(one.at_us)[:16], format_time(one.onset_us)[:16], _alarm(card, one))
            found.setdefault(row, []).append(card.line)
    rows = [(at, onset, ", ".join(lines), said) for (at, onset, said), lines in sorted(found.items())]
    return Table(headers=("raised", "since", "scenario", "alarm"), rows=tuple(rows), wraps=True)


def outcome_table(scenarios: Sequence[ScenarioResult]) -> Table:
    """Return the outcomes of decisions in order of time, with reasons. Equal rows of several scenarios are one row."""
    found: dict[tuple[int, str, str, str], list[str]] = {}
    for scenario in scenarios:
        for one in scenario.decisions:
            if one.act not in _STEPS:
                found.setdefault((one.at_us, one.act, (one.version or "")[:8], one.cause), []).append(scenario.name)
    rows = [
        (format_time(at_us)[:10], ", ".join(names), act, version, cause)
        for (at_us, act, version, cause), names in sorted(found.items(), key=lambda item: item[0][0])
    ]
    return Table(headers=("when", "scenario", "act", "version", "reason"), rows=tuple(rows), wraps=True)


def add_months(document: Document, scenarios: Sequence[ScenarioResult]) -> None:
    """Add a table for each metric, with a row for each month and a column for each scenario."""
    document.heading("By month")
    months = list(zip(*(one.months() for one in scenarios), strict=True))
    names = [one.name for one in scenarios]
    counts = [
        (part.month, f"{part.predictions:,}", f"{part.labelled:,}", number(part.label_rate))
        for part in (parts[0] for parts in months)
    ]
    for place, measure in enumerate(scenarios[0].measures):
        document.heading(shown_name(measure.name), 3, detail=place > 0)
        values = [tuple(number(part.metrics.get(measure.name)) for part in parts) for parts in months]
        _add_wide(document, ("month", "requests", "judged", "mean label"), counts, names, values)
    if scenarios[0].lists is None:
        document.heading("mean score", 3, detail=True)
        rows = [(parts[0].month, *(number(part.mean_score) for part in parts)) for parts in months]
        document.table(table(("month", *names), rows))


def add_comparisons(document: Document, found: Sequence[Comparison]) -> None:
    """Add a table with the differences between the first scenario and each other one."""
    names = list(dict.fromkeys(name for one in found for name in one.metrics))
    values = [
        tuple(
            "-" if i is None else f"{_signed(i.estimate)} ({_signed(i.low)} to {_signed(i.high)})"
            for i in (one.metrics.get(name) for name in names)
        )
        for one in found
    ]
    heads = [(one.rival, one.verdict) for one in found]
    _add_wide(document, ("against", "verdict"), heads, [shown_name(name) for name in names], values)


def _add_wide(
    document: Document,
    headers: Sequence[str],
    heads: Sequence[tuple[str, ...]],
    names: Sequence[str],
    values: Sequence[tuple[str, ...]],
) -> None:
    """Add a table. If it is wider than `PAGE`, divide it into several with the same first columns."""

    def width(cells: Iterable[str]) -> int:
        return 2 + max(map(len, cells))

    left = sum(width((header, *(row[n] for row in heads))) for n, header in enumerate(headers))
    parts: list[list[int]] = []
    room = 0
    for n, name in enumerate(names):
        needed = width((name, *(row[n] for row in values)))
        if not parts or needed > room:
            parts.append([])
            room = PAGE - left
        parts[-1].append(n)
        room -= needed
    for part in parts:
        rows = [(*head, *(row[n] for n in part)) for head, row in zip(heads, values, strict=True)]
        document.table(table((*headers, *(names[n] for n in part)), rows))


def _alarm(card: Scorecard, one: Alarm) -> str:
    text = f"{one.kind} of {one.subject}" if one.subject else one.kind
    if one.explained_by is not None and one.delay_us is not None and one.onset_off_us is not None:
        days = f"{one.delay_us / DAY_US:.1f} d after it, estimated onset off by {one.onset_off_us / DAY_US:+.1f} d"
        return f"{text}: {one.explained_by}, {days}"
    return f"{text}: false, because no known change explains it" if card.changes_known else text


def table(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """Return a table of texts, in which columns of numbers are right-aligned."""
    sides: list[Align] = ["right" if all(map(_NUMBER, column)) else "left" for column in zip(*rows, strict=True)]
    return Table(headers=headers, rows=tuple(rows), align=tuple(sides) or None)


def number(value: float | None) -> str:
    """Return a value with four digits after the point, or with one if it is 100 or more.

    >>> number(0.59041), number(905.5933), number(None)
    ('0.5904', '905.6', '-')
    """
    return "-" if value is None else f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else ''}{number(value)}"
