"""Write an HTML page about the quality of a deployment: signals, days, slices, inputs and decisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trimtab.app.inspect.estimates import daily_estimates, estimated_days
from trimtab.app.inspect.quality import Wanted, quality_table, version_name
from trimtab.app.inspect.status import deployment_status
from trimtab.app.system import System
from trimtab.app.training.loops import stages_of
from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.records import Decision, Signal
from trimtab.core.shown import count_of
from trimtab.core.time import DAY_US, format_time
from trimtab.monitoring.inputs.input_state import KIND as INPUTS
from trimtab.monitoring.inputs.input_state import InputWatch
from trimtab.monitoring.quality.quality_days import stored_days
from trimtab.monitoring.signals import every_signal
from trimtab.registry.protection import CHAMPION
from trimtab.report import Document, Mark, Picture, Series, Table, html_page, line_chart
from trimtab.report.markup import Markup
from trimtab.steering.ledger import Ledger
from trimtab.steering.loop_state import FREEZE
from trimtab.store.durable_files import write_durably
from trimtab.store.ports import read_record

DAYS = 120  # the number of days that the page shows
SLICE_DAYS = 28
_MOST_ROWS = 20
_LEAST_LABELS = 30  # slices with fewer labels are not shown: their intervals mean nothing
Row = dict[str, Any]


def write_quality_page(system: System, model: str | None, to: Path) -> Path:
    """Write the page of a deployment into the file or folder `to`, and return the path of the file.

    Raises:
        NotFound: The deployment does not exist.
        Unavailable: The file cannot be written, for lack of space or access.
    """
    name = system.definitions.deployment(model).name
    file = to if to.suffix == ".html" else to / f"{name}-quality.html"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, quality_page(system, name).encode())
    except OSError as error:
        raise Unavailable(f"{file}: {error.strerror}. Check free space and access, then try again.") from error
    return file


def quality_page(system: System, model: str, *, home: bool = False) -> str:
    """Return a self-contained HTML page about the quality of a deployment.

    The page is made from the stored results of closed days, from signals, and from the ledger of decisions. It does not
    read the prediction log.

    Raises:
        NotFound: The deployment does not exist.
    """
    name = system.definitions.deployment(model).name
    now_us = system.clock.now_us()
    version = system.registry.alias(name, CHAMPION)
    page = Document(f"{name}: quality", f"As of {format_time(now_us)[:16].replace('T', ' ')} UTC.")
    red: list[str] = []
    status = deployment_status(system, name, red)
    page.facts(
        {
            "in service": "nothing" if version is None else version.name,
            "since": "-" if status.since is None else status.since[:10],
            "quality": status.watch,
            **({"before labels": status.estimate} if status.estimate else {}),
            "the loop": status.phase,
        }
    )
    if status.ungated is not None:
        page.note(f"{status.version}: NOT GATED: {status.ungated}", "warning")
    for arm, what in status.beside.items():
        page.note(f"{arm}: {what}", "warning" if "NOT GATED" in what else "plain")
    for line in red:
        page.note(line, "bad")
    frozen = read_record(system.state.catalog, FREEZE, "all", str)
    if frozen is not None:
        page.note(f"Automation is frozen ({frozen}): nothing is trained or promoted until trimtab unfreeze.", "warning")
    _stages(page, system, name)
    signals = every_signal(system.state.catalog, name, since_us=now_us - DAYS * DAY_US)[::-1]
    _open_signals(page, system, [one for one in signals if one.ended_at_us is None], red)
    rows = _rows(system, name, now_us - DAYS * DAY_US)
    ledger = Ledger(system.state.catalog).rows()
    decisions = [one for one in ledger if one.model == name or one.act in ("freeze", "unfreeze")]
    if rows:
        _days(page, rows, _estimates(system, name), _marks(signals, decisions, rows[0]["block"]))
        _slices(page, system, name, now_us)
    else:
        page.heading("Days")
        page.paragraph(f"None of the last {DAYS} days is closed yet. A day closes once the label's wait has passed.")
        _add_plot(page, {"estimated": _estimates(system, name)}, "loss", "Loss", [], band=True)
    _inputs(page, system, name)
    _ended(page, system, name, [one for one in signals if one.ended_at_us is not None])
    _decisions(page, system, decisions)
    return html_page(page, home=home)


def _rows(system: System, name: str, since_us: int | None, **how: Any) -> list[Row]:
    return quality_table(system, name, Wanted(since_us=since_us, amended=True, **how)).to_rows()


def _stages(page: Document, system: System, name: str) -> None:
    rows = tuple(
        (
            one.name,
            one.state,
            "" if one.since_us is None else _shown_time(one.since_us),
            "" if one.until_us is None else _shown_time(one.until_us),
            one.said,
        )
        for one in stages_of(system, name)
        if one.state != "done" or one.said
    )
    page.heading("Stages of the loop")
    page.table(Table(headers=("stage", "state", "since", "until", "what"), rows=rows))


def _open_signals(page: Document, system: System, standing: list[Signal], red: list[str]) -> None:
    page.heading("Open signals")
    if not standing:
        page.note("None." if red else "Nothing is red.", "plain" if red else "good")
    for one in standing:
        version = f", for version {version_name(system, one.version)}" if one.version else ""
        text = f"{one.message} Found {_shown_time(one.raised_at_us)}{version}."
        text += f" It may come from {one.cause}." if one.cause else ""
        text += f" Owner: {one.owner}." if one.owner else ""
        page.note(text, "bad" if one.severity == "red" else "warning")


def _days(page: Document, rows: list[Row], estimates: list[Row], marks: list[Mark]) -> None:
    page.heading("Days")
    page.paragraph(
        "A day is closed once the label's wait has passed. Labels that came or were corrected later are counted "
        "when the day is read again (1, 7 and 28 days after its close). The band is a 95 % interval that treats rows "
        "as independent. The estimated loss, before labels come, is that of the version that was in service."
    )
    arms = sorted({row["arm"] for row in rows}, key=lambda arm: (arm != CHAMPION, arm))
    by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in arms}
    with_estimates = {**by_arm, **({"estimated": estimates} if estimates else {})}
    _add_plot(page, with_estimates, "loss", "Loss", marks, band=True)
    if any(row["excess_loss"] is not None for row in rows):
        _add_plot(
            page, by_arm, "excess_loss", "Excess loss: capped loss minus its expectation if scores were right", marks
        )
    scored = [row for row in rows if row["score"] is not None and row["arm"] == arms[0]]
    if scored:
        x = [row["block"] for row in scored]
        means = [Series(name=f"mean {what}", x=x, y=[row[what] for row in scored]) for what in ("score", "label")]
        page.plot(line_chart(means, title=f"Mean score and mean label of {arms[0]}", marks=marks, height=240))
    shares = {
        arm: [{**row, "share": row["labelled"] / row["predictions"]} for row in some] for arm, some in by_arm.items()
    }
    _add_plot(page, shares, "share", "Share of predictions that have a label", marks)


def _estimates(system: System, name: str) -> list[Row]:
    found = estimated_days(system, name)
    return [
        {"block": day_us, "predictions": 1, "loss": loss, "loss_low": None, "loss_high": None}
        for day_us, loss in ([] if found is None else daily_estimates(found))
    ]


def quality_picture(system: System, models: Sequence[str]) -> Picture:
    """Return a picture of the daily loss of some deployments, with alarms and moves of versions as marks.

    Raises:
        Misuse: No day is closed yet.
    """
    now_us = system.clock.now_us()
    decisions, plots = Ledger(system.state.catalog).rows(), list[Markup]()
    for name in models:
        rows = _rows(system, name, now_us - DAYS * DAY_US)
        if rows:
            own = [one for one in decisions if one.model == name]
            signals = every_signal(system.state.catalog, name, since_us=now_us - DAYS * DAY_US)
            marks = _marks(signals, own, rows[0]["block"])
            arms = {
                arm: [row for row in rows if row["arm"] == arm] for arm in dict.fromkeys(row["arm"] for row in rows)
            }
            plots += _plotted(arms, "loss", f"{name}: loss by day", marks, band=True)
    if not plots:
        raise Misuse("plot: no day is closed yet. A day closes once the label's wait has passed.")
    return Picture(tuple(plots))


def _add_plot(
    page: Document, by_arm: dict[str, list[Row]], what: str, title: str, marks: list[Mark], *, band: bool = False
) -> None:
    for plot in _plotted(by_arm, what, title, marks, band=band):
        page.plot(plot)


def _plotted(
    by_arm: dict[str, list[Row]], what: str, title: str, marks: list[Mark], *, band: bool = False
) -> list[Markup]:
    """Return a plot of a column by day, or nothing if it has no value."""
    series = [
        Series(
            name=arm,
            x=[row["block"] for row in rows],
            y=[row[what] for row in rows],
            low=[row[f"{what}_low"] for row in rows] if band else None,
            high=[row[f"{what}_high"] for row in rows] if band else None,
        )
        for arm, rows in _one_a_day(by_arm).items()
    ]
    there = any(value is not None for one in series for value in one.y)
    return [line_chart(series, title=title, marks=marks, height=240)] if there else []


def _one_a_day(by_arm: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Return at most one row for each day and arm (champion, canary or shadow).

    If an arm had several versions on a day, the version with the most predictions is taken.
    """
    found: dict[str, list[Row]] = {}
    for arm, rows in by_arm.items():
        most: dict[int, Row] = {}
        for row in rows:
            if row["block"] not in most or row["predictions"] > most[row["block"]]["predictions"]:
                most[row["block"]] = row
        found[arm] = [most[at] for at in sorted(most)]
    return found


