"""Watches over the quality of canaries and shadows, next to the version in service."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from trimtab.core.records import DayQuality, Signal
from trimtab.core.time import DAY_US
from trimtab.monitoring.quality.watches import Watch, fresh
from trimtab.serving.arms.arms import CANARY, SHADOW
from trimtab.store.ports import Catalog, Put, Remove

KIND = "arm_watch"
QUIET_US = 7 * DAY_US  # an arm without answers for this time is no longer watched

Arm = tuple[str, str]  # an alias and the version that it points to


class ArmWatches:
    """The watches of one model's arms, each stored under the arm and its version.

    A version is compared with the reference of its own promotion, if it was ever promoted, and with the level of the
    version in service.

    Args:
        catalog: Stores the watches.
        model: The model's name.
        stored: Gives the watch that a version had when it was promoted.
    """

    def __init__(self, catalog: Catalog, model: str, stored: Callable[[str], Watch | None]) -> None:
        self._catalog = catalog
        self._model = model
        self._stored = stored
        self.reload()

    def reload(self) -> None:
        """Read the watches again, because another process may have changed them."""
        records = self._catalog.find(KIND, f"{self._model}/")
        found = [msgspec.json.decode(record.body, type=Watch) for record in records]
        self.watches: dict[Arm, Watch] = {(one.arm, one.version): one for one in found}

    def of(self, version: str) -> Watch | None:
        """A watch over a version, whatever its arm."""
        return next((one for one in self.watches.values() if one.version == version), None)

    def before(self, arm: Arm, day: DayQuality, champion: Watch) -> Watch:
        """The watch of an arm before one of its closed days; left out, a new watch that begins with that day."""
        return self.watches.get(arm) or self._begun(arm, day, champion)

    def over(self, arms: Mapping[str, str], now_us: int) -> list[Watch]:
        """The watches of arms that now point to another version, or that gave no answers for a week."""
        return [
            watch
            for (arm, version), watch in self.watches.items()
            if arms.get(arm) != version or now_us - (watch.last_day_us or watch.anchored_at_us) > QUIET_US + DAY_US
        ]

    def put(self, watch: Watch) -> Put:
        """The change that stores a watch."""
        return Put(KIND, self._key(watch), msgspec.json.encode(watch))

    def remove(self, watch: Watch) -> Remove:
        """The change that removes a watch."""
        return Remove(KIND, self._key(watch))

    def _key(self, watch: Watch) -> str:
        return f"{self._model}/{watch.arm}/{watch.version}"

    def _begun(self, arm: Arm, day: DayQuality, champion: Watch) -> Watch:
        name, version = arm
        known = self._stored(version)
        return Watch(
            model=self._model,
            version=version,
            arm=name,
            anchored_at_us=day.day_us,
            figures={} if known is None else fresh(known.figures),
            unwatched={} if known is None else known.unwatched,
            loss_cap=champion.loss_cap if known is None else known.loss_cap,
            metric=champion.metric,
            healthy=fresh(champion.figures),
            healthy_version=champion.version,
            healthy_cap=champion.loss_cap,
        )


def arm_of(signal: Signal) -> str:
    """The arm whose quality a signal is about; empty if the signal is about the version in service."""
    first = signal.subject.partition(",")[0]
    return first if first in (CANARY, SHADOW) else ""
