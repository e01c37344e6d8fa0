"""The handlers of the routes that every service has: events, logged predictions, health and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from trimtab.core.errors import NotFound, Unavailable
from trimtab.core.records import Prediction
from trimtab.serving.http.predict.parts import Parts
from trimtab.serving.http.predict.predicting import Predictor
from trimtab.serving.http.requests.http_request import HttpRequest, as_json
from trimtab.serving.http.requests.wire import Reply, check_media_type, search_until
from trimtab.serving.http.routes.event_intake import EventIntake, Taken
from trimtab.serving.http.routes.pushing import EVENT_TYPES, EventsBody, push_body
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import logged_prediction

_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Service(Protocol):
    """The parts of a service that the handlers need."""

    @property
    def parts(self) -> Parts: ...

    @property
    def predictors(self) -> Mapping[str, Predictor]: ...

    @property
    def intake(self) -> EventIntake: ...

    @property
    def log(self) -> PredictionLog: ...

    def append_buffered(self) -> None:
        """Write the buffered predictions to the log, unless the log is failing now."""
        ...

    async def not_ready(self) -> str | None:
        """Return why the service is not ready to answer, or None if it is."""
        ...


async def live(service: Service, request: HttpRequest) -> Reply:
    """Respond as long as the process runs."""
    return Reply(200, b'{"status":"live"}')


async def ready(service: Service, request: HttpRequest) -> Reply:
    """Respond with success if the service is ready to answer, and otherwise with the reason why it is not."""
    if missing := await service.not_ready():
        raise Unavailable(f"not ready: {missing}")
    return Reply(200, b'{"status":"ready"}')


async def metrics(service: Service, request: HttpRequest) -> Reply:
    """Return all metrics in the format of Prometheus."""
    parts = service.parts
    return Reply(200, (await parts.threads.look(parts.metrics.text)).encode(), _METRICS_TYPE)


async def predict(service: Service, request: HttpRequest) -> Reply:
    """Refuse a request for a model that is not deployed; only such predict requests reach this handler."""
    models = ", ".join(sorted(service.predictors)) or "none"
    raise NotFound(f"{request.scope['path']}: no such model is served here. Models served here: {models}.")


async def events(service: Service, request: HttpRequest) -> Reply:
    """Push events into the log."""
    until_s = service.intake.wait_until(request)
    media_type = check_media_type(request.scope, EVENT_TYPES)
    source, sent = request.names["source"], EventsBody(await request.body(), media_type, service.parts.limits.rows)
    taken = await service.intake.take(
        lambda push: Taken(source, *push_body(push, source, sent)), "event", until_s=until_s
    )
    return as_json(taken.pushed)


async def prediction(service: Service, request: HttpRequest) -> Reply:
    """A prediction as it was logged."""
    return as_json(logged_prediction(await found_prediction(service, request)))


async def found_prediction(service: Service, request: HttpRequest) -> Prediction:
    """Return the prediction that a request names. The search ends at the time limit of the request.

    A long search mostly waits for the disk, so it uses the pool for waiting requests.  # D123
    """
    until_s = search_until(request.scope)
    service.append_buffered()
    service.parts.threads.check_room()
    found: Prediction = await service.parts.threads.wait(service.log.find, request.names["prediction"], until_s)
    return found
