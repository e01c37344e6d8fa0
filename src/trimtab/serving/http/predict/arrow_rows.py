"""Answer predict requests whose bodies are Arrow streams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import RequestBody, rows_of_table
from trimtab.serving.answer.served import UNREMARKABLE, named_reasons
from trimtab.serving.arms.endpoint import Answered, Endpoint
from trimtab.serving.http.requests.arrow_body import ARROW_TYPE, table_of_body
from trimtab.serving.http.requests.wire import Reply, Scope

if TYPE_CHECKING:
    from trimtab.core.columns.arrow_ipc import Values
    from trimtab.serving.answer.table_rows import TableAnswers

_encode = msgspec.json.Encoder().encode
_PLAIN = ("id", "request_id", "model", "version", "arm", "mode", "score", "at_us")


class ArrowForm:
    """HTTP requests whose bodies are Arrow IPC streams, in which each row is one request row, and their responses.

    The response is Arrow if the client accepts Arrow, and otherwise JSON. The predictions are in the order of the rows.

    Args:
        most_rows: A stream with more rows is refused.
    """

    route = "predict"

    def __init__(self, endpoint: Endpoint, scope: Scope, most_rows: int) -> None:
        self.path: str = scope["path"]
        self._endpoint = endpoint
        self._write = _as_arrow if _accepts_arrow(scope) else _as_json
        self._most_rows = most_rows

    def read(self, answerer: Answerer, body: bytes) -> RequestBody:
        """Return the rows of a stream.

        Raises:
            Refused: There are too many rows (413).
            Misuse: The body is not an Arrow stream, or a row is not as declared.
        """
        from trimtab.serving.answer.table_rows import plain_table

        table = table_of_body(body, self._most_rows, "rows").columns
        plain = plain_table(answerer.rows.request, table)
        if plain is not None:
            return RequestBody(plain, True, None)
        declared = answerer.rows.request.columns
        # one unknown column is enough to refuse the request
        unknown = [name for name in table.names if name not in declared][:1]
        rows = rows_of_table(table.select([n for n in table.names if n in declared] + unknown))
        return RequestBody(answerer.rows.check(rows), True, None)

    def write(self, answerer: Answerer, request: RequestBody, prepared: Sequence[Answered]) -> Reply:
        return self._write(self._endpoint, answerer, prepared)

    def answered(self, answerer: Answerer, rows: int, times: tuple[float, ...]) -> None: ...

    def failed(self, seconds: float) -> None: ...


def _accepts_arrow(scope: Scope) -> bool:
    return any(name == b"accept" and ARROW_TYPE in value.lower() for name, value in scope["headers"])


def _as_json(endpoint: Endpoint, answerer: Answerer, prepared: Sequence[Answered]) -> Reply:
    out = [one if isinstance(one, bytes) else _encode(endpoint.shown(answerer, one)) for one in prepared]
    return Reply(200, b'{"predictions":[' + b",".join(out) + b"]}")


def _as_arrow(endpoint: Endpoint, answerer: Answerer, prepared: Sequence[Answered]) -> Reply:
    """Return the response as a table with one row for each prediction.

    The columns `flags` and `reasons` contain JSON. There is a column `scores.CLASS` for each class.
    """
    from trimtab.core.columns.arrow_ipc import write_ipc_stream
    from trimtab.serving.answer.table_rows import TableAnswers

    if isinstance(prepared, TableAnswers):
        return Reply(200, write_ipc_stream(_shown_columns(prepared)), ARROW_TYPE)
    answers = endpoint.all_shown(answerer, prepared)
    columns: dict[str, Values] = {name: [getattr(one, name) for one in answers] for name in _PLAIN}
    for name in ("reasons", "flags"):
        columns[name] = [_encode(getattr(one, name)).decode() for one in answers]
    if answerer.served.classes:
        columns["prediction"] = [one.prediction or "" for one in answers]
        for label in answerer.served.classes:
            columns[f"scores.{label}"] = [(one.scores or {}).get(label, math.nan) for one in answers]
    return Reply(200, write_ipc_stream(columns), ARROW_TYPE)


def _shown_columns(made: TableAnswers) -> dict[str, Values]:
    """Return the columns of the response for predictions that are in columns."""
    import numpy as np

    from trimtab.core.columns.arrow_ipc import Repeated

    common, rows, keys = made.common, len(made), made.rows.table[made.key].values
    same = {"model": common.model, "version": made.served.label, "arm": common.arm, "mode": common.mode}
    several = made.scores.ndim > 1
    columns: dict[str, Values] = {
        "id": made.ids,
        "request_id": keys if keys.dtype == object else [*map(str, keys.tolist())],
        **{name: Repeated(text, rows) for name, text in same.items()},
        "score": made.scores.max(axis=1) if several else made.scores,
        "at_us": np.full(rows, common.at_us),
        "reasons": Repeated("{}", rows),
        "flags": Repeated("[]", rows),
    }
    if made.reasons.tobytes().translate(None, UNREMARKABLE):
        columns["reasons"] = [
            _encode(named_reasons(row.tobytes(), made.served.inputs)).decode() for row in made.reasons
        ]
    if several:
        classes = np.array([name.encode() for name in made.served.classes])
        columns["prediction"] = classes[made.scores.argmax(axis=1)]
        columns |= {f"scores.{name}": made.scores[:, n] for n, name in enumerate(made.served.classes)}
    return columns
