"""Turn the log records of one batch into rows of entities, column by column, which is faster than row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, TypeAlias

from trimtab.events.records import Event, padded
from trimtab.features.online.packed.keys import name_bytes
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.series import Contribution
from trimtab.store.ports import LogRecord

# (S, the known-at time, the record, the event). S: the latest append time of the records up to and including this one
Arrival: TypeAlias = tuple[int, int, LogRecord, Event]


class Kept:
    """The records of one batch that become rows, for a source without a key.

    Deletions, and events in which a column that identifies the entity is null, are only counted. `repeats` says which
    records repeat an event (None: not known).
    """

    def __init__(
        self, plan: ViewPlan, arrivals: list[Arrival], repeats: list[bool] | None, count: Counter[str]
    ) -> None:
        width = len(plan.columns)
        self._plan = plan
        self._arrivals = arrivals
        self._values = [event.values for _, _, _, event in arrivals]
        if {*map(len, self._values)} - {width}:
            self._values = [padded(values, width) for values in self._values]
        self._entities = list(map(plan.entity_of, self._values))
        self.repeated: set[tuple[str, int]] = set()  # partition and position of records that repeat an event
        # By partition and position of a record: the error of each series that could not be computed. `rows` sets this.
        self.errors: dict[tuple[str, int], Mapping[int, str]] = {}
        if repeats is not None and True in repeats:
            self.repeated = {
                (a[2].partition, a[2].position) for a, again in zip(arrivals, repeats, strict=True) if again
            }
        deleted = [event.op == "delete" for _, _, _, event in arrivals]
        if True in deleted or None in self._entities:
            self._drop(deleted, count)
        count["too_late"] += too_late(plan, [(event.event_at_us, known_at) for _, known_at, _, event in self._arrivals])

    def rows(self) -> Iterable[tuple[Arrival, bytes, Sequence[Contribution]]]:
        """Return each record, the bytes that name its entity in keys, and the event's value for each series."""
        names = map(Names().__getitem__, self._entities)
        gives, errors = self._plan.values.of_many(self._values)
        for n, of_event in errors.items():
            record = self._arrivals[n][2]
            self.errors[record.partition, record.position] = of_event
        return zip(self._arrivals, names, gives, strict=True)

    def _drop(self, deleted: list[bool], count: Counter[str]) -> None:
        count["refused_deletes"] += sum(deleted)
        live = [not gone and entity is not None for gone, entity in zip(deleted, self._entities, strict=True)]
        count["no_entity"] += len(live) - sum(live) - sum(deleted)
        self._arrivals = list(compress(self._arrivals, live))
        self._values = list(compress(self._values, live))
        self._entities = list(compress(self._entities, live))


def too_late(plan: ViewPlan, times: Iterable[tuple[int, int]]) -> int:
    """Count events that had left all windows when they became known. (S is not used here: it may be much later.)

    `times` are the event time and the known-at time of each event.
    """
    longest_us = plan.longest_us
    return 0 if plan.forever else sum(at < known - longest_us and plan.expired(at, known) for at, known in times)


class Names(dict[Any, Any]):
    """For each entity, the bytes that name it in keys; None for None. They are computed only once."""

    def __missing__(self, entity: Any) -> bytes | None:
        name = self[entity] = None if entity is None else name_bytes(entity)
        return name
