"""Connect an HTTP service with a project: its API keys, its routes, and its OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import msgspec

from trimtab.app.system import System
from trimtab.core.package import VERSION
from trimtab.core.records import Prediction
from trimtab.serving.access_keys import KeyFollower
from trimtab.serving.http.requests.access import Access
from trimtab.serving.http.routes.address import Application
from trimtab.serving.http.routes.addresses import PROJECT, SERVICE
from trimtab.serving.http.routes.openapi import Described, ModelSchema, openapi
from trimtab.serving.http.routes.operations import ModelOperations, RecordOperations
from trimtab.serving.http.routes.project_routes import ProjectRoutes
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference.inferring import InferenceService
from trimtab.serving.inference.rest import ADDRESSES, mount_inference


def open_access(system: System, opened: ExitStack, *, host: str, workers: int) -> Access:
    """Return the access rights of the service, from the project's API keys and settings.

    Changes to the keys take effect while the service runs.

    Args:
        opened: At its end, changes to the keys are no longer followed.
        workers: The number of worker processes. Each allows an equal share of a key's request rate.
    """
    access = Access(required=system.config.serve.require_key, host=host, share=1 / workers)
    opened.enter_context(KeyFollower(system.keys, access.take))
    return access


def mount_project(
    system: System, service: HttpService, find: Callable[[str, float | None], Prediction]
) -> InferenceService:
    """Add the routes of a project and of the Open Inference Protocol to a service.

    Args:
        find: Finds a prediction by its id. It stops searching at a deadline (a time of `perf_counter`).
    """

    def load() -> tuple[ModelOperations, RecordOperations]:  # called at the first request, for a quick start
        from trimtab.app.serve.operations import ProjectModels, ProjectRecords

        return ProjectModels(system), ProjectRecords(system, find)

    routes = ProjectRoutes(service, load, lambda: openapi_json(system))
    service.mount(Application(routes, PROJECT, "See /docs, or /openapi.json for all addresses."))
    return mount_inference(service)


def openapi_json(system: System) -> bytes:
    """Return the OpenAPI document of a project's service."""
    from trimtab.app.inspect.explain import Explanation

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
    return msgspec.json.encode(openapi(described, (*SERVICE, *PROJECT, *ADDRESSES)))
