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
    part: Part
    payloads = [b""] * rows
    for kind in draw(st.lists(st.sampled_from(["same", "fixed", "ragged", "again", "led"]), max_size=6)):
        if kind == "again":
            if not made or isinstance(made[-1], bytes):
                continue
            part = made[-1].copy() if isinstance(made[-1], (np.ndarray, list)) else made[-1]
            of_rows = [bytes(row) for row in part]
        elif kind == "led":
            of_rows = part = [b"before" + draw(st.binary(min_size=1, max_size=1)) for _ in range(rows)]
        elif kind == "same":
            part = draw(st.binary(max_size=4))
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


@pytest.mark.fast
def test_what_is_equal_is_stored_once() -> None:
    texts = [b"%d" % n for n in range(1_000)]
    led = np.tile(np.arange(20, dtype=np.uint8), (1_000, 1))
    led[:, -1] = np.arange(1_000) % 256
    once, twice = pack(1_000, [texts, led]), pack(1_000, [texts, led, [*texts], texts])
    assert len(twice) < len(once) + 100
    assert len(once) < 1_000 * (4 + 4 + 1) + 100
    assert unpack(twice) == [text + row.tobytes() + text + text for text, row in zip(texts, led, strict=True)]
    constant = pack(1_000, [np.full((1_000, 30), 7, np.uint8)])
    assert len(constant) < 100
    assert unpack(constant) == [b"\x07" * 30] * 1_000
