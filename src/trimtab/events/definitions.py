"""The declaration of event sources: their columns, times and keys."""

import datetime as dt
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.hashing import content_hash
from trimtab.core.shown import shown
from trimtab.core.time import MINUTE_US, duration_us
from trimtab.events.about import NOTHING, About, about
from trimtab.events.formats.column_formats import ColumnFormat, null_test
from trimtab.events.formats.number_formats import number_format as numbers_of
from trimtab.events.formats.reading import PLAIN, Reading, checked_reading
from trimtab.events.formats.time_formats import checked_formats
from trimtab.events.formats.time_formats import time_format as times_of

Time = dt.datetime  # the type to declare for a column that holds times

_DTYPES: dict[object, Dtype] = {float: "float", int: "int", bool: "bool", str: "str", dt.datetime: "time"}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A source of events of one kind. `source()` makes and checks one."""

    name: str
    time: str  # the column that says when an event happened
    columns: dict[str, Dtype]  # in declared order, with the time column
    key: str | None = None  # the column that identifies an event; None: its content and its `_id` identify it
    delay_us: int = 0  # for events loaded as history: how long after an event it became known
    # how far the time of an event may be ahead of the clock; events further ahead go to quarantine
    future_tolerance_us: int = 5 * MINUTE_US
    about: About = NOTHING
    # columns of stored events that are no longer declared (see `layouts.py`)
    hidden: tuple[str, ...] = ()
    # The index of the first column that was added to the source later; None: no column was added. Without a key, an
    # event's id is a hash of its values. Nulls at their end, from this index on, are not hashed. # D34
    first: int | None = None
    # the declared format of each time column; left out of stored documents if no format is declared # D0178
    time_formats: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    # how given rows become events; left out of stored documents if no rule is declared # D0208
    reads: Reading | msgspec.UnsetType = msgspec.UNSET

    @property
    def declared(self) -> dict[str, Dtype]:
        """The columns that are declared now, with their types."""
        return {name: self.columns[name] for name in self.columns if name not in self.hidden}

    @property
    def declared_formats(self) -> dict[str, str]:
        """The declared formats of times, by column."""
        return {} if self.time_formats is msgspec.UNSET else self.time_formats

    @property
    def reading(self) -> Reading:
        """The rules by which given rows become events; the usual ones if none are declared."""
        return PLAIN if self.reads is msgspec.UNSET else self.reads

    def format(self, column: str) -> ColumnFormat | None:
        """Return the declared format of a column's texts. None: only the rules in `values/conversions.py` apply."""
        times, reading = self.declared_formats.get(column), self.reading
        if times is None and reading is PLAIN:
            return None
        numbers = reading.number_formats.get(column)
        nulls = reading.nulls if column in self.columns else ()
        if times is None and numbers is None and not nulls:
            return None
        return ColumnFormat(
            is_null=null_test(nulls),
            times=None if times is None else times_of(times),
            numbers=None if numbers is None else numbers_of(numbers),
        )

    @property
    def hash(self) -> str:
        """The content address of this definition, without descriptions and the rules of reading. # D0178, D0208"""
        own = self.name, self.time, self.declared, self.key, self.delay_us, self.future_tolerance_us
        return content_hash(_Content(*own))

    def content_of(self, columns: Iterable[str]) -> object:
        """Return the part of this definition that matters to a reader of the given columns. # D34"""
        read = {name: self.columns[name] for name in columns}
        return [self.name, self.time, self.key and [self.key, self.columns[self.key]], read]


class _Content(msgspec.Struct, frozen=True):
    """The parts of a source that are hashed."""

    name: str
    time: str
    columns: dict[str, Dtype]
    key: str | None
    delay_us: int
    future_tolerance_us: int
    about: About = NOTHING


