"""Tests that every implementation of `Table` must pass."""

from __future__ import annotations

import pytest

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse, NotFound
from trimtab.store.ports import Table


def rows(first: int, count: int) -> Columns:
    """Return rows with columns of all types, including nulls."""
    numbers = range(first, first + count)
    return Columns.of(
        {
            "f": ("float", [None if n % 3 == 0 else n / 7 for n in numbers]),
            "i": ("int", [None if n % 4 == 0 else n * 2**40 for n in numbers]),
            "b": ("bool", [None if n % 5 == 0 else n % 2 == 0 for n in numbers]),
            "s": ("str", [None if n % 6 == 0 else f"käse '{n}'" for n in numbers]),
            "t": ("time", [None if n % 7 == 0 else n * 1_000_001 - 10**15 for n in numbers]),
            "n": ("int", list(numbers)),
        }
    )


def same(left: Columns, right: Columns) -> bool:
    """Return whether names, types, values and nulls are equal and in the same order."""
    return left.names == right.names and all(
        left[n].dtype == right[n].dtype and left[n].to_list() == right[n].to_list() for n in left.names
    )


class TableContract:
    """Tests for a table. To use them, write a subclass named `Test...` with a fixture `table`.

    The fixture returns an empty table.
    """

    @pytest.fixture
    def table(self) -> Table:
        raise NotImplementedError("give a fixture `table` with an empty table")

    def test_rows_come_back_in_the_order_of_their_appends(self, table: Table) -> None:
        for i in range(12):
            assert table.append(rows(i * 10, 10), writer="w", position=i + 1)
        assert same(table.scan(), rows(0, 120))
        assert same(table.scan(["n", "s"]), rows(0, 120).select(["n", "s"]))

    def test_a_table_is_empty_before_the_first_append(self, table: Table) -> None:
        assert table.version() == -1
        assert table.position("w") == 0
        assert table.scan().rows == 0
        table.compact()

    def test_a_position_that_is_in_is_skipped(self, table: Table) -> None:
        assert table.append(rows(0, 5), writer="w", position=5)
        assert not table.append(rows(0, 5), writer="w", position=5)
        assert not table.append(rows(0, 5), writer="w", position=3)
        assert table.append(rows(5, 5), writer="w", position=6)
        assert table.append(rows(10, 5), writer="other", position=1)
        assert (table.position("w"), table.position("other"), table.position("absent")) == (6, 1, 0)
        assert same(table.scan(), rows(0, 15))

    def test_an_append_without_rows_moves_the_position_and_keeps_the_types(self, table: Table) -> None:
        assert table.append(rows(0, 0), writer="w", position=3)
        assert table.position("w") == 3
        assert same(table.scan(), rows(0, 0))

    def test_a_column_of_nulls_keeps_its_type(self, table: Table) -> None:
        nothing = Columns.of({d: (d, [None, None]) for d in ("float", "int", "bool", "str", "time")})
        table.append(nothing, writer="w", position=1)
        assert same(table.scan(), nothing)

    def test_bits_survive(self, table: Table) -> None:
        odd = Columns.of(
            {
                "f": ("float", [5e-324, -1.7976931348623157e308, 0.1 + 0.2, None]),
                "i": ("int", [2**63 - 1, -(2**63), 0, None]),
                "s": ("str", ["", "a\0b", "\U0001f6e9", None]),
                "t": ("time", [-62_135_596_800_000_000, 253_402_300_799_999_999, 0, None]),
            }
        )
        table.append(odd, writer="w", position=1)
        assert same(table.scan(), odd)

    def test_an_older_version_can_be_read(self, table: Table) -> None:
        table.append(rows(0, 5), writer="w", position=1)
        before = table.version()
        table.append(rows(5, 5), writer="w", position=2)
        table.compact()
        assert same(table.scan(version=before), rows(0, 5))
        assert same(table.scan(), rows(0, 10))
        with pytest.raises(NotFound):
            table.scan(version=table.version() + 1)

    def test_compacting_changes_no_row_and_no_position(self, table: Table) -> None:
        for i in range(8):
            table.append(rows(i * 3, 3), writer="w", position=i + 1)
        table.compact()
        assert same(table.scan(), rows(0, 24))
        assert table.position("w") == 8
        assert table.append(rows(24, 3), writer="w", position=9)
        assert same(table.scan(), rows(0, 27))

    def test_what_is_erased_gives_way_to_what_is_put_instead(self, table: Table) -> None:
        assert table.erase(Columns.of({"n": ("int", [1])})) == 0
        table.append(rows(0, 10), writer="w", position=1)
        table.append(rows(10, 10), writer="w", position=2)
        before = table.version()
        gone = Columns.of({"s": ("str", ["käse '7'", "käse '8'", "käse '15'"]), "n": ("int", [7, 9, 15])})
        assert table.erase(gone, rows(30, 1)) == 2
        assert table.erase(gone) == 0
        assert sorted(table.scan(["n"])["n"].to_list()) == [*(n for n in range(20) if n not in (7, 15)), 30]
        assert table.position("w") == 2
        with pytest.raises(NotFound):
            table.scan(version=before)
        assert table.erase(Columns.of({"n": ("int", list(range(40)))})) == 19
        assert same(table.scan(), rows(0, 0))
        with pytest.raises(NotFound, match="absent"):
            table.erase(Columns.of({"absent": ("int", [1])}))

    def test_what_does_not_fit_is_refused(self, table: Table) -> None:
        table.append(rows(0, 3), writer="w", position=1)
        with pytest.raises(Misuse, match="other"):
            table.append(Columns.of({"other": ("int", [1])}), writer="w", position=2)
        with pytest.raises(Misuse):
            table.append(rows(0, 3), writer="w", position=0)
        with pytest.raises(NotFound, match="absent"):
            table.scan(["absent"])
        assert same(table.scan(), rows(0, 3))
