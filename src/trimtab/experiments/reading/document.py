"""The document about an experiment, for the terminal and as an HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trimtab.core.time import format_time, parse_time_us
from trimtab.experiments.reading.looks import (
    Look,
    MetricReading,
    distance_from_margin,
    in_units,
    relative_bounds,
    shown_effect,
    shown_values,
)
from trimtab.experiments.reading.results import Reading
from trimtab.report import Document, Mark, Series, Table, line_chart
from trimtab.report.document import Tone

_TONES: dict[str, Tone] = {"ship": "good", "stop": "bad", "blocked": "bad", "cannot be seen": "warning"}
_WIDE = 4.0  # looks whose interval is more than this many times as wide as the newest one are left out of the plot
_MOST_SLICES = 20
_MOST_REASONS = 5  # reasons for which a variant was not shown
_MOST_PARTS = 14  # rows about novelty in a terminal


def experiment_document(reading: Reading) -> Document:
    """Return what an experiment says: the decision first, then what it is based on."""
    shown = "no day is closed yet" if reading.until_us is None else f"closed days until {_minute(reading.until_us)} UTC"
    page = Document(f"{reading.experiment}: experiment", f"{reading.phase.capitalize()}, {shown}.")
    page.note(reading.decision.text, _TONES.get(reading.decision.act, "plain"))
    for one in reading.notes:
        page.note(f"{one[:1].upper()}{one[1:]}{'' if one.endswith('?') else '.'}", "warning")
    page.facts(
        {
            "started": _minute(reading.started_at_us),
            **({} if reading.ended_at_us is None else {"ended": _minute(reading.ended_at_us)}),
            **({} if reading.winner is None else {"winner": reading.winner}),
            "closed days that count": reading.days,
            "generation": reading.generation,
        }
    )
    page.heading("Decided before the start")
    page.table(Table(headers=("what", "value"), rows=tuple(reading.decided_before.items()), wraps=True))
    page.paragraph(f"{reading.guarantee} The definition has the hash {reading.hash[:12]}.")
    _units(page, reading)
    if reading.metrics:
        _effects(page, reading)
        _over_time(page, reading)
        _slices(page, reading)
        _weeks(page, reading)
    _days(page, reading)
    return page


def _units(page: Document, reading: Reading) -> None:
    page.heading("Units")
    rows = tuple(
        (
            one.name,
            one.units,
            f"{one.wanted:.2%}",
            None if one.found is None else f"{one.found:.2%}",
            one.testers,
            _most_frequent(one.not_shown),
        )
        for one in reading.variants
    )
    headers = ("variant", "units", "declared", "found", "testers", "variant not shown")
    page.table(Table(headers=headers, rows=rows, align=("left", "right", "right", "right", "right", "left")))
    page.note(f"Sample ratio: {reading.ratio.text}", "plain" if reading.ratio.holds else "bad")
    if reading.not_eligible:
        lacking = "; ".join(f"{why}: {count:,}" for why, count in reading.not_eligible.items())
        page.note(
            f"Units that took no part because a feature was missing, by reason (a unit counts on each day on which it "
            f"came, unless it took part before that day was closed): {lacking}",
            "warning",
        )
    series = [
        Series(name=one.name, x=[parse_time_us(day) for day in one.by_day], y=[float(n) for n in one.by_day.values()])
        for one in reading.variants
    ]
    if len(series[0].x) > 1:
        page.plot(line_chart(series, title="units by day of their first exposure", height=160), detail=True)
    page.table(
        Table(
            headers=("labels of", "labelled", "missing", "share"),
            rows=tuple(
                (one.variant, one.labelled, one.missing, f"{one.labelled / max(one.labelled + one.missing, 1):.2%}")
                for one in reading.completeness
            ),
            align=("left", "right", "right", "right"),
        )
    )
    for one in reading.completeness:
        if one.differs:
            page.note(
                f"Labels are not equally complete: compared day by day, {one.variant} has {one.share:.2%}, the control "
                f"{one.control_share:.2%}. If the values of a metric have a limit, its intervals are widened, because "
                "the surplus labels may be the highest or the lowest values of their variant.",
                "warning",
            )


def _most_frequent(reasons: Mapping[str, int]) -> str:
    """Return the most frequent reasons with their counts, and how many units have other ones."""
    ordered = sorted(reasons.items(), key=lambda one: -one[1])
    parts = [f"{reason}: {count:,}" for reason, count in ordered[:_MOST_REASONS]]
    if others := ordered[_MOST_REASONS:]:
        parts.append(f"{len(others):,} other reasons: {sum(count for _, count in others):,}")
    return ", ".join(parts)


def _effects(page: Document, reading: Reading) -> None:
    page.heading("Effects")
    rows, guarded = [], any(one.margin is not None for one in reading.metrics)
    for one in reading.metrics:
        look = one.looks[-1]
        p = look.p if one.adjusted_p is None else one.adjusted_p
        margin = "" if one.margin is None else f" (margin {one.margin:.3g})"
        rows.append(
            (
                one.variant,
                one.metric,
                one.verdict,
                shown_effect(one).removeprefix(one.metric).lstrip(": "),
                None if p is None else f"{p:.2g}",
                None if one.probability_better is None else f"{one.probability_better:.1%}",
                *(None if math.isnan(y) else in_units(y, one.kind, digits=4) for y in (look.control, look.variant)),
                one.role + margin,
                *([distance_from_margin(one)] if guarded else []),
            )
        )
    more = ("distance from the margin",) if guarded else ()
    headers = ("variant", "metric", "verdict", "effect (interval)", "p", "P(better)", "control", "value", "role", *more)
    page.table(Table(headers=headers, rows=tuple(rows)))
    if guarded:
        page.paragraph(
            "The distance from the margin is the variant's value minus the worst value that the margin allows; its "
            "interval is shown. The variant is within the margin if this whole interval is on the better side of 0. "
            "It is not corrected for the number of guardrails, because all of them have to hold."
        )
    for one in reading.metrics:
        names = (reading.variants[0].name, one.variant)
        known, units = one.looks[-1].units, [_units_until(reading, name, one.looks[-1]) for name in names]
        if any(some < of for some, of in zip(known, units, strict=True)):
            parts = (f"{a:,} of {of:,} units of {name}" for a, of, name in zip(known, units, names, strict=True))
            page.paragraph(f"{one.metric}: only {' and '.join(parts)} have a value. The others are left out of it.")
    methods = sorted({one.looks[-1].method for one in reading.metrics})
    page.paragraph(
        f"Methods: {', '.join(methods)}. p is the p-value for no difference to the control. For primary metrics, p, "
        "interval and verdict are corrected for the number of primary metrics and variants (Bonferroni); for secondary "
        "metrics, p and verdict are corrected after Benjamini and Hochberg. In each row, a day has the same weight in "
        "both variants, so the control's value may differ a little from its plain mean, and from row to row. P(better) "
        "is the Bayesian reading: the probability that the variant is better. No rule decides by it."
    )


def _units_until(reading: Reading, variant: str, look: Look) -> int:
    """Return how many units of a variant came on the days of a look."""
    by_day = next(one.by_day for one in reading.variants if one.name == variant)
    return sum(units for day, units in by_day.items() if parse_time_us(day) < look.until_us)


def _over_time(page: Document, reading: Reading) -> None:
    marks = [Mark(at_us=parse_time_us(day), label=text) for day, some in reading.marks.items() for text in some]
    page.heading("Effects over time", detail=True)
    page.paragraph(
        "Each point is the effect on the units that were first exposed until the end of a day, with its interval.",
        detail=True,
    )
    for metric in dict.fromkeys(one.metric for one in reading.metrics):
        some = [one for one in reading.metrics if one.metric == metric]
        relative = all(look.relative is not None and look.control for one in some for look in one.looks)
        series = [_series(one, relative=relative) for one in some]
        zero = Series(name="no effect", x=series[0].x, y=[0.0] * len(series[0].x))
        title = f"{metric}: difference to the control" + (" in %" if relative else " in s" if some[0].unit else "")
        page.plot(line_chart([*series, zero], title=title, marks=marks, height=240), detail=True)


def _series(one: MetricReading, *, relative: bool) -> Series:
    looks = [look for look in one.looks if _reach(look) <= _WIDE * _reach(one.looks[-1])]

    def scaled(look: Look) -> list[float | None]:
        if not relative:
            return [look.difference, look.low, look.high]
        return [None if one is None else 100.0 * one for one in (look.relative, *relative_bounds(look))]

    values = [scaled(look) for look in looks]
    y, low, high = ([one[at] for one in values] for at in range(3))
    return Series(name=one.variant, x=[look.until_us for look in looks], y=y, low=low, high=high)


def _reach(look: Look) -> float:
    return math.inf if look.low is None or look.high is None else look.high - look.low


def _slices(page: Document, reading: Reading) -> None:
    if not reading.slices:
        return
    page.heading("Slices")
    page.paragraph("p-values are corrected after Holm for the number of slices.")
    kinds = {one.metric: one.kind for one in reading.metrics}
    ordered = sorted(reading.slices, key=lambda one: 1.0 if one.adjusted_p is None else one.adjusted_p)
    rows = tuple(
        (
            *(one.slice, one.variant, one.metric, sum(one.look.units)),
            *(*shown_values(one.look, kinds[one.metric]), _p(one.adjusted_p)),
        )
        for one in ordered[:_MOST_SLICES]
    )
    page.table(Table(headers=("slice", "variant", "metric", "units", "effect", "low", "high", "p"), rows=rows), most=10)


def _weeks(page: Document, reading: Reading) -> None:
    rows = tuple(
        (
            one.metric,
            one.variant,
            f"until {_minute(look.until_us)[:10]}",
            sum(look.units),
            *shown_values(look, one.kind),
        )
        for one in reading.metrics
        if one.role == "primary"
        for look in one.by_week
    )
    ages = tuple(
        (one.metric, one.variant, age, sum(look.units), *shown_values(look, one.kind))
        for one in reading.metrics
        for age, look in one.by_age.items()
    )
    if ages:
        page.heading("Novelty: by days since the first exposure")
        page.paragraph(
            "The effect on what units do on their first day, their second day, and so on. If it shrinks from day to "
            "day, the novelty wears off. Each interval is that of a single look at its days."
        )
        headers = ("metric", "variant", "since the exposure", "units", "effect", "low", "high")
        page.table(Table(headers=headers, rows=ages), most=_MOST_PARTS)
    if rows:
        page.heading("Novelty: by week")
        page.paragraph(
            "The effect on units that were first exposed in each week. If it shrinks from week to week, the novelty "
            "may wear off. Each interval is that of a single look at its week."
        )
        headers = ("metric", "variant", "week", "units", "effect", "low", "high")
        page.table(Table(headers=headers, rows=rows), most=_MOST_PARTS)


def _days(page: Document, reading: Reading) -> None:
    rows = [(day, f"left out: {why}") for day, why in reading.excluded.items()]
    rows += [(day, ", ".join(some)) for day, some in reading.marks.items()]
    if rows:
        page.heading("Days with marks")
        page.table(Table(headers=("day", "what happened"), rows=tuple(sorted(rows)), wraps=True), most=10)


def _p(p: float | None) -> str | None:
    return None if p is None else f"{p:.2g}"


def _minute(at_us: int) -> str:
    return format_time(at_us)[:16].replace("T", " ")
