"""The ledger: a record of all decisions. Each row contains the hash of the previous row, so changes are noticed.

The sequence number and the hash of the newest row are also written to a file next to the catalogue, so that rows that
were removed from the end are noticed, too. The file is written after the rows. If the process is killed in between, the
file names an earlier row. It never names a later one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from trimtab.core.errors import Conflict, Corrupt, Misuse
from trimtab.core.hashing import content_hash
from trimtab.core.records import Decision
from trimtab.store.durable_files import write_durably
from trimtab.store.ports import Append, Catalog, InFolder, Put, Remove
from trimtab.store.ports import Entry as Stored

GENESIS = "0" * 64
JOURNAL = "ledger"
HEAD = "ledger.head"  # the name of the file next to the catalogue
FORGET = "forget"  # the `act` of a row that records the erasure of data

Evidence = Mapping[str, str | int | float | bool | None]
_ATTEMPTS = 20  # how often appending is tried, because other processes write to the ledger, too


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A decision to write: a row of the ledger without its sequence number and hashes."""

    at_us: int
    model: str
    act: str
    cause: str
    actor: str = "policy"
    evidence: dict[str, str | int | float | bool | None] = {}
    version: str | None = None
    replaced: str | None = None
    data_hash: str | None = None


class _Head(msgspec.Struct, frozen=True):
    """The contents of the file next to the catalogue: the sequence number and the hash of the newest row."""

    sequence: int
    hash: str


class Ledger:
    """The decisions in a journal of the catalogue. Each contains the hash of the previous decision."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        folder = catalog.folder if isinstance(catalog, InFolder) else None
        self._head: Path | None = None if folder is None else folder / HEAD
        self._last: Decision | None = None

    def write(self, entries: Sequence[Entry], also: Sequence[Put | Append | Remove] = ()) -> list[Decision]:
        """Append decisions. The changes in `also`, which carry the decisions out, are made in the same transaction.

        Raises:
            Conflict: An `expected` in `also` does not hold, or other processes kept appending.
            Misuse: A field has another type, such as a reason that is a number.
        """
        for _ in range(_ATTEMPTS):
            last = self._newest()
            rows: list[Decision] = []
            for entry in entries:
                rows.append(_row(entry, rows[-1] if rows else last))
            appends = [Append(JOURNAL, row.at_us, _encoded(row), expected=row.sequence) for row in rows]
            try:
                self._catalog.write([*appends, *also])
            except Conflict:
                if self._newest() == last:
                    raise  # no other process appended, so an `expected` in `also` does not hold
                continue
            self._last = rows[-1] if rows else last
            if rows:
                self._store_head(rows[-1])
            return rows
        raise Conflict(f"ledger: other processes added a row first, {_ATTEMPTS} times in a row. Try again.")

    def rows(self, *, after: int = 0) -> list[Decision]:
        """Return all decisions with a sequence number above `after`, oldest first.

        Raises:
            Corrupt: A row was changed, and cannot be decoded.
        """
        return [_decoded(entry) for entry in self._stored(after)]

    def _stored(self, after: int = 0) -> Iterator[Stored]:
        while entries := self._catalog.journal(JOURNAL, after=after):
            yield from entries
            after = entries[-1].sequence

    def verify(self) -> int:
        """Check the hashes of all rows and their stored bytes, and return the number of rows.

        Raises:
            Corrupt: A row was changed, removed or inserted. The message names the first such row, or says that rows are
                missing at the end.
        """
        head, previous = self._read_head(), GENESIS  # the file is read first, because rows may be added meanwhile
        rows: list[Decision] = []
        for n, stored in enumerate(self._stored(), 1):
            row = _decoded(stored)
            if (msgspec.json.encode(row), row.at_us) != (stored.body, stored.at_us):  # the hash is of the known fields
                raise Corrupt(f"ledger: row {n} was changed: its bytes are not as written. Restore the catalogue.")
            if row.sequence != n or row.previous_hash != previous or row.hash != _hash(row):
                raise Corrupt(f"ledger: row {n} does not follow from the row before it. Restore the catalogue.")
            rows.append(row)
            previous = row.hash
        if head is not None and (head.sequence > len(rows) or rows[head.sequence - 1].hash != head.hash):
            raise Corrupt(
                f"ledger: rows were removed from its end, or changed: it has {len(rows)} rows, and {self._head} "
                f"recorded row {head.sequence} and its hash. Restore the catalogue; to accept the loss, remove that "
                "file."
            )
        if rows:
            self._store_head(rows[-1])
        return len(rows)

    def _store_head(self, last: Decision) -> None:
        """Write the sequence number and hash of the newest row to the file, unless it already has a newer row."""
        if self._head is None:
            return
        # if the disk is full, the next row tries again; if the file is damaged, `verify` reports it
        with suppress(OSError, Corrupt):
            before = self._read_head()
            if before is None or before.sequence < last.sequence:
                write_durably(self._head, msgspec.json.encode(_Head(last.sequence, last.hash)))

    def _read_head(self) -> _Head | None:
        if self._head is None:
            return None
        try:
            return msgspec.json.decode(self._head.read_bytes(), type=_Head)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, OSError) as error:
            raise Corrupt(f"{self._head}: cannot be read ({error}). Restore this file, or remove it.") from error

    def _newest(self) -> Decision | None:
        newer = self.rows(after=self._last.sequence if self._last else 0)
        return newer[-1] if newer else self._last


def _decoded(stored: Stored) -> Decision:
    try:
        return msgspec.json.decode(stored.body, type=Decision)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"ledger: row {stored.sequence} was changed: {error}. Restore the catalogue.") from error


def _row(entry: Entry, before: Decision | None) -> Decision:
    row = Decision(
        **msgspec.structs.asdict(entry),
        sequence=before.sequence + 1 if before else 1,
        previous_hash=before.hash if before else GENESIS,
        hash="",
    )
    return msgspec.structs.replace(row, hash=_hash(row))


def _encoded(row: Decision) -> bytes:
    """Return the bytes of a row, after a check that they can be read again: a row can never be corrected."""
    body = msgspec.json.encode(row)
    try:
        msgspec.json.decode(body, type=Decision)
    except msgspec.ValidationError as error:
        raise Misuse(f"ledger: {row.act}: {error}. Give the reason and the actor as texts.") from error
    return body


def _hash(row: Decision) -> str:
    return content_hash(msgspec.structs.replace(row, hash=""))
