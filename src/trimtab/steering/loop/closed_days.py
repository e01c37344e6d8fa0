"""New labels on closed days (days with final labels), and slices that raised the loss: facts for triggers."""

from __future__ import annotations

from trimtab.core.records import ChangeOnset
from trimtab.core.time import DAY_US
from trimtab.monitoring.quality.quality import QualityMonitor
from trimtab.monitoring.quality.quality_days import stored_sums
from trimtab.monitoring.quality.slice_rises import rise_by_slice
from trimtab.serving.arms.arms import SHADOW
from trimtab.steering.definitions import Deployment
from trimtab.store.ports import Catalog


class ClosedDays:
    """The closed days of one deployment. They are read again after another day was closed."""

    def __init__(self, catalog: Catalog, deployment: Deployment, monitor: QualityMonitor) -> None:
        self._catalog = catalog
        self._deployment = deployment
        self._monitor = monitor
        # for a slice, a change and the newest closed day: by what share the slice has raised the loss
        self._rises: dict[tuple[str, ChangeOnset, int | None], float] = {}
        # the time of the training, the newest closed day, and the number of labels since that training
        self._counted = (-1, -1, 0)

    def new_labels(self, trained_us: int) -> int:
        """Return the number of labels on the days that were closed since a training."""
        newest_us = self._newest_us()
        if newest_us is None:
            return 0
        if (trained_us, newest_us) != self._counted[:2]:
            first_us = self._deployment.model.label.closed_until(trained_us)
            days = stored_sums(self._catalog, self._deployment.name, range(first_us, newest_us + DAY_US, DAY_US))
            labels = sum(one.whole.labelled for one in days if one.arm != SHADOW)
            self._counted = (trained_us, newest_us, labels)
        return self._counted[2]

    def rise_by_slice(self, name: str, onset: ChangeOnset) -> float:
        """Return by what share one slice has raised the loss of all rows; see `slice_rises.rise_by_slice`."""
        key = (name, onset, self._newest_us())
        if key not in self._rises:
            self._rises = {one: rise for one, rise in self._rises.items() if one[2] == key[2]}
            self._rises[key] = rise_by_slice(self._catalog, self._deployment.name, name, onset)
        return self._rises[key]

    def _newest_us(self) -> int | None:
        watch = self._monitor.watch
        return None if watch is None else watch.last_day_us
