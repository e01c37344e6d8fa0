import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

import forked
from trimtab import store
from trimtab.core.errors import Conflict, Corrupt, Misuse
from trimtab.steering.ledger import HEAD, Ledger
from trimtab.steering.ledger import Entry as Draft
from trimtab.store import Append, Catalog, Entry, Put, Remove


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


class Changed:
    """A catalogue whose journal shows one row changed, as if somebody had edited the file."""

    def __init__(self, catalog: Catalog, sequence: int, was: bytes = b"because", now: bytes = b"despite") -> None:
        self._catalog = catalog
        self._sequence = sequence
        self._was, self._now = was, now

    def journal(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[Entry]:
        return [
            msgspec.structs.replace(e, body=e.body.replace(self._was, self._now)) if e.sequence == self._sequence else e
            for e in self._catalog.journal(name, after=after, limit=limit)
        ]


@pytest.mark.fast
def test_rows_are_chained_and_numbered(catalog: Catalog) -> None:
    ledger = Ledger(catalog)
    first = ledger.write([Draft(at_us=1, model="m", act="trigger", cause="because")])[0]
    second = ledger.write([Draft(at_us=2, model="m", act="promote", cause="because", version="v1", replaced="v0")])[0]
    assert [r.sequence for r in ledger.rows()] == [1, 2]
    assert second.previous_hash == first.hash
    assert ledger.verify() == 2


def test_two_ledgers_on_one_catalogue_continue_one_chain(catalog: Catalog) -> None:
    one, other = Ledger(catalog), Ledger(catalog)
    one.write([Draft(at_us=1, model="m", act="a", cause="because")])
    other.write([Draft(at_us=2, model="m", act="b", cause="because")])
    one.write([Draft(at_us=3, model="m", act="c", cause="because")])
    assert Ledger(catalog).verify() == 3


@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_a_changed_row_is_found_and_named(catalog: Catalog, sequence: int) -> None:
    ledger = Ledger(catalog)
    for n in range(3):
        ledger.write([Draft(at_us=n, model="m", act="a", cause="because")])
    with pytest.raises(Corrupt, match=f"row {sequence} "):
        Ledger(Changed(catalog, sequence)).verify()  # type: ignore[arg-type]  # only `journal` is asked for


@pytest.mark.fast
@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (b'"act":', b'"act" :', "its bytes are not as written"),
        (b'"act":', b'"approved_by":"the board","act":', "its bytes are not as written"),
        (b'"act":', b'"bct":', "missing required field `act`"),
        (b'"at_us":1', b'"at_us":', "JSON is malformed"),
    ],
)
def test_a_row_that_is_stored_in_other_bytes_is_found_and_named(
    catalog: Catalog, was: bytes, now: bytes, said: str
) -> None:
    for _ in range(3):
        Ledger(catalog).write([Draft(at_us=1, model="m", act="a", cause="because")])
    changed = Ledger(Changed(catalog, 2, was, now))  # type: ignore[arg-type]  # only `journal` is asked for
    with pytest.raises(Corrupt, match=f"row 2 was changed: .*{said}"):
        changed.verify()
    if "not as written" not in said:  # readers that do not verify cannot decode it either
        with pytest.raises(Corrupt, match=f"row 2 was changed: .*{said}"):
            changed.rows()


def test_the_same_acts_give_the_same_bytes(tmp_path: Path) -> None:
    rows = []
    for n in range(2):
        with store.open(f"sqlite://{tmp_path}/{n}.db", "catalog") as catalog:
            ledger = Ledger(catalog)
            ledger.write([Draft(at_us=1, model="m", act="gate", cause="c", evidence={"b": 1.5, "a": None})])
            ledger.write([Draft(at_us=2, model="m", act="promote", cause="c")])
            rows.append([e.body for e in catalog.journal("ledger")])
    assert rows[0] == rows[1]


