"""Closed days of experiments: when a day is closed, how it is stored, and how stored days are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec

from trimtab.core.errors import Conflict, Unavailable
from trimtab.core.time import DAY_US, HOUR_US, format_duration, format_time
from trimtab.experiments.definitions import Experiment, Metric
from trimtab.experiments.records import DAYS, KIND, ExperimentDay, ExperimentState, stored_definition
from trimtab.features.definitions import LabelWait
from trimtab.store.ports import Catalog, Put

EARLY_US = HOUR_US  # an exposure may be logged this long before its own time, because clocks differ
LATE_US = DAY_US  # an exposure that is logged later than this after its own time does not count, unless `allow_late`
LATENESS = "experiment_lateness"  # the kind of the catalogue records with a `Lateness`, one for each experiment
REACHED = "experiment_reached"  # the kind of the catalogue records with a `Reached`, one for each experiment
LATE_AFTER = (1, 7, 28)  # so many days after a day was closed, its outcomes are read again
_FAR_US = 2**62
_TRIES = 10


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the closed days of an experiment, and the units that were exposed on them."""

    generation: int
    closed_until_us: int  # all days before this time are closed
    # for each day on which units were first exposed: the address of the blob with these units
    units: list[str] = []
    # the same for the units that were exposed to another variant than their first, by the first day on which they did
    crossed: list[str] = []
    # by number of days in `LATE_AFTER`: the outcomes of days before this time were read again
    read_again: dict[int, int] = {}
    cut_units: int | None = None  # the units whose windows were cut by the end; None: not counted yet


class Lateness(msgspec.Struct, frozen=True, kw_only=True):
    """The largest delay with which an exposure may be logged and still counts. Importing older exposures raises it."""

    generation: int
    late_us: int


def stored_lateness(catalog: Catalog, state: ExperimentState) -> tuple[int, int]:
    """Return how long after its own time an exposure may be logged, and the revision of the record."""
    record = catalog.get(LATENESS, state.name)
    found = None if record is None else msgspec.json.decode(record.body, type=Lateness)
    late_us = found.late_us if found is not None and found.generation == state.generation else LATE_US
    return late_us, 0 if record is None else record.revision


def allow_late(catalog: Catalog, state: ExperimentState, late_us: int) -> None:
    """Let exposures count that are logged up to this long after their own time.

    Days are then read from a longer part of the log. Call this before the exposures are logged.
    """
    for _ in range(_TRIES):
        allowed_us, revision = stored_lateness(catalog, state)
        if late_us <= allowed_us:
            return
        body = msgspec.json.encode(Lateness(generation=state.generation, late_us=late_us + HOUR_US))
        with suppress(Conflict):  # another process imports exposures at the same time
            catalog.write([Put(LATENESS, state.name, body, expected=revision)])
            return
    raise Unavailable(f"experiment {state.name!r}: other processes import exposures at the same time. Try again.")


class DueDay(msgspec.Struct, frozen=True):
    """A day that can be closed now."""

    day_us: int
    known_by_us: int  # what became known later does not count


def longest_wait_us(metrics: Sequence[Metric], label: LabelWait | None = None) -> int:
    """Return how long after its end a day is closed: when the metrics of all its units are known.

    Args:
        label: The label of the model whose predictions are compared.
    """
    waits_us = [0]
    for metric in metrics:
        wait_us = metric.within_us
        if metric.source is not None:
            wait_us += metric.source.delay_us
        elif metric.prediction != "score" and label is not None:
            wait_us = label.final_at(wait_us)
        waits_us.append(wait_us)
    return max(waits_us)


def intake_end_us(state: ExperimentState, definition: Experiment) -> int:
    """Return the time from which no more units are taken in, by the plan or because it ended; far away if unknown."""
    ended_us = _FAR_US if state.ended_at_us is None else state.ended_at_us
    planned_us = _FAR_US if definition.duration_us is None else state.started_at_us + definition.duration_us
    return min(ended_us, planned_us)


def end_us(state: ExperimentState, definition: Experiment) -> int:
    """Return the time from which units do not count, because they were not taken in or their windows were cut.

    When an experiment ends, all units get one variant. So only units whose windows had ended by then count.
    """
    cut_us = _FAR_US if state.ended_at_us is None else state.ended_at_us - definition.window_us
    return min(cut_us, intake_end_us(state, definition))


def cut_windows(state: ExperimentState, definition: Experiment, units: int | None = None) -> str | None:
    """Return a sentence about the units that do not count because the end cut their windows; None if there are none.

    `units` is their number, None if it is unknown.
    """
    from_us = max(end_us(state, definition), state.started_at_us)
    if from_us >= intake_end_us(state, definition) or units == 0:
        return None
    many = "units" if units is None else f"{units:,} units"
    return (
        f"{many} that were first exposed from {format_time(from_us)[:16].replace('T', ' ')} on do not count: their "
        f"windows of {format_duration(definition.window_us)} had not ended when the experiment did, and since then all "
        "units get one variant"
    )


