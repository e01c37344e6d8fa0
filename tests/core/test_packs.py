from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.columns.packs import Part, pack, packed_rows, unpack


@st.composite
def parts(draw: st.DrawFn) -> tuple[int, list[Part], list[bytes]]:
    """A number of payloads, parts of all kinds, and the payloads."""
    rows = draw(st.integers(0, 5))
    made: list[Part] = []
    payloads = [b""] * rows
    for kind in draw(st.lists(st.sampled_from(["same", "fixed", "ragged"]), max_size=5)):
        if kind == "same":
            part: Part = draw(st.binary(max_size=4))
            of_rows = [part] * rows
        elif kind == "fixed":
            width = draw(st.integers(0, 3))
            of_rows = [draw(st.binary(min_size=width, max_size=width)) for _ in range(rows)]
            part = np.frombuffer(b"".join(of_rows), np.uint8).reshape(rows, width)
        else:
            of_rows = part = [draw(st.binary(max_size=4)) for _ in range(rows)]
        made.append(part)
        payloads = [payload + more for payload, more in zip(payloads, of_rows, strict=True)]
    return rows, made, payloads


@pytest.mark.fast
@given(parts(), st.data())
def test_a_pack_gives_back_its_payloads(given_parts: tuple[int, list[Part], list[bytes]], data: st.DataObject) -> None:
    rows, made, payloads = given_parts
    packed = pack(rows, made)
    assert packed_rows(packed) == rows
    assert unpack(packed) == payloads
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    assert unpack(packed, start, stop) == payloads[start:stop]
