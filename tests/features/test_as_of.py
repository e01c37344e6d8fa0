"""Rows of many positions evaluated together, against a history built up to each row's positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hazards import HAZARDS, KEYED, KEYED_ONLY, PLAIN, Given, Stream, features_of

from trimtab import features as f
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.events.columns.history import History
from trimtab.events.definitions import Source, Time, source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine
from trimtab.features.definitions import request, view
from trimtab.features.feature_set import FeatureSet, feature_set
from trimtab.features.offline.as_of import AsOf, evaluate_as_of
from trimtab.features.offline.evaluation import evaluate
from trimtab.features.skew import differences
from trimtab.testing import MemoryLog


def history_of(log: Any, sources: Sequence[Source], upto: dict[str, int] | None) -> History:
    history = History(log, sources, upto=upto)
    history.refresh()
    return history


def together(
    features: FeatureSet, log: Any, wanted: Columns, at_us: list[int], positions: list[dict[str, int]]
) -> tuple[AsOf, int]:
    """All rows at once, and how often the log was read again."""
    sources = list({v.source.name: v.source for v in features.views}.values())
    history = history_of(log, sources, None)
    reads = 0

    def reread() -> list[Any]:
        nonlocal reads
        reads += 1
        return [log.read(name, 0, limit=10**9) for name in log.positions()]

    found = evaluate_as_of(
        features,
        wanted,
        np.array(at_us),
        positions,
        {s.name: history.frame(s.name) for s in sources},
        conflicts={name for name, count in history.id_conflicts.items() if count},
        reread=reread,
    )
    return found, reads


def unlike(
    features: FeatureSet, log: Any, wanted: Columns, at_us: list[int], positions: list[dict[str, int]], found: AsOf
) -> list[str]:
    """What differs from histories up to each row's positions."""
    wrong = []
    sources = list({v.source.name: v.source for v in features.views}.values())
    for row, (t, upto) in enumerate(zip(at_us, positions, strict=True)):
        history = history_of(log, sources, upto)
        one = evaluate(
            features, wanted.take(slice(row, row + 1)), np.array([t]), {s.name: history.frame(s.name) for s in sources}
        )
        for name in features.names:
            same = repr(one.values[name].to_list()[0]) == repr(found.features.values[name].to_list()[row])
            codes = [int(frame.reasons.get(name, [0] * (row + 1))[place]) for frame, place in
                     ((one, 0), (found.features, row))]  # fmt: skip
            if not same or codes[0] != codes[1]:
                wrong.append(f"row {row}, {name}: {one.values[name].to_list()[0]!r} and not "
                             f"{found.features.values[name].to_list()[row]!r}, reasons {codes}")  # fmt: skip
    return wrong


def campaign(of: Source, hazards: Sequence[str], seed: int) -> tuple[list[str], int, int]:
    """What is wrong, rows, and rows that were evaluated apart."""
    stream, features = Stream(of, hazards, seed), features_of(of)
    rows: list[dict[str, str]] = []
    at_us: list[int] = []
    positions: list[dict[str, int]] = []
    for n in range(40):
        stream.go()
        if n % 3 == 2:
            seen = stream.log[: len(stream.log) - stream.random.choice([0, 0, 1, 3])]
            rows.append({"ask_id": f"a{n}", "key": stream._key(), "kind": stream.random.choice("uv")})
            at_us.append(stream.past_time() or stream.instant())
            positions.append({r.partition: r.position for r in seen})
    log: Any = Given(stream.log)
    wanted = Columns.of({name: ("str", [row[name] for row in rows]) for name in rows[0]})
    found, _ = together(features, log, wanted, at_us, positions)
    return unlike(features, log, wanted, at_us, positions, found), len(rows), int(found.apart.sum())


@pytest.mark.parametrize("of", [KEYED, PLAIN], ids=["keyed", "plain"])
def test_rows_of_many_positions_get_what_each_history_gives(of: Source) -> None:
    hazards = [h for h in HAZARDS if h != "many keys" and (of is KEYED or h not in KEYED_ONLY)]
    runs = [campaign(of, hazards, seed) for seed in range(3)]
    assert [wrong for wrong, _, _ in runs if wrong] == []
    assert sum(apart for _, _, apart in runs) > 3


@pytest.mark.parametrize("hazard", HAZARDS)
def test_no_hazard_alone_changes_a_row(hazard: str) -> None:
    for of in (KEYED, PLAIN):
        if of is KEYED or hazard not in KEYED_ONLY:
            assert campaign(of, [hazard, "view behind the log", "t in the past"], 7)[0] == []


@pytest.mark.soak
def test_rows_of_many_positions_under_many_streams(soak_report: Any) -> None:
    wrong: list[str] = []
    rows = apart = 0
    for seed in range(150):
        for of in (KEYED, PLAIN):
            rare = KEYED_ONLY if of is PLAIN else set()
            kept = [h for h in HAZARDS if h not in rare and (seed % 5 == 0 or h != "many keys")]
            some, n, k = campaign(of, kept, 1_000 + seed)
            wrong, rows, apart = wrong + some, rows + n, apart + k
    soak_report("as_of_positions", runs=300, failures=len(wrong), rows=rows, apart=apart)
    assert wrong == []


