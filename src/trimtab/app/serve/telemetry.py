"""The access log and the OpenTelemetry traces of a service, if the settings turn them on."""

from __future__ import annotations

import os
from contextlib import ExitStack

from trimtab.app.system import System
from trimtab.core.errors import Misuse
from trimtab.serving.http.requests.access_log import STANDARD_OUTPUT, AccessLog
from trimtab.serving.http.requests.request_record import Sink, Telemetry
from trimtab.serving.http.requests.traces import Traces, endpoint_of_environment

OFF = "off"


def check_telemetry(system: System, workers: int) -> None:
    """Check the telemetry settings before any worker starts, so that an error is reported once.

    Raises:
        Misuse: Several processes cannot write one access log to standard output.
    """
    if workers > 1 and system.config.serve.access_log == STANDARD_OUTPUT:
        raise Misuse('serve.access_log="-": standard output is for one process. Name a file, or serve with workers=1.')


def open_telemetry(system: System, opened: ExitStack) -> Telemetry | None:
    """Return the telemetry of requests; None if the settings turn none on.

    Raises:
        Misuse: Traces are turned on, but the extra `otel` is not installed.
        Unavailable: The access log cannot be written.
    """
    settings = system.config.serve
    sinks: list[Sink] = []
    if settings.access_log != OFF:
        to_output = settings.access_log == STANDARD_OUTPUT
        sinks.append(AccessLog(STANDARD_OUTPUT if to_output else system.config.folder / settings.access_log))
    if settings.traces is not None or endpoint_of_environment(os.environ) is not None:
        sinks.append(Traces(settings.traces))
    return opened.enter_context(Telemetry(sinks, traced_share=settings.traces_share)) if sinks else None
