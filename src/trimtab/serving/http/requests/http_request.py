"""An HTTP request for a handler: the names in its path, its query and its body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from trimtab.core.errors import Misuse
from trimtab.serving.http.requests.access import NO_KEY
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.requests.threads import Threads
from trimtab.serving.http.requests.wire import JSON_TYPE, Receive, Reply, Scope, check_media_type, whole_body
from trimtab.serving.problems import InvalidField, decode_problem

T = TypeVar("T")

_INLINE_BYTES = 64 << 10  # a body larger than this is decoded in a thread
_encode = msgspec.json.Encoder().encode


class HttpRequest:
    """A request whose route is known and whose client was admitted.

    Args:
        names: By name, the values of the variable parts of the path, such as `model` in `/v1/models/{model}`.
        limits: The limits on the size of the body and on the time that its arrival may take.
        threads: The threads in which large bodies are decoded.
    """

    def __init__(
        self, scope: Scope, receive: Receive, names: Mapping[str, str], limits: Limits, threads: Threads
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.names = names
        self.received_s: float = scope.get("received_s") or perf_counter()
        self._limits = limits
        self._threads = threads

    @property
    def actor(self) -> str:
        """Return the name of the client's key (without a key, "a person"), as recorded in the ledger of decisions."""
        who: str = self.scope.get("who", NO_KEY)
        return "a person" if who == NO_KEY else who

    def query(self, known: tuple[str, ...]) -> dict[str, str]:
        """Return the parameters of the query as a dict.

        Raises:
            Misuse: A parameter is not among `known`, or is given twice.
        """
        pairs = parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        found = dict(pairs)
        unknown = [name for name in found if name not in known]
        if unknown or len(found) < len(pairs):
            needed = f"This address takes {', '.join(known)}, each once." if known else "This address takes none."
            raise Misuse(f"query: {(unknown or list(found))[0]!r} is unknown, or given twice. {needed}")
        return found

    def segments(self) -> list[str]:
        """Return the decoded parts of the path.

        The path is split before it is decoded, because a part may contain an encoded slash.
        """
        raw: bytes = self.scope.get("raw_path") or self.scope["path"].encode()
        return [unquote(part) for part in raw.partition(b"?")[0].decode("latin-1").split("/")]

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            Refused: The body is too large or arrives too slowly.
        """
        return await whole_body(self.scope, self.receive, self._limits.body_bytes, self._limits.body_timeout_s)

    async def decoded(self, kind: type[T]) -> T:
        """Return the body, decoded from JSON and checked.

        Raises:
            Refused: The media type is not JSON, or the body is too large or arrives too slowly.
            Misuse: The body does not fit the expected type. `InvalidField` names the field.
        """
        check_media_type(self.scope, (JSON_TYPE,))
        body = await self.body()
        decode: Callable[[], T] = lambda: msgspec.json.decode(body, type=kind)  # noqa: E731
        try:
            if len(body) > _INLINE_BYTES:
                found: T = await self._threads.work(decode)
                return found
            return decode()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _explained(decode_problem(error, body)) from error


def as_json(document: Any) -> Reply:
    """Return a JSON response."""
    return Reply(200, _encode(document))


def _explained(problem: Misuse) -> Misuse:
    """Return the error, but do not speak of columns if a field is missing, because this body is not a table row."""
    if not isinstance(problem, InvalidField) or "is missing" not in str(problem):
        return problem
    return InvalidField(f"{problem.pointer}: is required, but missing.", field=problem.field, pointer=problem.pointer)
