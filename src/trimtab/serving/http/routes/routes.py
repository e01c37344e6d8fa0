"""The further addresses of the service, behind the predictions: models, aliases, features, labels, documents.

Work that may block is done in the service's threads, and counts in its limit. Every error is a problem
detail, as everywhere.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
from starlette.routing import Match, Route, Router

from trimtab.core.errors import Misuse, NotFound, TrimtabError
from trimtab.serving.http.requests.access import ANYBODY
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.requests.threads import Threads
from trimtab.serving.http.requests.wire import (
    JSON_TYPE,
    Gone,
    Receive,
    Reply,
    Scope,
    Send,
    check_media_type,
    problem_reply,
    respond,
    search_until,
    whole_body,
)
from trimtab.serving.http.routes.docs_page import HEADERS, docs_page
from trimtab.serving.http.routes.event_intake import EventDoor, Taken
from trimtab.serving.http.routes.operations import (
    AskRepair,
    Labelled,
    LabelProblem,
    LabelRow,
    ModelOperations,
    Move,
    RecordOperations,
    RollBack,
)
from trimtab.serving.observe.log_throttle import ThrottledLogger
from trimtab.serving.problems import InvalidField, Refused, decode_problem

Answering: TypeAlias = "Callable[[Asked], Awaitable[Reply]]"
T = TypeVar("T")

_INLINE_BYTES = 64 << 10  # a larger body is decoded in a thread
_FEATURES = "The features of an entity are at /v1/entities/ENTITY/KEY/features; only slashes in a key are encoded."
_HTML_TYPE = b"text/html; charset=utf-8"
_PAGE_HEADERS = (  # no script, nothing from elsewhere: texts on a page come from requests and people
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"cache-control", b"no-store"),
)
_logger = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class Asked:
    """One request as its answer is made from it."""

    def __init__(self, scope: Scope, receive: Receive, limits: Limits, threads: Threads) -> None:
        self.scope = scope
        self.names: Mapping[str, str] = scope.get("path_params", {})
        self._receive = receive
        self._limits = limits
        self._threads = threads

    @property
    def actor(self) -> str:
        """Who asks, as ledgers name him."""
        who: str = self.scope.get("who", ANYBODY)
        return "a person" if who == ANYBODY else who

    def query(self, *known: str) -> dict[str, str]:
        """What stands behind the question mark.

        Raises:
            Misuse: Something that is not among `known`, or twice.
        """
        pairs = parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        found = dict(pairs)
        unknown = [name for name in found if name not in known]
        if unknown or len(found) < len(pairs):
            needed = f"This address takes {', '.join(known)}, each once." if known else "This address takes none."
            raise Misuse(f"query: {(unknown or list(found))[0]!r} is unknown, or there twice. {needed}")
        return found

    def segments(self) -> list[str]:
        """The parts of the path, decoded after it was cut: a part may hold an encoded slash."""
        raw: bytes = self.scope.get("raw_path") or self.scope["path"].encode()
        return [unquote(part) for part in raw.partition(b"?")[0].decode("latin-1").split("/")]

    async def body(self, kind: type[T]) -> T:
        """The body, decoded and checked.

        Raises:
            Refused: It is no JSON by its type, too large or too slow.
            Misuse: It is not of this kind; `InvalidField` names the field.
        """
        check_media_type(self.scope, (JSON_TYPE,))
        limits = self._limits
        body = await whole_body(self.scope, self._receive, limits.body_bytes, limits.body_timeout_s)
        try:
            if len(body) > _INLINE_BYTES:
                found: T = await self._threads.work(lambda: msgspec.json.decode(body, type=kind))
                return found
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _explained(decode_problem(error, body)) from error


class Behind(Protocol):
    """The service that the further addresses belong to."""

    @property
    def threads(self) -> Threads: ...

    @property
    def door(self) -> EventDoor: ...

    @property
    def limits(self) -> Limits: ...

    def append_buffered(self) -> None:
        """Let every answer that this process gave be found in the log."""
        ...


class Routes:
    """An ASGI application of the further addresses, for the service's `more`.

    Args:
        models: What is asked about models.
        records: What is asked about entities and predictions.
        behind: The service.
        document: Makes the OpenAPI document.
    """

    def __init__(
        self,
        models: ModelOperations,
        records: RecordOperations,
        behind: Behind,
        *,
        document: Callable[[], bytes],
    ) -> None:
        self._models, self._records = models, records
        self._document = document
        self._limits = behind.limits
        self._behind = behind
        self._work = behind.threads.work
        one = "/v1/models/{model}"
        addresses: dict[str, dict[str, Answering]] = {
            "/v1/models": {"GET": self._all},
            one: {"GET": self._one},
            f"{one}/page": {"GET": self._page},
            f"{one}/stages": {"GET": self._stages},
            f"{one}/versions": {"GET": self._versions},
            f"{one}/versions/{{version}}": {"GET": self._version},
            f"{one}/aliases": {"GET": self._aliases},
            f"{one}/aliases/{{alias}}": {"GET": self._alias, "PUT": self._move, "POST": self._move},
            f"{one}/aliases/{{alias}}/rollback": {"POST": self._roll_back},
            f"{one}/repairs": {"POST": self._ask_repair},
            "/v1/entities/{entity}/{key:path}/features": {"GET": self._features},
            "/v1/labels/{model}": {"POST": self._label},
            "/v1/predictions/{prediction}": {"GET": self._why},
            "/openapi.json": {"GET": self._openapi},
            "/docs": {"GET": self._docs},
        }
        routes = [Route(path, _Address(methods, behind)) for path, methods in addresses.items()]
        for route in routes:  # a key may hold line ends
            route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)
        self._router = Router(routes, redirect_slashes=False, default=_Address({}, behind))

    async def answers(self, scope: Scope) -> bool:
        """Whether anything answers to a request's method at its address."""
        for route in self._router.routes:  # as the router finds it
            match, child = route.matches(scope)
            if match is Match.FULL:
                address: _Address = child["endpoint"]
                return address.answers(scope["method"])
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._router(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    # -- models -------------------------------------------------------------------------------------------------

    async def _all(self, asked: Asked) -> Reply:
        asked.query()
        return _json({"models": await self._work(self._models.models)})

    async def _one(self, asked: Asked) -> Reply:
        asked.query()
        models = await self._work(self._models.models)
        found = [one for one in models if one.name == asked.names["model"]]
        if not found:
            raise _no_model(asked.names["model"], [one.name for one in models])
        return _json(found[0])

    async def _page(self, asked: Asked) -> Reply:
        asked.query()
        page = await self._work(self._models.page, asked.names["model"])
        return Reply(200, page.encode(), _HTML_TYPE, _PAGE_HEADERS)

    async def _stages(self, asked: Asked) -> Reply:
        asked.query()
        return _json({"stages": await self._work(self._models.stages, asked.names["model"])})

    async def _versions(self, asked: Asked) -> Reply:
        asked.query()
        return _json({"versions": await self._work(self._models.versions, asked.names["model"])})

    async def _version(self, asked: Asked) -> Reply:
        asked.query()
        names = asked.names
        return _json(await self._work(self._models.version, names["model"], names["version"]))

    async def _aliases(self, asked: Asked) -> Reply:
        asked.query()
        return _json({"aliases": await self._work(self._models.aliases, asked.names["model"])})

    async def _alias(self, asked: Asked) -> Reply:
        asked.query()
        model, alias = asked.names["model"], asked.names["alias"]
        found = await self._work(self._models.aliases, model)
        for one in found:
            if one.alias == alias:
                return _json(one)
        there = ", ".join(one.alias for one in found) or "none"
        raise NotFound(f"alias {model}@{alias}: points nowhere. There is: {there}.")

    async def _move(self, asked: Asked) -> Reply:
        asked.query()
        move = await asked.body(Move)
        names, actor = asked.names, asked.actor
        return _json(await self._work(lambda: self._models.move(names["model"], names["alias"], move, actor=actor)))

    async def _roll_back(self, asked: Asked) -> Reply:
        asked.query()
        back = await asked.body(RollBack)
        names, actor = asked.names, asked.actor
        return _json(
            await self._work(lambda: self._models.roll_back(names["model"], names["alias"], back, actor=actor))
        )

    async def _ask_repair(self, asked: Asked) -> Reply:
        asked.query()
        body = await asked.body(AskRepair)
        model, actor = asked.names["model"], asked.actor
        return _json(await self._work(lambda: self._models.ask_repair(model, body, actor=actor)))

    # -- records ------------------------------------------------------------------------------------------------

    async def _features(self, asked: Asked) -> Reply:
        model = asked.query("model").get("model")
        parts = asked.segments()
        if len(parts) < 6 or parts[1:3] != ["v1", "entities"] or parts[-1] != "features":  # an encoded slash between
            raise NotFound(f"{asked.scope['path']}: nothing is here. {_FEATURES}")
        _, _, _, entity, *key, _ = parts
        return _json(await self._work(self._records.features, entity, key, model))

    async def _label(self, asked: Asked) -> Reply:
        until_s = self._behind.door.wait_until(asked.scope)
        rows = await asked.body(_LABELS)
        given: Sequence[LabelRow] = [rows] if isinstance(rows, LabelRow) else rows
        if len(given) > self._limits.rows:
            raise Refused(413, f"body: {len(given)} labels; the limit is {self._limits.rows}. Send them in parts.")
        source, events = await self._search(asked, self._records.label_events, asked.names["model"], given)
        taken = await self._behind.door.take(
            lambda push: Taken(source, push(source, events), len(given)), "label", until_s=until_s
        )
        pushed = taken.pushed
        problems = tuple(LabelProblem(p.row, p.field, p.reason, p.found) for p in pushed.problems)
        return _json(
            Labelled(
                source=taken.source,
                accepted=pushed.accepted,
                quarantined=pushed.quarantined,
                problems=problems,
                absent=pushed.absent,
            )
        )

    async def _why(self, asked: Asked) -> Reply:
        if asked.query("why").get("why") not in ("", "true", "1"):
            raise Misuse("query: write ?why for the explanation, or leave it out for the prediction alone.")
        prediction = await self._search(asked, self._records.find, asked.names["prediction"])
        return _json(await self._work(self._records.why, prediction))

    async def _search(self, asked: Asked, look_up: Callable[..., T], *arguments: Any) -> T:
        """What `look_up` finds in the prediction log: its last argument is until when it looks.

        A long search only waits for a disk, so that it is done where nobody works.  # D123
        """
        until_s = search_until(asked.scope)
        self._behind.append_buffered()
        self._behind.threads.check_room()
        found: T = await self._behind.threads.wait(look_up, *arguments, until_s)
        return found

    # -- documents ----------------------------------------------------------------------------------------------

    async def _openapi(self, asked: Asked) -> Reply:
        asked.query()
        return Reply(200, await self._work(self._document))

    async def _docs(self, asked: Asked) -> Reply:
        return Reply(200, docs_page(), _HTML_TYPE, HEADERS)


class _Address:
    """One address: what answers by method, and every error as a problem."""

    def __init__(self, methods: Mapping[str, Answering], behind: Behind) -> None:
        self._methods = {**methods, **({"HEAD": methods["GET"]} if "GET" in methods else {})}
        self._behind = behind
        self._throttled = ThrottledLogger(_logger)

    def answers(self, method: str) -> bool:
        return method in self._methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        try:
            if not self._methods:
                raise NotFound(f"{path}: nothing is here. See /docs, or /openapi.json for all addresses.")
            answer = self._methods.get(method)
            if answer is None:
                allowed = ", ".join(self._methods)
                refused = f"{method} is not for this address. Use {allowed}."
                raise Refused(405, refused, headers=((b"allow", allowed.encode()),))
            reply = await answer(Asked(scope, receive, self._behind.limits, self._behind.threads))
        except Gone:
            return
        except Exception as error:
            if not isinstance(error, TrimtabError):
                self._throttled.error(f"{method} {path!a} (request {scope.get('request_id')}) failed", error, of="")
            reply = problem_reply(error, path)
        await respond(send, reply, head=method == "HEAD")


def _explained(problem: Misuse) -> Misuse:
    """A problem of a body that has no declared columns."""
    if not isinstance(problem, InvalidField) or "is missing" not in str(problem):
        return problem
    return InvalidField(f"{problem.pointer}: is missing, and needed.", field=problem.field, pointer=problem.pointer)


_LABELS: Any = LabelRow | list[LabelRow]


def _json(document: Any) -> Reply:
    return Reply(200, _encode(document))


def _no_model(model: str, there: Sequence[str]) -> NotFound:
    return NotFound(f"no deployment of model {model!r}. There is: {', '.join(there) or 'none'}.")
