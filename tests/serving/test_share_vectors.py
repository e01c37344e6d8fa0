"""Who belongs to a share, as the documentation specifies it: by hand, with nothing of the code."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.serving.arms.arms import Share

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
ROW = re.compile(r"\| `(?P<model>\S+)` \| `(?P<line>\S+)` \| `(?P<values>\[.*\])` \| `(?P<packed>[0-9a-f]+)` \| "
                 r"`(?P<number>[0-9a-f]{16})` \| (?P<held>[^|]*) \|")  # fmt: skip
SHARES = (0.05, 0.25, 0.5)


def packed(value: Any) -> bytes:
    """MessagePack of a value of a request's column, in its shortest form."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return _head(len(data), ((32, b"", "B", 0xA0), (2**8, b"\xd9", "B", 0), (2**16, b"\xda", ">H", 0))) + data
    if value >= 0:
        forms = ((2**7, b"", "B", 0), (2**8, b"\xcc", "B", 0), (2**16, b"\xcd", ">H", 0), (2**32, b"\xce", ">I", 0))
        return _head(value, (*forms, (2**64, b"\xcf", ">Q", 0)))
    for least, mark, form in (
        (-32, b"", "b"),
        (-(2**7), b"\xd0", "b"),
        (-(2**15), b"\xd1", ">h"),
        (-(2**31), b"\xd2", ">i"),
    ):
        if value >= least:
            return mark + struct.pack(form, value)
    return b"\xd3" + struct.pack(">q", value)


def _head(number: int, forms: tuple[tuple[int, bytes, str, int], ...]) -> bytes:
    for below, mark, form, plus in forms:
        if number < below:
            return mark + struct.pack(form, number + plus)
    raise AssertionError("not needed here")


def number(model: str, line: str, values: list[Any]) -> tuple[bytes, int]:
    """The packed values, and the number that is compared with the threshold."""
    salt = hashlib.blake2b((model if line == "canary" else f"{line}\0{model}").encode(), digest_size=16).digest()
    assert len(values) < 16
    data = bytes([0x90 + len(values)]) + b"".join(map(packed, values))
    return data, int.from_bytes(hashlib.blake2b(data, digest_size=8, salt=salt).digest(), "little")


def held(model: str, line: str, values: list[Any], share: float) -> bool:
    """What the code says."""
    names = [f"column{n}" for n in range(len(values))]
    return Share(model, share, names, line=line).holds(dict(zip(names, values, strict=True)))


VECTORS = [match.groupdict() for match in ROW.finditer(PAGE.read_text("utf-8"))]


def test_there_are_vectors_enough() -> None:
    assert len(VECTORS) >= 6


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['line']}-{vector['values']}")
def test_the_vectors_of_the_page_are_those_of_the_code(vector: dict[str, str]) -> None:
    model, line, values = vector["model"], vector["line"], json.loads(vector["values"])
    data, found = number(model, line, values)
    assert (data.hex(), f"{found:016x}") == (vector["packed"], vector["number"])
    shares = [share for share in SHARES if found < round(share * 2**64)]
    assert vector["held"] == (", ".join(f"{share:.0%}".replace("%", " %") for share in shares) or "none")
    assert shares == [share for share in SHARES if held(model, line, values, share)]


VALUES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=400)
)


@given(
    st.sampled_from(["late", "späte_flüge", "m"]),
    st.sampled_from(["canary", "shadow", "holdback"]),
    st.lists(VALUES, min_size=1, max_size=4),
    st.floats(0.0, 1.0),
)
def test_the_code_does_what_the_page_says(model: str, line: str, values: list[Any], share: float) -> None:
    assert held(model, line, values, share) == (number(model, line, values)[1] < round(share * 2**64))
