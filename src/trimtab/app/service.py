"""`trimtab serve`: HTTP, the applier, learners and the loop in one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from trimtab.app.keeper import Keeper
from trimtab.serving.http import HttpService, Limits
from trimtab.serving.metrics import Metrics
from trimtab.serving.server import serve
from trimtab.serving.spool import Spool

if TYPE_CHECKING:
    from trimtab.app.project import Project
    from trimtab.serving.applier import Applier


def serve_project(
    project: Project, *, host: str | None, port: int | None, ready: Callable[[str], object] | None
) -> None:
    """See `Project.serve`."""
    settings = project.config.serve
    limits = Limits(body_bytes=settings.max_body_bytes, rows=settings.max_rows)
    models = [project.served(name) for name in project.definitions.deployments]
    with ExitStack() as opened:
        applier = project.views.follow()
        opened.callback(project.views.let_go)
        opened.enter_context(applier.start())
        spool = None
        if settings.log == "relaxed":  # an answer does not wait for the log, and yet outlives the process
            spool = opened.enter_context(Spool(project.state_folder / "spool", project.predictions))
        metrics = Metrics()
        keeper = Keeper(project)
        _show(metrics, applier, keeper)
        service = HttpService(
            [model.endpoint for model in models],
            project.predictions,
            spool=spool,
            metrics=metrics,
            limits=limits,
            push=project.ingestor.push,
            wait_applied=applier.wait_applied,
            ready=lambda: _stands_still(project, applier),
        )
        keeper.follow()
        opened.enter_context(keeper.start())
        serve(
            service,
            host=host or settings.host,
            port=settings.port if port is None else port,
            announce=ready,
        )


def _show(metrics: Metrics, applier: Applier, keeper: Keeper) -> None:
    lag = "trimtab_views_lag_records", "Records of the event log not applied yet."
    metrics.gauge(*lag, (), lambda: {(): applier.lag_records()})
    failing = "trimtab_keeper_failing", "Background work whose last round failed."
    metrics.gauge(*failing, ("work",), lambda: {(work,): 1 for work in keeper.failures})
    metrics.gauge(
        "trimtab_keeper_failures_total",
        "Failed rounds of background work.",
        ("work",),
        lambda: {(work,): count for work, count in keeper.failed.items()},
    )


def _stands_still(project: Project, applier: Applier) -> str | None:
    """Why online features do not follow the log, if they do not."""
    if applier.failure:
        return f"the applier stopped: {applier.failure}"
    return f"events cannot be applied: {project.views.blocked}" if project.views.blocked else None
