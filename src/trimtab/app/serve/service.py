"""`trimtab serve` in one process: HTTP, the applier, learners and the loop."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic, sleep, time_ns
from typing import TYPE_CHECKING, TypeVar

from trimtab.app.features.feature_failures import failure_counts
from trimtab.app.serve.addresses import open_access, open_routes
from trimtab.app.serve.background import BackgroundTasks, forget_failures
from trimtab.app.serve.grpc import MakeBeside, check_grpc, grpc_address, grpc_beside
from trimtab.app.serve.loop_metrics import LoopMetrics
from trimtab.app.serve.telemetry import check_watch, open_watch
from trimtab.app.state.lost_records import refuse_lost
from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.serving.access_keys import MARKER
from trimtab.serving.http.predict.model_calls import show_remembered
from trimtab.serving.http.requests.access import is_loopback
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.server import accepting
from trimtab.serving.http.server.server import GRACE_S, listen, serve
from trimtab.serving.http.server.tls import Tls
from trimtab.serving.http.service import HttpService
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.spool import recover_spools
from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.observe.shared_status import RedNote
from trimtab.serving.workers.states import FOLDER, ServiceState, remove_state, write_state
from trimtab.serving.workers.worker_metrics import ArmMetricsWriter, SharedMetrics, clear
from trimtab.store.durable_files import make_folder

FILL_S = 10.0  # how long a start waits for the features to be filled
T = TypeVar("T")
_LEFT_S = GRACE_S + 5.0  # for workers whose supervisor was killed: they let go of the port when they notice, or end
_LOOK_S = 0.05
_MARK = "connections"  # which `accepting` makes before the first worker, and removes after the last

if TYPE_CHECKING:
    from trimtab.app.project import Project
    from trimtab.serving.applier import Applier
    from trimtab.serving.http.routes.pushing import WaitApplied
    from trimtab.serving.log.prediction_log import PredictionLog


def serve_project(
    project: Project,
    *,
    host: str | None,
    port: int | None,
    ready: Callable[[str], object] | None,
    workers: int | None = None,
    grpc_port: int | None = None,
    grpc_ready: Callable[[str], object] | None = None,
) -> None:
    """See `Project.serve`."""
    settings = project.config.serve
    host, port = host or settings.host, settings.port if port is None else port
    count = settings.workers if workers is None else workers
    if count < 1:
        raise Misuse(f"workers={count}: give 1 (one process does everything) or more.")
    check_watch(project, count)
    grpc = grpc_address(project, host, grpc_port, count)
    if warning := open_to_all(project, host):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    if (damage := project.views.damage()) is not None:
        raise Corrupt(damage)  # D116
    refuse_lost(project.state)
    refuse_lost_keys(project)
    project.apply_first()
    if count > 1:
        from trimtab.app.serve.engine import serve_with_workers

        serve_with_workers(project, host=host, port=port, count=count, ready=ready, grpc=grpc, grpc_ready=grpc_ready)
        return
    begun = project.state.events.positions()
    with ExitStack() as opened:
        applier = project.views.follow()
        opened.callback(project.views.release)
        forget_failures(project.state.catalog)
        opened.enter_context(applier.start())
        metrics = Metrics()
        keeper = BackgroundTasks(project, stands=lambda: applier.failure is not None)
        show_engine(project, metrics, applier, keeper)
        folder = project.state_folder / FOLDER
        when_let_go(folder, lambda: check_grpc(grpc, tls_of(project)))
        service = http_service(
            project,
            opened,
            log=project.predictions,
            metrics=metrics,
            host=host,
            workers=1,
            wait_applied=applier.wait_applied,
            ready=lambda: stands_still(project, applier, begun),
            beside=grpc_beside(grpc, tls_of(project), grpc_ready or print_grpc),
        )
        keeper.follow()
        opened.enter_context(keeper.start())
        with suppress(Unavailable):  # then readiness says so, and whoever asks all the same gets what is there
            applier.wait_applied(begun, FILL_S)
        listener = opened.enter_context(when_let_go(folder, lambda: listen(host, port)))
        accepting.end(folder)  # whoever may have been left is gone
        _tell_remembered(project, opened, folder)
        opened.callback(remove_state, folder)

        def announce(url: str) -> None:
            with suppress(OSError):  # a full disk: whoever looks for the address asks where the settings put it
                make_folder(folder)
                now_us = time_ns() // 1_000
                write_state(folder, ServiceState(pid=os.getpid(), url=url, at_us=now_us, workers=[]))
            (ready or print_url)(url)

        serve(service, host=host, listener=listener, announce=announce, tls=tls_of(project))


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


def _tell_remembered(project: Project, opened: ExitStack, folder: Path) -> None:
    """Let `trimtab status` see how often scores were remembered, where any are; workers tell all that they count."""
    remembering = [name for name, one in project.definitions.deployments.items() if one.cache is not None]
    with suppress(OSError):  # a full disk: then status shows nothing of it
        make_folder(folder)
        clear(folder)  # what a service that was killed told
    if remembering:
        figures = SharedMetrics(folder, "1")
        show_remembered(figures, [project.served(name).endpoint for name in remembering])
        opened.enter_context(ArmMetricsWriter(figures))


def http_service(
    project: Project,
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
    models = [project.served(name) for name in project.definitions.deployments]
    spools, answers = project.state.spools, project.state.predictions
    if isinstance(answers, BufferedLog):  # an answer does not wait for the log, and yet outlives the process
        answers.open()
    else:
        recover_spools(spools, project.predictions)  # it may have been relaxed when it was killed
    note = opened.enter_context(RedNote(spools))
    return HttpService(
        [model.endpoint for model in models],
        log,
        metrics=metrics,
        limits=limits(project),
        push=lambda source, rows: project.ingestor.push(source, rows),
        more=open_routes(project, log.find),
        access=open_access(project, opened, host=host, workers=workers),
        wait_applied=wait_applied,
        ready=ready,
        beside=beside,
        watch=open_watch(project, opened),
        failing=note.say,
    )


def refuse_lost_keys(project: Project) -> None:
    """Refuse to serve what needed a key once and has none any more, unless the settings say who may ask. # D0171

    Raises:
        Corrupt: The catalogue was lost, or is older than the first key.
    """
    if project.config.serve.require_key is None and project.keys.lost():
        raise Corrupt(
            f"{project.state_folder}: this service needed API keys ({MARKER} says so), and the catalogue has none: it "
            "was lost, or restored from before the first key. Make one (trimtab keys add NAME --role ROLE), bring the "
            "catalogue back, or set serve.require_key = false to let everybody ask."
        )


def open_to_all(project: Project, host: str) -> str | None:
    """What is to be said before a service begins that other machines reach and that asks nobody for a key."""
    required = project.config.serve.require_key
    closed = project.keys.ever() if required is None else required
    if closed or is_loopback(host):
        return None
    return (
        f"whoever reaches {host} may ask, push and read without a key. Make one (trimtab keys add NAME --role ROLE), "
        "set serve.require_key, or serve on 127.0.0.1."
    )


def print_url(url: str) -> None:
    """Say where the service is, to whoever started it without asking to be told."""
    print(f"trimtab serves on {url} (stop with Ctrl-C)", flush=True)


def print_grpc(address: str) -> None:
    """Say where gRPC is, to whoever started the service without asking to be told."""
    print(f"trimtab serves gRPC on {address}", flush=True)


def limits(project: Project) -> Limits:
    """What is refused, by the settings."""
    settings = project.config.serve
    return Limits(body_bytes=settings.max_body_bytes, bodies_bytes=settings.max_bodies_bytes, rows=settings.max_rows)


def tls_of(project: Project) -> Tls | None:
    """The certificate, by the settings; None: the service speaks plain HTTP."""
    settings, folder = project.config.serve, project.config.folder
    if settings.tls_cert is None:
        return None
    key = None if settings.tls_key is None else folder / settings.tls_key
    return Tls(folder / settings.tls_cert, key, settings.tls_min)


def show_engine(project: Project, metrics: Metrics, applier: Applier, keeper: BackgroundTasks) -> None:
    """Let `metrics` show what the process does that applies events, and the loop that it ticks."""
    lag = "trimtab_views_lag_records", "Records of the event log not applied yet."
    metrics.gauge(*lag, (), lambda: {(): applier.lag_records()})
    metrics.counted(
        "trimtab_feature_failures_total",
        "Events for which a feature's value failed, since its view was filled.",
        ("view", "feature"),
        lambda: failure_counts(project),
    )
    keeper.show(metrics)
    LoopMetrics(project).show(metrics)


def what_hinders(project: Project, applier: Applier) -> str | None:
    """What keeps events from being recorded or applied, if anything does."""
    if (jump := project.state.clock_jump()) is not None:
        return jump
    if applier.failure:
        return f"the applier stopped: {applier.failure}"
    return f"events cannot be applied: {project.views.blocked}" if project.views.blocked else None


def stands_still(project: Project, applier: Applier, begun: Mapping[str, int]) -> str | None:
    """Why online features do not follow the log, if they do not.

    Args:
        project: What is served.
        applier: Brings the features on.
        begun: Where the log stood when the service began: with less the features are being filled.

    Raises:
        Corrupt: The features are damaged; the message has the command that mends them.
    """
    left = project.views.missing(begun)  # and not what the applier saw last: what is stored may have been replaced
    if hindrance := what_hinders(project, applier):
        return hindrance
    return f"online features are being filled: {left:,} records to apply." if left else None
