"""Answer predict requests whose bodies are Arrow streams."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import Row, rows_of_table
from trimtab.serving.answer.served import Answer
from trimtab.serving.arms.endpoint import Endpoint, Prepared
from trimtab.serving.http.predict.predicting import Predictor, is_late
from trimtab.serving.http.requests.arrow_body import ARROW_TYPE, table_of_body
from trimtab.serving.http.requests.wire import Reply, Scope

_encode = msgspec.json.Encoder().encode
_PLAIN = ("id", "request_id", "model", "version", "arm", "mode", "score", "at_us")


async def answer_arrow(
    predictor: Predictor,
    body: bytes,
    scope: Scope,
    *,
    most_rows: int,
    started: float,
    timeout_s: float | None,
) -> Reply:
    """Return the response to an Arrow stream of request rows, with the predictions in order.

    The response is Arrow if the client accepts Arrow, and otherwise JSON.

    Args:
        body: An Arrow IPC stream with one row for each request.
        most_rows: A stream with more rows is refused.
        started: The time (`perf_counter`) when the request began to arrive.
        timeout_s: The time limit in seconds, counted from `started`.

    Raises:
        Refused: There are too many rows (413).
        Misuse: The body is not an Arrow stream, or a row is not as declared.
        Unavailable: No version is deployed, or the online features or the log cannot be used now. After the time limit,
            the error is `Late`.
    """
    endpoint = predictor.endpoint
    answerer = endpoint.loaded or await predictor.loaded(started, timeout_s)

    def read() -> list[Row]:
        table = table_of_body(body, most_rows, "rows").columns
        declared = answerer.rows.request.columns
        # one unknown column is enough to refuse the request
        unknown = [name for name in table.names if name not in declared][:1]
        return answerer.rows.check(rows_of_table(table.select([n for n in table.names if n in declared] + unknown)))

    rows: list[Row] = await predictor.read(started, timeout_s, read)
    prepared = await predictor.answer_rows(answerer, rows, None, started, timeout_s)
    write = _as_arrow if _accepts_arrow(scope) else _as_json
    reply: Reply = await predictor.finish(is_late(prepared), write, endpoint, answerer, prepared)
    return reply


def _accepts_arrow(scope: Scope) -> bool:
    return any(name == b"accept" and ARROW_TYPE in value.lower() for name, value in scope["headers"])


def _as_json(endpoint: Endpoint, answerer: Answerer, prepared: Sequence[Prepared]) -> Reply:
    out = [one if isinstance(one, bytes) else _encode(endpoint.shown(answerer, one)) for one in prepared]
    return Reply(200, b'{"predictions":[' + b",".join(out) + b"]}")


def _as_arrow(endpoint: Endpoint, answerer: Answerer, prepared: Sequence[Prepared]) -> Reply:
    """Return the response as a table with one row for each prediction.

    The columns `flags` and `reasons` contain JSON. There is a column `scores.CLASS` for each class.
    """
    from trimtab.core.columns.arrow_ipc import Values, write_ipc_stream

    answers = [
        msgspec.json.decode(one, type=Answer) if isinstance(one, bytes) else endpoint.shown(answerer, one)
        for one in prepared
    ]
    columns: dict[str, Values] = {name: [getattr(one, name) for one in answers] for name in _PLAIN}
    for name in ("reasons", "flags"):
        columns[name] = [_encode(getattr(one, name)).decode() for one in answers]
    if answerer.served.classes:
        columns["prediction"] = [one.prediction or "" for one in answers]
        for label in answerer.served.classes:
            columns[f"scores.{label}"] = [(one.scores or {}).get(label, math.nan) for one in answers]
    return Reply(200, write_ipc_stream(columns), ARROW_TYPE)
