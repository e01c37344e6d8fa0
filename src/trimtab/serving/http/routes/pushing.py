"""Read the events in request bodies (JSON, NDJSON or Arrow) and push them into the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trimtab.core.columns.data import ArrowTable, Columns, WrongColumn
from trimtab.core.errors import Misuse
from trimtab.serving.http.requests.arrow_body import ARROW_TYPE, table_of_body, too_many_rows
from trimtab.serving.http.requests.wire import JSON_TYPE
from trimtab.serving.problems import InvalidField, decode_problem

if TYPE_CHECKING:
    from trimtab.events.ingest import Pushed

NDJSON_TYPES = (b"application/x-ndjson", b"application/ndjson", b"application/jsonl")
EVENT_TYPES = (JSON_TYPE, *NDJSON_TYPES, ARROW_TYPE)


class Push(Protocol):
    """A function that appends events to the log (`Ingestor.push`). When it returns, the events are safe."""

    def __call__(self, source: str, rows: Sequence[Mapping[str, object]] | Columns | ArrowTable, /) -> Pushed: ...


class WaitApplied(Protocol):
    """A function that waits until online features include all events up to given positions of the log."""

    def __call__(self, positions: Mapping[str, int], timeout_s: float, /) -> None: ...


class EventsBody(msgspec.Struct, frozen=True):
    """The body of a request with events, before it is decoded."""

    body: bytes
    media_type: bytes
    most_rows: int


def push_body(push: Push, source: str, sent: EventsBody) -> tuple[Pushed, int]:
    """Push the events in a body, and return the result and the number of events.

    Raises:
        NotFound: The source does not exist.
        InvalidField: A column is undeclared, missing or of another type, or an event is not an object.
        Refused: There are too many events (413).
        Misuse: The body does not match its media type. The message says where.
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
            raise too_many_rows(f"{len(rows)} events", sent.most_rows)
        return rows, len(rows)
    table = table_of_body(sent.body, sent.most_rows, "events", loose=True)
    return table, table.rows or 0


def event_rows(body: bytes, *, ndjson: bool) -> list[Mapping[str, object]]:
    """Return the events in a body, which is a JSON object, a list of objects, or one object on each line (`ndjson`).

    Raises:
        Misuse: The body is not JSON. The message says where.
        InvalidField: An event is not an object.
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
                f"event {number} is a {type(row).__name__}. Send one JSON object per event.",
                field=f"[{number}]",
                pointer=f"$[{number}]",
            )
    return rows


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise decode_problem(error, body) from error
