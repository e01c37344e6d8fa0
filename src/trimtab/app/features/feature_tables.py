"""Tables of features, either for given requests as of their own times, or for all entities at given times."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.features.feature_files import write_table
from trimtab.app.features.feature_runs import Run, files_state, opened_run
from trimtab.app.features.request_tables import request_table
from trimtab.app.state.retention_needs import view_reach
from trimtab.app.state.state import kept_from
from trimtab.app.system import System
from trimtab.core.clock import Clock
from trimtab.core.columns.data import Column, Columns, Dtype
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.expressions.nodes import Expression, col, may_fail
from trimtab.core.shown import Shown
from trimtab.core.time import duration_us, format_time
from trimtab.events.columns.frames import NEVER_US
from trimtab.events.definitions import Source
from trimtab.events.files.files import Rows
from trimtab.events.values.checks import given_time_us
from trimtab.features.definitions import Join, Request, View
from trimtab.features.feature_set import FeatureSet, feature_set
from trimtab.features.frames import REASONS, FeatureFrame
from trimtab.features.offline.as_known_now import differing_values
from trimtab.features.offline.evaluation import check_requests
from trimtab.training.definitions import Model

AsKnown: TypeAlias = Literal["then", "final"]
Item: TypeAlias = str | View | Join | Mapping[str, Expression]
Of: TypeAlias = Model | Item | Sequence[Item]
When: TypeAlias = str | int | dt.datetime
Meter: TypeAlias = Callable[[int, int], object]

_MOST_TIMES = 100_000  # the largest number of snapshot times in one call, such as hourly for eleven years


class FeatureTable(Columns, frozen=True, eq=False, kw_only=True):
    """Requests and their features, in the order of the requests."""

    positions: dict[str, int]  # for each partition of the event log, the last position that was read
    let_in: dict[str, int]  # with as_known="final": by feature, how many values differ from those with "then"

    def __len__(self) -> int:
        return self.rows

    def __bool__(self) -> bool:
        return True  # a table is true even if it has no rows


class FeatureFile(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """A feature table written to a file."""

    path: Path
    rows: int
    features: tuple[str, ...]
    positions: dict[str, int]
    let_in: dict[str, int]
    parts: int  # the number of parts of the largest view; 1 if computed in memory


class How(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a feature table: which events count as known, reasons, the output file, and files of events."""

    as_known: AsKnown = "then"  # "then": use the events known at each request's time; "final": all known now
    reasons: bool = False
    out: Path | None = None
    events: Mapping[str, Path] = {}  # Parquet files by name of the source, to read instead of the history
    progress: Meter | None = None

    def __post_init__(self) -> None:
        if self.as_known not in ("then", "final"):
            raise Misuse(f'as_known={self.as_known!r} is neither "then" nor "final".')
        if self.out is None:
            return
        if self.out.suffix not in (".csv", ".parquet"):
            raise Misuse(f"out {self.out}: the name must end in .csv or .parquet.")
        if not self.out.absolute().parent.is_dir():
            raise NotFound(f"out {self.out}: there is no folder {self.out.absolute().parent}. Make it.")
        if self.out.exists():
            raise Conflict(f"{self.out} exists and is not overwritten. Name another file, or remove it.")


class _Wanted(msgspec.Struct, frozen=True, eq=False):
    features: FeatureSet
    requests: Columns
    at_us: NDArray[np.int64]
    what: Any  # what determines the requests: the table, or the file's name, size and modification time


def join_features(
    system: System, requests: Rows, of: Of | None, *, at: When | None, how: How
) -> FeatureTable | FeatureFile:
    """Add features to requests as of the times of the requests; see `Project.join`."""
    wanted = _wanted(system, requests, of, at)
    return _made(system, wanted, how)


