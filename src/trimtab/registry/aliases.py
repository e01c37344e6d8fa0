"""Aliases and their histories: where each points is the newest row of its history, written in one transaction."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict
from trimtab.registry.versions import Act, AliasMove
from trimtab.store.ports import Append, Catalog, Put


class Place(msgspec.Struct, frozen=True):
    """Where an alias stands: its newest row, None before the first, and what a change of it must find."""

    row: AliasMove | None
    revision: int

    @property
    def version(self) -> str | None:
        """The address it points to; None before its first move."""
        return None if self.row is None else self.row.version


class Aliases:
    """Reads and moves the aliases in a catalogue."""

    def __init__(self, catalog: Catalog, *, clock: Clock, actor: str) -> None:
        self._catalog = catalog
        self._clock = clock
        self._actor = actor

    def place(self, model: str, alias: str) -> Place:
        """Where an alias stands now."""
        record = self._catalog.get("alias", f"{model}/{alias}")
        return Place(None, 0) if record is None else Place(_decoded(record.body), record.revision)

    def places(self, model: str) -> dict[str, AliasMove]:
        """The newest row of each alias of a model."""
        moves = [_decoded(record.body) for record in self._catalog.find("alias", f"{model}/")]
        return {move.alias: move for move in moves}

    def history(self, model: str, alias: str) -> Iterator[AliasMove]:
        """Every row of an alias, oldest first."""
        after = 0
        while entries := self._catalog.journal(f"alias/{model}/{alias}", after=after, limit=1_000):
            yield from (_decoded(entry.body) for entry in entries)
            after = entries[-1].sequence

    def earlier(self, model: str, alias: str) -> str | None:
        """Where it pointed before its newest move that was not itself rolled back; None if nowhere."""
        stack: list[str] = []
        for row in self.history(model, alias):
            if row.act == "roll_back":
                stack.pop()
            else:
                stack.append(row.version)
        return stack[-2] if len(stack) > 1 else None

    def next_row(
        self, place: Place, *, model: str, alias: str, version: str, act: Act, why: str, gate: str | None = None
    ) -> AliasMove:
        """The row that would follow."""
        before, now_us = place.row, self._clock.now_us()
        return AliasMove(
            sequence=1 if before is None else before.sequence + 1,
            model=model,
            alias=alias,
            version=version,
            previous=place.version,
            act=act,
            gate=gate,
            at_us=now_us if before is None else max(now_us, before.at_us),
            actor=self._actor,
            why=why,
        )

    def changes(self, row: AliasMove, place: Place) -> list[Put | Append]:
        """What a transaction must write for `row`, and refuses when the alias no longer stands at `place`."""
        body, key = msgspec.json.encode(row), f"{row.model}/{row.alias}"
        return [
            Put("alias", key, body, expected=place.revision),
            Append(f"alias/{key}", row.at_us, body, expected=row.sequence),
        ]

    def write(self, row: AliasMove, place: Place) -> AliasMove:
        """Write `row`.

        Raises:
            Conflict: The alias no longer stands at `place`.
        """
        try:
            self._catalog.write(self.changes(row, place))
        except Conflict as error:
            raise Conflict(
                f"alias {row.model}@{row.alias}: somebody else moved it while it was about to leave {row.previous}. "
                "Read it again, then decide."
            ) from error
        return row


def _decoded(body: bytes) -> AliasMove:
    return msgspec.json.decode(body, type=AliasMove)
