"""Streams that we write are read by others as they were meant."""

from __future__ import annotations

import io
from typing import Any

import pytest
from arro3.io import read_ipc_stream as read_elsewhere
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.arrow_ipc import read_ipc_stream
from trimtab.core.arrow_write import write_ipc_stream

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
COLUMNS = st.integers(0, 6).flatmap(
    lambda rows: st.dictionaries(
        TEXTS.filter(lambda name: "\0" not in name),  # which ends the process in that library
        st.one_of(
            *(
                st.lists(values, min_size=rows, max_size=rows)
                for values in (TEXTS, st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1))
            )
        ),
        min_size=1,
        max_size=6,
    )
)


@given(COLUMNS)
def test_what_is_written_is_read_by_another_library(columns: dict[str, Any]) -> None:
    table = read_elsewhere(io.BytesIO(write_ipc_stream(columns))).read_all()
    assert {name: table.column(name).to_pylist() for name in table.column_names} == columns


@pytest.mark.fast
def test_what_is_written_is_read_by_ourselves() -> None:
    written = write_ipc_stream({"id": ["a", ""], "score": [0.5, -0.0], "n": [2**62, -1]})
    assert read_ipc_stream(written).columns.to_rows() == [
        {"id": "a", "score": 0.5, "n": 2**62},
        {"id": "", "score": 0.0, "n": -1},
    ]
