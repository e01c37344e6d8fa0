"""Labels found in events on disk: the bits of a `LabelIndex` over the history in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Record, frame_of
from recorded import recorded
from strategies import KEYED, KEYLESS, histories, request_keys, request_times

from trimtab.core.columns.data import column
from trimtab.core.expressions.nodes import col
from trimtab.features.definitions import Label, label
from trimtab.features.labels import LabelIndex
from trimtab.features.parts import chosen_events, parted_labels
from trimtab.features.parts.parted_labels import LabelRequests, PartedLabels

LABELS = {
    "by id": label(KEYED, key="key", value=col("x") > 0, wait=50),
    "classes": label(KEYED, key="key", value="kind", wait=0, classes=["u", "v", "w"]),
    "by number": label(KEYED, key="n", value="x", wait=20),
    "by request": msgspec.structs.replace(label(KEYED, key="id", value="x", wait=50), dated_by_request=True),
    "ids decide": label(KEYLESS, key="key", value=col("x") > 0, wait=50),
}
cuts = st.one_of(request_times(), request_times().map(lambda at: at + 60))


def pieces(what: Label, wanted: list[tuple[Any, int, int]], size: int) -> list[LabelRequests]:
    """The requests in pieces of some size."""
    dtype = what.source.columns[what.key]
    keys = [(None if key is None else sum(map(ord, key)) % 7 - 3) if dtype == "int" else key for key, _, _ in wanted]
    if what.dated_by_request:
        keys = [None if key is None else f"r{sum(map(ord, key)) % 4}" for key in keys]
    parts = [slice(begin, begin + size) for begin in range(0, len(wanted), size)]
    times = np.array([(at, cut) for _, at, cut in wanted], np.int64)
    return [(column(dtype, keys[part]), times[part, 0], times[part, 1]) for part in parts]


def in_memory(what: Label, records: list[Record], requests: list[LabelRequests]) -> list[str]:
    index = LabelIndex(what)
    index.update(frame_of(records, what.source))
    found = [index.join(keys.to_list(), at_us, cut_us) for keys, at_us, cut_us in requests]
    return [repr((part.values.tolist(), part.known_at_us.tolist())) for part in found]


def on_disk(what: Label, records: list[Record], requests: list[LabelRequests]) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "table").mkdir()
        (Path(name) / "run").mkdir()
        events = recorded(records, what.source, Path(name) / "table")
        labels = PartedLabels(what, events, requests, Path(name) / "run", 256 << 20)
        try:
            found = [labels.take(len(at_us)) for _, at_us, _ in requests]
        finally:
            labels.close()
    return [repr((values.tolist(), known.tolist())) for values, known in found]


@pytest.mark.parametrize("name", LABELS)
@settings(deadline=None, max_examples=12)
@given(
    data=st.data(),
    wanted=st.lists(st.tuples(request_keys, request_times(), cuts), min_size=1, max_size=12),
    size=st.integers(1, 12),
    per_row_bytes=st.sampled_from([1, 16 << 20, 128 << 20]),
)
def test_labels_from_disk_are_those_from_memory(
    name: str, data: st.DataObject, wanted: list[tuple[Any, int, int]], size: int, per_row_bytes: int
) -> None:
    what = LABELS[name]
    records = data.draw(histories(what.source))
    requests = pieces(what, wanted, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parted_labels, "_PER_ROW_BYTES", per_row_bytes)  # in one part, or in up to several dozen
        patch.setattr(chosen_events, "_HASHED_BYTES", per_row_bytes)
        assert on_disk(what, records, requests) == in_memory(what, records, requests)


def test_an_event_at_the_time_of_a_request_that_is_known_at_its_cut_is_the_label() -> None:
    row = {"id": "r", "key": "a", "at": 100, "x": 1.0, "n": None, "ok": None, "kind": None}
    records = [Record(id="r", row=row, event_at_us=100, known_at_us=150, position=1)]
    requests: list[LabelRequests] = [(column("str", ["a"]), np.array([100]), np.array([150]))]
    found = on_disk(LABELS["by id"], records, requests)
    assert found == in_memory(LABELS["by id"], records, requests) == [repr(([1.0], [150]))]
