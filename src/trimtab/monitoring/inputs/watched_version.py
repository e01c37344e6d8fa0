"""The version in service whose inputs are watched, with its profile and the reader of its rows."""

from __future__ import annotations

import msgspec

from trimtab.monitoring.inputs.input_hours import Layout
from trimtab.monitoring.profiles.input_rows import ColumnPlan, RowReader, planned
from trimtab.monitoring.profiles.profile_store import Profiles
from trimtab.monitoring.quality.loss_estimates import LossEstimate, loss_estimate
from trimtab.registry import Registry
from trimtab.registry.protection import CHAMPION
from trimtab.store.ports import Catalog


class Reading(msgspec.Struct, frozen=True, eq=False):
    """The reader of a version's rows, the layout of their counts, and how its losses are estimated."""

    version: str
    cut_us: int  # the version was trained on what was known at this time
    layout: Layout
    plans: tuple[ColumnPlan, ...]
    reader: RowReader
    estimate: LossEstimate | None


class WatchedVersion:
    """Follows the version in service. If it has no profile, `reading` is None and `unprofiled` says why."""

    def __init__(self, model: str, registry: Registry, profiles: Profiles, catalog: Catalog) -> None:
        self._model = model
        self._catalog = catalog
        self._registry = registry
        self._profiles = profiles
        self.version: str | None = None
        self.reading: Reading | None = None
        self.unprofiled: str | None = None

    def follow(self) -> bool:
        """Read which version is in service; return whether it has changed.

        If the profile of the version was never needed before, it is made now, which may take seconds.
        """
        found = self._registry.alias(self._model, CHAMPION)
        if (None if found is None else found.id) == self.version:
            return False
        self.version, self.reading, self.unprofiled = None, None, None
        if found is not None:
            self.version, profile = found.id, self._profiles.of(found)
            if isinstance(profile, str):
                self.unprofiled = profile
            else:
                plans = planned(*self._profiles.inputs_of(found))
                reader, estimate = RowReader(plans, profile.request), loss_estimate(self._catalog, found.id)
                self.reading = Reading(found.id, found.cut_us, Layout(profile), plans, reader, estimate)
        return True

    def has_unread(self, versions: set[str]) -> bool:
        """Return whether any of these versions differs from `reading.version`, the only one whose rows are read."""
        return self.reading is None or bool(versions - {self.reading.version})
