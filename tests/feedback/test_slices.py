"""The slices of logged requests: columns and named expressions, whatever else stands in a request."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.expressions.by_rows import compile_row
from trimtab.core.expressions.nodes import Expression, col, when
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US
from trimtab.feedback.open_days import OpenDays
from trimtab.feedback.outcomes import KnownLabels, OutcomeJoin
from trimtab.feedback.slices import RequestSlices
from trimtab.testing.builders import a_prediction

DTYPES: dict[str, Any] = {
    "id": "str",
    "at": "time",
    "carrier": "str",
    "distance": "float",
    "seats": "int",
    "new": "bool",
}
NAMED: dict[str, Expression] = {
    "far": col("distance") > 1000,
    "far and new": (col("distance") > 1000) & col("new"),
    "size": when(col("seats") > 100, "large", "small"),
    "row": col("seats") // 50,
    "hour": col("at").hour(),
    "carrier": col("carrier").fill_null("none"),
}
request = st.one_of(
    st.tuples(
        st.text(max_size=3),
        st.integers(0, 10**15),
        st.sampled_from(["UA", "DL", "far", None]),
        st.one_of(st.none(), st.floats(0, 3000), st.integers(0, 3000)),
        st.one_of(st.none(), st.integers(0, 300)),
        st.one_of(st.none(), st.booleans()),
    ),
    st.just(("other", 1)),  # of a version with other columns
    st.just(("wrong", 1, 2, "far", "many", 0)),  # or with other types
)


def prediction(n: int, row: Any) -> Prediction:
    return a_prediction(id=f"p{n}", request_id=f"k{n}", request=msgspec.msgpack.encode(row))  # fmt: skip


@given(st.lists(request, max_size=20))
def test_expressions_say_of_each_request_what_they_say_of_a_row(rows: list[Any]) -> None:
    slices = RequestSlices({}, 6, named=NAMED, dtypes=DTYPES)
    found = slices.of([prediction(n, row) for n, row in enumerate(rows)])
    kinds: dict[str, Any] = {"str": str, "time": int, "float": (int, float), "int": int, "bool": bool}
    for name, of in NAMED.items():
        one_row = compile_row(of, DTYPES)
        for row, value in zip(rows, found[name].to_list(), strict=True):
            named = dict(zip(DTYPES, row if len(row) == 6 else [None] * 6, strict=True))
            known = {key: v if isinstance(v, kinds[DTYPES[key]]) else None for key, v in named.items()}
            expected = one_row(known)
            assert value == (expected if expected is None or isinstance(expected, bool) else str(expected))


def test_days_have_a_truth_by_its_name_and_other_values_with_them() -> None:
    def labels(keys: Any, at_us: Any, cut_us: Any) -> KnownLabels:
        return KnownLabels(np.ones(len(keys.values)), at_us)

    slices = RequestSlices({"tail": 2}, 6, named=NAMED, dtypes=DTYPES)
    days = OpenDays("m", "log_loss", OutcomeJoin(labels, wait_us=0, key_dtype="str", slices=slices))
    rows = [("a", 0, "tail", 2000.0, 10, True), ("b", 0, "UA", None, None, True), ("c", 0, "UA", 1.0, 120, False)]
    days.add([prediction(n, row) for n, row in enumerate(rows)])
    (day,) = days.close(DAY_US)
    counts = {name: sums.predictions for name, sums in day.slices.items()}
    assert counts == {
        "tail=tail": 1, "tail=UA": 2, "far": 1, "far and new": 1, "size=large": 1, "size=small": 2, "row=0": 1,
        "row=2": 1, "hour=0": 3, "carrier=tail": 1, "carrier=UA": 2,
    }  # fmt: skip
