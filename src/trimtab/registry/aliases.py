"""Aliases such as "champion". Each points to the version in the newest row of the alias's history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, NotFound
from trimtab.registry.removed import VERSION as REMOVED
from trimtab.registry.versions import Act, AliasMove
from trimtab.store.ports import Append, Catalog, Put, Remove

# a function that writes a move of an alias and further changes in one transaction
Together = Callable[[AliasMove, Sequence[Put | Append | Remove]], object]
_NOWHERE = b"null"  # the body of an alias that is protected, but has never pointed to a version
_ATTEMPTS = 50  # how often a move is tried again if it only conflicts with garbage collection


class Place(msgspec.Struct, frozen=True):
    """The state of an alias.

    `row` is the newest row of the history; None before the first move. `revision` is that of the stored alias. If the
    alias has another revision when a change is written, the change is refused.
    """

    row: AliasMove | None
    revision: int

    @property
    def version(self) -> str | None:
        """The id of the version that the alias points to; None before the first move."""
        return None if self.row is None else self.row.version


class Aliases:
    """Reads and moves the aliases that are stored in a catalogue."""

    def __init__(self, catalog: Catalog, *, clock: Clock, actor: str) -> None:
        self._catalog = catalog
        self._clock = clock
        self._actor = actor

    def place(self, model: str, alias: str) -> Place:
        """Return the present state of an alias."""
        record = self._catalog.get("alias", f"{model}/{alias}")
        if record is None:
            return Place(None, 0)
        return Place(None if record.body == _NOWHERE else _decoded(record.body), record.revision)

    def touch(self, model: str, alias: str) -> Put:
        """Return a change that gives the alias a new revision, so that a move based on the old one conflicts."""
        record = self._catalog.get("alias", f"{model}/{alias}")
        if record is None:
            return Put("alias", f"{model}/{alias}", _NOWHERE, expected=0)
        return Put("alias", f"{model}/{alias}", record.body, expected=record.revision)

    def places(self, model: str) -> dict[str, AliasMove]:
        """Return the newest row of each alias of a model."""
        records = self._catalog.find("alias", f"{model}/")
        moves = [_decoded(record.body) for record in records if record.body != _NOWHERE]
        return {move.alias: move for move in moves}

    def history(self, model: str, alias: str) -> Iterator[AliasMove]:
        """Return every row of an alias's history, oldest first."""
        after = 0
        while entries := self._catalog.journal(f"alias/{model}/{alias}", after=after, limit=1_000):
            yield from (_decoded(entry.body) for entry in entries)
            after = entries[-1].sequence

    def earlier(self, model: str, alias: str) -> str | None:
        """The version that a roll-back would restore; None if there is none.

        A roll-back undoes the newest move that has not been undone yet.
        """
        reach = self.reach(model, alias)
        return reach[1] if len(reach) > 1 else None

    def reach(self, model: str, alias: str) -> list[str]:
        """Return the version that the alias points to, then those that one roll-back after another would restore."""
        stack: list[str] = []
        for row in self.history(model, alias):
            if row.act == "roll_back":
                stack.pop()
            else:
                stack.append(row.version)
        return stack[::-1]

    def next_row(
        self,
        place: Place,
        *,
        model: str,
        alias: str,
        version: str,
        act: Act,
        why: str,
        gate: str | None = None,
        actor: str | None = None,
    ) -> AliasMove:
        """Return the row that follows `place` in the history."""
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
            actor=actor or self._actor,
            why=why,
        )

    def changes(self, row: AliasMove, place: Place) -> list[Put | Append]:
        """Return the changes that store `row`. They conflict if the alias is no longer in the state `place`."""
        body, key = msgspec.json.encode(row), f"{row.model}/{row.alias}"
        return [
            Put("alias", key, body, expected=place.revision),
            Append(f"alias/{key}", row.at_us, body, expected=row.sequence),
        ]

    def write(
        self, row: AliasMove, place: Place, *, unless: Sequence[Remove] = (), together: Together | None = None
    ) -> AliasMove:
        """Write `row` to the history.

        Args:
            row: The row to write, made by `next_row`.
            place: The state of the alias when the row was made.
            unless: Records that must not exist, as removals with `expected=0`. If one exists, the write conflicts.
            together: A function that writes the row and further changes in one transaction. It is called again after a
                conflict, unless the alias was moved.

        Raises:
            Conflict: The state of the alias is no longer `place`. The message says where the alias points now.
            NotFound: The artifact of the version was removed.
        """
        for _ in range(_ATTEMPTS):
            changes = [*self.changes(row, place), Remove(REMOVED, row.version, expected=0), *unless]
            try:
                if together is None:
                    self._catalog.write(changes)
                else:
                    together(row, changes)
            except Conflict as error:
                found = self.place(row.model, row.alias)
                if found.revision != place.revision:
                    raise Conflict(_moved(row, found)) from error
                if self._catalog.get(REMOVED, row.version) is not None:
                    raise NotFound(f"version {row.version[:12]}: its artifact was removed. Train it again.") from error
            else:
                return row
        raise Conflict(f"alias {row.model}@{row.alias}: garbage collection interfered. Try again.")


def _moved(row: AliasMove, found: Place) -> str:
    what = f"alias {row.model}@{row.alias}: it was moved or protected meanwhile"
    if found.row is not None:
        what += f": it points to {found.row.version[:12]} now ({found.row.actor}: {found.row.why})"
    return what + ". Read the alias again before you decide."


def _decoded(body: bytes) -> AliasMove:
    return msgspec.json.decode(body, type=AliasMove)
