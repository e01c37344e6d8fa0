"""What a serving process does in the background: follow aliases, teach learners, tick the loop."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from trimtab.app.retention import retain_when_due
from trimtab.app.skew import SkewWatch
from trimtab.core.errors import NotFound, TrimtabError
from trimtab.store.ports import Catalog, Put, Remove

if TYPE_CHECKING:
    from trimtab.app.project import Project

_logger = logging.getLogger(__name__)
_ROUND_S = 2.0  # between two looks at aliases and labels
_TICK_S = 60.0
_SKEW_S = 5.0  # between two looks whether predictions are to be checked
_GRACE_S = 5.0  # for the rounds under way at the end; what is kept survives being cut off at any point
KIND = "service"  # of the record in the catalogue
Work: TypeAlias = "Callable[[], object]"


class Keeper:
    """Three threads: one follows aliases and teaches, one ticks the loop, which may train for a long time, and one
    computes a sample of what was predicted again.

    A piece of work that fails is tried again at the next round and keeps nothing else from being done. What failed at
    its last round is in `failures` and in the catalogue, where `service_failures` finds it.
    """

    def __init__(self, project: Project) -> None:
        self.failures: dict[str, str] = {}  # by work: what its last round said
        self.failed: Counter[str] = Counter()  # rounds, by work
        _ = project.history, project.registry, project.views, project.state.learners  # opened before threads share them
        self._project = project
        self._catalog = project.state.catalog
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        deployments = project.definitions.deployments
        self._follow = {f"follow {name}": partial(self._refresh, name) for name in deployments}
        teachers = {name: project.teacher(name) for name, one in deployments.items() if one.learn == "online"}
        often: dict[str, Work] = {
            "look for views": project.views.look,
            **self._follow,
            **{f"teach {n}": t.teach for n, t in teachers.items()},
        }
        self._threads = [
            threading.Thread(target=self._run, args=(_ROUND_S, often), name="trimtab-keeper", daemon=True),
            threading.Thread(
                target=self._run,
                args=(_TICK_S, {"tick": project.tick, "retention": partial(retain_when_due, project)}),
                name="trimtab-loop",
                daemon=True,
            ),
        ]
        self.skew = SkewWatch(project)
        checking: dict[str, Work] = {"skew": self.skew.check}
        self._threads.append(
            threading.Thread(target=self._run, args=(_SKEW_S, checking), name="trimtab-skew", daemon=True)
        )

    def follow(self) -> None:
        """Let every deployment answer with the version its alias names."""
        self._round(self._follow)

    def start(self) -> Keeper:
        self._note(self.failures)
        for thread in self._threads:
            thread.start()
        return self

    def close(self) -> None:
        """Stop after the rounds under way, or without them when they take long: then they end with the process."""
        self._stop.set()
        end_s = time.monotonic() + _GRACE_S
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
            if thread.is_alive():
                _logger.warning("%s: still at work, left behind; it is done again at the next start", thread.name)
        try:
            self._catalog.write([Remove(KIND, "failures")])
        except TrimtabError as error:
            _logger.warning("%s", error)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self, every_s: float, works: Mapping[str, Work]) -> None:
        while not self._stop.wait(every_s):
            self._round(works)

    def _round(self, works: Mapping[str, Work]) -> None:
        for name, work in works.items():
            if self._stop.is_set():
                return
            failure = None
            try:
                work()
            except TrimtabError as error:
                failure = str(error)
            except Exception as error:  # the worker's outer loop: whatever a user's estimator raises must not end it
                failure = f"{type(error).__name__}: {error}"
                if not self._stop.is_set():  # what was cut off at the end may raise anything
                    _logger.exception("%s failed", name)
            if not self._stop.is_set():
                self._judge(name, failure)

    def _judge(self, name: str, failure: str | None) -> None:
        with self._mutex:
            before = self.failures
            self.failures = {work: said for work, said in before.items() if work != name}  # others may be reading it
            if failure is not None:
                self.failures[name] = failure
                self.failed = Counter({**self.failed, name: self.failed[name] + 1})
            if self.failures == before:
                return
            if failure is not None:
                _logger.warning("%s: %s", name, failure)
            try:
                self._note(self.failures)
            except TrimtabError as error:  # shown in the metrics all the same
                _logger.warning("%s", error)

    def _note(self, failures: Mapping[str, str]) -> None:
        self._catalog.write([Put(KIND, "failures", msgspec.json.encode(failures))])

    def _refresh(self, name: str) -> None:
        try:
            self._project.served(name).refresh()
        except NotFound:  # no version yet: the endpoint and `status` say so
            if self._project.served(name).endpoint.ready:
                raise


def service_failures(catalog: Catalog) -> dict[str, str]:
    """What failed at its last round in the process that serves, by work."""
    record = catalog.get(KIND, "failures")
    return {} if record is None else msgspec.json.decode(record.body, type=dict[str, str])
