"""`trimtab serve`: HTTP, the applier, learners and the loop in one process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from trimtab.app.learning import Teacher
from trimtab.core.errors import NotFound, TrimtabError
from trimtab.serving.http import HttpService, Limits
from trimtab.serving.metrics import Metrics
from trimtab.serving.server import serve

if TYPE_CHECKING:
    from trimtab.app.project import Project

_logger = logging.getLogger(__name__)
_ROUND_S = 2.0  # between two looks at aliases, labels and leases
_TICK_EVERY = 30  # rounds


def serve_project(
    project: Project, *, host: str | None, port: int | None, ready: Callable[[str], object] | None
) -> None:
    """See `Project.serve`."""
    settings = project.config.serve
    models = [project.served(name) for name in project.definitions.deployments]
    for model in models:
        model.use_precomputed(True)
        try:
            model.refresh()
        except NotFound as error:  # its endpoint says so until a version is promoted
            _logger.warning("%s", error)
    applier = project.views.follow().start()
    metrics = Metrics()
    metrics.gauge(
        "trimtab_views_lag_records",
        "Records of the event log not applied yet.",
        (),
        lambda: {(): applier.lag_records()},
    )
    service = HttpService(
        [model.endpoint for model in models],
        project.predictions,
        metrics=metrics,
        limits=Limits(body_bytes=settings.max_body_bytes, rows=settings.max_rows),
        push=project.ingestor.push,
        wait_applied=applier.wait_applied,
        ready=lambda: f"the applier stopped: {applier.failure}" if applier.failure else None,
    )
    keeper = _Keeper(project)
    keeper.start()
    try:
        serve(
            service,
            host=host or settings.host,
            port=settings.port if port is None else port,
            announce=ready,
        )
    finally:
        keeper.close()
        applier.close()
        project.views.let_go()


class _Keeper:
    """The background thread: keeps the lease, follows aliases, teaches learners, and ticks the loop."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._teachers = [Teacher(project, d) for d in project.definitions.deployments.values() if d.learn == "online"]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop after the round under way."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        rounds = 0
        while not self._stop.wait(_ROUND_S):
            rounds += 1
            for work in (self._follow, self._teach, *([self._project.tick] if rounds % _TICK_EVERY == 0 else [])):
                try:
                    work()
                except TrimtabError as error:
                    _logger.warning("%s", error)
                except Exception:  # the worker's outer loop: whatever a user's estimator raises must not end it
                    _logger.exception("keeper: a round failed; the next one tries again")

    def _follow(self) -> None:
        self._project.views.renew()
        for name in self._project.definitions.deployments:
            if self._project.registry.alias(name, "champion") is not None:
                self._project.served(name).refresh()

    def _teach(self) -> None:
        for teacher in self._teachers:
            teacher.teach()
