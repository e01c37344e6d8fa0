"""The ledger: one row for each decision, which contains the hash of the row before it.

The sequence number and the hash of the newest row are also kept in a file next to the catalogue, so that rows removed
from the end are noticed. The file is written after the row. If the process is killed between the two writes, the file
is one row behind, but it is never ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from trimtab.core.errors import Conflict, Corrupt
from trimtab.core.hashing import content_hash
from trimtab.core.records import Decision
from trimtab.store.durable_files import write_durably
from trimtab.store.ports import Append, Catalog, InFolder, Put, Remove

GENESIS = "0" * 64
JOURNAL = "ledger"
HEAD = "ledger.head"  # name of a file in the catalogue's folder
FORGET = "forget"  # the act of a row that records an erasure

Evidence = Mapping[str, str | int | float | bool | None]
_ATTEMPTS = 20  # attempts to append, as other deployments and people write to the same ledger


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A decision to be written: a row of the ledger without its position in the chain."""

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
    """The number and hash of the newest row, as the file next to the catalogue has them."""

    sequence: int
    hash: str


class Ledger:
    """Decisions in an append-only journal of the catalogue, each chained to the one before by its hash."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        folder = catalog.folder if isinstance(catalog, InFolder) else None
        self._head: Path | None = None if folder is None else folder / HEAD
        self._last: Decision | None = None

    def write(self, entries: Sequence[Entry], also: Sequence[Put | Append | Remove] = ()) -> list[Decision]:
        """Append decisions, and change in the same write what the decisions are about.

        Raises:
            Conflict: An `expected` value of `also` did not hold, or other processes appended without a pause.
        """
        for _ in range(_ATTEMPTS):
            last = self._newest()
            rows: list[Decision] = []
            for entry in entries:
                rows.append(_row(entry, rows[-1] if rows else last))
            appends = [Append(JOURNAL, row.at_us, msgspec.json.encode(row), expected=row.sequence) for row in rows]
            try:
                self._catalog.write([*appends, *also])
            except Conflict:
                if self._newest() == last:
                    raise  # no other process appended, so an expected value of `also` did not hold
                continue
            self._last = rows[-1] if rows else last
            if rows:
                self._store_head(rows[-1])
            return rows
        raise Conflict(f"ledger: other processes took the next place {_ATTEMPTS} times. Try again.")

    def rows(self, *, after: int = 0) -> list[Decision]:
        """All decisions with sequence > `after`, oldest first."""
        out: list[Decision] = []
        while entries := self._catalog.journal(JOURNAL, after=after):
            out += [msgspec.json.decode(entry.body, type=Decision) for entry in entries]
            after = entries[-1].sequence
        return out

    def verify(self) -> int:
        """Check the whole chain and return the number of rows.

        Raises:
            Corrupt: A row was changed, removed or inserted; the message names the first such row.
        """
        head, previous = self._read_head(), GENESIS  # the head is read first, as rows may be added meanwhile
        rows = self.rows()
        for n, row in enumerate(rows, 1):
            if row.sequence != n or row.previous_hash != previous or row.hash != _hash(row):
                raise Corrupt(f"ledger: row {n} does not follow from the row before it. Restore the catalogue.")
            previous = row.hash
        if head is not None and (head.sequence > len(rows) or rows[head.sequence - 1].hash != head.hash):
            raise Corrupt(
                f"ledger: it has {len(rows)} rows, and {self._head} knows row {head.sequence} as another or the last "
                "one: rows were removed from its end. Restore the catalogue; to accept the loss, remove that file."
            )
        if rows:
            self._store_head(rows[-1])
        return len(rows)

    def _store_head(self, last: Decision) -> None:
        """Store the number and hash of the newest row next to the catalogue; a newer row's are never replaced."""
        if self._head is None:
            return
        # after a full disk, the next row's head is stored; `verify` reports a damaged file
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
            raise Corrupt(f"{self._head}: cannot be read ({error}). Restore it, or remove it.") from error

    def _newest(self) -> Decision | None:
        newer = self.rows(after=self._last.sequence if self._last else 0)
        return newer[-1] if newer else self._last


def _row(entry: Entry, before: Decision | None) -> Decision:
    row = Decision(
        **msgspec.structs.asdict(entry),
        sequence=before.sequence + 1 if before else 1,
        previous_hash=before.hash if before else GENESIS,
        hash="",
    )
    return msgspec.structs.replace(row, hash=_hash(row))


def _hash(row: Decision) -> str:
    return content_hash(msgspec.structs.replace(row, hash=""))
