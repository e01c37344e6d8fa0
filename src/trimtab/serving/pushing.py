"""Events over HTTP: what takes them, and how they come in a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec

from trimtab.core.errors import Misuse
from trimtab.serving.problems import decode_problem

NDJSON_TYPES = (b"application/x-ndjson", b"application/ndjson", b"application/jsonl")


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
    def problems(self) -> Sequence[PushProblem]: ...


class Push(Protocol):
    """Takes events into the log (`Ingestor.push`); they are safe when it returns."""

    def __call__(self, source: str, rows: Sequence[Mapping[str, object]], /) -> Pushed: ...


class WaitApplied(Protocol):
    """Returns once the views have reached some positions (`Applier.wait_applied`)."""

    def __call__(self, positions: Mapping[str, int], timeout_s: float, /) -> None: ...


def event_rows(body: bytes, *, ndjson: bool) -> list[Mapping[str, object]]:
    """The events of a body: a JSON object, a list of them, or one a line.

    Raises:
        Misuse: It is no JSON (names the place), or holds something else.
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
            raise Misuse(f"event {number}: a {type(row).__name__}. Send a JSON object an event.")
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