def test_a_log_that_no_row_was_ahead_of_is_not_read_again() -> None:
    stream, features = Stream(KEYED, ["late", "replaced"], 3), features_of(KEYED)
    at_us, positions = [], []
    for _ in range(30):
        stream.go()
        at_us.append(stream.now_us)
        positions.append({r.partition: r.position for r in stream.log})
    log: Any = Given(stream.log)
    wanted = Columns.of({name: ("str", ["k1" if name == "key" else "u"] * 30) for name in ("ask_id", "key", "kind")})
    found, reads = together(features, log, wanted, at_us, positions)
    assert reads == 0
    assert not found.apart.any()
    assert unlike(features, log, wanted, at_us, positions, found) == []


def test_a_view_that_another_one_leads_to_is_looked_up_as_of_the_same_positions() -> None:
    planes = source("planes", time="at", key="tail", columns={"tail": str, "model": str, "at": Time}, delay=0)
    models = source("models", time="at", columns={"model": str, "seats": int, "at": Time}, delay=0)
    plane = view("plane", source=planes, by="tail", features={"model": f.latest("model")})
    model = view("model", source=models, by="model", features={"seats": f.latest("seats")})
    ask = request("ask", key="id", time="when", columns={"id": str, "tail": str, "when": Time})
    features = feature_set(ask, [plane.join(select=[]), model.join(by=plane["model"])])
    clock = VirtualClock(1_000_000)
    log = MemoryLog(clock=clock)
    ingest = Ingestor(log, [planes, models], clock=clock, quarantine=Quarantine(MemoryLog(clock=clock)))
    for name, seats in (("A", 100), ("B", 200)):
        ingest.push("models", [{"model": name, "seats": seats, "at": 5}])
    ingest.push("planes", [{"tail": "x", "model": "A", "at": 5}])
    before = dict(log.positions())
    ingest.push("planes", [{"tail": "x", "model": "B", "at": 6}])  # known at the wanted time, but behind P
    wanted = Columns.of({"id": ("str", ["1", "2"]), "tail": ("str", ["x", "x"]), "when": ("time", [9, 9])})
    found, _ = together(features, log, wanted, [2_000_000] * 2, [before, dict(log.positions())])
    assert found.features.values["model.seats"].to_list() == [100, 200]
    assert found.newest.values["model.seats"].to_list() == [200, 200]
    assert found.apart.tolist() == [True, False]


def test_a_view_under_two_names_is_looked_up_for_the_keys_of_both() -> None:
    planes = source("planes", time="at", key="tail", columns={"tail": str, "model": str, "at": Time}, delay=0)
    models = source("models", time="at", key="model", columns={"model": str, "seats": int, "at": Time}, delay=0)
    plane = view("plane", source=planes, by="tail", features={"model": f.latest("model")})
    model = view("model", source=models, by="model", features={"seats": f.latest("seats")})
    columns = {"id": str, "tail": str, "model": str, "when": Time}
    ask = request("ask", key="id", time="when", columns=columns)
    features = feature_set(ask, [plane.join(select=[]), model.join("wanted"), model.join("own", by=plane["model"])])
    clock = VirtualClock(1_000_000)
    log = MemoryLog(clock=clock)
    ingest = Ingestor(log, [planes, models], clock=clock, quarantine=Quarantine(MemoryLog(clock=clock)))
    ingest.push("models", [{"model": name, "seats": n, "at": 5} for n, name in enumerate("ABC")])
    ingest.push("planes", [{"tail": "x", "model": "A", "at": 5}, {"tail": "y", "model": "B", "at": 5}])
    first = dict(log.positions())
    ingest.push("planes", [{"tail": "x", "model": "B", "at": 6}])  # A is then no plane's model any more
    second = dict(log.positions())
    ingest.push("models", [{"model": "B", "seats": 7, "at": 6}])
    rows = {"id": ["1", "2"], "tail": ["x", "y"], "model": ["C", "C"]}
    wanted = Columns.of({**{n: ("str", v) for n, v in rows.items()}, "when": ("time", [9, 9])})
    found, _ = together(features, log, wanted, [2_000_000] * 2, [first, second])
    assert found.apart.tolist() == [True, True]
    assert found.features.values["own.seats"].to_list() == [0, 1]
    assert found.newest.values["own.seats"].to_list() == [7, 7]


def test_differences_are_of_bits_and_reasons() -> None:
    used, again = np.array([[1.0, np.nan, 0.0, 2.0]]), np.array([[1.0, np.nan, -0.0, 2.0]])
    codes = np.zeros((1, 4), np.uint8)
    other = codes.copy()
    other[0, 3] = 1
    assert differences(used, codes, again, other).tolist() == [[False, False, True, True]]
