"""Report a model's quality by day, week, slice or another group, from stored sums over its labelled predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from trimtab.app.system import System
from trimtab.app.training.loops import Loops
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.records import Decision
from trimtab.core.time import DAY_US, HOUR_US, format_time, parse_time_us
from trimtab.feedback.blocks import BlockSums, DayBlocks, merged
from trimtab.monitoring.quality.quality_days import stored_batches, stored_days
from trimtab.registry.protection import CHAMPION
from trimtab.report.tables import text_table
from trimtab.report.text_chart import text_chart
from trimtab.stats.exact_sums import rounded, total_of
from trimtab.steering.ledger import Entry, Ledger

By = Literal["hour", "day", "week", "month", "all", "batch"]
_BY: tuple[By, ...] = ("hour", "day", "week", "month", "all", "batch")
_DTYPES: dict[str, Any] = {
    "block": "time",
    **dict.fromkeys(("model", "version", "arm", "slice"), "str"),
    **dict.fromkeys(("predictions", "labelled", "missing", "unlisted", "late"), "int"),
    "amended": "bool",
    **dict.fromkeys(("score", "label", "gap", "loss", "loss_low", "loss_high", "excess_loss"), "float"),
}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The days and slices to report, and how to group them into rows."""

    by: By = "day"
    slices: str | None = None  # a column or named expression, to get a row for each value; None: no slices
    since_us: int | None = None
    until_us: int | None = None
    version: str | None = None  # the name or id of the only version to include
    amended: bool = False  # whether days include late and corrected labels; hours, slices and batches never do


def quality_table(system: System, model: str | None, wanted: Wanted) -> Columns:
    """Return the quality of a deployment: a row for each group, version and arm; see `Project.quality`."""
    by, slices, since_us, until_us = wanted.by, wanted.slices, wanted.since_us, wanted.until_us
    if by not in _BY:
        raise Misuse(f"quality: by={by!r}. Needed: one of {', '.join(_BY)}.")
    if slices is not None and by == "hour":
        raise Misuse('quality: slices are kept by the day. Ask for by="day" or longer, or leave slices out.')
    deployment = system.definitions.deployment(model)
    version = None if wanted.version is None else system.registry.get(wanted.version).id
    catalog, batches, dtypes = system.state.catalog, [], _DTYPES
    if by == "batch":
        batches = [
            one
            for one in stored_batches(catalog, deployment.name)
            if (since_us is None or one.made_at_us >= since_us) and (until_us is None or one.made_at_us < until_us)
        ]
        batches = [one for one in batches if version in (None, one.blocks.version)]
        days, dtypes = [one.blocks for one in batches], {"batch": "str", **_DTYPES}
    else:
        stored = stored_days(catalog, deployment.name, from_us=since_us, until_us=until_us, slices=slices is not None)
        days = [day for day in stored if version in (None, day.version)]
    if slices is not None:
        _check_slices(deployment.name, slices, days)
    names = {address: version_name(system, address) for address in {day.version for day in days}}
    if by == "batch":
        rows = [
            _row((one.made_at_us, one.blocks.version, one.blocks.arm, name), [(sums, one.blocks)], names)
            | {"batch": one.batch}
            for one in batches
            for _, name, sums in _parts(one.blocks, wanted)
        ]
    else:
        rows = [_row(key, blocks, names) for key, blocks in _grouped(days, wanted).items()]
    return Columns.of({name: (dtype, [row[name] for row in rows]) for name, dtype in dtypes.items()})


def accept_level(system: System, model: str | None, why: str, actor: str) -> Decision:
    """Accept the present quality as normal, so that the signal `quality_level` ends; see `Project.accept_level`."""
    name = system.definitions.deployment(model).name
    what = f"quality {name!r}"
    if not why.strip():
        raise Misuse(f"{what}: no reason is given for accepting this level. Give one sentence for the ledger.")
    monitor = system.part(Loops).loop(name).monitor
    monitor.reload()
    accepted = monitor.accept(now_us=system.clock.now_us())
    if accepted is None or monitor.watch is None:
        raise Conflict(
            f"{what}: there is nothing to accept, because no signal `quality_level` (the quality is worse than before) "
            "is open. While another quality alarm is open, train or wait. See: trimtab status"
        )
    before, (_, changes) = monitor.watch, accepted
    version = system.registry.alias(name, CHAMPION)
    entry = Entry(
        at_us=system.clock.now_us(),
        model=name,
        act="accept_level",
        cause=why,
        actor=actor,
        evidence={f"level_{kind}": figure.spec.mean for kind, figure in before.healthy.items()},
        version=None if version is None else version.id,
        replaced=before.healthy_version,
    )
    decision = Ledger(system.state.catalog).write([entry], changes)[0]
    monitor.reload()
    return decision