class Busy:
    """A catalogue in which another process appends to the ledger right before each of the first writes."""

    def __init__(self, catalog: Catalog, times: int) -> None:
        self._catalog = catalog
        self._other = Ledger(catalog)
        self._times = times

    def journal(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[Entry]:
        return self._catalog.journal(name, after=after, limit=limit)

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        if self._times:
            self._times -= 1
            self._other.write([Draft(at_us=0, model="other", act="trigger", cause="at the same moment")])
        self._catalog.write(changes)


def draft(act: str) -> Draft:
    return Draft(at_us=5, model="m", act=act, cause="because")


def test_rows_are_written_with_what_they_are_about_or_not_at_all(catalog: Catalog) -> None:
    ledger = Ledger(catalog)
    change = Put("loop", "m", b"1", expected=0)
    rows = ledger.write([draft("train"), draft("gate")], [change])
    assert [(row.sequence, row.act) for row in rows] == [(1, "train"), (2, "gate")]
    with pytest.raises(Conflict, match="loop/m"):
        ledger.write([draft("promote")], [change])
    assert ledger.rows() == rows
    assert ledger.write([], [Remove("loop", "m", expected=1)]) == []
    assert ledger.verify() == 2


@pytest.mark.parametrize("wrong", [{"cause": 4711}, {"actor": 1000}])
def test_a_row_that_could_not_be_read_again_is_refused(catalog: Catalog, wrong: dict[str, int]) -> None:
    ledger = Ledger(catalog)
    row = msgspec.structs.replace(Draft(at_us=1, model="m", act="freeze", cause="because"), **wrong)
    with pytest.raises(Misuse, match="Give the reason and the actor as texts"):
        ledger.write([row], [Put("frozen", "m", b"1")])
    assert (ledger.rows(), catalog.get("frozen", "m")) == ([], None)


def test_rows_of_others_at_the_same_moment_only_move_the_place(catalog: Catalog) -> None:
    ledger = Ledger(Busy(catalog, 3))  # type: ignore[arg-type]  # only what a ledger calls
    rows = ledger.write([draft("train"), draft("gate")], [Put("loop", "m", b"1", expected=0)])
    assert [row.sequence for row in rows] == [4, 5]
    assert ledger.verify() == 5
    endless = Ledger(Busy(catalog, 1_000))  # type: ignore[arg-type]
    with pytest.raises(Conflict, match="Try again"):
        endless.write([draft("promote")])


def drop_newest(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "catalog.db")) as database, database:
        newest = "SELECT max(sequence) FROM journal WHERE journal = 'ledger'"
        assert database.execute(f"DELETE FROM journal WHERE journal = 'ledger' AND sequence = ({newest})").rowcount == 1


def test_a_newest_row_that_was_removed_is_found(catalog: Catalog, tmp_path: Path) -> None:
    ledger = Ledger(catalog)
    for n in range(3):
        ledger.write([Draft(at_us=n, model="m", act="a", cause="because")])
    drop_newest(tmp_path)
    for _ in range(2):  # also after another row took its place
        with pytest.raises(Corrupt, match=r"ledger\.head recorded row 3"):
            Ledger(catalog).verify()
        Ledger(catalog).write([Draft(at_us=9, model="m", act="b", cause="because")])
    (tmp_path / HEAD).unlink()
    assert Ledger(catalog).verify() == 4
    drop_newest(tmp_path)
    with pytest.raises(Corrupt, match="recorded row 4"):
        Ledger(catalog).verify()


def test_a_ledger_of_an_older_version_gets_its_head_when_it_is_verified(catalog: Catalog, tmp_path: Path) -> None:
    Ledger(catalog).write([Draft(at_us=1, model="m", act="a", cause="because")])
    (tmp_path / HEAD).unlink()
    assert Ledger(catalog).verify() == 1
    assert (tmp_path / HEAD).exists()
    (tmp_path / HEAD).write_bytes(b"")
    with pytest.raises(Corrupt, match=r"ledger\.head: cannot be read"):
        Ledger(catalog).verify()


WRITES = """
import sys
from trimtab import store
from trimtab.steering.ledger import Entry, Ledger
with store.open(f"sqlite://{sys.argv[1]}/catalog.db", "catalog") as opened:
    ledger = Ledger(opened)
    while True:
        row = ledger.write([Entry(at_us=1, model="m", act="a", cause="because")])[0]
        print(row.sequence, flush=True)
"""


def test_killing_a_writer_leaves_a_head_that_is_never_ahead(tmp_path: Path) -> None:
    known = 0
    for lines in (1, 4, 9):
        process = forked.Popen([sys.executable, "-c", WRITES, tmp_path], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(lines):
            known = int(process.stdout.readline())
        process.kill()
        process.communicate()
        head = msgspec.json.decode((tmp_path / HEAD).read_bytes())["sequence"]
        with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
            rows = len(Ledger(opened).rows())
            assert known <= rows
            assert rows - 1 <= head <= rows
            assert Ledger(opened).verify() == rows