def due_days(reached: Reached, end_us: int, wait_us: int, now_us: int) -> Iterator[DueDay]:
    """Yield the days of an experiment until `end_us` that can be closed now and are not closed yet, oldest first."""
    day_us = reached.closed_until_us
    while day_us < end_us and (known_by_us := day_us + DAY_US + wait_us) <= now_us:
        yield DueDay(day_us, known_by_us)
        day_us += DAY_US


def days_to_read_again(
    reached: Reached, state: ExperimentState, wait_us: int, now_us: int
) -> tuple[dict[int, int], Reached]:
    """Return the closed days whose outcomes can be read again now, and the record to store after that.

    For each day, the result has the largest number of `LATE_AFTER` for which the outcomes are due.
    """
    due, until = dict[int, int](), dict[int, int]()
    for age in LATE_AFTER:
        first_us = reached.read_again.get(age, begun(state).closed_until_us)
        last_us = min(reached.closed_until_us, (now_us - wait_us) // DAY_US * DAY_US - age * DAY_US)
        due |= dict.fromkeys(range(first_us, last_us, DAY_US), age)
        until[age] = max(first_us, last_us)
    return due, msgspec.structs.replace(reached, read_again=until)


def begun(state: ExperimentState) -> Reached:
    """Return the record of a generation whose first day is not closed yet."""
    return Reached(generation=state.generation, closed_until_us=state.started_at_us // DAY_US * DAY_US)


def stored_reached(catalog: Catalog, state: ExperimentState) -> tuple[Reached, int]:
    """Return how far an experiment's days are closed, and the revision of the record."""
    record = catalog.get(REACHED, state.name)
    if record is None:
        return begun(state), 0
    found = msgspec.json.decode(record.body, type=Reached)
    return (found if found.generation == state.generation else begun(state)), record.revision


def store_day(
    day: ExperimentDay, units: str, crossed: str, reached: Reached, revision: int
) -> tuple[list[Put], Reached]:
    """Return the changes that store a closed day, and the `Reached` that one of them stores.

    The changes belong in one transaction. It fails if another process has closed the day. `units` and `crossed` are
    the addresses of the day's blobs in `Reached`, "" for none.
    """
    now = msgspec.structs.replace(
        reached,
        closed_until_us=day.day_us + DAY_US,
        units=[*reached.units, *filter(None, [units])],
        crossed=[*reached.crossed, *filter(None, [crossed])],
    )
    return [Put(DAYS, _key(day), msgspec.json.encode(day), expected=0), put_reached(day.experiment, now, revision)], now


def put_reached(experiment: str, reached: Reached, revision: int) -> Put:
    """Return the change that stores how far the days of an experiment are closed and read again."""
    return Put(REACHED, experiment, msgspec.json.encode(reached), expected=revision)


def put_late(catalog: Catalog, day: ExperimentDay) -> Put:
    """Return the change that stores a closed day again, with the outcomes that came late."""
    record = catalog.get(DAYS, _key(day))
    return Put(DAYS, _key(day), msgspec.json.encode(day), expected=0 if record is None else record.revision)


def stored_days(catalog: Catalog, experiment: str, generation: int) -> list[ExperimentDay]:
    """Return the closed days of one generation of an experiment, oldest first."""
    found = catalog.find(DAYS, _prefix(experiment, generation))
    return [_decoder.decode(record.body) for record in found]


def not_closed(catalog: Catalog, state: ExperimentState) -> str | None:
    """Return a sentence about the days of an ended start that are not closed; None if all are."""
    days = stored_days(catalog, state.name, state.generation)
    from_us = max([begun(state).closed_until_us, *(one.day_us + DAY_US for one in days)])
    if from_us >= end_us(state, stored_definition(state)):
        return None
    return (
        f"start {state.generation}: the days from {format_time(from_us)[:10]} on were not closed before the next "
        "start, because outcomes of their units could still come. So these units do not count"
    )


def needed_from_us(catalog: Catalog) -> int:
    """Return the time from which logged predictions and exposures are needed, because their days are not closed."""
    times_us = [_FAR_US]
    for record in catalog.find(KIND):
        state = msgspec.json.decode(record.body, type=ExperimentState)
        reached, _ = stored_reached(catalog, state)
        if reached.closed_until_us < end_us(state, stored_definition(state)):
            times_us.append(reached.closed_until_us - EARLY_US)
    return min(times_us)


def unit_blobs(catalog: Catalog) -> list[str]:
    """Return the addresses of all blobs with units."""
    found = [msgspec.json.decode(record.body, type=Reached) for record in catalog.find(REACHED)]
    return [digest for one in found for digest in (*one.units, *one.crossed)]


def _prefix(experiment: str, generation: int) -> str:
    return f"{experiment}/{generation:06}/"


def _key(day: ExperimentDay) -> str:
    return f"{_prefix(day.experiment, day.generation)}{format_time(day.day_us)[:10]}"


_decoder = msgspec.json.Decoder(ExperimentDay)