def snapshot_features(
    system: System, of: Of, times_us: Sequence[int], *, how: How
) -> FeatureTable | FeatureFile:  # fmt: skip
    """Compute the features of all entities at given times; see `Project.snapshot` and `Project.snapshots`."""
    items = _items(system, of)
    views = [item for item in items if isinstance(item, View)]
    if not views:
        raise Misuse("snapshot: give at least one view, because its entities are the rows.")
    first = views[0]
    for view in views:
        if view.by != first.by:
            raise Misuse(
                f"snapshot: view {first.name!r} is by {', '.join(first.by)}, view {view.name!r} by "
                f"{', '.join(view.by)}. Take views of one entity, or one snapshot each."
            )
    for t in times_us:
        _refuse_future(system, t)
    dtypes = {name: first.source.columns[name] for name in first.by}
    features = _features(Columns({name: _nothing(dtype) for name, dtype in dtypes.items()}), items)
    _refuse_removed(system, features, min(times_us), how.events)
    what = ["snapshot", how.as_known, how.reasons, list(times_us)]
    with opened_run(system, features, what, how.events, how.progress) as run:
        tables = [_entities(run, views, t, final=how.as_known == "final") for t in times_us]
        at_us = np.repeat(np.array(times_us, np.int64), [table.rows for table in tables])
        requests = Columns.concat(tables).replace({"at" if "at" not in first.by else "as_of": Column("time", at_us)})
        return _computed(run, _Wanted(features, requests, at_us, None), how)


