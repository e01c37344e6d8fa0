"""`trimtab serve`: HTTP, the applier, learners and the loop in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from trimtab.app.keeper import Keeper
from trimtab.core.errors import Unavailable
from trimtab.serving.http import HttpService, Limits
from trimtab.serving.metrics import Metrics
from trimtab.serving.server import serve
from trimtab.serving.spool import Spool

_FILL_S = 10.0  # how long a start waits for the features to be filled

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
    project.apply_first()
    begun = project.state.events.positions()
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
            ready=lambda: _stands_still(project, applier, begun),
        )
        keeper.follow()
        opened.enter_context(keeper.start())
        with suppress(Unavailable):  # then readiness says so, and whoever asks all the same gets what is there
            applier.wait_applied(begun, _FILL_S)
        serve(
            service,
            host=host or settings.host,
            port=settings.port if port is None else port,
            announce=ready,
        )


def _show(metrics: Metrics, applier: Applier, keeper: Keeper) -> None:
    lag = "trimtab_views_lag_records", "Records of the event log not applied yet."
    metrics.gauge(*lag, (), lambda: {(): applier.lag_records()})
    keeper.skew.show(metrics)
    failing = "trimtab_keeper_failing", "Background work whose last round failed."
    metrics.gauge(*failing, ("work",), lambda: {(work,): 1 for work in keeper.failures})
    metrics.gauge(
        "trimtab_keeper_failures_total",
        "Failed rounds of background work.",
        ("work",),
        lambda: {(work,): count for work, count in keeper.failed.items()},
    )


def _stands_still(project: Project, applier: Applier, begun: Mapping[str, int]) -> str | None:
    """Why online features do not follow the log, if they do not.

    Args:
        project: What is served.
        applier: Brings the features on.
        begun: Where the log stood when the service began: with less the features are being filled.
    """
    if applier.failure:
        return f"the applier stopped: {applier.failure}"
    if project.views.blocked:
        return f"events cannot be applied: {project.views.blocked}"
    applied = applier.positions
    left = sum(max(0, last - applied.get(name, 0)) for name, last in begun.items()) if project.views.views else 0
    return f"online features are being filled: {left:,} records to apply." if left else None
