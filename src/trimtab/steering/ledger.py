"""The ledger: one row an act, each row carrying the hash of the row before."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trimtab.core.errors import Corrupt
from trimtab.core.hashing import content_hash
from trimtab.core.records import Decision
from trimtab.store.ports import Append, Catalog

GENESIS = "0" * 64
JOURNAL = "ledger"

Evidence = Mapping[str, str | int | float | bool | None]


class Ledger:
    """Decisions in an append-only journal of the catalogue, chained by their hashes."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._last: Decision | None = None

    def record(
        self,
        *,
        at_us: int,
        model: str,
        act: str,
        cause: str,
        actor: str = "policy",
        evidence: Evidence | None = None,
        version: str | None = None,
        replaced: str | None = None,
        data_hash: str | None = None,
    ) -> Decision:
        """Append one decision, durably.

        Raises:
            Conflict: Another process appended at the same moment; call again.
        """
        last = self._newest()
        row = Decision(
            sequence=last.sequence + 1 if last else 1,
            at_us=at_us,
            model=model,
            act=act,
            actor=actor,
            cause=cause,
            evidence=dict(evidence or {}),
            version=version,
            replaced=replaced,
            data_hash=data_hash,
            previous_hash=last.hash if last else GENESIS,
            hash="",
        )
        row = msgspec.structs.replace(row, hash=_hash(row))
        self._catalog.write([Append(JOURNAL, at_us, msgspec.json.encode(row), expected=row.sequence)])
        self._last = row
        return row

    def rows(self, *, after: int = 0) -> list[Decision]:
        """All decisions with sequence > `after`, oldest first."""
        out: list[Decision] = []
        while entries := self._catalog.journal(JOURNAL, after=after):
            out += [msgspec.json.decode(entry.body, type=Decision) for entry in entries]
            after = entries[-1].sequence
        return out

    def verify(self) -> int:
        """Check the whole chain; the number of rows.

        Raises:
            Corrupt: A row was changed, removed or put in; the message names the first one.
        """
        previous = GENESIS
        rows = self.rows()
        for n, row in enumerate(rows, 1):
            if row.sequence != n or row.previous_hash != previous or row.hash != _hash(row):
                raise Corrupt(f"ledger: row {n} does not follow from the row before it. Restore the catalogue.")
            previous = row.hash
        return len(rows)

    def _newest(self) -> Decision | None:
        newer = self.rows(after=self._last.sequence if self._last else 0)
        return newer[-1] if newer else self._last


def _hash(row: Decision) -> str:
    return content_hash(msgspec.structs.replace(row, hash=""))
