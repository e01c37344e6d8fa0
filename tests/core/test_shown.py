"""Any value as text for people."""

from __future__ import annotations

import pytest

from trimtab.core.shown import format_bytes, shown


class _Odd:
    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.fast
def test_whole_numbers_are_decimal_as_long_as_python_writes_them_so() -> None:
    assert shown(10**30) == "1" + "0" * 30
    assert shown(-(2**64)) == "-18446744073709551616"
    assert shown(2**100_000).startswith("0x1000")
    assert shown(_Odd()) == "<a _Odd whose repr raises ValueError>"


@pytest.mark.fast
def test_sizes_just_below_a_unit_are_rounded_up_to_it() -> None:
    assert format_bytes(999_499) == "999 kB"
    assert format_bytes(999_700) == "1 MB"
    assert format_bytes(999.7e12) == "1,000 TB"