def _marks(signals: list[Signal], decisions: list[Decision], since_us: int) -> list[Mark]:
    found = [
        Mark(at_us=one.onset_us, label=one.kind, kind="alarm")
        for one in signals
        if one.severity == "red" and one.kind.startswith("quality") and one.onset_us >= since_us
    ]
    moves = [one for one in decisions if one.act in ("promote", "roll_back") and one.at_us >= since_us]
    return [*found, *(Mark(at_us=one.at_us, label=one.act, kind="promotion") for one in moves[-12:])]


def _slices(page: Document, system: System, name: str, now_us: int) -> None:
    wait_us = system.definitions.deployment(name).model.label.final_at(0)
    since_us = now_us - (SLICE_DAYS + wait_us // DAY_US) * DAY_US
    days = stored_days(system.state.catalog, name, from_us=since_us, until_us=now_us, slices=True)
    columns = sorted({one.partition("=")[0] for day in days for one in day.slices})
    rows = [
        row
        for column in columns
        for row in _rows(system, name, since_us, slices=column, by="all")
        if row["labelled"] >= _LEAST_LABELS
    ]
    if not rows:
        return
    worst = sorted(rows, key=lambda row: -row["loss_low"])[:_MOST_ROWS]
    page.heading("Slices")
    page.paragraph(
        f"The slices with the highest loss in the newest {SLICE_DAYS} days with labels, by version and arm: "
        f"{len(worst)} of {len(rows)} that have at least {_LEAST_LABELS} labels, by the lower end of their interval."
    )
    shown = tuple(
        (
            row["slice"],
            row["version"],
            row["arm"],
            row["predictions"],
            f"{row['loss']:.4g}",
            f"{row['loss_low']:.4g} to {row['loss_high']:.4g}",
            "-" if row["gap"] is None else f"{row['gap']:+.3g}",
        )
        for row in worst
    )
    headers = ("slice", "version", "arm", "predictions", "loss", "95 % interval", "score - label")
    page.table(Table(headers=headers, rows=shown))


def _inputs(page: Document, system: System, name: str) -> None:
    record = system.state.catalog.get(INPUTS, name)
    columns = {} if record is None else msgspec.json.decode(record.body, type=InputWatch).columns
    if not columns:
        return
    far = sorted(columns.items(), key=lambda one: -(one[1].distance or 0.0))[:_MOST_ROWS]
    page.heading("Inputs")
    page.paragraph(
        "The newest 24 closed hours are compared with the training data of the version in service. The distance is "
        "Jensen-Shannon: 0 means equal distributions, 1 means no value in common; - means no values, or no numbers. "
        f"Shown are {len(far)} of {count_of(len(columns), 'column')}: those with the largest distance."
    )
    rows = tuple(
        (column, "-" if now.distance is None else f"{now.distance:.3f}", f"{now.null_share:.1%}") for column, now in far
    )
    page.table(Table(headers=("column", "distance", "nulls"), rows=rows, align=("left", "right", "right")))


def _ended(page: Document, system: System, name: str, ended: list[Signal]) -> None:
    if not ended:
        return
    page.heading(f"Signals that ended in the last {DAYS} days")
    if len(ended) > _MOST_ROWS:
        page.paragraph(f"The newest {_MOST_ROWS} of {len(ended):,}. The others: trimtab signals {name}")
    rows = tuple(
        (
            one.kind,
            one.subject,
            version_name(system, one.version) if one.version else "",
            _shown_time(one.raised_at_us),
            _shown_time(one.ended_at_us or 0),
            one.ended_because or "",
        )
        for one in ended[:_MOST_ROWS]
    )
    page.table(Table(headers=("signal", "about", "version", "found", "ended", "because"), rows=rows))


def _decisions(page: Document, system: System, decisions: list[Decision]) -> None:
    page.heading("Decisions")
    if not decisions:
        page.paragraph("Nothing yet.")
        return
    rows = tuple(
        (
            _shown_time(one.at_us),
            one.act,
            "" if one.version is None else version_name(system, one.version),
            one.actor,
            one.cause,
        )
        for one in decisions[: -_MOST_ROWS - 1 : -1]
    )
    page.table(Table(headers=("when", "what", "version", "who", "why"), rows=rows))


def _shown_time(at_us: int) -> str:
    return format_time(at_us)[:16].replace("T", " ")