def times_between(start: When, end: When, every: str | int, clock: Clock) -> list[int]:
    """Return the times from `start` (included) to `end` (excluded) at intervals of `every`."""
    step = _step_us(every)
    first, last = given_time_us(start, "snapshots: start", clock), given_time_us(end, "snapshots: end", clock)
    if last <= first:
        raise Misuse(f"snapshots: end {end} is not after start {start}: nothing lies between. Give a later end.")
    count = -((first - last) // step)
    if count > _MOST_TIMES:
        raise Misuse(
            f"snapshots: every={every} between {start} and {end} gives {count:,} times; at most {_MOST_TIMES:,} are "
            "allowed. Give a longer every, or a shorter time."
        )
    return list(range(first, last, step))


def _step_us(every: str | int) -> int:
    try:
        step = duration_us(every)
    except Misuse as error:
        raise Misuse(f"snapshots: every: {error}") from None
    if step == 0:
        raise Misuse(f'snapshots: every={every!r} gives no next time. Give a longer every, such as "1d".')
    return step


def _wanted(system: System, requests: Rows, of: Of | None, at: When | None) -> _Wanted:
    model = _model(system, of)
    declared: dict[str, Dtype] = {}
    if model is not None:
        needed = model.features.request_columns | (set() if at is not None else {model.request.time})
        declared = {name: model.request.columns[name] for name in model.request.columns if name in needed}
        items: list[View | Join | Mapping[str, Expression]] = []
    else:
        assert of is not None  # without `of`, `_model` returns a model or raises
        items = _items(system, of)
        declared = _entity_columns(items)
        if at is None:
            raise Misuse("join: no time is given. Give at=, the name of the column of times or one time for all rows.")
    rules = None if model is None else model.request.source
    table = request_table(requests, declared, at if isinstance(at, str) else None, rules)
    column = model.request.time if model is not None and at is None else at
    if isinstance(column, str) and column in table:
        lead_us = model.request.lead_us if model is not None and at is None else 0
        at_us = _times(table, column) - lead_us
    else:
        assert at is not None  # without `at`, the model's time column was used above
        at_us = np.full(table.rows, _one_time(table, at, system.clock), np.int64)
    if table.rows:
        _refuse_future(system, int(at_us.max()))
    features = model.features if model is not None else _features(table, items)
    check_requests(features, table, at_us)
    what: Any = table
    if isinstance(requests, str | Path) and rules is None:  # hashing a large table takes longer than reading its file
        what = files_state({"requests": Path(requests)}), [[name, table[name].dtype] for name in table.names]
    return _Wanted(features, table, at_us, what)


def _model(system: System, of: Of | None) -> Model | None:
    """Return the model whose features are requested; None if features of views are requested."""
    models = system.definitions.models
    if isinstance(of, Model):
        return of
    if of is None:
        if len(models) != 1:
            raise Misuse(
                f"join: give the model ({', '.join(models) or 'there is none'}) or the views whose features to add."
            )
        return next(iter(models.values()))
    return models.get(of) if isinstance(of, str) else None


def _items(system: System, of: Of) -> list[View | Join | Mapping[str, Expression]]:
    if isinstance(of, Model):
        raise Misuse(f"model {of.name!r}: its rows are requests, not entities. Give views.")
    given: Iterable[Any] = [of] if isinstance(of, str | View | Join | Mapping) else of
    out: list[View | Join | Mapping[str, Expression]] = []
    views = system.definitions.views
    for item in given:
        if isinstance(item, str):
            if item not in views:
                models = ", ".join(system.definitions.models) or "none"
                raise NotFound(f"no model or view {item!r}. Models: {models}; views: {', '.join(views) or 'none'}.")
            out.append(views[item])
        elif isinstance(item, View | Join | Mapping):
            out.append(item)
        else:
            raise Misuse(
                f'features: {item!r} is neither a view, nor the join of a view, nor a dict {{"name": expression}}.'
            )
    if not out:
        raise Misuse("features: the list of views is empty. Give at least one.")
    return out


def _entity_columns(items: Sequence[View | Join | Mapping[str, Expression]]) -> dict[str, Dtype]:
    """Return the columns by which requests are joined to views."""
    joins = [item.join() if isinstance(item, View) else item for item in items if isinstance(item, View | Join)]
    computed = {f"{join.name}.{feature}" for join in joins for feature in join.view.features}
    computed |= {name for item in items if isinstance(item, Mapping) for name in item}
    return {
        name: join.view.source.columns[column]
        for join in joins
        for name, column in zip(join.by, join.view.by, strict=True)
        if name not in computed
    }


def _features(table: Columns, items: Sequence[View | Join | Mapping[str, Expression]]) -> FeatureSet:
    dtypes = {name: column.dtype for name, column in table.by_name.items()}
    return feature_set(Request(source=Source(name="requests", time="", columns=dtypes)), items, texts=True)


def _times(table: Columns, name: str) -> NDArray[np.int64]:
    column = table[name]
    if column.dtype != "time":
        raise Misuse(f"requests: at={name!r} must be a column of times; it is {column.dtype}.")
    missing = np.flatnonzero(~column.present())
    if missing.size:
        raise Misuse(f"requests: row {missing[0] + 1} has no {name!r}. Every request needs a time.")
    times: NDArray[np.int64] = column.values
    return times


def _one_time(table: Columns, at: When, clock: Clock) -> int:
    try:
        return given_time_us(at, "at", clock)
    except Misuse as error:
        raise Misuse(f"{error} Or name a column ({', '.join(table.names)}).") from None


def _refuse_future(system: System, at_us: int) -> None:
    now_us = system.clock.now_us()
    if at_us > now_us:
        raise Misuse(
            f"as of {format_time(at_us)}: this time is in the future (now is {format_time(now_us)}). Give at= a time "
            "in the past, or leave such rows out."
        )


def _refuse_removed(system: System, features: FeatureSet, first_us: int, events: Mapping[str, Path]) -> None:
    """Raise an error if the features as of `first_us` would need events that were removed."""
    kept_from_us = kept_from(system.state.catalog)
    for view in features.views:
        if view.source.name in kept_from_us and view.source.name not in events:
            removed_us, reach = kept_from_us[view.source.name], view_reach(view)
            if first_us < removed_us + reach.us:
                wanted, removed, from_on = map(format_time, (first_us, removed_us, removed_us + reach.us))
                raise Misuse(
                    f"as of {wanted}: events of {view.source.name!r} before {removed} were removed, as [retention] "
                    f"says, and {reach.why}. Leave out rows before {from_on}."
                )


def _entities(run: Run, views: Sequence[View], at_us: int, *, final: bool) -> Columns:
    """Return the keys of all entities with an event in a source of the views, known by `at_us` (`final`: by now)."""
    first = views[0]
    found = [run.entities(view, None if final else at_us) for view in views]
    if len(found) == 1:
        return Columns(dict(zip(first.by, found[0], strict=True)))
    keys = {key for columns in found for key in zip(*(c.to_list() for c in columns), strict=True)}
    values = zip(*sorted(keys), strict=True) if keys else ((),) * len(first.by)
    return Columns.of({n: (first.source.columns[n], list(v)) for n, v in zip(first.by, values, strict=True)})


def _made(system: System, wanted: _Wanted, how: How) -> FeatureTable | FeatureFile:
    if wanted.requests.rows:
        _refuse_removed(system, wanted.features, int(wanted.at_us.min()), how.events)
    what = ["join", how.as_known, how.reasons, wanted.at_us.tobytes(), wanted.what]
    with opened_run(system, wanted.features, what, how.events, how.progress) as run:
        return _computed(run, wanted, how)


def _computed(run: Run, wanted: _Wanted, how: How) -> FeatureTable | FeatureFile:
    rows, final = wanted.requests.rows, how.as_known == "final"
    columns = len(wanted.requests.names) + len(wanted.features.names)
    run.begin(rows, evaluations=1 + final, columns=columns, kept=how.out is None)
    counts = dict.fromkeys(wanted.features.names, 0) if final else {}

    def block(cut: slice) -> tuple[Columns, dict[str, int]]:
        requests, at_us = wanted.requests.take(cut), wanted.at_us[cut]
        found = run.evaluate(wanted.features, requests, at_us, known_by_us=NEVER_US if final else None)
        then = run.evaluate(wanted.features, requests, at_us) if final else found
        return _joined(wanted.features, requests, found, reasons=how.reasons), differing_values(
            then, found
        ) if final else {}

    if how.out is None:
        tables = []
        for cut in run.blocks(rows):
            table, more = block(cut)
            tables.append(table)
            counts = {name: count + more[name] for name, count in counts.items()}
        return FeatureTable(Columns.concat(tables).by_name, positions=run.positions, let_in=counts)
    counts = write_table(how.out, run.scratch, run.blocks(rows), block, counts)
    return FeatureFile(
        path=how.out, rows=rows, features=wanted.features.names, positions=run.positions, let_in=counts, parts=run.parts
    )


def _joined(features: FeatureSet, requests: Columns, found: FeatureFrame, *, reasons: bool) -> Columns:
    """Return the columns of the requests, followed by the features.

    A feature that only repeats the request column of the same name is not added. Any other feature with the name of a
    request column is called `feature.<name>`. With `reasons`, a column with the reason follows each feature of a view,
    and each expression that may fail.
    """
    out = dict(requests.by_name)
    names = np.array(REASONS, object)
    for name, column in found.values.by_name.items():
        shown = f"feature.{name}" if name in requests else name
        if name in requests and _is_column(features, name):
            continue
        out[shown] = column
        if reasons and name in found.reasons:
            out[f"{shown}.reason"] = Column("str", names[found.reasons[name]])
        elif reasons and may_fail(features.transforms[name], features.known):
            failed = found.failed.get(name, np.zeros(len(column), bool))
            whys = np.where(column.present(), "found", np.where(failed, "failed", "null"))
            out[f"{shown}.reason"] = Column("str", whys.astype(object))
    return Columns(out)


def _is_column(features: FeatureSet, name: str) -> bool:
    expression = features.transforms.get(name)
    return expression is not None and (expression.same_as(col(name)) or expression.same_as(col(name).category()))


def _nothing(dtype: Dtype) -> Column:
    return Column(dtype, np.empty(0, object if dtype == "str" else np.int64))
