from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Answer, Record, frame_of, oracle
from strategies import KEYED, KEYLESS, histories, request_keys, request_times, views

from trimtab.core.columns.data import Columns
from trimtab.events.definitions import Source
from trimtab.features.definitions import View, request
from trimtab.features.feature_set import feature_set
from trimtab.features.frames import REASONS
from trimtab.features.offline import view_columns
from trimtab.features.offline.evaluation import evaluate

ASK = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "key": str})
Wanted = list[tuple[Any, int]]


def offline(records: list[Record], view: View, wanted: Wanted) -> list[dict[str, Answer]]:
    features = feature_set(ASK, [view])
    requests = Columns.of({"key": ("str", [key for key, _ in wanted])})
    at_us = np.array([t for _, t in wanted], np.int64)
    frame = evaluate(features, requests, at_us, {view.source.name: frame_of(records, view.source)})
    assert frame.values.names == features.names
    assert {name: c.dtype for name, c in frame.values.by_name.items()} == features.dtypes
    columns = {name: frame.values[f"{view.name}.{name}"].to_list() for name in view.features}
    codes = {name: frame.reasons[f"{view.name}.{name}"].tolist() for name in view.features}
    return [{n: (columns[n][i], REASONS[codes[n][i]]) for n in view.features} for i in range(len(wanted))]


def bits(answers: dict[str, Answer]) -> dict[str, Any]:
    return {
        name: (struct.pack("<d", v) if isinstance(v, float) else (type(v), v), reason)
        for name, (v, reason) in answers.items()
    }


asks = st.lists(st.tuples(request_keys, request_times()), min_size=1, max_size=12)


def reads(source: Source, data: st.DataObject) -> int:
    """Compare a random history's features with the oracle's; how many were."""
    records = data.draw(histories(source))
    view = data.draw(views(source))
    wanted = data.draw(asks)
    found = offline(records, view, wanted)
    for answers, (key, t) in zip(found, wanted, strict=True):
        assert bits(answers) == bits(oracle(records, view, key, t)), (key, t)
    return len(wanted) * len(view.features)


@pytest.mark.parametrize("source", [KEYED, KEYLESS], ids=["keyed", "keyless"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_offline_gives_the_bits_and_reasons_of_the_oracle(source: Source, data: st.DataObject) -> None:
    reads(source, data)


def test_threads_that_gather_values_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a million requests, two threads gather the newest values; here, from the first one on."""
    monkeypatch.setattr(view_columns, "_MANY", 0)

    @settings(deadline=None, max_examples=20)
    @given(data=st.data())
    def bits_and_reasons(data: st.DataObject) -> None:
        reads(KEYED, data)

    bits_and_reasons()


@pytest.mark.soak
def test_offline_gives_the_bits_and_reasons_of_the_oracle_in_every_one_of_many_reads(soak_report: Any) -> None:
    compared = 0

    @settings(deadline=None, max_examples=10_000, database=None)
    @given(data=st.data())
    def campaign(data: st.DataObject) -> None:
        nonlocal compared
        compared += reads(data.draw(st.sampled_from([KEYED, KEYLESS])), data)

    try:
        campaign()
    except AssertionError:
        soak_report("offline_against_oracle", runs=compared, failures=1)
        raise
    soak_report("offline_against_oracle", runs=compared, failures=0)


@settings(deadline=None, max_examples=60)
@given(records=histories(), view=views(), wanted=asks)
def test_instants_of_ten_thousand_years_and_many_entities_are_told_apart(
    records: list[Record], view: View, wanted: Wanted
) -> None:
    ends = [(f"k{i}", -62_135_596_800_000_000) for i in range(70)] + [("a", 253_402_300_799_999_999)]
    for answers, (key, t) in zip(offline(records, view, wanted + ends), wanted + ends, strict=True):
        assert bits(answers) == bits(oracle(records, view, key, t)), (key, t)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), records=histories(most=12), view=views(), wanted=asks, seed=st.integers(0, 99))
def test_what_becomes_known_after_t_changes_neither_value_nor_reason(
    data: st.DataObject, records: list[Record], view: View, wanted: Wanted, seed: int
) -> None:
    t = max(t for _, t in wanted)
    later = [r for r in records if r.known_at_us > t]
    values = data.draw(st.permutations([r.row for r in later]))
    shuffled = [
        msgspec.structs.replace(r, row=row | {"id": r.id, "at": r.event_at_us})
        for r, row in zip(later, values, strict=True)
    ]
    known = [r for r in records if r.known_at_us <= t]
    expected = [bits(a) for a in offline(records, view, wanted)]
    assert [bits(a) for a in offline(known, view, wanted)] == expected
    assert [bits(a) for a in offline(known + shuffled, view, wanted)] == expected


@settings(deadline=None, max_examples=40)
@given(records=histories(), view=views(), wanted=asks, order=st.randoms(use_true_random=False))
def test_the_order_of_events_and_of_requests_does_not_matter(
    records: list[Record], view: View, wanted: Wanted, order: Any
) -> None:
    expected = {ask: bits(a) for ask, a in zip(wanted, offline(records, view, wanted), strict=True)}
    order.shuffle(records)
    order.shuffle(wanted)
    assert {ask: bits(a) for ask, a in zip(wanted, offline(records, view, wanted), strict=True)} == expected
