"""Exposures that are logged later than they happened (`expose(..., at=...)`), with the variants of that time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np

from trimtab.core.errors import Misuse
from trimtab.core.shown import shown
from trimtab.core.time import DAY_US, format_time, parse_time_us
from trimtab.experiments.assignment import Assigner, Assignment, PastAssignments, Reason, check_row, plain
from trimtab.experiments.days import EARLY_US
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.records import ExperimentState, Exposure, experiment_state, past_state, stored_definition

if TYPE_CHECKING:
    from trimtab.app.system import System

_FIRST_YEAR_US = 365 * DAY_US  # numbers below this are probably no microseconds
At: TypeAlias = "str | int | dt.datetime"


def past_exposures(
    system: System,
    name: str,
    units: Sequence[object],
    at: At | Sequence[At],
    not_shown: str,
    refusal: Callable[[int], Reason | None],
) -> tuple[list[Assignment], list[Exposure]]:
    """Return the assignments of units as of past times, and the exposures to log.

    A unit with a time on a closed day takes no part, because sums of closed days do not change.

    Args:
        units: The units, as for `Project.expose_units`.
        at: A time for each unit, or one for all.
        not_shown: Why the variants were not shown; empty if they were.
        refusal: Returns why an exposure at a time does not count any more; None if it counts.

    Raises:
        Misuse: There is not one time for each unit, or a time lies in the future.
    """
    times_us = _times(name, units, at, system.clock.now_us())
    state = experiment_state(system.state.catalog, name)
    if state is None:
        definition = system.definitions.experiment(name)
        rule = Assigner(definition, None)
        rows = [row for row, _ in _rows(system, definition, units, times_us)]
        return [rule.assign(row, at_us) for row, at_us in zip(rows, times_us, strict=True)], []
    starts = [state]  # the newest first
    while starts[-1].started_at_us > min(times_us, default=state.started_at_us):
        earlier = past_state(system.state.catalog, name, starts[-1].generation - 1)
        if earlier is None:
            break
        starts.append(earlier)
    start_of = [next((one for one in starts if one.started_at_us <= at_us), state) for at_us in times_us]
    found, made = dict[int, Assignment](), list[Exposure]()
    for one in starts:
        places = [place for place, start in enumerate(start_of) if start is one]
        definition = stored_definition(one)
        rows_of = _rows(system, definition, [units[place] for place in places], [times_us[place] for place in places])
        past = _assignments(system, definition, one)
        for place, (row, missing) in zip(places, rows_of, strict=True):
            at_us = times_us[place]
            assigner = past.assigner(at_us)
            # exposures of an earlier start no longer count, because its days are not closed any more
            why: Reason | None = "day is closed" if one is not state else refusal(at_us)
            assigned = assigner.assign(row, at_us)
            if why is not None and assigned.takes_part:
                assigned = msgspec.structs.replace(assigned, takes_part=False, reason=why)
            found[place] = assigned
            exposure = assigner.exposure(row, at_us, one.generation, reason=not_shown, missing=missing)
            if exposure is not None and why is None:
                made.append(exposure)
    return [found[place] for place in range(len(units))], made


def _rows(
    system: System, definition: Experiment, units: Sequence[object], times_us: Sequence[int]
) -> list[tuple[dict[str, Any], str]]:
    """Return units as rows with the features of their times, and for each a text that names those without a value."""
    rows = [check_row(definition, unit) for unit in units]
    if not definition.features or not rows:
        return [(row, "") for row in rows]
    from trimtab.app.experiments.evaluating import with_past_features  # loads DuckDB

    return with_past_features(system, definition, rows, np.array(times_us, np.int64))


def _assignments(system: System, definition: Experiment, state: ExperimentState) -> PastAssignments:
    declared = system.declared.experiments.get(definition.name, definition)
    known = {unit: variant for unit, variant in declared.overrides.items() if variant in definition.variants}
    holdout = system.config.experiments.holdout if state.holdout is None else state.holdout
    return PastAssignments(definition, state, holdout=holdout, overrides=known)


def _times(name: str, units: Sequence[object], at: At | Sequence[At], now_us: int) -> list[int]:
    at = plain(at)
    if isinstance(at, bytes | Mapping):
        raise Misuse(f"experiment {name!r}: at={shown(at)[:100]} is no time. Give one time, or a list of them.")
    given: list[Any] = [*at] if isinstance(at, Iterable) and not isinstance(at, str) else [at] * len(units)
    if len(given) != len(units):
        raise Misuse(
            f"experiment {name!r}: {len(given)} times for {len(units)} units. Give one for each, or one for all."
        )
    # NumPy gives a datetime, or None for a time that is missing
    known = [one.astype("datetime64[us]").item() if isinstance(one, np.datetime64) else plain(one) for one in given]
    times_us = [parse_time_us(one) for one in known]
    for one, at_us in zip(known, times_us, strict=True):
        if isinstance(one, int) and one < _FIRST_YEAR_US <= now_us:
            raise Misuse(
                f"experiment {name!r}: at={one} is {format_time(at_us)}, because numbers are microseconds since 1970. "
                "Are these seconds or milliseconds? Convert them, or give datetimes."
            )
        if at_us > now_us + EARLY_US:
            raise Misuse(
                f"experiment {name!r}: at={format_time(at_us)} lies in the future. Give the time of the exposure."
            )
    return times_us