def quality_lines(table: Columns, level: float | None, *, chosen: bool) -> list[str]:
    """Return the table as lines for a terminal, with a chart of the arm with most predictions.

    There is no chart of slices or batches, or of fewer than three rows. `chosen`: whether options may have left out
    closed days or batches.
    """
    rows = table.to_rows()
    if not rows:
        what, also = ("batches", ", and a batch with the day when it was made") if "batch" in table else ("days", "")
        told = f"There are no closed {what} {'for these options' if chosen else 'yet'}"
        return [f"{told}. A day is closed once its labels are final, after the label's wait{also}. See: trimtab status"]
    sliced, arms = any(row["slice"] for row in rows), sorted({row["arm"] for row in rows})
    shown = [
        [
            *([row["batch"]] if "batch" in row else []),
            _shown_block(row["block"]),
            row["version"],
            *([row["arm"]] if len(arms) > 1 else []),
            *([row["slice"]] if sliced else []),
            f"{row['predictions']:,}",
            f"{row['labelled'] / row['predictions']:.0%}" if row["predictions"] else "-",
            _number(row["score"]),
            _number(row["label"]),
            _number(row["loss"]),
            _interval(row["loss_low"], row["loss_high"]),
            _number(row["excess_loss"]),
        ]
        for row in rows
    ]
    more = [*(["arm"] if len(arms) > 1 else []), *(["slice"] if sliced else [])]
    first = ["batch", "block"] if "batch" in rows[0] else ["block"]
    heads = [*first, "version", *more, "predictions", "labelled", "score", "label", "loss"]
    out = text_table([*heads, "95 % interval", "excess"], shown).splitlines()
    arm = max(arms, key=lambda one: sum(row["predictions"] for row in rows if row["arm"] == one))
    rows = [row for row in rows if row["arm"] == arm]
    if sliced or len(rows) < 3 or "batch" in rows[0]:
        return out
    excess = [row["excess_loss"] for row in rows]
    has_excess = any(value is not None for value in excess)
    chart = text_chart(excess if has_excess else [row["loss"] for row in rows], level=level if has_excess else None)
    what = "excess loss (above 0: worse than expected if the scores are right)" if has_excess else "loss"
    what += f" of {arm}" if len(arms) > 1 else ""
    return [*out, "", f"{what}, {_shown_block(rows[0]['block'])} to {_shown_block(rows[-1]['block'])}", *chart]


def version_name(system: System, address: str) -> str:
    """Return the name of a version, given its id. If it is not registered, return the first characters of its id."""
    try:
        return system.registry.get(address).name
    except NotFound:
        return address[:12]


def mean_excess(blocks: Sequence[tuple[BlockSums, float]]) -> float | None:
    """Return the mean capped loss minus the one expected if the scores are right; None if either is not known.

    `blocks` has the sums of each block and its cap of losses, by which `capped_loss` and `expected_loss` are divided.
    """
    rows = sum(one.labelled for one, _ in blocks)
    if not rows or any(one.expected_loss is None for one, _ in blocks if one.predictions):
        return None
    sums = [(cap, [one.capped_loss, tuple(-part for part in one.expected_loss or ())]) for one, cap in blocks]
    return sum(cap * total_of(parts) for cap, parts in sums) / rows


def _grouped(days: Iterable[DayBlocks], wanted: Wanted) -> dict[tuple[Any, ...], list[tuple[BlockSums, DayBlocks]]]:
    """Return for each row of the table (time, version, arm and slice) the sums to add up."""
    groups: dict[tuple[Any, ...], list[tuple[BlockSums, DayBlocks]]] = {}
    for day in days:
        for start_us, name, sums in _parts(day, wanted):
            key = (_block_us(start_us, wanted.by), day.version, day.arm, name)
            groups.setdefault(key, []).append((sums, day))
    return dict(sorted(groups.items()))


def _parts(day: DayBlocks, wanted: Wanted) -> list[tuple[int, str, BlockSums]]:
    if wanted.slices is not None:
        return [
            (day.day_us, name, sums)
            for name, sums in day.slices.items()
            if name == wanted.slices or name.startswith(f"{wanted.slices}=")
        ]
    if wanted.by == "hour":
        return [(day.day_us + hour * HOUR_US, "", sums) for hour, sums in day.hours.items()]
    return [(day.day_us, "", day.amended if wanted.amended and day.amended is not None else day.whole)]


def _row(key: tuple[Any, ...], blocks: Sequence[tuple[BlockSums, DayBlocks]], names: dict[str, str]) -> dict[str, Any]:
    start_us, version, arm, name = key
    sums = merged(one for one, _ in blocks)
    rows = sums.labelled
    score, label, loss = (rounded(one) / rows if rows else None for one in (sums.score, sums.label, sums.loss))
    half = None
    if rows and loss is not None:
        half = 1.96 * math.sqrt(max(0.0, rounded(sums.loss_squares) / rows - loss * loss) / rows)
    return {
        "block": start_us or min(day.day_us for _, day in blocks),  # by="all": its first day
        "model": blocks[0][1].model,
        "version": names[version],
        "arm": arm,
        "slice": name,
        "predictions": sums.predictions,
        "labelled": rows,
        "missing": sums.missing,
        "unlisted": sums.unlisted,
        "late": sums.late,
        "amended": any(day.amended is not None for _, day in blocks),
        "score": score,
        "label": label,
        "gap": None if score is None or label is None else score - label,
        "loss": loss,
        "loss_low": None if half is None or loss is None else loss - half,
        "loss_high": None if half is None or loss is None else loss + half,
        "excess_loss": mean_excess([(one, day.cap) for one, day in blocks]),
    }


def _block_us(start_us: int, by: By) -> int:
    if by in ("hour", "day"):
        return start_us
    if by == "week":
        return start_us - (start_us // DAY_US + 3) % 7 * DAY_US  # 1970-01-01 was a Thursday; weeks begin on Mondays
    return parse_time_us(format_time(start_us)[:7] + "-01") if by == "month" else 0


def _check_slices(model: str, column: str, days: Sequence[DayBlocks]) -> None:
    known = sorted({name.partition("=")[0] for day in days for name in day.slices})
    if days and column not in known:
        raise Misuse(
            f"quality of {model!r}: no slices by {column!r} are kept. There are: {', '.join(known) or 'none'}. For "
            "more from now on, name columns of the request, or expressions over them, in tt.beats_champion(slices=...)."
        )


def _shown_block(at: Any) -> str:
    shown = format_time(at) if isinstance(at, int) else str(at)
    return shown[:10] if shown[11:16] in ("00:00", "") else shown[:16].replace("T", " ")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4g} to {high:.4g}"
