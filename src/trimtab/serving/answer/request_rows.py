"""Decode request rows, and check them completely before any other work begins."""

from __future__ import annotations

import datetime as dt
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Misuse
from trimtab.core.time import parse_time_us
from trimtab.events.formats.column_formats import null_test
from trimtab.events.formats.reading import made_keys
from trimtab.features.definitions import Request
from trimtab.serving.answer.plain_rows import EARLY_US, YEAR_9999_US, plain_check
from trimtab.serving.problems import InvalidField, decode_problem

Row = dict[str, Any]  # a request's columns in declared order, with None for null and microseconds for times

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NOTHING = object()
_UNSET, _datetime = msgspec.UNSET, dt.datetime
_SHOWN = 60  # the maximum number of characters of a refused value in an error message
_FORM = 'Send {"request": {...}} for one row or {"rows": [{...}, ...]} for many; "at" next to these is the as-of time.'
_FINE = re.compile(rb":\d\d[.,]\d{7}")  # finds times with more than six decimals of a second (and similar texts)
_NO_TIME = "Invalid RFC3339"  # msgspec's error for dates, and for times without seconds
_FLOAT = "got `float`"  # msgspec's error for 2.0 in a column of whole numbers
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_decoded = msgspec.json.Decoder(float_hook=float).decode  # 1e400 becomes infinite, and is refused by its name later
_MICROSECOND = dt.timedelta(microseconds=1)
_YEAR_1_US = -62_135_596_800_000_000
_INT64 = msgspec.Meta(ge=-(2**63), le=2**63 - 1)
_TYPES: dict[Dtype, Any] = {
    "float": Annotated[float, msgspec.Meta(ge=-1e150, le=1e150)],
    "int": Annotated[int, _INT64],
    "bool": bool,
    "str": str,
    "time": dt.datetime | Annotated[int, msgspec.Meta(ge=_YEAR_1_US, le=YEAR_9999_US)],
}
_NEEDED: dict[Dtype, str] = {
    "float": "a number within 1e150",
    "int": "a 64-bit integer",
    "bool": "true or false",
    "str": "a text",
    "time": "ISO 8601 text (a date means midnight UTC) or UTC microseconds",
}


class RequestBody(msgspec.Struct, frozen=True, gc=False):
    """A decoded body: its rows, whether it has a list of rows, and its as-of time and time limit, if it has them."""

    rows: Sequence[Row]
    many: bool
    at_us: int | None
    timeout_s: float | None = None


