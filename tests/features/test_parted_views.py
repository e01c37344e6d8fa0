"""Feature sets answered from events on disk: the bits of memory, each part computed once."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Record, frame_of
from recorded import recorded
from strategies import KEYED, histories, request_keys, request_times
from test_event_parts import known_always

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.expressions.nodes import col
from trimtab.events.columns.frames import NEVER_US
from trimtab.events.definitions import source
from trimtab.features.aggregates import count, latest, mean
from trimtab.features.definitions import request, view
from trimtab.features.feature_set import FeatureSet, feature_set
from trimtab.features.frames import FeatureFrame
from trimtab.features.offline.as_known_now import as_known_now, differing_values
from trimtab.features.offline.evaluation import evaluate, evaluate_by
from trimtab.features.parts import parted_views
from trimtab.features.parts.given_files import folder_events
from trimtab.features.parts.parted_views import PartedViews, claimed

ASK = request("ask", key="id", time="at", columns={"id": str, "key": str, "other": str})
BY_KEY = view("by_key", source=KEYED, by="key", features={"kind": latest("kind"), "n": count(over=30)})
BY_KIND = view("by_kind", source=KEYED, by="kind", features={"x": mean("x"), "last": latest("n", max_age=50)})
PAIR = view("pair", source=KEYED, by=["key", "kind"], features={"n": count()})
FEATURES = feature_set(
    ASK,
    [
        BY_KEY,
        BY_KEY.join("of_other", by="other", select=["n"]),
        BY_KIND.join("of_kind", by=BY_KEY["kind"]),
        PAIR.join("of_pair", by=["other", BY_KEY["kind"]]),
        {"more": col("of_pair.n") + col("by_key.n"), "known": col("by_key.kind") == "u"},
    ],
    texts=True,
)  # fmt: skip
asks = st.lists(st.tuples(request_keys, request_keys, request_times()), min_size=1, max_size=12)


def requests_of(wanted: list[tuple[Any, Any, int]]) -> tuple[Columns, Any]:
    columns = {"key": ("str", [a for a, _, _ in wanted]), "other": ("str", [b for _, b, _ in wanted])}
    return Columns.of(columns), np.array([t for _, _, t in wanted], np.int64)  # type: ignore[arg-type]  # literals


def opened(folder: Path, records: list[Record], **how: Any) -> PartedViews:
    (folder / "table").mkdir(exist_ok=True)
    events = {"readings": recorded(records, KEYED, folder / "table")}
    given = {"address": "these", "memory_bytes": 256 << 20, "clock": VirtualClock(0)} | how
    return PartedViews(folder / "run", events, **given)


def rows(frame: FeatureFrame) -> list[str]:
    columns = [*(c.to_list() for c in frame.values.by_name.values()), *(r.tolist() for r in frame.reasons.values())]
    return [repr(row) for row in zip(*columns, strict=True)]


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(records=histories(), wanted=asks, known_by_us=st.none() | request_times() | st.just(NEVER_US))
def test_views_by_features_of_views_are_answered_on_disk_as_in_memory(
    records: list[Record], wanted: list[tuple[Any, Any, int]], known_by_us: int | None
) -> None:
    requests, at_us = requests_of(wanted)
    frame = frame_of(records, KEYED)
    expected = evaluate(
        FEATURES, requests, at_us, {"readings": frame if known_by_us is None else as_known_now(frame, known_by_us)}
    )
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(parted_views, "_PER_EVENT_BYTES", 64 << 20)
        with opened(Path(name), records) as views:
            assert records == [] or views.parts(BY_KEY) == -(-len(records) // 4)
            found = evaluate_by(partial(views.answer, known_by_us=known_by_us), FEATURES, requests, at_us)
    assert found.values.names == expected.values.names == FEATURES.names
    assert rows(found) == rows(expected)


@settings(deadline=None, max_examples=60)
@given(records=histories(), wanted=asks)
def test_what_final_lets_in_is_counted_value_by_value(
    records: list[Record], wanted: list[tuple[Any, Any, int]]
) -> None:  # fmt: skip
    requests, at_us = requests_of(wanted)
    frame = frame_of(records, KEYED)
    then = evaluate(FEATURES, requests, at_us, {"readings": frame})
    final = evaluate(FEATURES, requests, at_us, {"readings": as_known_now(frame)})
    always = evaluate(FEATURES, requests, at_us, {"readings": frame_of(known_always(records), KEYED)})
    assert rows(final) == rows(always)
    for name, counted in differing_values(then, final).items():
        pairs = zip(listed(then, name), listed(final, name), strict=True)
        assert counted == sum(one != other for one, other in pairs), name


def listed(frame: FeatureFrame, name: str) -> list[str]:
    reasons = frame.reasons[name].tolist() if name in frame.reasons else [0] * frame.values.rows
    return [repr(pair) for pair in zip(frame.values[name].to_list(), reasons, strict=True)]


RECORDS = [
    Record(id=f"r{n}", row={"id": f"r{n}", "key": "ab"[n % 2], "at": n, "x": n / 3, "n": n, "ok": None, "kind": "u"},
           event_at_us=n, known_at_us=n + 1, position=n + 1)
    for n in range(40)
]  # fmt: skip
WANTED = [("a", "b", 20), ("b", "a", 30), ("c", None, 30), (None, "a", 39)]


def answered(views: PartedViews, features: FeatureSet = FEATURES) -> list[str]:
    return rows(evaluate_by(views.answer, features, *requests_of(WANTED)))


@pytest.mark.slow
def test_versions_are_told_apart_as_many_at_once_as_the_memory_holds(tmp_path: Path) -> None:
    things = source("things", time="at", key="id", columns={"id": str, "key": str})
    by_key = view("by_key", source=things, by="key", features={"n": count()})
    rows = "SELECT (i % 70000)::VARCHAR AS id, (i % 9)::VARCHAR AS key, to_timestamp(i) AS at FROM range(140000) t(i)"
    duckdb.sql(rows).write_parquet(str(tmp_path / "events.parquet"))
    for memory_bytes, groups in ((256 << 20, 3), (1 << 30, 1)):
        events = {"things": folder_events(things, tmp_path / "events.parquet", tmp_path / "given")}
        folder = tmp_path / str(memory_bytes)
        with PartedViews(folder, events, address="a", memory_bytes=memory_bytes, clock=VirtualClock(0)) as views:
            views.prepare([by_key])
            found = views.answer(by_key.join(), [column("str", ["4"])], np.array([NEVER_US - 1]))
        assert len(list(folder.glob("things.versions.*/settled-*.parquet"))) == groups
        assert found["n"][0].to_list() == [sum(n % 9 == 4 for n in range(70_000, 140_000))]


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = parted_views.evaluate_view
    monkeypatch.setattr(parted_views, "evaluate_view", lambda *given: calls.append(1) or real(*given))
    with opened(tmp_path, RECORDS) as views:
        first = answered(views)
    done = len(calls)
    with opened(tmp_path, RECORDS) as views:
        assert answered(views) == first
    assert len(calls) == done
    with opened(tmp_path, RECORDS, address="others") as views:
        assert answered(views) == first
    assert len(calls) == 2 * done


def test_a_split_that_was_broken_off_is_made_again(tmp_path: Path) -> None:
    with opened(tmp_path, RECORDS) as views:
        expected = answered(views)
        folders = [path for path in views.folder.iterdir() if path.name.startswith("readings.")]
    for path in folders:
        (path.with_name(path.name + ".new")).mkdir()
        (path.with_name(path.name + ".new") / "half.parquet").write_bytes(b"PAR1")
        path.rename(path.with_name("gone-" + path.name))
    with opened(tmp_path, RECORDS) as views:
        assert answered(views) == expected


@pytest.mark.fast
def test_misuse_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="at least 268,435,456"):
        opened(tmp_path, RECORDS, memory_bytes=1)
    with opened(tmp_path, RECORDS) as views:
        stranger = view("s", source=ASK.source, by="key", features={"n": count()})
        with pytest.raises(NotFound, match="needs the events of 'ask'; found the events of readings"):
            views.answer(stranger.join(), [], np.empty(0, np.int64))
    with claimed(tmp_path / "run"), pytest.raises(Conflict, match="another process"), claimed(tmp_path / "run"):
        pass
