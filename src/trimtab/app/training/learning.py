"""Teach online learners each label once, soon after it becomes known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.data.logged_requests import LoggedRequest, LoggedRequests, decode_requests
from trimtab.core.columns.data import Column, column
from trimtab.core.errors import Conflict, Corrupt, Unavailable
from trimtab.core.time import SECOND_US
from trimtab.features.labels import find_labels
from trimtab.monitoring.inputs.red_windows import red_windows
from trimtab.registry import LoadedModel
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.online_learning import Example, OnlineDeployment, learner_name
from trimtab.steering.definitions import Deployment

if TYPE_CHECKING:
    from trimtab.app.system import System

_WAITS = 2  # a prediction without a label is dropped when it is older than this many times the wait for labels
_GRACE_US = 60 * SECOND_US  # labels newer than this are not taught yet: some of their events may not be in the log


class Teacher:
    """Teaches one deployment's online learner the labels of its own predictions, as they become known.

    Time is divided into blocks of equal length. The label of each request is taught once: in the first block in which
    it is known, with its value at the end of the block. Later corrections of a label are not taught, nor are requests
    in time windows that are excluded from training. All of this follows from the logs and from the learner's
    saved position, so another process can continue in the same way.

    A new version starts from its fitted model, and learns the labels that became known after its training cut-off. For
    predictions by another version, the model inputs are computed again. Several threads may share a teacher.
    """

    def __init__(self, system: System, deployment: Deployment) -> None:
        self._system = system
        self._deployment = deployment
        self._requests: LoggedRequests | None = None
        self._taught: set[str] = set()
        self._version = ""
        self._mutex = threading.Lock()

    def teach(self) -> int:
        """Teach the labels of all blocks that ended at least a minute ago and are not taught yet. Return their number.

        While another process teaches this learner, nothing is done.
        """
        with self._mutex:
            try:
                return self._teach()
            except Conflict:  # another process is saving the learner
                return 0
            finally:
                self._system.state.learners.release_writer()

    def _teach(self) -> int:
        system, model = self._system, self._deployment.model
        if system.registry.alias(model.name, CHAMPION) is None:
            return 0
        served = system.served(model.name)
        loaded = served.refresh()
        learner = served.answerers.learner
        if learner is None or learner.name != learner_name(model.name, loaded.version.id):
            return 0  # another version was deployed meanwhile; the next call teaches it
        # this raises an error if the clock is ahead: otherwise a position in the future would be saved, and nothing
        # would be learnt until the real time reaches it. # D0170
        system.state.check_clock()
        now_us = system.clock.now_us()
        until_us = now_us - _GRACE_US
        if loaded.version.id != self._version:
            self._version = loaded.version.id
            self._taught.clear()
            self._requests = None
        if self._requests is None:
            request = served.answerers.features(loaded).request  # as in the version's training
            self._requests = LoggedRequests(
                msgspec.structs.replace(model, request=request),
                system.predictions,
                since_us=now_us - _WAITS * model.label.final_at(0),
                inputs=True,
                request_of=system.live.request_of,
            )
        self._requests.read()
        begun_us = max(learner.saved.until_us, loaded.version.cut_us)
        ends_us = _block_ends(learner, begun_us, until_us)
        if not ends_us:
            return 0
        positions = system.state.events.positions()
        source, keys = system.definitions.sources[model.label.source.name], self._keys(self._waiting(until_us))
        self._events = system.events_with(source, model.label.key, keys.to_list())
        self._taught.update(key for key, _, _ in self._known(begun_us))  # taught before, or used by the training
        found: list[tuple[str, int, float]] = []
        seen: set[str] = set()
        for end_us in ends_us:
            known = self._known(end_us, seen)
            found += [one for one in known if one[1] > begun_us]
            seen.update(key for key, _, _ in known)
            begun_us = end_us
        faulty, first = red_windows(system.state.catalog, model.name), self._requests.first
        found = [one for one in found if not any(window.covers(first[one[0]].at_us) for window in faulty)]
        inputs, faults = self._encoded([key for key, _, _ in found], loaded)
        examples = [
            Example(inputs.get(key, b""), label, known_us, key, faults.get(key, "")) for key, known_us, label in found
        ]
        taught = learner.learn(examples, until_us=until_us, positions=positions)
        self._taught |= seen  # after the save, so that the next call teaches what could not be saved
        self._forget(now_us - _WAITS * model.label.final_at(0))
        return taught

    def _known(self, cut_us: int, seen: AbstractSet[str] = frozenset()) -> list[tuple[str, int, float]]:
        """Return the requests that have a label at `cut_us`, in the order in which the labels became known.

        Requests whose labels were taught before, and those in `seen`, are left out.
        """
        waiting = {key: p for key, p in self._waiting(cut_us).items() if key not in seen}
        if not waiting:
            return []
        waiting_keys = list(waiting)
        at_us: NDArray[Any] = np.array([p.at_us for p in waiting.values()], np.int64)
        found = find_labels(self._deployment.model.label, self._events, self._keys(waiting_keys), at_us, cut_us)
        there = np.flatnonzero(~np.isnan(found.values)).tolist()
        there.sort(key=lambda n: (found.known_at_us[n], at_us[n], waiting_keys[n]))
        return [(waiting_keys[n], int(found.known_at_us[n]), float(found.values[n])) for n in there]

    def _waiting(self, cut_us: int) -> dict[str, LoggedRequest]:
        """Return the requests up to `cut_us` whose labels were not taught yet."""
        assert self._requests is not None
        logged = self._requests.first.items()
        return {key: p for key, p in logged if p.at_us <= cut_us and key not in self._taught}

    def _keys(self, keys: Iterable[str]) -> Column:
        """Return the keys of requests as events have them."""
        dtype = self._deployment.model.request.key_dtype
        return column(dtype, [int(key) for key in keys] if dtype == "int" else list(keys))

    def _encoded(self, keys: list[str], loaded: LoadedModel) -> tuple[dict[str, bytes], dict[str, str]]:
        """Return the model inputs of requests, and the reasons why other requests have no inputs.

        If this version answered the request, its logged inputs are used. Otherwise the inputs are computed from history
        as of the time of the request.
        """
        assert self._requests is not None
        first = self._requests.first
        inputs = {key: first[key].values for key in keys if first[key].version == self._version}
        others = [first[key] for key in keys if key not in inputs]
        faults: dict[str, str] = {}
        if others:
            compute = self._offline(loaded)
            try:
                inputs |= compute(others)
            except (Unavailable, Corrupt, OSError, MemoryError):
                raise
            except Exception:  # perhaps only some requests cause the error
                for one in others:
                    try:
                        inputs |= compute([one])
                    except Exception as error:
                        faults[one.request_id] = f"its inputs: {type(error).__name__}: {error}"
                if len(faults) == len(others) > 1:
                    raise  # all requests cause it
        return inputs, faults

    def _offline(self, loaded: LoadedModel) -> Callable[[list[LoggedRequest]], dict[str, bytes]]:
        """Return a function that recomputes the inputs of requests."""
        offline = self._system.served(self._deployment.name).answerers.offline(loaded)
        names = {view.source.name for view in offline.features.views}
        declared = names <= self._system.definitions.sources.keys()
        frames, _ = self._system.history.frames_at(names) if declared else self._system.views.snapshot(None)

        def compute(predictions: list[LoggedRequest]) -> dict[str, bytes]:
            requests = decode_requests(offline.features.request, [p.request for p in predictions])
            matrix, _ = offline.compute(requests, np.array([p.at_us for p in predictions], np.int64), frames)
            return {p.request_id: row.astype("<f8").tobytes() for p, row in zip(predictions, matrix, strict=True)}

        return compute

    def _forget(self, oldest_us: int) -> None:
        """Drop requests that have waited too long for a label."""
        assert self._requests is not None
        for key in self._requests.forget(oldest_us):
            self._taught.discard(key)


def _block_ends(learner: OnlineDeployment, begun_us: int, until_us: int) -> range:
    """Return the ends of the finished blocks that have not been taught yet."""
    every_us = learner.every_us
    first_us = (begun_us + 1) // every_us * every_us + every_us - 1
    return range(first_us, (until_us + 1) // every_us * every_us, every_us)
