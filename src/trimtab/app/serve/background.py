"""Background tasks of a service: follow aliases, teach online learners, run training loops, check skew, send alerts."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from trimtab.app.features.project_spec import ProjectSpec, child, runs_in_child
from trimtab.app.serve.skew_watch import SkewWatch, sampled
from trimtab.app.state.service_failures import KIND, OF_WORKERS, FailureRecord, read_failures
from trimtab.app.system import System
from trimtab.core.closing import Closing
from trimtab.core.errors import Conflict, NotFound, TrimtabError
from trimtab.core.time import HOUR_US
from trimtab.run import Cancelled, Event, Line, Task, Workplace
from trimtab.serving.arms.arm_counts import EndpointCounts
from trimtab.serving.arms.arm_metrics import WRITE_S, ArmMetrics, merge_metrics
from trimtab.serving.observe.metrics import Metrics
from trimtab.store.ports import Put, Record, Remove

if TYPE_CHECKING:
    from trimtab.app.inspect.skew_report import SkewReport

_logger = logging.getLogger(__name__)
_FOLLOW_S = 0.2  # the time between two checks of aliases: a rollback waits at most this long  # D80
_ROUND_S = 2.0  # the time between two rounds of the frequent tasks, such as teaching labels
_TICK_S = 60.0
_SKEW_S = 5.0  # the time between two tests of whether a skew check is due
_ALERTS_S = 5.0  # the time between two looks for new alerts
_GRACE_S = 5.0  # after `close`, running tasks may continue for this long; an interruption loses no state
Work: TypeAlias = "Callable[[], object]"
_CHANGED = b"changed"  # the result of a child that found that the project file has changed
_SKEW = "skew since "


class ChildTask(msgspec.Struct, frozen=True):
    """The arguments of a task in the child process."""

    name: str  # the name of the task: "tick", "retention", "skew since TIME" or "read ahead MODEL"
    project: ProjectSpec
    definitions: str  # the hash of the definitions with which the service started


class Ticker(Closing):
    """Runs ticks and other long tasks in a child process, because Python code in a thread would delay answers.  # D0217

    The child starts with the first task, and keeps the project open. If the project file has changed since the service
    started, tasks run in the calling thread, because the child would use the changed file.

    Args:
        stopping: Returns whether the service is ending. Then the running task is abandoned, which loses no state.
    """

    def __init__(self, system: System, stopping: Callable[[], bool]) -> None:
        self._system = system
        self._stopping = stopping
        self._executor = child(system.config.training)
        self._task: ChildTask | None = None  # None until the first task
        self._changed = False
        self._mutex = threading.Lock()  # the child does one task at a time

    def work(self, name: str, here: Work) -> None:
        """Do a task in the child, or in the calling thread by `here` if the child cannot do it."""
        if self._in_child(name) is None:
            here()

    def skew(self, since_us: int) -> SkewReport:
        """Check the predictions that were made since a time, and return the report about skew."""
        from trimtab.app.inspect.skew_report import SkewReport

        found = self._in_child(f"{_SKEW}{since_us}")
        return sampled(self._system, since_us) if found is None else msgspec.json.decode(found, type=SkewReport)

    def _in_child(self, name: str) -> bytes | None:
        """Return the result of a task, or None if the child cannot do it."""
        from trimtab.app.state.documents import definitions_hash

        with self._mutex:
            if (why := self._reason()) is not None:
                raise Cancelled(why)
            if self._task is None:
                spec = ProjectSpec.of(self._system.config, self._system.state_folder)
                self._task = ChildTask("", spec, definitions_hash(self._system.definitions))
            if self._changed:
                return None
            argument = msgspec.msgpack.encode(msgspec.structs.replace(self._task, name=name))
            task = Task("trimtab.app.serve.background:work_in_child", argument, about=name)
            found = self._executor.run(task, on_event=_log_line, cancelled=self._reason)
            self._changed = found == _CHANGED
            if self._changed:
                _logger.warning(
                    "the project file has changed since the service started. Ticks go on with the old definitions; "
                    "restart the service to use the new ones"
                )
                self._executor.close()
            return None if self._changed else found

    def _reason(self) -> str | None:
        return "The service is stopping." if self._stopping() else None

    def close(self) -> None:
        """End the child."""
        self._executor.close()


def _log_line(event: Event) -> None:
    if isinstance(event, Line):
        _logger.warning("%s", event.text)


def work_in_child(argument: bytes, place: Workplace) -> bytes:
    """Do a task of a `ChildTask` in the child process, which keeps the project open."""
    from trimtab.app.experiments.ticking import tick_project
    from trimtab.app.keep.retention import retain_when_due
    from trimtab.app.state.documents import definitions_hash
    from trimtab.app.training.loops import Loops

    logging.getLogger().setLevel(logging.WARNING)  # the service shows what the child logs
    task = msgspec.msgpack.decode(argument, type=ChildTask)
    system = place.keep("system", lambda stack: stack.enter_context(task.project.open()))
    if definitions_hash(system.definitions) != task.definitions:
        return _CHANGED
    if task.name == "tick":
        tick_project(system)
    elif task.name == "retention":
        retain_when_due(system)
    elif task.name.startswith(_SKEW):
        return msgspec.json.encode(sampled(system, int(task.name.removeprefix(_SKEW))))
    else:
        system.part(Loops).read_ahead(task.name.removeprefix("read ahead "))
    return b""


class BackgroundTasks(Closing):
    """Runs tasks in up to six threads: one follows aliases, and it never waits until a version is loaded (D80).

    The others write service metrics, teach learners, tick loops, check skew, and deliver alerts. A task that fails is
    tried again in the next round, and does not delay other tasks. The error of each task's last round is in `failures`
    and, for other processes, in a catalogue record (`service_failures`). The record belongs to the process that started
    last, so that processes of a killed service cannot overwrite it.

    Args:
        answers: Whether this process answers requests, and must therefore follow aliases.
        keeps: Whether this process does the tasks that exactly one process of a service does: all but following
            aliases and writing the metrics of its own answers.
        worker: The worker's index, which names its record of failures.
        stands: Returns whether events are no longer applied to online features. If so, answers are flagged.
    """

    def __init__(
        self,
        system: System,
        *,
        answers: bool = True,
        keeps: bool = True,
        worker: int | None = None,
        stands: Callable[[], bool] = lambda: False,
    ) -> None:
        self.failures: dict[str, str] = {}  # the error of each task in its last round
        self.failed: Counter[str] = Counter()  # the number of failed rounds of each task
        _ = system.registry, system.views, system.state.learners  # opened before several threads use them
        self._system = system
        self._catalog = system.state.catalog
        self._record_key = "failures" if worker is None else f"{OF_WORKERS}{worker}"
        self._name = f"{os.getpid()}-{id(self):x}"  # identifies this process
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._names = tuple(system.definitions.deployments) if answers else ()
        self._stands = stands
        self._follow = {**self._following(wait=False), "flag answers": self._flag}
        if answers and not keeps:  # otherwise, this process writes the online features itself
            self._follow["read online features"] = system.state.online.reopen_if_replaced
        self._metrics = ArmMetrics(self._catalog, system.clock, self._counts)
        self._folded_h = 0
        self._threads = [self._thread("aliases", self._run_following)] if answers else []
        if answers:
            write = {"write service metrics": self._metrics.write}
            self._threads.append(self._thread("arm-figures", partial(self._run, WRITE_S, write)))
        self.skew: SkewWatch | None = None
        if keeps:
            self._keep()

    def _keep(self) -> None:
        system = self._system
        deployments = system.definitions.deployments
        often: dict[str, Work] = {
            "look for views": system.views.look,
            "see the clock": system.state.check_clock,
            "merge service metrics": self._fold,
            **{f"teach {n}": partial(self._teach, n) for n, one in deployments.items() if one.learn == "online"},
        }
        ticking: dict[str, Work] = {"tick": self._tick, "retention": self._retain}
        between: dict[str, Work] = {f"read ahead {name}": partial(self._read_ahead, name) for name in deployments}
        other, in_child = Ticker(system, self._stop.is_set), runs_in_child(system.config.training, system.clock)
        if self._names and in_child:
            ticking = {name: partial(other.work, name, work) for name, work in ticking.items()}
            between = {name: partial(other.work, name, work) for name, work in between.items()}
            ticking["drop views"] = self._drop  # the child must not, because this process applies the log
        self.skew = SkewWatch(system, check=other.skew if self._names and in_child else None)
        self._threads += [
            self._thread("background", partial(self._run, _ROUND_S, often)),
            self._thread("loop", partial(self._run_ticking, ticking, between, other)),
            self._thread("skew", partial(self._run, _SKEW_S, {"skew": self.skew.check})),
        ]
        if system.config.alerts.receivers:
            self._threads.append(self._thread("alerts", partial(self._run, _ALERTS_S, {"alerts": self._alert})))

    # What these tasks need is imported at their first round, because the first answer of a service does not need it.

    def _teach(self, name: str) -> None:
        from trimtab.app.training.loops import Loops

        self._system.part(Loops).teacher(name).teach()

    def _tick(self) -> None:
        from trimtab.app.experiments.ticking import tick_project

        tick_project(self._system)

    def _retain(self) -> None:
        from trimtab.app.keep.retention import retain_when_due

        retain_when_due(self._system)

    def _drop(self) -> None:
        from trimtab.app.plan.applying import drop_unneeded

        drop_unneeded(self._system)

    def _read_ahead(self, name: str) -> None:
        from trimtab.app.training.loops import Loops

        self._system.part(Loops).read_ahead(name)

    def _alert(self) -> None:
        from trimtab.app.alerts.alerting import Alerting

        self._system.part(Alerting).look()

    def _counts(self) -> list[EndpointCounts]:
        return [self._system.served(name).endpoint.counts for name in self._names]

    def _fold(self) -> None:
        """Merge old records of service metrics once an hour."""
        now_us = self._system.clock.now_us()
        if now_us // HOUR_US != self._folded_h:
            merge_metrics(self._catalog, now_us)
            self._folded_h = now_us // HOUR_US

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=target, name=f"trimtab-{name}", daemon=True)

    def show(self, metrics: Metrics) -> None:
        """Register the metrics of background tasks."""
        if self.skew is not None:
            self.skew.show(metrics)
        failing = "trimtab_keeper_failing", "1 for each background task whose last round failed."
        metrics.gauge(*failing, ("work",), lambda: {(work,): 1 for work in self.failures})
        metrics.counted(
            "trimtab_keeper_failures_total",
            "Failed rounds of background tasks.",
            ("work",),
            lambda: {(work,): count for work, count in self.failed.items()},
        )

    def follow(self) -> None:
        """Load the version to which each alias points, and let the deployment answer with it."""
        self._round({**self._follow, **self._following(wait=True)})

    def _flag(self) -> None:
        """Flag answers for as long as events are not applied to online features."""
        stands = self._stands()
        for name in self._names:
            self._system.served(name).endpoint.see_applied(stands)

    def _following(self, *, wait: bool) -> dict[str, Work]:
        return {f"follow {name}": partial(self._follow_one, name, wait=wait) for name in self._names}

    def start(self) -> BackgroundTasks:
        self._store_failures(self.failures, replace=True)
        for thread in self._threads:
            thread.start()
        return self

    def close(self) -> None:
        """Stop each thread after its current task. Tasks that take too long end with the process."""
        self._stop.set()
        end_s = time.monotonic() + _GRACE_S
        for thread in [*self._threads, *self._system.version_memory.threads]:
            thread.join(max(0.0, end_s - time.monotonic()))
            if thread.is_alive():
                _logger.warning("%s: still running at the end; it is repeated at the next start", thread.name)
        try:
            self._metrics.write()
            self._forget()
        except TrimtabError as error:
            _logger.warning("%s", error)

    def _run(self, every_s: float, works: Mapping[str, Work]) -> None:
        while not self._stop.wait(every_s):
            self._round(works)

    def _run_ticking(self, ticking: Mapping[str, Work], between: Mapping[str, Work], other: Ticker) -> None:
        ticked_s, ticked = time.monotonic(), False
        with other:
            while not self._stop.wait(min(_ROUND_S, _TICK_S)):
                if time.monotonic() < ticked_s + _TICK_S:
                    # Read ahead only if the last tick succeeded. A failed tick may not have closed days, so the
                    # predictions of these days are still in memory, and more would fill it.
                    if ticked and "tick" not in self.failures:
                        self._round(between, count=False)
                    continue
                self._round(ticking)
                ticked_s, ticked = time.monotonic(), True

    def _run_following(self) -> None:
        """Follow each alias in every round, even after an error, because the alias may have moved meanwhile."""
        counted_s = time.monotonic()
        while not self._stop.wait(_FOLLOW_S):
            count = time.monotonic() >= counted_s + _ROUND_S
            self._round(self._follow, count=count)
            if count:
                counted_s = time.monotonic()

    def _round(self, works: Mapping[str, Work], *, count: bool = True) -> None:
        """Run all these tasks once. Without `count`, an error that repeats is neither logged nor counted again."""
        for name, work in works.items():
            if self._stop.is_set():
                return
            failure = None
            try:
                work()
            except TrimtabError as error:
                failure = str(error)
            except Exception as error:  # also from a user's estimator; no error may end the thread
                failure = f"{type(error).__name__}: {error}"
                # during a shutdown, a task may fail for any reason, which is not logged
                if not self._stop.is_set() and (count or self.failures.get(name) != failure):
                    _logger.exception("%s failed", name)
            if not self._stop.is_set() and (count or self.failures.get(name) != failure):
                self._record_result(name, failure)

    def _record_result(self, name: str, failure: str | None) -> None:
        with self._mutex:
            before = self.failures
            # a new dict, because other threads may read the old one
            self.failures = {work: said for work, said in before.items() if work != name}
            if failure is not None:
                self.failures[name] = failure
                self.failed = Counter({**self.failed, name: self.failed[name] + 1})
            if self.failures == before:
                return
            if failure is not None:
                _logger.warning("%s: %s", name, failure)
            try:
                self._store_failures(self.failures)
            except TrimtabError as error:  # the failures are still in the metrics
                _logger.warning("%s", error)

    def _store_failures(self, failures: dict[str, str], *, replace: bool = False) -> None:
        """Store the failures. With `replace`, used at the start, take over the record from another process."""
        body = msgspec.json.encode(FailureRecord(self._name, failures))
        if replace:
            self._catalog.write([Put(KIND, self._record_key, body)])
            return
        found = self._catalog.get(KIND, self._record_key)
        if found is None or self._is_own(found):
            with suppress(Conflict):  # the record now belongs to a newer process
                self._catalog.write([Put(KIND, self._record_key, body, 0 if found is None else found.revision)])

    def _forget(self) -> None:
        found = self._catalog.get(KIND, self._record_key)
        if found is not None and self._is_own(found):
            with suppress(Conflict):  # as above
                self._catalog.write([Remove(KIND, self._record_key, found.revision)])

    def _is_own(self, record: Record) -> bool:
        return read_failures(record).by == self._name

    def _follow_one(self, name: str, *, wait: bool) -> None:
        served = self._system.served(name)
        endpoint = served.endpoint
        try:
            served.follow(wait=wait)
            endpoint.fails_to_load = False
        except NotFound:  # no version exists yet, as the endpoint and `trimtab status` report
            if endpoint.ready:
                raise
        except Exception:
            endpoint.fails_to_load = True
            raise
        finally:
            self._system.make_room()
