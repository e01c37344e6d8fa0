"""Reports of a replay: text for a terminal, JSON, and an HTML page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from trimtab.app.replay.replay_tables import (
    PAGE,
    about,
    add_comparisons,
    add_months,
    alarm_table,
    loop_table,
    number,
    outcome_table,
    quality_table,
    shifts_in_words,
    table,
)
from trimtab.core.errors import Misuse
from trimtab.core.time import format_time
from trimtab.report import Document, html_page, terminal_text, text_table
from trimtab.report.markup import Markup
from trimtab.report.text_chart import text_chart
from trimtab.simulation.faults import in_words
from trimtab.simulation.policy_search import PolicyChoice
from trimtab.simulation.results import Comparison, ReplayResult, shown_name
from trimtab.simulation.scorecard import Scorecard, scorecards

_CHARTS = 4  # the maximum number of different text charts
_SHOWN = 40  # the maximum number of alarms and of decisions shown in a terminal


def report_lines(result: ReplayResult) -> Iterator[str]:
    """Yield a replay as lines of at most 100 characters: quality, months, alarms, decisions and comparisons."""
    for line in terminal_text(replay_document(result, "Replay", cpu=True)).splitlines():
        yield from [line] if "  " in line else textwrap.wrap(line, PAGE) or [""]


def write_report(result: ReplayResult, title: str, file: Path) -> None:
    """Write a replay as a self-contained HTML page. The same seed gives the same page."""
    file.write_text(html_page(replay_document(result, title)), "utf-8")


def replay_document(result: ReplayResult, title: str, *, cpu: bool = False) -> Document:
    """Return a document about a replay. With `cpu`, it has CPU seconds, which differ from run to run."""
    cards = scorecards(result)
    scenarios = list(result.lines.values())
    document = Document(title, f"{format_time(result.start_us)[:16]} to {format_time(result.until_us)[:16]}")
    for text in about(result):
        document.paragraph(text)
    document.table(quality_table(cards))
    document.paragraph(
        "best: the loss of the best possible predictions where they are known, otherwise that of the best scenario. "
        "days above: judged days whose mean loss, with the two days before, is more than a tenth above best. "
        "bad requests: answered on the days above. "
        "staleness: loss minus best, summed over all judged requests."
    )
    own = list(dict.fromkeys(one.name for scenario in scenarios for one in scenario.measures[1:]))
    if own:
        rows = [(one.name, *(number(one.months()[-1].metrics.get(name)) for name in own)) for one in scenarios]
        document.table(table(("scenario", *map(shown_name, own)), rows))
    document.table(loop_table(cards, [one.cpu_s for one in scenarios] if cpu else None))
    if result.faults or result.shifts:
        document.heading("Shifts and faults")
        for text in (*shifts_in_words(result), *in_words(result.faults)):
            document.paragraph(text)
    document.heading("Quality over time")
    if any(one.judged.any() for one in scenarios):
        document.plot(quality_picture(result), "Lower is better.", plain=_text_charts(cards))
    else:
        document.paragraph("No replayed request has a label, so quality cannot be shown.")
    add_months(document, scenarios)
    document.heading("Alarms")
    if not any(card.alarms or card.input_alarms for card in cards):
        document.paragraph("None.")
    document.table(alarm_table(cards), most=_SHOWN)
    document.heading("Decisions")
    document.table(outcome_table(scenarios), most=_SHOWN)
    if found := comparisons(result):
        document.heading(f"{scenarios[0].name} against the others")
        document.paragraph(
            "Differences on the same rows, with 95 % intervals from a bootstrap of whole weeks. A negative difference "
            "of the first metric, a loss, is in favour of the first scenario. An interval that contains 0 shows no "
            "difference.",
            detail=True,
        )
        add_comparisons(document, found)
    document.heading("All rows of the ledgers", detail=True)
    for scenario in scenarios:
        if scenario.decisions:
            document.heading(scenario.name, 3)
            rows = [
                (format_time(one.at_us)[:10], one.act, (one.version or "")[:8], one.cause)
                for one in reversed(scenario.decisions)
            ]
            document.table(table(("when", "act", "version", "cause"), rows))
    return document


def _text_charts(cards: Sequence[Scorecard]) -> list[str]:
    """Return at most `_CHARTS` charts. Scenarios with equal charts share one."""
    found: dict[tuple[str, ...], list[Scorecard]] = {}
    for card in cards:
        known = [day.best for day in card.days if day.best is not None]
        level = sum(known) / len(known) if known else None
        chart = text_chart([day.value for day in card.days], level=level, height=5)
        found.setdefault(tuple(chart), []).append(card)
    out: list[str] = []
    for lines, of in [(lines, of) for lines, of in found.items() if lines][:_CHARTS]:
        names = ", ".join(card.line for card in of)
        out += ["", f"{names}: {shown_name(of[0].metric)} by day; dashed: the mean of {of[0].reference}", *lines]
    return out[1:]


def report_document(result: ReplayResult) -> dict[str, Any]:
    """Return a replay as JSON values, without measured times, so that the same seed gives the same values."""
    cards = {card.line: card for card in scorecards(result)}
    found: dict[str, Any] = {
        "start_us": result.start_us,
        "start_why": result.start_why,
        "refused_starts": msgspec.to_builtins(result.refused_starts),
        "until_us": result.until_us,
        "entered": result.entered,
        "quarantined": result.quarantined,
        "checked_values": result.checked_values,
        "mismatches": result.mismatches,
        "faults": msgspec.to_builtins(result.faults),
        "seed": result.seed,
        "shifts": msgspec.to_builtins(result.shifts),
        "lines": {},
    }
    for name, line in result.lines.items():
        found["lines"][name] = {
            "months": msgspec.to_builtins(line.months()),
            "final_until_us": line.final_until_us,
            "decisions": msgspec.to_builtins(line.decisions),
            **{key: value for key, value in msgspec.to_builtins(cards[name]).items() if key != "line"},
            "true_alarms": cards[name].true_alarms,
            "false_alarms": cards[name].false_alarms,
        }
    return found


def search_lines(found: PolicyChoice) -> list[str]:
    """Return a search over policies as lines of text: the choice, and all results in both parts of the history."""
    headers = [
        "policy",
        "trainings",
        f"{shown_name(found.metric)}",
        "trainings after",
        f"{shown_name(found.metric)} after",
        "",
    ]
    rows = [
        [
            one.policy,
            f"{one.first.trainings}",
            number(one.first.loss),
            f"{one.second.trainings}",
            number(one.second.loss),
            "chosen" if one.policy == found.chosen else "best with as few trainings" if one.best else "",
        ]
        for one in found.trials
    ]
    out = [
        f"chosen on the history before {format_time(found.split_us)[:10]}, measured on the history after it",
        text_table(headers, rows),
        f"{found.chosen}: {found.why}",
        "",
        f"{found.chosen} minus each other policy, in the second part",
    ]
    for name, i in found.gains.items():
        verdict = "better" if i.below(0.0) else "worse" if i.above(0.0) else "no difference shown"
        out.append(
            f"  {name:12} {shown_name(found.metric)} {i.estimate:+.4f} ({i.low:+.4f} to {i.high:+.4f}): {verdict}"
        )
    return out


def comparisons(result: ReplayResult) -> list[Comparison]:
    """Compare the first scenario with the others. Those that cannot be compared with it are left out."""
    main, *others = result.lines
    found = []
    for other in others:
        with suppress(Misuse):  # another kind of model, other labels, or labels in a single week
            found.append(result.compare(main, other))
    return found


def quality_picture(result: ReplayResult) -> Markup:
    """Return the plot of a replay as SVG."""
    return result.plot().plots[0]
