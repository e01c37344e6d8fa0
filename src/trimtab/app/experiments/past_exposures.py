"""Exposures that are logged later than they happened (`expose(..., at=...)`), with the variants of that time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from trimtab.core.errors import Misuse
from trimtab.core.time import format_time, parse_time_us
from trimtab.experiments.assignment import Assigner, Assignment, PastAssignments, check_row
from trimtab.experiments.days import EARLY_US
from trimtab.experiments.records import Exposure, experiment_state, stored_definition

if TYPE_CHECKING:
    from trimtab.app.experiments.assigning import Rule
    from trimtab.app.system import System

At: TypeAlias = "str | int | dt.datetime"


def past_exposures(
    system: System,
    name: str,
    units: Sequence[object],
    at: At | Sequence[At],
    not_shown: str,
    now: Rule,
    logged_us: int,
) -> tuple[list[Assignment], list[Exposure]]:
    """Return the assignments of units as of past times, and the exposures to log.

    A unit whose day is closed takes no part any more, because sums of closed days do not change.

    Args:
        system: The project.
        name: The experiment.
        units: The units, as for `Project.expose_units`.
        at: A time for each unit, or one for all.
        not_shown: Why the variants were not shown; empty if they were.
        now: How the experiment assigns units now.
        logged_us: The time that the exposures get if they are logged now.

    Raises:
        Misuse: There is not one time for each unit, or a time lies in the future.
    """
    times_us = _times(name, units, at, system.clock.now_us())
    state = experiment_state(system.state.catalog, name)
    definition = system.definitions.experiment(name) if state is None else stored_definition(state)
    rows: list[tuple[dict[str, Any], str]] = [(check_row(definition, unit), "") for unit in units]
    if definition.features and rows:
        from trimtab.app.experiments.evaluating import with_past_features  # loads DuckDB

        rows = with_past_features(system, definition, [row for row, _ in rows], np.array(times_us, np.int64))
    if state is None:
        rule = Assigner(definition, None)
        return [rule.assign(row, at_us) for (row, _), at_us in zip(rows, times_us, strict=True)], []
    declared = system.declared.experiments.get(name, definition)
    known = {unit: variant for unit, variant in declared.overrides.items() if variant in definition.variants}
    holdout = system.config.experiments.holdout if state.holdout is None else state.holdout
    past = PastAssignments(definition, state, holdout=holdout, overrides=known)
    found, made = list[Assignment](), list[Exposure]()
    for (row, missing), at_us in zip(rows, times_us, strict=True):
        assigner = past.assigner(at_us)
        found.append(now.answer(assigner.assign(row, at_us), at_us, logged_us))
        exposure = assigner.exposure(row, at_us, state.generation, reason=not_shown, missing=missing)
        if exposure is not None and not now.is_closed(at_us, logged_us):
            made.append(exposure)
    return found, made


def _times(name: str, units: Sequence[object], at: At | Sequence[At], now_us: int) -> list[int]:
    given = [at] * len(units) if isinstance(at, str | int | dt.datetime) else [*at]
    if len(given) != len(units):
        raise Misuse(
            f"experiment {name!r}: {len(given)} times for {len(units)} units. Give one for each, or one for all."
        )
    times_us = [parse_time_us(one) for one in given]
    for at_us in times_us:
        if at_us > now_us + EARLY_US:
            raise Misuse(
                f"experiment {name!r}: at={format_time(at_us)} lies in the future. Give the time of the exposure."
            )
    return times_us
