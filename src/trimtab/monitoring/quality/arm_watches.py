"""Quality alarms for canaries and shadows: versions that answer next to the version in service."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from trimtab.core.records import DayQuality, Signal
from trimtab.core.time import DAY_US
from trimtab.monitoring.quality.watches import Watch, fresh
from trimtab.serving.arms.arms import CANARY, SHADOW
from trimtab.store.ports import Catalog, Put, Remove

KIND = "arm_watch"
QUIET_US = 7 * DAY_US  # an arm (a canary or a shadow) is watched until its newest compared day ended this long ago

Arm = tuple[str, str]  # an arm: an alias, and the version that it points to


class ArmWatches:
    """The watches (see watches.py) over the arms of one model, stored by arm and version.

    The quality of a version is compared with the reference of the version in service and, if the version itself was
    ever put in service, also with its own reference.

    Args:
        stored: Returns the newest stored watch of a version from its time in service; None if it never was.
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
        """Return a watch over a version in any arm; None if there is none."""
        return next((one for one in self.watches.values() if one.version == version), None)

    def before(self, arm: Arm, day: DayQuality, champion: Watch) -> Watch:
        """Return the watch of an arm before a day is added. If there is none, return one that begins on this day."""
        return self.watches.get(arm) or self._begun(arm, day, champion)

    def over(self, arms: Mapping[str, str], closed_us: int) -> list[Watch]:
        """Return the watches that are over: the arm points to another version, or no day was compared for a week."""
        return [
            watch
            for (arm, version), watch in self.watches.items()
            if arms.get(arm) != version or closed_us - (watch.last_day_us or watch.anchored_at_us) > QUIET_US + DAY_US
        ]

    def put(self, watch: Watch) -> Put:
        """Return the change that stores a watch."""
        return Put(KIND, self._key(watch), msgspec.json.encode(watch))

    def remove(self, watch: Watch) -> Remove:
        """Return the change that removes a watch."""
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
    """Return the arm that a quality signal is about; "" if it is about the version in service."""
    first = signal.subject.partition(",")[0]
    return first if first in (CANARY, SHADOW) else ""
