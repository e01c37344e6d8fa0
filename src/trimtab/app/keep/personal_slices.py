"""Find and remove the sums of slices that are named after a key, such as "customer=c-1042"."""

from __future__ import annotations

from typing import Any

import msgspec

from trimtab.app.keep.subjects import Subject
from trimtab.experiments import records
from trimtab.experiments.day_sums import short_value
from trimtab.feedback.slices import slice_value
from trimtab.monitoring import signals
from trimtab.monitoring.quality import arm_watches, quality, quality_days
from trimtab.store.ports import Catalog, Put, Remove

_WITH_SLICES = (quality_days.SLICES, quality_days.BATCH, quality.KIND, arm_watches.KIND, records.DAYS)


def without_slices(catalog: Catalog, subject: Subject) -> list[Put | Remove]:
    """Return the changes after which no slice in closed days, watches and signals is named after a key."""
    columns = {names[0] for places in subject.places.values() for names in places if len(names) == 1}
    values = {value: key for key in subject.keys for value in (slice_value(key[0]), short_value(key[0]))}
    named = {f"{column}={value}": key for column in columns for value, key in values.items()}
    changes: list[Put | Remove] = []
    for record in (record for kind in (*_WITH_SLICES, signals.KIND) for record in catalog.find(kind)):
        found: set[str] = set()
        left = _without(msgspec.json.decode(record.body), named.keys(), found)
        if found:
            subject.met.update(named[name] for name in found)
            put = Put(record.kind, record.key, msgspec.json.encode(left), record.revision)
            changes.append(Remove(put.kind, put.key, put.expected) if put.kind == signals.KIND else put)
    return changes


def _without(value: Any, names: Any, found: set[str]) -> Any:
    """Return a JSON value without the members that have one of `names`. The names that occur are added to `found`."""
    if isinstance(value, dict):
        found.update(names & value.keys())
        return {name: _without(one, names, found) for name, one in value.items() if name not in names}
    if isinstance(value, list):
        return [_without(one, names, found) for one in value]
    if isinstance(value, str) and (name := value.removeprefix("slice ")) in names and name != value:
        found.add(name)  # the subject of a signal
    return value
