"""Access rights, further routes and the OpenAPI document of a project's service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from trimtab.serving.access_keys import KeyWatch
from trimtab.serving.http.requests.access import Access
from trimtab.serving.http.requests.wire import Receive, Scope, Send

if TYPE_CHECKING:
    from trimtab.app.system import System
    from trimtab.core.records import Prediction
    from trimtab.serving.http.routes.routes import Routes
    from trimtab.serving.http.service import HttpService, More


def open_access(system: System, opened: ExitStack, *, host: str, workers: int) -> Access:
    """The access rights of the service, by the project's keys and settings; later changes are followed.

    Args:
        project: What is served.
        opened: Closes them.
        host: The address the service listens on.
        workers: The number of worker processes: each allows its share of a key's rate.
    """
    access = Access(required=system.config.serve.require_key, host=host, share=1 / workers)
    opened.enter_context(KeyWatch(system.keys, access.take))
    return access


def open_routes(system: System, find: Callable[[str, float | None], Prediction]) -> Callable[[HttpService], More]:
    """The further routes of a project's service.

    Args:
        project: What is served.
        find: Finds a prediction by id, until a deadline (`perf_counter`).
    """

    def made(service: HttpService) -> More:
        def make() -> Routes:
            from trimtab.app.serve.operations import ProjectModels, ProjectRecords
            from trimtab.serving.http.routes.routes import Routes

            models, records = ProjectModels(system), ProjectRecords(system, find)
            return Routes(models, records, service, document=lambda: openapi_json(system))

        return _Further(make)

    return made


class _Further:
    """Routes created at the first request to one of them, so that a service is ready sooner."""

    def __init__(self, make: Callable[[], Routes]) -> None:
        self._make = make
        self._mutex = threading.Lock()
        self._routes: Routes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self._there())(scope, receive, send)

    async def answers(self, scope: Scope) -> bool:
        """Whether any route matches a request's method and path."""
        return await (await self._there()).answers(scope)

    async def _there(self) -> Routes:
        routes = self._routes
        return await asyncio.to_thread(self._made) if routes is None else routes

    def _made(self) -> Routes:
        with self._mutex:
            if self._routes is None:
                self._routes = self._make()
            return self._routes


def openapi_json(system: System) -> bytes:
    """The OpenAPI document of a project's service."""
    import msgspec

    from trimtab.app.inspect.explain import Explanation
    from trimtab.core.version import VERSION
    from trimtab.serving.http.routes.openapi import Described, ModelSchema, openapi

    definitions = system.definitions
    deployed = [deployment.model for deployment in definitions.deployments.values()]
    views = [view for model in deployed for view in model.features.views]
    required = system.config.serve.require_key
    described = Described(
        title=f"{system.config.project.name}, served by trimtab",
        version=VERSION,
        models=[ModelSchema(model.name, model.request, model.label.class_names) for model in deployed],
        sources=list(definitions.sources.values()),
        entities={view.entity: len(view.by) for view in views},
        key_required=system.keys.ever() if required is None else required,
        explanation=Explanation,
    )
    return msgspec.json.encode(openapi(described))
