"""The hourly input checks of a line: the monitor of a living project, given whole blocks of answers in columns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.clock import Clock
from trimtab.core.records import DayQuality, Prediction, Signal
from trimtab.core.time import HOUR_US
from trimtab.events.columns.frames import EventFrame
from trimtab.features.definitions import Request
from trimtab.monitoring.inputs.checks.findings import Finding
from trimtab.monitoring.inputs.input_hours import HourCounts, Layout, summarise_rows, text_hashes
from trimtab.monitoring.inputs.monitor import InputMonitor
from trimtab.monitoring.profiles.input_rows import ColumnPlan, rows_of_block
from trimtab.monitoring.profiles.profile_records import InputProfile
from trimtab.monitoring.profiles.profile_store import Profiles
from trimtab.monitoring.profiles.question_hashes import aside_of, question_hashes
from trimtab.registry import Registry, Version
from trimtab.simulation.scenarios.rows import Block
from trimtab.steering.definitions import Deployment
from trimtab.store.ports import Blob, Catalog
from trimtab.training.data.sets import TrainingSet

_KEPT = 8
_encode = msgspec.msgpack.Encoder().encode
_Counted = dict[int, HourCounts]


class SharedCounts:
    """Profiles and hourly summaries that lines share: the same version sees the same rows alike in all of them."""

    def __init__(self) -> None:
        self.profiles: dict[str, InputProfile] = {}
        self.findings: dict[object, list[Finding]] = {}  # of the newest block
        self._until_us: int | None = None
        self._asked: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._hours: OrderedDict[tuple[str, int], _Counted] = OrderedDict()

    def begin(self, until_us: int) -> None:
        """Forget what was found in the block before, once for all lines."""
        if until_us != self._until_us:
            self._until_us = until_us
            self.findings.clear()

    def asked(self, block: Block, request: Request) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The hashes of the request keys of a block, and of what they ask."""
        if self._asked is None or self._asked[0] != block.start:
            keys = text_hashes([str(one) for one in block.requests[request.key].to_list()])
            rows = zip(*(block.requests[name].to_list() for name in request.columns), strict=True)
            self._asked = (block.start, keys, question_hashes(list(map(_encode, rows)), aside_of(request)))
        return self._asked[1:]

    def hours(self, version: str, block: Block, count: Callable[[], _Counted]) -> _Counted:
        """The hourly summaries of a block as a version sees it."""
        found = self._hours.get((version, block.start))
        if found is None:
            found = self._hours[version, block.start] = count()
            while len(self._hours) > _KEPT:
                self._hours.popitem(last=False)
        return found


class _LineProfiles(Profiles):
    """The profiles of a line's versions; one that another line made of the same version is stored again, not made."""

    def __init__(self, catalog: Catalog, blob: Blob, clock: Clock, made: dict[str, InputProfile]) -> None:
        super().__init__(catalog, blob, clock)
        self._of_all = made

    def make(self, version: Version, training_set: TrainingSet) -> InputProfile:
        known = self._of_all.get(version.id)
        if known is None:
            known = self._of_all[version.id] = super().make(version, training_set)
        else:
            self.store(version, known)
        return known


class WatchedInputs:
    """Looks at what one line is asked every few hours; summaries are by the hour, as those of a service.

    Args:
        deployment: Whose inputs.
        catalog: Where hours, signals and red windows are.
        blob: Where profiles are.
        registry: Says which version is in service.
        frame_of: Gives the events of a source by its name.
        clock: The time.
        shared: What the lines of a replay have in common.
        every_us: The time between two looks, in whole hours; 0: it never looks, and nothing is left out.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        catalog: Catalog,
        blob: Blob,
        registry: Registry,
        frame_of: Callable[[str], EventFrame],
        clock: Clock,
        shared: SharedCounts,
        every_us: int,
    ) -> None:
        self.profiles = _LineProfiles(catalog, blob, clock, shared.profiles)
        self.signals: list[Signal] = []
        self._every_us = every_us
        self._shared = shared
        self._request = deployment.model.request
        self._looked_us = clock.now_us()
        self._monitor = InputMonitor(
            catalog,
            deployment.model,
            profiles=self.profiles,
            registry=registry,
            frame_of=frame_of,
            now_us=clock.now_us(),
            owner=deployment.owner,
            known=shared.findings,
        )

    def watch(self, block: Block, version: str, matrix: NDArray[Any], ids: Sequence[str], until_us: int) -> None:
        """Take in the answers to a block, with the looks that fall before `until_us`.

        Args:
            block: What was asked.
            version: Who answered.
            matrix: The inputs that it was given, shape (rows, inputs).
            ids: The predictions' ids.
            until_us: The end of the block.
        """
        if not self._every_us:
            return
        self._shared.begin(until_us)
        keys, questions = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if block.stop > block.start:
            keys, questions = self._shared.asked(block, self._request)

        def counted(layout: Layout, plans: tuple[ColumnPlan, ...]) -> _Counted:
            rows = rows_of_block(plans, matrix, block.requests, block.features)
            return summarise_rows(layout, rows, block.at_us, ids)

        begin = 0
        step_us = self._every_us
        for look_us in range(self._looked_us // step_us * step_us + step_us, until_us + step_us, step_us):
            end = int(np.searchsorted(block.at_us, min(look_us, until_us)))
            at_us = block.at_us[begin:end]

            def of_part(
                layout: Layout, plans: tuple[ColumnPlan, ...], at_us: NDArray[Any] = at_us
            ) -> Mapping[int, HourCounts]:
                found = self._shared.hours(version, block, lambda: counted(layout, plans))
                return {hour: found[hour] for hour in np.unique(at_us // HOUR_US).tolist()}

            self._monitor.add_live(version, at_us, keys[begin:end], questions[begin:end], of_part)
            begin = end
            if look_us < until_us:
                self._look(look_us)

    def resume(self, predictions: Sequence[Prediction]) -> None:
        """Take in again what was logged, after a restart; those of closed hours change nothing."""
        if self._every_us:
            self._monitor.follow()
            self._monitor.add([p for p in predictions if p.made_at_us >= self._monitor.read_from_us])

    def close(self, now_us: int, closed: Sequence[DayQuality]) -> None:
        """Look at the end of a block, with the days that were closed."""
        if self._every_us:
            self._look(now_us, closed)

    def follow(self) -> None:
        """Take up the version that is in service by now."""
        if self._every_us:
            self._monitor.follow()

    def _look(self, now_us: int, closed: Sequence[DayQuality] = ()) -> None:
        self._looked_us = now_us
        self.signals += self._monitor.look(now_us, closed).begun
