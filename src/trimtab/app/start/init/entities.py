"""Entities, other than the key, that rows are about, such as the customer of an order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from trimtab.app.start.init.file.table import DataTable, Profile
from trimtab.app.start.init.file.texts import quoted
from trimtab.app.start.init.keys import Key
from trimtab.app.start.init.options import NONE, Assumption, Options
from trimtab.app.start.init.roles import existing
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, duration_us, format_duration

_ID_NAME = re.compile(r"(?i)(^|[_\W])(id|key|uuid|guid)$|[a-z]I[dD]$")
_WHO = re.compile(
    r"(?i)^(account|buyer|card|client|customer|device|driver|employee|machine|member|merchant|patient|player|seller|"
    r"sensor|shop|store|student|supplier|user|vehicle|vendor)(_?(code|name|no|nr|number))?$"
)
_CATEGORIES = 200  # a text column with more values identifies an entity, whatever its name
_LEAST_VALUES = 50  # a column with fewer values is a category
_LEAST_ROWS = 2  # on average, a value must occur in at least this many rows
_LEAST_PAST = 0.2  # for at least this share of rows, another row with the same value must be older by the wait or more
_MOST_ENTITIES = 2
_MOST_NUMBERS = 4  # the past of at most this many numeric columns becomes features
_DAYS = (7, 30, 90)  # of these windows, the two longest that fit into a third of the file are taken
_LONG_DAYS = (365, 3 * 365)  # the long window: a year, or three years if the file spans more than a year


class Past(msgspec.Struct, frozen=True):
    """A column that identifies an entity, and the windows of the entity's past rows that become features.

    Each window ends `wait` before the request. That is how long a label takes to be known, so all labels in
    a window are known, and a window has the same rows in training and in service.
    """

    column: str
    wait: str
    days: tuple[int, ...]  # the lengths of the windows, the shortest first
    numbers: tuple[str, ...]  # the numeric columns of requests whose past means and sums are features

    def over(self, days: int) -> str:
        """Return how long before the request a window of this length begins."""
        return format_duration(duration_us(self.wait) + days * DAY_US)


def pasts(
    table: DataTable,
    options: Options,
    taken: Iterable[str | None],
    key: Key,
    time: str,
    wait: str,
    span_us: int,
    assumed: list[Assumption],
) -> tuple[Past, ...]:
    """Return the entities whose past becomes features: those that the caller names, or those that the file shows.

    Args:
        taken: The columns that have another role.
        key: The key of a row. If it has an entity, the file is not searched for others.
        wait: How long a label takes to be known.
        span_us: The time between the oldest and the newest row.
        assumed: The assumptions so far. Others are appended.

    Raises:
        NotFound: A column that is named does not exist.
        Misuse: A column that is named has another role, or cannot identify anything.
    """
    none = list(options.entity) == [NONE] and NONE not in table.columns
    if options.entity and not none:
        names = [_named(table, name, {*taken, *key.of, *key.entity}) for name in dict.fromkeys(options.entity)]
    elif none or key.entity:
        return ()
    else:
        names = _seen(table, {*taken, *key.of}, time, duration_us(wait))
    room = span_us - duration_us(wait)
    days = [n for n in _DAYS if 3 * n * DAY_US <= room][-2:] or [_DAYS[0]]
    days.append(_LONG_DAYS[room > _LONG_DAYS[0] * DAY_US])
    for name in names if not options.entity else ():
        c = table.columns[name]
        lengths = ", ".join(f"{n}d" for n in days)
        said = (
            f"{name!r} recurs ({c.distinct:,} values in {c.present:,} rows), so its past rows and labels "
            f"in windows of {lengths} become features; the windows end {wait} before a request, when labels are known; "
            "`--entity none` makes no such features"
        )
        assumed.append(Assumption("entity", said, "--entity"))
    return tuple(Past(name, wait, tuple(days), ()) for name in names)


def with_numbers(found: Sequence[Past], features: Sequence[Profile]) -> tuple[Past, ...]:
    """Return the entities with `numbers`: the first numeric features, except those columns that identify entities."""
    entities = {past.column for past in found}
    names = [c.name for c in features if c.dtype in ("float", "int") and c.name not in entities]
    numbers = tuple(names[:_MOST_NUMBERS])
    return tuple(msgspec.structs.replace(past, numbers=numbers) for past in found)


def _named(table: DataTable, name: str, taken: set[str | None]) -> str:
    column = table.columns[existing(table, "--entity", name)]
    if name in taken:
        raise Misuse(f"--entity {name!r}: the column has another role already. Name another one, or leave it out.")
    if column.dtype not in ("str", "int"):
        raise Misuse(
            f"--entity {name!r}: the column is {column.dtype or 'a list'}; needed text or a whole number that "
            "identifies a customer, for example. Name another one."
        )
    return name


def _seen(table: DataTable, taken: set[str | None], time: str, wait_us: int) -> list[str]:
    """Return columns that look like identifiers and whose values recur, those with the most values first."""
    fit = [c for c in table.columns.values() if c.name not in taken and not c.is_clock and _identifies(c)]
    fit = [c for c in fit if c.distinct >= _LEAST_VALUES and c.present >= _LEAST_ROWS * c.distinct]
    fit.sort(key=lambda c: -c.distinct)
    return [c.name for c in fit if _past_share(table, c.name, time, wait_us) >= _LEAST_PAST][:_MOST_ENTITIES]


def _identifies(column: Profile) -> bool:
    if column.dtype == "str" and column.distinct > _CATEGORIES:
        return True
    return column.dtype in ("str", "int") and bool(_ID_NAME.search(column.name) or _WHO.match(column.name))


def _past_share(table: DataTable, name: str, time: str, wait_us: int) -> float:
    """Return the share of rows with a value for which another row with this value is older by at least the wait."""
    q, t = quoted(name), f"epoch_us({quoted(time)})"
    (share,) = table.one(
        f"SELECT avg(({t} - first >= {max(1, wait_us)})::INT) FROM data JOIN (SELECT {q}, min({t}) AS first FROM data "
        f"WHERE {q} IS NOT NULL GROUP BY 1) USING ({q})"
    )
    return float(share or 0)
