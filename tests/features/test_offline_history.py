"""The offline engine over histories that were read from a log, as of a position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Record, oracle
from strategies import BASE_US, KEYED, KEYLESS, histories, views
from test_offline import ASK, Wanted, asks, bits

from trimtab.core.columns.data import Columns
from trimtab.events.columns.history import History
from trimtab.events.definitions import Source
from trimtab.events.records import Event, encode
from trimtab.features.feature_set import feature_set
from trimtab.features.frames import REASONS
from trimtab.features.offline.evaluation import evaluate
from trimtab.store.ports import LogRecord

PARTITIONS = ("p0", "p1")


class GivenLog:
    """A log that holds what it was given; positions without a record hold an event of another source."""

    partition = "p0"

    def __init__(self, records: Sequence[Record], source: Source) -> None:
        self._records: dict[str, list[LogRecord]] = {name: [] for name in PARTITIONS}
        other = encode(Event("other", "", 0, 0, "upsert", False, ()))
        for record in records:
            partition = self._records[record.partition]
            while len(partition) + 1 < record.position:
                partition.append(LogRecord(record.partition, len(partition) + 1, BASE_US, other))
            partition.append(LogRecord(record.partition, record.position, BASE_US, _payload(record, source)))

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        return self._records[partition][after : after + limit]

    def positions(self) -> dict[str, int]:
        return {name: len(records) for name, records in self._records.items() if records}

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        raise NotImplementedError

    def truncate(self, partition: str, through: int) -> int:
        raise NotImplementedError

    def close(self) -> None:
        pass


def _payload(record: Record, source: Source) -> bytes:
    op: Any = "delete" if record.deleted else "upsert"
    values = tuple(record.row[name] for name in source.columns)
    return encode(Event(source.name, record.id, record.event_at_us, record.known_at_us, op, True, values))


@pytest.mark.slow
@pytest.mark.parametrize("source", [KEYED, KEYLESS], ids=["keyed", "keyless"])
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_the_features_as_of_a_instant_and_a_position_are_those_of_the_oracle(
    source: Source, data: st.DataObject
) -> None:
    records: list[Record] = data.draw(histories(source))
    view = data.draw(views(source))
    wanted: Wanted = data.draw(asks)
    upto = {name: data.draw(st.integers(0, 14)) for name in PARTITIONS}
    history = History(GivenLog(records, source), [source], upto=upto)
    history.refresh()
    keys = Columns.of({"key": ("str", [key for key, _ in wanted])})
    at_us = np.array([t for _, t in wanted], np.int64)
    found = evaluate(feature_set(ASK, [view]), keys, at_us, {source.name: history.frame(source.name)})
    for row, (key, t) in enumerate(wanted):
        answers = {
            name: (found.values[f"v.{name}"].to_list()[row], REASONS[found.reasons[f"v.{name}"][row]])
            for name in view.features
        }
        assert bits(answers) == bits(oracle(records, view, key, t, upto)), (key, t)
