"""The handlers of a project's routes: models, aliases, features, labels, explanations and documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from trimtab.core.errors import Misuse, NotFound
from trimtab.serving.http.requests.http_request import HttpRequest, as_json
from trimtab.serving.http.requests.wire import Reply, search_until
from trimtab.serving.http.routes import service_routes
from trimtab.serving.http.routes.address import Handler
from trimtab.serving.http.routes.docs_page import HEADERS, docs_page
from trimtab.serving.http.routes.event_intake import Taken
from trimtab.serving.http.routes.operations import Labelled, LabelProblem, LabelRow, ModelOperations, RecordOperations
from trimtab.serving.http.routes.service_routes import Service
from trimtab.serving.problems import Refused

_HTML_TYPE = b"text/html; charset=utf-8"
_PAGE_HEADERS = (  # forbid scripts and other hosts, because pages show texts from requests and people
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    ),
)
_LABELS: Any = LabelRow | list[LabelRow]


class ProjectRoutes:
    """The object on which the handlers of a project's routes work.

    Args:
        load: Returns the operations on models and on records. It is called once, in a thread, when they are first
            needed.
        document: Makes the OpenAPI document.
    """

    def __init__(
        self,
        service: Service,
        load: Callable[[], tuple[ModelOperations, RecordOperations]],
        document: Callable[[], bytes],
    ) -> None:
        self.service = service
        self.document = document
        self._load = load
        self._operations: tuple[ModelOperations, RecordOperations] | None = None

    async def models(self) -> ModelOperations:
        """Return the operations on models."""
        return (await self._loaded())[0]

    async def records(self) -> RecordOperations:
        """Return the operations on records."""
        return (await self._loaded())[1]

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function that may block in a thread, and return its result."""
        return await self.service.parts.threads.work(function, *arguments)

    async def _loaded(self) -> tuple[ModelOperations, RecordOperations]:
        if self._operations is None:
            self._operations = await self.work(self._load)
        return self._operations


def shown(operation: str) -> Handler:
    """Make a handler that returns the result of an operation on models.

    The operation is called with the names in the path.
    """

    async def handler(project: ProjectRoutes, request: HttpRequest) -> Reply:
        call = getattr(await project.models(), operation)
        return as_json(await project.work(call, *request.names.values()))

    return handler


def listed(operation: str) -> Handler:
    """Make a handler that returns `{operation: [...]}` with the list that this operation on models returns."""

    async def handler(project: ProjectRoutes, request: HttpRequest) -> Reply:
        call = getattr(await project.models(), operation)
        return as_json({operation: await project.work(call, *request.names.values())})

    return handler


def paged(operation: str) -> Handler:
    """Make a handler that returns the HTML page from an operation on models."""

    async def handler(project: ProjectRoutes, request: HttpRequest) -> Reply:
        call = getattr(await project.models(), operation)
        text = await project.work(call, *request.names.values())
        return Reply(200, text.encode(), _HTML_TYPE, _PAGE_HEADERS)

    return handler


def changed(operation: str, kind: type[msgspec.Struct]) -> Handler:
    """Make a handler that calls an operation on models with a body of this type, and returns its result."""

    async def handler(project: ProjectRoutes, request: HttpRequest) -> Reply:
        body, call = await request.decoded(kind), getattr(await project.models(), operation)
        return as_json(await project.work(lambda: call(*request.names.values(), body, actor=request.actor)))

    return handler


async def model(project: ProjectRoutes, request: HttpRequest) -> Reply:
    """Return a model."""
    models, name = await project.work((await project.models()).models), request.names["model"]
    for one in models:
        if one.name == name:
            return as_json(one)
    there = ", ".join(one.name for one in models) or "none"
    raise NotFound(f"no deployment of model {name!r}. Deployed models: {there}.")


async def alias(project: ProjectRoutes, request: HttpRequest) -> Reply:
    """Return an alias."""
    name, wanted = request.names["model"], request.names["alias"]
    aliases = await project.work((await project.models()).aliases, name)
    for one in aliases:
        if one.alias == wanted:
            return as_json(one)
    there = ", ".join(one.alias for one in aliases) or "none"
    raise NotFound(f"alias {name}@{wanted} does not exist. Aliases of {name}: {there}.")


async def features(project: ProjectRoutes, request: HttpRequest) -> Reply:
    """The features of one entity."""
    model = request.query(("model",)).get("model")
    parts = request.segments()
    if len(parts) < 6 or parts[1:3] != ["v1", "entities"] or parts[-1] != "features":
        raise NotFound(
            f"{request.scope['path']}: nothing is here. The features of an entity are at "
            "/v1/entities/ENTITY/KEY/features; encode slashes only inside a key."
        )
    _, _, _, entity, *key, _ = parts
    return as_json(await project.work((await project.records()).features, entity, key, model))


async def label(project: ProjectRoutes, request: HttpRequest) -> Reply:
    """Append labels."""
    service = project.service
    until_s, search_until_s = service.intake.wait_until(request), search_until(request.scope)
    rows = await request.decoded(_LABELS)
    given: Sequence[LabelRow] = [rows] if isinstance(rows, LabelRow) else rows
    limit = service.parts.limits.rows
    if len(given) > limit:
        raise Refused(413, f"body: {len(given)} labels; the limit is {limit}. Send them in parts.")
    service.append_buffered()
    service.parts.threads.check_room()
    find = (await project.records()).label_events  # mostly waits for the disk  # D123
    made = await service.parts.threads.wait(find, request.names["model"], given, search_until_s)
    taken = await service.intake.take(
        lambda push: Taken(made.source, push(made.source, made.events), len(given)), "label", until_s=until_s
    )
    pushed = taken.pushed
    return as_json(
        Labelled(
            source=taken.source,
            accepted=pushed.accepted,
            quarantined=pushed.quarantined,
            problems=tuple(LabelProblem(p.row, p.field, p.reason, p.found) for p in pushed.problems),
            absent=pushed.absent,
            late=made.late,
        )
    )


async def prediction(project: ProjectRoutes, request: HttpRequest) -> Reply:
    """A prediction as it was logged, or with `?why` everything that led to it."""
    if (why := request.query(("why",)).get("why")) is None:
        return await service_routes.prediction(project.service, request)
    if why not in ("", "true", "1"):
        raise Misuse("query: write ?why for the explanation, or no ?why for the prediction alone.")
    found = await service_routes.found_prediction(project.service, request)
    return as_json(await project.work((await project.records()).why, found))


async def openapi(project: ProjectRoutes, request: HttpRequest) -> Reply:
    """Return the OpenAPI document."""
    return Reply(200, await project.work(project.document))


async def docs(project: ProjectRoutes, request: HttpRequest) -> Reply:
    """Return the page that shows all addresses."""
    return Reply(200, docs_page(), _HTML_TYPE, HEADERS)
