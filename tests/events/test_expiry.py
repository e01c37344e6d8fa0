"""What may go: an oracle in plain Python, and answers that stay as they were."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.time import HOUR_US
from trimtab.events.definitions import source
from trimtab.events.expiry import expired
from trimtab.events.records import Event, encode
from trimtab.events.tables import materialise
from trimtab.store.delta.table import DeltaTable
from trimtab.testing import MemoryLog

VISITS = source("visits", time="at", key="k", columns={"k": str, "who": str, "where": int})
COLUMNS = list(VISITS.columns)
_events = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),  # id
        st.sampled_from(["x", "y", None]),  # who
        st.integers(0, 2),  # where
        st.integers(0, 30),  # event at
        st.integers(0, 30),  # known at
        st.sampled_from(["upsert", "upsert", "upsert", "delete"]),
        st.sampled_from([0, 0, 1, HOUR_US // 2]),  # until it is appended
    ),
    min_size=1,
    max_size=25,
)


def oracle(rows: list[dict[str, Any]], before_us: int, entities: list[tuple[str, ...]]) -> set[int]:
    """The positions of rows that may go."""
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_id.setdefault(row["id"], []).append(row)
    old = {k: v for k, v in by_id.items() if all(max(r["event_at"], r["known_at"]) < before_us for r in v)}
    kept: set[str] = set()
    for by in entities:
        best: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        first: dict[tuple[Any, ...], tuple[int, str]] = {}
        for key, versions in old.items():
            last = max(versions, key=lambda r: (r["known_at"], r["position"]))
            for row in versions:
                holds = row is last and row["op"] != "delete"
                rank = (holds, row["event_at"], row["known_at"], row["position"], key)
                hour = None if row["append_at"] < before_us else row["append_at"] // HOUR_US
                entity = (*(row[name] for name in by), hour)
                best[entity] = max(best.get(entity, rank), rank)
                if hour is not None:
                    first[entity] = min(first.get(entity, (row["position"], key)), (row["position"], key))
        kept |= {rank[-1] for rank in best.values()} | {key for _, key in first.values()}
    return {r["position"] for key, versions in old.items() if key not in kept for r in versions}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(_events, st.integers(0, 32), st.sampled_from([[], [("who",)], [("who",), ("who", "where")]]))
def test_what_goes_is_what_the_rule_says(
    events: list[tuple[Any, ...]], before_us: int, entities: list[tuple[str, ...]]
) -> None:
    log, rows = MemoryLog(), []
    append_at = 20
    for position, (key, who, where, event_at, known_at, op, passed_us) in enumerate(events, 1):
        append_at += passed_us
        values = tuple({"k": key, "who": who, "where": where, "at": event_at}[name] for name in COLUMNS)
        log.append([encode(Event("visits", key, event_at, known_at, op, True, values))], at_us=[append_at])
        rows.append(
            {"id": key, "who": who, "where": where, "event_at": event_at, "known_at": known_at, "op": op}
            | {"position": position, "append_at": append_at}
        )
    with tempfile.TemporaryDirectory() as folder, DeltaTable(Path(folder) / "t") as table:
        materialise(log, [VISITS], {"visits": table})
        gone = oracle(rows, before_us, entities)
        assert table.count(expired(before_us, entities)) == len(gone)
        assert table.prune(expired(before_us, entities)) == len(gone)
        assert set(table.scan()["_position"].to_list()) == set(range(1, len(rows) + 1)) - gone
        assert table.prune(expired(before_us, entities)) == 0


@pytest.mark.fast
def test_of_each_entity_the_newest_old_event_stays() -> None:
    assert '"who"' in expired(5, [("who",)])
    assert "row_number" not in expired(5, [])