class RequestRows:
    """Decodes and checks the rows of one declared request. The checks are compiled once.

    A body is `{"request": {...}}` for one row or `{"rows": [{...}, ...]}` for many rows. `"at"` is the as-of time.
    Null is allowed except for key and time. An integer time that looks like seconds or milliseconds is refused, as in
    events.  # D178

    Texts are read by the rules that the request declares: its words for null, and its formats of numbers and times.
    Every declared column must be present, except columns for which the request declares a constant, and a key that is
    made of other columns: these are filled in. A whole number may be written as 2.0, as in files.  # D0208

    Args:
        now_us: Returns the time. If this is in early 1970 (in a test), integers that look like seconds are accepted.

    >>> from trimtab.features.definitions import request
    >>> rows = RequestRows(request("visit", key="id", time="at", columns={"id": str, "x": float}))
    >>> rows.decode(b'{"request": {"id": "a", "x": 1, "at": "1970-01-01T00:00:01Z"}}').rows
    [{'id': 'a', 'x': 1.0, 'at': 1000000}]
    """

    def __init__(self, request: Request, now_us: Callable[[], int] | None = None) -> None:
        self.request = request
        self._now_us = now_us
        self.plain = plain_check(request)
        self.names = tuple(request.columns)
        self._times = tuple(name for name, dtype in request.columns.items() if dtype == "time")
        self._ints = tuple(name for name, dtype in request.columns.items() if dtype == "int")
        self._texts = tuple(name for name, dtype in request.columns.items() if dtype == "str")
        formats = {name: request.source.format(name) for name in request.columns}
        own = request.key if request.key_dtype == "str" else None  # needs no format: `_key_type` refuses words for null
        self._formats = {name: written for name, written in formats.items() if written is not None and name != own}
        nulls = request.source.reading.nulls
        required = {request.key, request.time}
        reading = request.source.reading
        # for each column that a row may lack: its constant; for the key: None
        self._made: dict[str, str | None] = {**({request.key: None} if reading.key_of else {}), **reading.constants}
        fields: list[tuple[str, Any]] = []
        for index, (name, dtype) in enumerate(request.columns.items()):
            kind = _key_type(nulls) if name == request.key and dtype == "str" else _TYPES[dtype]
            fields.append((f"c{index}", kind if name in required else kind | None))
        if all(name.isidentifier() and not keyword.iskeyword(name) and name[:1] != "_" for name in self.names):
            fields = [(name, kind) for name, (_, kind) in zip(self.names, fields, strict=True)]
            self._as_row: Callable[[Any], Row] = msgspec.structs.asdict  # twice as fast as `zip`
        else:
            self._as_row = lambda checked: dict(zip(self.names, msgspec.structs.astuple(checked), strict=True))
        if nulls:
            self._as_row = _with_nulls(self._as_row, self._texts, null_test(nulls))
        rename = {field: name for (field, _), name in zip(fields, self.names, strict=True)}
        fields_of_time = [field for field, name in rename.items() if name in self._times]
        self._first_time_of = attrgetter(fields_of_time[0])
        self._more_times_of = [attrgetter(field) for field in fields_of_time[1:]]
        if self._made:
            optional = {field for field, name in rename.items() if name in self._made}
            fields = [
                (field, kind | None | msgspec.UnsetType, msgspec.UNSET) if field in optional else (field, kind)  # type: ignore[misc]  # made at run time
                for field, kind in fields
            ]
        self._row = msgspec.defstruct("Row", fields, kw_only=True, rename=rename, forbid_unknown_fields=True, gc=False)
        unset, time_type = msgspec.UNSET, _TYPES["time"] | msgspec.UnsetType
        body = msgspec.defstruct(
            "Body",
            [
                ("request", self._row | msgspec.UnsetType, unset),
                ("rows", list[self._row] | msgspec.UnsetType, unset),  # type: ignore[name-defined]  # made at run time
                ("at", time_type, unset),
            ],
            forbid_unknown_fields=True,
            gc=False,
        )
        self._body = body
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)

    def decode(self, body: bytes) -> RequestBody:
        """Return the rows of a JSON body.

        Raises:
            Misuse: The body is not JSON or has the wrong form. If one field is wrong, the error is an `InvalidField`.
        """
        try:
            parsed = self._decoder.decode(body)
        except _UNDECODABLE as error:
            parsed = self._decoded_again(body, error)
        unset = msgspec.UNSET
        if self._has_time_texts(parsed) and _FINE.search(body) is not None:  # msgspec would round such times
            parsed = msgspec.convert(self._with_times(_decoded(body)), self._body)
        at_us = None if parsed.at is unset else self._time_us(parsed.at, "at", "$.at")
        if parsed.request is not unset:
            if parsed.rows is not unset:
                raise Misuse('body: has both "request" and "rows". Send one of them.')
            return RequestBody([self._plain(parsed.request, "$.request")], False, at_us)
        if parsed.rows is unset:
            raise Misuse('body: has neither "request" nor "rows". Send {"request": {...}} or {"rows": [{...}, ...]}.')
        return RequestBody([self._plain(row, f"$.rows[{n}]") for n, row in enumerate(parsed.rows)], True, at_us)

    def _has_time_texts(self, parsed: Any) -> bool:
        """Return whether a decoded body contains a time as text."""
        if parsed.at.__class__ is _datetime:
            return True
        rows = parsed.rows
        if rows is _UNSET:
            rows = () if parsed.request is _UNSET else (parsed.request,)
        first, more = self._first_time_of, self._more_times_of
        for row in rows:  # a loop is faster here than a generator
            if first(row).__class__ is _datetime or (more and any(one(row).__class__ is _datetime for one in more)):
                return True
        return False

    def _decoded_again(self, body: bytes, error: Exception) -> Any:
        """Decode a body again, after converting texts and floats such as 2.0, which msgspec refuses.

        Raises:
            Misuse: The body is wrong for another reason, too.
        """
        formatted = self._formats and isinstance(error, msgspec.ValidationError)
        if formatted or _NO_TIME in str(error) or _FLOAT in str(error):
            try:
                return msgspec.convert(self._with_times(_decoded(body)), self._body)
            except _UNDECODABLE as still:  # another field may be wrong as well
                error = still
        raise self._explained(decode_problem(error, body), body) from error

    def _with_times(self, given: Any) -> Any:
        """Return a body as plain JSON values, with texts and whole floats converted to what msgspec accepts."""
        if not isinstance(given, dict):
            return given
        rows = [given.get("request"), *(given.get("rows") or ())] if isinstance(given.get("rows"), list) else []
        for row in rows or [given.get("request")]:
            if isinstance(row, dict):
                row.update(self._read(row))
                row.update({name: _as_time(row[name]) for name in self._times if name in row})
                row.update({name: _whole(row[name]) for name in self._ints if name in row})
        if "at" in given:
            given["at"] = _as_time(given["at"])
        return given

    def check(self, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Check rows from Python by the same rules as rows from JSON, and return them.

        NaN counts as null, and NumPy scalars are accepted.

        Raises:
            Misuse: A row is not a mapping. If a field is wrong, the error is an `InvalidField`, which names the row and
                the field, what was found and what is needed.
        """
        out = []
        for number, row in enumerate(rows):
            plain = self.plain(row)
            if plain is not None:
                out.append(plain)
                continue
            if not isinstance(row, Mapping):
                raise Misuse(f"row {number} is a {type(row).__name__}. Give a dict with {', '.join(self.names)}.")
            if self._formats:
                row = {**row, **self._read(row)}
            try:
                if any(row.get(name).__class__ is str for name in self._times):
                    row = {**row, **{name: _as_time(row[name]) for name in self._times if name in row}}
                checked = msgspec.convert(row, self._row)
            except msgspec.ValidationError:
                checked = self._checked_python(row, number)
            out.append(self._encodable(self._plain(checked, f"rows[{number}]"), number))
        return out

    def _read(self, row: Mapping[str, Any]) -> Row:
        """Convert those texts of a row that its declared formats can read, and return them.  # D0208

        A text that does not fit stays as it is. If its column needs another type, it is refused later.
        """
        found: Row = {}
        for name, written in self._formats.items():
            value = row.get(name)
            if isinstance(value, str):
                from trimtab.events.values.conversions import Refused, converted

                with suppress(Refused):
                    read = converted(self.request.columns[name], value, written)
                    found[name] = _with_unit(read) if name in self._times and isinstance(read, int) else read
        return found

    def _encodable(self, row: Row, number: int) -> Row:
        """Return the row if its texts can be encoded as UTF-8 (not all Python texts can), or raise an error."""
        for name in self._texts:
            value = row[name]
            if value is not None and value.__class__ is not str:
                row[name] = value = str.__str__(value)  # instances of subclasses of str cannot be logged
            if value is None or value.isascii():
                continue
            try:
                value.encode()
            except UnicodeEncodeError:
                problem = InvalidField(f"$.{name}: an incomplete character", field=name, pointer=f"$.{name}")
                raise _in_row(self._explained(problem, row), number) from None
        return row

    def _checked_python(self, row: Mapping[str, Any], number: int) -> Any:
        """Check a row that contains NaN, NumPy scalars or errors."""
        try:
            plain = {name: _time(value) if name in self._times else _python(value) for name, value in row.items()}
            plain |= {name: _whole(plain[name]) for name in self._ints if name in plain}
            return msgspec.convert(plain, self._row)
        except msgspec.ValidationError as error:
            raise _in_row(self._explained(decode_problem(error, b""), row), number) from error

    def _plain(self, checked: Any, pointer: str) -> Row:
        row = self._as_row(checked)
        for name in self._times:
            value = row[name]
            if value.__class__ is int:
                if 0 <= value < EARLY_US:
                    self._time_us(value, name, f"{pointer}.{name}")
            elif value is not None:
                row[name] = self._time_us(value, name, f"{pointer}.{name}")
        return self._filled(row, pointer) if self._made else row

    def _filled(self, row: Row, pointer: str) -> Row:
        """Fill in the constants and the key that a row lacks.

        Raises:
            InvalidField: The key is to be made of a column that is null.
        """
        for name, constant in self._made.items():
            if row[name] is _UNSET or row[name] is None:
                row[name] = constant
        key, of = self.request.key, self.request.source.reading.key_of
        if row[key] is None:
            (row[key],) = made_keys({part: [row[part]] for part in of}, self.request.columns, of)
        if row[key] is None:
            parts = ", ".join(of)
            raise InvalidField(
                f"{pointer}.{key}: the key is made of {parts}, and one of them is null. Give all of them, or {key}.",
                field=key,
                pointer=f"{pointer}.{key}",
            )
        return row

    def _time_us(self, value: Any, field: str, pointer: str) -> int:
        if not isinstance(value, int):
            return _time_us(value, field, pointer)
        from trimtab.events.values.checks import other_unit, time_shown

        if other_unit(value) and (self._now_us is None or self._now_us() > EARLY_US):
            message = f"{pointer}: {time_shown(value)}. Needed: {_NEEDED['time']}."
            raise InvalidField(message, field=field, pointer=pointer)
        return value

    def _explained(self, problem: Misuse, source: bytes | Mapping[str, Any]) -> Misuse:
        """Return the problem with an explanation of what was found and what is needed."""
        problem = _plainer(problem)
        if not isinstance(problem, InvalidField):
            return Misuse(f"{problem} {_FORM}") if str(problem).startswith("body: Expected") else problem
        # the problem is in a field of the body, and not in a row
        if problem.pointer == f"$.{problem.field}" and isinstance(source, bytes):
            known = {"request": "an object", "rows": "a list of objects", "at": _NEEDED["time"]}
            needed = f" Needed: {known[problem.field]}." if problem.field in known else ""
            unknown = "" if needed else f"$.{problem.field} is not a field of the body"
            found = f"{problem}. Found: {_found(source, problem.pointer)}.{needed}" if needed else f"{unknown}. {_FORM}"
            return InvalidField(found, field=problem.field, pointer=problem.pointer)
        dtype = self.request.columns.get(problem.field)
        if dtype is None:
            text = f"{problem}. The columns are {', '.join(self.names)}."
        else:
            null = "" if problem.field in (self.request.key, self.request.time) else ", or null"
            written = self._formats.get(problem.field)
            form = f", or text written as {written.text}" if written is not None and written.text else ""
            text = f"{problem}. Found: {_found(source, problem.pointer)}. Needed: {_NEEDED[dtype]}{form}{null}."
        return InvalidField(text, field=problem.field, pointer=problem.pointer)


def _key_type(nulls: Sequence[str]) -> Any:
    """Return the type of a text key, which is neither empty nor a word for null."""
    if not nulls:
        return Annotated[str, msgspec.Meta(min_length=1)]
    words = "|".join(map(re.escape, nulls))
    return Annotated[str, msgspec.Meta(min_length=1, pattern=rf"(?i)^(?!\s*(?:{words})\s*$)")]


def _with_nulls(
    as_row: Callable[[Any], Row], names: Sequence[str], is_null: Callable[[str], object]
) -> Callable[[Any], Row]:
    """Return a function like `as_row` that also replaces declared words for null by null, in the columns `names`."""

    def nulled(checked: Any) -> Row:
        row = as_row(checked)
        for name in names:
            value = row[name]
            if isinstance(value, str) and is_null(value):
                row[name] = None
        return row

    return nulled


def rows_of_table(table: Columns) -> list[Row]:
    """Return the rows of a table, to be checked later.

    Times in early 1970 are returned as datetimes: the unit of a table's times is known, so they are not seconds.
    """
    rows = table.to_rows()
    for name, one in table.by_name.items():
        if one.dtype == "time" and ((one.values >= 0) & (one.values < EARLY_US)).any():
            for row in rows:
                row[name] = None if row[name] is None else _with_unit(row[name])
    return rows


def _with_unit(us: int) -> int | dt.datetime:
    """Return a time in microseconds, or as a datetime if the number could be mistaken for seconds."""
    return _EPOCH + us * _MICROSECOND if 0 <= us < EARLY_US else us


def _plainer(problem: Misuse) -> Misuse:
    """Return the problem without the name of a standard (RFC 3339), and without a regular expression."""
    if not isinstance(problem, InvalidField):
        return problem
    text = str(problem).replace(f"{_NO_TIME} encoded datetime", "not a time")
    text = re.sub(r"Expected `?str`? matching regex .*", "a declared word for null", text)
    return InvalidField(text, field=problem.field, pointer=problem.pointer)


def _found(source: bytes | Mapping[str, Any], pointer: str) -> str:
    """Return the value at `pointer` in shortened form, or "nothing" if there is none."""
    try:
        value: Any = _decoded(source) if isinstance(source, bytes) else source
        for name, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", pointer):
            value = value[int(index)] if index else value.get(name, _NOTHING)
    except (msgspec.MsgspecError, ValueError, RecursionError, LookupError, AttributeError):
        return "something that cannot be shown"  # the body is incomplete, or a name contains a dot
    text = "nothing" if value is _NOTHING else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _in_row(problem: Misuse, number: int) -> Misuse:
    if not isinstance(problem, InvalidField):
        return problem
    at = f"rows[{number}]{problem.pointer[1:]}"
    return InvalidField(str(problem).replace(problem.pointer, at, 1), field=problem.field, pointer=at)


def _as_time(value: Any) -> Any:
    """Return a text or date as microseconds (or as a datetime, see `_with_unit`) if it is a time.

    Any other value is returned, and refused later.
    """
    if isinstance(value, str | dt.date) and not isinstance(value, dt.datetime):
        try:
            return _with_unit(parse_time_us(value))
        except Misuse:
            return value if not isinstance(value, str) or value.isascii() else ascii(value)  # it may not be encodable
    return value


def _time(value: Any) -> Any:
    """Convert a time by the rules of events to a form that msgspec accepts.

    Any other value is returned unchanged and refused later.
    """
    from trimtab.events.values.conversions import Refused, converted, kind_of

    try:
        us = converted("time", value)
    except Refused:
        return _as_time(value)
    assert us is None or isinstance(us, int)  # true for every time
    return us if us is None or kind_of(value)[0] == "int" else _with_unit(us)


def _whole(value: Any) -> Any:
    """Return a float without a fraction as an integer, and any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _python(value: Any) -> Any:
    """Return a NumPy scalar as a Python value, and NaN as None."""
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def _time_us(value: dt.datetime, field: str, pointer: str) -> int:
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    at_us = (value - _EPOCH) // _MICROSECOND
    try:
        return parse_time_us(at_us)
    except Misuse as error:
        raise InvalidField(f"{pointer}: {error}", field=field, pointer=pointer) from error
