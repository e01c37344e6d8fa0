"""The parts that the service, the engine and its workers share."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, TypeVar

from trimtab.app.features.feature_failures import failure_counts
from trimtab.app.serve.addresses import open_access, open_routes
from trimtab.app.serve.background import BackgroundTasks
from trimtab.app.serve.grpc import MakeBeside
from trimtab.app.serve.loop_metrics import LoopMetrics
from trimtab.app.serve.telemetry import open_watch
from trimtab.core.errors import Unavailable
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.server import accepting
from trimtab.serving.http.server.server import GRACE_S
from trimtab.serving.http.server.tls import Tls
from trimtab.serving.http.service import HttpService
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.spool import recover_spools
from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.observe.shared_status import RedNote

if TYPE_CHECKING:
    from trimtab.app.system import System
    from trimtab.serving.applier import Applier
    from trimtab.serving.http.routes.pushing import WaitApplied
    from trimtab.serving.log.prediction_log import PredictionLog


FILL_S = 10.0  # how long a start waits for the features to be filled

T = TypeVar("T")

_LEFT_S = GRACE_S + 5.0  # for workers whose supervisor was killed: they let go of the port when they notice, or end

_LOOK_S = 0.05

_MARK = "connections"  # which `accepting` makes before the first worker, and removes after the last


def when_let_go(folder: Path, take: Callable[[], T]) -> T:
    """What `take` gives, which listens at a port; workers of a service that was killed may have it for a moment yet.

    What shows that there may be some stays until the port is had, so that whoever is killed while he waits leaves it to
    the next. Where there is nothing of the kind nobody waits.

    Args:
        folder: Where the processes of a service write.
        take: Listens, or looks whether that can be done.

    Raises:
        Unavailable: What `take` raises, at once or after all the time that such workers may take.
    """
    end_s = monotonic() + _LEFT_S
    while True:
        try:
            return take()
        except Unavailable as error:
            if not (_is_taken(error) and _may_be_left(folder)):
                raise
            if monotonic() >= end_s:
                with suppress(OSError):
                    accepting.end(folder)  # it is none of them: the next is told at once
                raise
        sleep(_LOOK_S)


def _is_taken(error: Unavailable) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE


def _may_be_left(folder: Path) -> bool:
    """Whether a service had workers and did not see their end."""
    return (folder / _MARK).exists()


def http_service(
    system: System,
    opened: ExitStack,
    *,
    log: PredictionLog,
    metrics: Metrics,
    host: str,
    workers: int,
    wait_applied: WaitApplied,
    ready: Callable[[], str | None],
    beside: MakeBeside | None = None,
) -> HttpService:
    """What answers in this process, over every deployment.

    Args:
        project: What is served.
        opened: Gets what is to be closed after it.
        log: Where predictions go.
        metrics: Where its figures go.
        host: The address that is listened on.
        workers: How many processes answer.
        wait_applied: Waits for the online features.
        ready: What is missing until it can answer as it should.
        beside: Makes what takes requests by gRPC.
    """
    models = [system.served(name) for name in system.definitions.deployments]
    spools, answers = system.state.spools, system.state.predictions
    if isinstance(answers, BufferedLog):  # an answer does not wait for the log, and yet outlives the process
        answers.open()
    else:
        recover_spools(spools, system.predictions)  # it may have been relaxed when it was killed
    note = opened.enter_context(RedNote(spools))
    return HttpService(
        [model.endpoint for model in models],
        log,
        metrics=metrics,
        limits=limits(system),
        push=lambda source, rows: system.ingestor.push(source, rows),
        more=open_routes(system, log.find),
        access=open_access(system, opened, host=host, workers=workers),
        wait_applied=wait_applied,
        ready=ready,
        beside=beside,
        watch=open_watch(system, opened),
        failing=note.say,
    )


def print_url(url: str) -> None:
    """Say where the service is, to whoever started it without asking to be told."""
    print(f"trimtab serves on {url} (stop with Ctrl-C)", flush=True)


def print_grpc(address: str) -> None:
    """Say where gRPC is, to whoever started the service without asking to be told."""
    print(f"trimtab serves gRPC on {address}", flush=True)


def limits(system: System) -> Limits:
    """What is refused, by the settings."""
    settings = system.config.serve
    return Limits(body_bytes=settings.max_body_bytes, bodies_bytes=settings.max_bodies_bytes, rows=settings.max_rows)


def tls_of(system: System) -> Tls | None:
    """The certificate, by the settings; None: the service speaks plain HTTP."""
    settings, folder = system.config.serve, system.config.folder
    if settings.tls_cert is None:
        return None
    key = None if settings.tls_key is None else folder / settings.tls_key
    return Tls(folder / settings.tls_cert, key, settings.tls_min)


def show_engine(system: System, metrics: Metrics, applier: Applier, keeper: BackgroundTasks) -> None:
    """Let `metrics` show what the process does that applies events, and the loop that it ticks."""
    lag = "trimtab_views_lag_records", "Records of the event log not applied yet."
    metrics.gauge(*lag, (), lambda: {(): applier.lag_records()})
    metrics.counted(
        "trimtab_feature_failures_total",
        "Events for which a feature's value failed, since its view was filled.",
        ("view", "feature"),
        lambda: failure_counts(system),
    )
    keeper.show(metrics)
    LoopMetrics(system).show(metrics)


def what_hinders(system: System, applier: Applier) -> str | None:
    """What keeps events from being recorded or applied, if anything does."""
    if (jump := system.state.clock_jump()) is not None:
        return jump
    if applier.failure:
        return f"the applier stopped: {applier.failure}"
    return f"events cannot be applied: {system.views.blocked}" if system.views.blocked else None


def stands_still(system: System, applier: Applier, begun: Mapping[str, int]) -> str | None:
    """Why online features do not follow the log, if they do not.

    Args:
        project: What is served.
        applier: Brings the features on.
        begun: Where the log stood when the service began: with less the features are being filled.

    Raises:
        Corrupt: The features are damaged; the message has the command that mends them.
    """
    left = system.views.missing(begun)  # and not what the applier saw last: what is stored may have been replaced
    if hindrance := what_hinders(system, applier):
        return hindrance
    return f"online features are being filled: {left:,} records to apply." if left else None
