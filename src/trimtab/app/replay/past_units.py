"""Units of the past for plans and simulations: each is taken as exposed when it first appeared and could take part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.experiments.evaluating import evaluating, with_past_features
from trimtab.app.experiments.logged_units import LoggedUnits
from trimtab.app.experiments.prediction_values import PredictionValues
from trimtab.app.system import System
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, format_time
from trimtab.events.definitions import Source
from trimtab.experiments.assignment import Assigner
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.exposures import ExposureBlock, Intake, unit_keys, unit_values
from trimtab.experiments.first_exposures import first_exposures
from trimtab.experiments.reading.checks import wanted_shares
from trimtab.experiments.reading.planted_runs import PastUnits, made_state, ramp_steps
from trimtab.experiments.unit_values import MetricFeatures, UnitValues

Array = NDArray[Any]
_OLD_US = 14 * DAY_US  # if no unit whose metrics are known appeared for this long, the plan says so
DAYS = 56  # how many past days are used at most


def past_units(system: System, definition: Experiment, *, days: int = DAYS, origin: str | None = None) -> PastUnits:
    """Return the units that appeared in the newest `days` days for which all metrics are known, with their values.

    Args:
        definition: An experiment. If it compares versions, the units are those of logged predictions; otherwise, those
            of the events or requests of a source.
        origin: The source or request whose rows count as exposures. By default, a request that has all columns that the
            assignment reads, or if there is none, a source that has them. Of several, the one with the most units is
            taken; of several with equally many, one that no metric reads.

    Raises:
        NotFound: There is no such source, or it has no rows, or no prediction was logged.
        Misuse: `origin` or every source lacks a column that the assignment reads, or there are switchbacks of versions.
    """
    system.history.refresh()
    assumption = ""
    if definition.model is not None:
        name, until_us, blocks = f"predictions of {definition.model}", system.clock.now_us(), None
    else:
        name, columns = _origin(system, definition, origin, days)
        if origin is None and any(one.source is not None and one.source.name == name for one in definition.metrics):
            assumption = (
                f"Units are those with an event in {name!r}, which a metric reads, because no other source with the "
                "unit's columns has as many units. Units without such events are missing, so there may be many more "
                "units, and a smaller share of them has events. If another source has all visits: --units SOURCE."
            )
        frame = system.history.frame(name)
        if not frame.rows:
            raise NotFound(f"experiment {definition.name!r}: no event of {name!r} is stored. Ingest its history first.")
        until_us = min(system.clock.now_us(), _newest(system, definition, name) + 1)
        blocks = _blocks(definition, columns, frame.columns.take(~frame.deleted), frame.event_at_us[~frame.deleted])
    waits_us = [one.within_us for one in definition.metrics]
    label = None if definition.model is None else system.definitions.deployment(definition.model).model.label
    wait_us = max(waits_us) if label is None else label.final_at(max(waits_us))
    until_us = (until_us - wait_us) // DAY_US * DAY_US
    intake = Intake(until_us - days * DAY_US, until_us, system.clock.now_us())
    past, newest_us = _with_values(system, definition, name, intake, blocks)
    now_us = system.clock.now_us()
    if now_us - wait_us - newest_us >= _OLD_US:
        said = f"These units last appeared on {format_time(newest_us)[:10]}, {(now_us - newest_us) // DAY_US} days ago"
        assumption = f"{assumption} {said}; by now, units may be more or fewer, with other values.".lstrip()
    return msgspec.structs.replace(
        past, assumption=assumption, holdout=system.config.experiments.holdout, known_at_us=now_us
    )


def _with_values(
    system: System, definition: Experiment, name: str, intake: Intake, blocks: list[ExposureBlock] | None
) -> tuple[PastUnits, int]:
    """Return the units with their values, and the newest time at which one appeared."""
    features, values = MetricFeatures(definition.metrics, len(definition.unit)), dict[str, UnitValues]()
    logged = None if definition.model is None else _logged(system, definition, intake)

    def exposures() -> Iterator[ExposureBlock]:
        if logged is not None:
            yield from logged.exposures(intake)
        for one in blocks or []:
            yield one.take((one.at_us >= intake.from_us) & (one.at_us < intake.until_us))

    met = [one for one in exposures() if len(one)]
    if met and (definition.where is not None or definition.switchback is not None):
        met = [_from_taking_part(system, definition, ExposureBlock.concat(met))]
    if not met:
        span = f"{format_time(intake.from_us)[:10]} to {format_time(intake.until_us)[:10]}"
        raise NotFound(f"experiment {definition.name!r}: no unit in {name} from {span}. Ingest or log more first.")
    newest_us = max(int(one.at_us.max()) for one in met)
    steps = [step for step in _by_step(definition, met, intake.known_by_us) if sum(map(len, step))]
    firsts = [first_exposures(step) for step in steps]
    units = ExposureBlock.concat([one for first, step in zip(firsts, steps, strict=True) for one in first.chunks(step)])
    with evaluating(system, features.every, ["past units", definition.name, intake.from_us]) as evaluate:
        values |= features.values(list(units.units), units.at_us, intake.known_by_us, evaluate)
    if logged is not None:
        model = system.definitions.deployment(str(definition.model)).model
        of_predictions = PredictionValues(system, definition.metrics, model, logged)
        if of_predictions.metrics:
            rows, _ = firsts[0].rows_of(units.keys)
            values |= {one: found.take(rows) for one, found in of_predictions.of(firsts[0], intake)[0].items()}
    known = with_past_features(system, definition, _rows(definition, units), units.at_us)
    keys = units.keys if len(steps) > 1 else None
    past = PastUnits(origin=name, rows=[row for row, _ in known], at_us=units.at_us, values=values, keys=keys)
    return past, newest_us


def _by_step(definition: Experiment, met: list[ExposureBlock], now_us: int) -> list[list[ExposureBlock]]:
    """Return the appearances of units in each step of the ramp. Those of predictions are not divided."""
    steps = ramp_steps(definition, now_us)[1:] if definition.model is None else []
    start_us = min(int(one.at_us.min()) for one in met) // DAY_US * DAY_US
    ends_us = [start_us + after_us for after_us, _ in steps]
    numbers = [np.searchsorted(ends_us, one.at_us, side="right") for one in met]
    return [[one.take(of == step) for one, of in zip(met, numbers, strict=True)] for step in range(len(ends_us) + 1)]


def _from_taking_part(system: System, definition: Experiment, met: ExposureBlock) -> ExposureBlock:
    """Keep the appearances of each unit at which it takes part; if there are none, keep all its appearances."""
    everyone = msgspec.structs.replace(definition, share=1.0, ramp=(), ramp_at=())
    assign = Assigner(everyone, made_state(everyone, 0, 0, wanted_shares(everyone)), overrides={}).assign
    known = with_past_features(system, definition, _rows(definition, met), met.at_us)
    takes_part = [assign(row, at).takes_part for (row, _), at in zip(known, met.at_us.tolist(), strict=True)]
    there = np.array(takes_part, bool)
    return met.take(there | ~np.isin(met.keys, met.keys[there]))


def _logged(system: System, definition: Experiment, intake: Intake) -> LoggedUnits:
    """Return the units of logged predictions, as if an experiment had given all of them the control."""
    if definition.switchback is not None:
        raise Misuse(f"experiment {definition.name!r}: switchbacks over versions cannot be planned or simulated yet.")
    request = system.definitions.deployment(str(definition.model)).model.request
    everyone = msgspec.structs.replace(definition, overrides={}, share=1.0, ramp=())
    if definition.features:  # whether a unit is eligible is found out later, for each run
        everyone = msgspec.structs.replace(everyone, features=(), where=None)
    weights = dict.fromkeys(definition.variants, 0.0) | {definition.control: 1.0}
    return LoggedUnits(system, everyone, made_state(everyone, intake.from_us, 0, weights), request)


def _origin(system: System, definition: Experiment, given: str | None, days: int) -> tuple[str, dict[str, str]]:
    """Return the source whose rows count as exposures, and its names for the columns that the assignment reads."""
    sources = {one.name: one for one in system.sources}
    if given is not None and given not in sources:
        raise NotFound(f"experiment {definition.name!r}: no source {given!r}. Sources: {', '.join(sources) or 'none'}.")
    by = {one.source.name: dict(zip(definition.unit, one.by, strict=False)) for one in definition.metrics if one.source}
    found = {}
    for name, source in sources.items():
        columns = _columns(definition, source, by.get(name, {}))
        if columns is not None:
            found[name] = columns
    if given in found:
        return str(given), found[str(given)]
    wanted = ", ".join(_read(definition))
    if given is not None or not found:
        lack, do = f"source {given!r} does not have", "Name a source that has them (--units)"
        if not found:
            lack, do = "no source has", "Declare these columns in a source"
        raise Misuse(
            f"experiment {definition.name!r}: {lack} all columns that the assignment reads ({wanted}), so past units "
            f"are not known. {do}."
        )
    requests = [name for name in found if name in system.definitions.requests] or list(found)
    units = _units_of(system, definition, {name: found[name] for name in requests}, days)
    best = max(requests, key=lambda name: (units[name], name not in by))
    return best, found[best]


def _units_of(
    system: System, definition: Experiment, found: Mapping[str, Mapping[str, str]], days: int
) -> dict[str, int]:
    """Return the number of different units in the newest days of each source, given its names for the columns."""
    if len(found) == 1:
        return dict.fromkeys(found, 0)  # not counted, because the caller has no choice
    frames = {name: system.history.frame(name) for name in found}
    newest_us = max((int(one.event_at_us.max()) for one in frames.values() if one.rows), default=0)
    counts = {}
    for name, frame in frames.items():
        rows = frame.columns.take(~frame.deleted & (frame.event_at_us > newest_us - days * DAY_US))
        counts[name] = len({*zip(*(rows[found[name][one]].to_list() for one in definition.unit), strict=True)})
    return counts


def _read(definition: Experiment) -> list[str]:
    """Return the columns that assignment reads."""
    region = () if definition.switchback is None else definition.switchback.by
    where = set() if definition.where is None else definition.where.columns()
    by = {name for join in definition.features for name in join.by}
    return list(dict.fromkeys((*definition.unit, *region, *sorted((where | by) - definition.feature_types.keys()))))


def _columns(definition: Experiment, source: Source, renamed: Mapping[str, str]) -> dict[str, str] | None:
    columns = {name: name if name in source.columns else renamed.get(name, name) for name in _read(definition)}
    return columns if all(name in source.columns for name in columns.values()) else None


def _newest(system: System, definition: Experiment, origin: str) -> int:
    names = {origin, *(one.source.name for one in definition.metrics if one.source is not None)}
    return max(int(frame.event_at_us.max()) for name in names if (frame := system.history.frame(name)).rows)


def _blocks(definition: Experiment, columns: Mapping[str, str], table: Any, at_us: Array) -> list[ExposureBlock]:
    """Return the rows of a source as exposures. The attributes are the columns that the assignment reads."""
    read = {name: table[place].to_list() for name, place in columns.items()}
    naming = Assigner(definition, None, overrides={})
    rows = [dict(zip(read, values, strict=True)) for values in zip(*read.values(), strict=True)]
    there = np.array([all(row[name] is not None for name in definition.unit) for row in rows], bool)
    units = [naming.unit(row) if known else "" for row, known in zip(rows, there.tolist(), strict=True)]
    named = [
        f"{unit}@{block}" if (block := naming.block(row, at)) else unit
        for unit, row, at in zip(units, rows, at_us.tolist(), strict=True)
    ]

    def objects(values: list[Any]) -> Array:
        found = np.empty(len(values), object)
        found[:] = values
        return found

    whole = ExposureBlock(
        units=objects(units),
        keys=unit_keys(named),
        at_us=at_us,
        places=np.arange(len(rows)),
        variants=np.zeros(len(rows), np.uint8),
        reasons=objects([""] * len(rows)),
        overrides=np.zeros(len(rows), bool),
        attributes=objects([msgspec.msgpack.encode(row) for row in rows]),
    )
    return [whole.take(there)]


def _rows(definition: Experiment, units: ExposureBlock) -> list[dict[str, Any]]:
    found = []
    for unit, packed in zip(units.units, units.attributes, strict=True):
        texts = unit_values(unit, len(definition.unit))
        attributes = msgspec.msgpack.decode(packed) if packed else {}
        found.append({**attributes, **dict(zip(definition.unit, texts, strict=True))})
    return found
