"""Events over HTTP: what takes them, and how they come in a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec

from trimtab.core.columns.data import ArrowTable, Columns, WrongColumn
from trimtab.core.errors import Misuse
from trimtab.serving.http.requests.wire import JSON_TYPE
from trimtab.serving.problems import InvalidField, Refused, decode_problem

NDJSON_TYPES = (b"application/x-ndjson", b"application/ndjson", b"application/jsonl")
ARROW_TYPE = b"application/vnd.apache.arrow.stream"
EVENT_TYPES = (JSON_TYPE, *NDJSON_TYPES, ARROW_TYPE)
_DECODED = 4  # bytes of memory for a byte of a table, and 24 MB
_EXPANDED = 16  # characters of text for a byte of the body


class PushProblem(Protocol):
    """Why one row went to quarantine (`events.Problem`)."""

    @property
    def row(self) -> int: ...

    @property
    def field(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def found(self) -> str: ...


class Pushed(Protocol):
    """What became of pushed rows (`events.Pushed`)."""

    @property
    def accepted(self) -> int: ...

    @property
    def quarantined(self) -> int: ...

    @property
    def partition(self) -> str: ...

    @property
    def position(self) -> int: ...

    @property
    def absent(self) -> tuple[str, ...]: ...

    @property
    def problems(self) -> Sequence[PushProblem]: ...


class Push(Protocol):
    """Takes events into the log (`Ingestor.push`); they are safe when it returns."""

    def __call__(self, source: str, rows: Sequence[Mapping[str, object]] | Columns | ArrowTable, /) -> Pushed: ...


class WaitApplied(Protocol):
    """Returns once the views have reached some positions (`Applier.wait_applied`)."""

    def __call__(self, positions: Mapping[str, int], timeout_s: float, /) -> None: ...


class EventsBody(msgspec.Struct, frozen=True):
    """The body of a push, not yet read."""

    body: bytes
    media_type: bytes
    most_rows: int


def push_body(push: Push, source: str, sent: EventsBody) -> tuple[Pushed, int]:
    """Push the events of a body; what became of them, and how many there were.

    Raises:
        NotFound: There is no such source.
        InvalidField: A column is not declared, of another type, or missing; or an event is no object.
        Refused: There are too many events (413).
        Misuse: The body is not what its media type says; the message names the place.
    """
    try:
        rows, count = _rows(sent)
        return push(source, rows), count
    except WrongColumn as error:
        raise InvalidField(str(error), field=error.column) from error


def _rows(sent: EventsBody) -> tuple[Sequence[Mapping[str, object]] | ArrowTable, int]:
    if sent.media_type != ARROW_TYPE:
        rows = event_rows(sent.body, ndjson=sent.media_type != JSON_TYPE)
        if len(rows) > sent.most_rows:
            raise _too_many(f"{len(rows)} events", sent.most_rows)
        return rows, len(rows)
    table = table_of_body(sent.body, sent.most_rows, "events", loose=True)
    return table, table.rows or 0


def table_of_body(body: bytes, most_rows: int, what: str, *, loose: bool = False) -> ArrowTable:
    """The table of an Arrow stream that came over the network.

    Args:
        body: The stream.
        most_rows: More are refused.
        what: What a row is, in messages: "events".
        loose: Decimals as such, see `read_ipc`.

    Raises:
        Refused: There are too many rows, or they or their texts are far longer than the body (413), or pyarrow is not
            installed (415).
        Misuse: It is no such stream.
    """
    from trimtab.core.columns.arrow_ipc import NoPyarrow, TooLarge, TooManyRows, read_ipc

    try:
        table = read_ipc(body, "body", most_rows=most_rows, times=_DECODED, loose=loose)
    except TooManyRows:
        raise _too_many(f"more than {most_rows} {what}", most_rows) from None
    except TooLarge as error:
        raise Refused(413, str(error)) from error
    except NoPyarrow as error:
        raise Refused(415, f"{error} where the service runs, or send JSON.") from error
    texts = (column.values for column in table.columns.by_name.values() if column.dtype == "str")
    characters = sum(len(text) for values in texts for text in values.tolist() if text is not None)
    if characters > _EXPANDED * (len(body) + 1):  # one long text of a dictionary, said by every row
        raise Refused(413, f"body: its texts are {characters} characters long when written out. Send it in parts.")
    return table


def _too_many(found: str, most_rows: int) -> Refused:
    return Refused(413, f"body: {found}; the limit is {most_rows}. Send them in parts.")


def event_rows(body: bytes, *, ndjson: bool) -> list[Mapping[str, object]]:
    """The events of a body: a JSON object, a list of them, or one a line.

    Raises:
        Misuse: It is no JSON (names the place).
        InvalidField: An event is something else than an object.
    """
    if not ndjson:
        found = _json(body)
        rows = found if isinstance(found, list) else [found]
    else:
        rows = []
        for number, line in enumerate(body.splitlines(), 1):
            if line.strip():
                try:
                    rows.append(_json(line))
                except Misuse as error:
                    raise Misuse(f"line {number}: {error}") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InvalidField(
                f"event {number}: a {type(row).__name__}. Send a JSON object an event.",
                field=f"[{number}]",
                pointer=f"$[{number}]",
            )
    return rows


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise decode_problem(error, body) from error


def wait_asked(query: bytes) -> bool:
    """Whether a query says `wait=applied`.

    Raises:
        Misuse: It says anything else.
    """
    for name, values in parse_qs(query.decode("latin-1"), keep_blank_values=True).items():
        if name != "wait" or values != ["applied"]:
            raise Misuse(f"query {name}={values[0]!r} is unknown. The only one is wait=applied.")
        return True
    return False