def source(
    name: str,
    *,
    time: str,
    columns: Mapping[str, type],
    key: str | None = None,
    delay: str | int = 0,
    future_tolerance: str | int = "5min",
    time_format: str | Mapping[str, str] | None = None,
    number_format: Mapping[str, str] | None = None,
    nulls: Sequence[str] = (),
    delimiter: str | None = None,
    key_of: Sequence[str] = (),
    constants: Mapping[str, str] | None = None,
    known_at: str | None = None,
    only_final: bool = False,
    description: str = "",
    owner: str = "",
    tags: Sequence[str] = (),
) -> Source:
    """Declare a source of events.

    Args:
        name: Lower-case name, unique in the project.
        time: The column with the time when an event happened. It need not be repeated in `columns`.
        columns: The name and the type of each column: float, int, bool, str or `Time`.
        key: The column that identifies an event. A later event with the same key corrects or deletes the earlier event.
            Without a key, an event is identified by its content: equal content is a repetition, and any other content
            is another event.
        delay: How long after its time an event became known, for history that is loaded in bulk.
        future_tolerance: How far ahead of the clock an event may be dated.
        time_format: How texts and numbers represent times: one format for all time columns, or formats by column.
            Either directives of `strptime` such as "%d.%m.%Y %H:%M" (in UTC, unless %z gives another offset), or
            "unix_s", "unix_ms", "unix_us" or "unix_ns". The default is ISO 8601 text and integers of microseconds.
            Stored events do not depend on the format.
        number_format: By column, how texts write the number 1234.56, for example "1.234,56 €". Texts may lack the unit.
        nulls: Texts that mean null in every column, such as "-" or "unknown". Case and surrounding spaces do not
            matter.
        delimiter: The sign between the fields of a CSV file. The default is a comma; in .tsv files, it is a tab.
        key_of: Columns from whose values the key is made, in rows that do not have the key.
        constants: For columns of type str, the value to use where the column is missing or null: {"series": "all"}.
        known_at: The column with the time at which an event became known. Where it is null, `delay` applies.
        only_final: Whether to leave out the rows of a file of history that may not be final: those whose `delay` had
            not passed at the time of the newest row.
        description: A text for people.
        owner: Who is responsible.
        tags: Labels for people, such as "pii".

    Raises:
        Misuse: A name or type is not allowed (a column begins with an underscore, or two columns differ only in case),
            `key` is not a column, or a format or another rule of reading does not fit the columns.

    >>> source("weather", time="observed_at", delay="1h", columns={"origin": str, "temp": float}).delay_us
    3600000000
    """
    what = f"source {name!r}"
    check_name(name, "source")
    dtypes = declared_columns(columns, what)
    check_columns([*dtypes, *({time} - dtypes.keys())], what)
    if dtypes.setdefault(time, "time") != "time":
        raise Misuse(f"{what}: the time column {time!r} is declared {dtypes[time]}. Declare it as `Time`.")
    if key is not None and not isinstance(key, str):
        raise Misuse(f"{what}: key={shown(key)[:100]} is not a text. Name the one column that identifies an event.")
    if key is not None and dtypes.get(key) not in ("str", "int"):
        found = dtypes.get(key, f"missing among {', '.join(dtypes)}")
        raise Misuse(f"{what}: the key {key!r} must be a column of type str or int; it is {found}.")
    formats = checked_formats(time_format, dtypes, what)
    reading = checked_reading(
        what,
        dtypes,
        key,
        number_format=number_format,
        nulls=nulls,
        delimiter=delimiter,
        key_of=key_of,
        constants=constants,
        known_at=known_at,
        only_final=only_final,
    )
    return Source(
        name=name,
        time=time,
        columns=dtypes,
        key=key,
        delay_us=duration_us(delay),
        future_tolerance_us=duration_us(future_tolerance),
        about=about(description, owner, tags, what),
        time_formats=formats or msgspec.UNSET,
        reads=msgspec.UNSET if reading == PLAIN else reading,
    )


def declared_columns(columns: Mapping[str, type], what: str) -> dict[str, Dtype]:
    """Return the types of declared columns in trimtab's terms. `what` names the definition in errors."""
    if not isinstance(columns, Mapping):
        raise Misuse(
            f'{what}: columns={shown(columns)[:100]} is not a mapping. Give names and types: {{"temp": float}}.'
        )
    check_columns(columns, what)
    dtypes: dict[str, Dtype] = {}
    for column, kind in columns.items():
        if not isinstance(kind, Hashable) or kind not in _DTYPES:
            raise Misuse(f"{what}: column {column!r} has type {kind!r}. Use float, int, bool, str, tt.Time (unquoted).")
        dtypes[column] = _DTYPES[kind]
    return dtypes


def check_columns(names: Iterable[str], what: str) -> None:
    """Refuse names of columns that would be ambiguous in files or tables.

    `what` names the definition in errors.

    Raises:
        Misuse: A name is not text, is empty, begins with an underscore, or only differs from another name in case.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name:
            raise Misuse(
                f"{what}: a column is named {shown(name)[:100]}. The name of a column must be a text that is not empty."
            )
        if name.startswith("_"):
            raise Misuse(
                f"{what}: column {name!r} begins with an underscore, which is reserved for fields that every event "
                f"has. Name it {name.lstrip('_') or 'column'!r}."
            )
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise Misuse(f"{what}: columns {other!r} and {name!r} differ only in case. Rename one of them.")


def check_name(name: str, kind: str) -> None:
    """Refuse a name that cannot be used for a file, for a metric or in a URL."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        plain = re.sub(r"[^a-z0-9_]", "_", name.lower()) if isinstance(name, str) else ""
        hint = f" Name it {plain!r}." if _NAME.fullmatch(plain) else ""
        raise Misuse(
            f"{kind} {name!r}: a name starts with a lower-case letter and has up to 63 of a-z, 0-9 and _, no capitals."
            f"{hint}"
        )
