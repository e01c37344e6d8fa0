"""Protected aliases: what a move of an alias needs. While an approval is pending, moves are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse
from trimtab.registry.aliases import Aliases
from trimtab.store.ports import Append, Catalog, Put, Remove

Needs = Literal["nothing", "reason", "gate"]
Declared = Mapping[str, Mapping[str, Needs]]  # for each declared model, the aliases that the settings protect
_STRICTER: tuple[Needs, ...] = ("nothing", "reason", "gate")
CHAMPION = "champion"  # always needs a gate record
SHORTEST_REASON = 10  # characters
_HOLD = "hold"  # the kind of the records for aliases that wait for an approval


class Protection(msgspec.Struct, frozen=True, kw_only=True):
    """The requirement on moves of an alias."""

    format: Literal[1] = 1
    model: str
    alias: str
    needs: Needs
    at_us: int
    actor: str
    why: str


class Protections:
    """Reads and changes protections. A change applies to every move that is not committed yet.

    A protection and the alias's own record are written in one transaction. Therefore a move that read the previous
    protection conflicts.
    """

    def __init__(self, catalog: Catalog, aliases: Aliases, *, declared: Declared, clock: Clock, actor: str) -> None:
        self._catalog = catalog
        self._aliases = aliases
        self._declared = declared
        self._clock = clock
        self._actor = actor

    def needs(self, model: str, alias: str) -> Needs:
        """Return the stricter requirement on moves, of settings and record. Call this after reading the alias."""
        if alias == CHAMPION:
            return "gate"
        record = self._catalog.get("protection", f"{model}/{alias}")
        recorded: Needs = "nothing" if record is None else msgspec.json.decode(record.body, type=Protection).needs
        return max(recorded, self._of_settings(model, alias), key=_STRICTER.index)

    def _of_settings(self, model: str, alias: str) -> Needs:
        return self._declared.get(model, {}).get(alias, "nothing")

    def of(self, model: str) -> dict[str, Protection]:
        """Return the protections that were declared for a model's aliases."""
        found = (msgspec.json.decode(r.body, type=Protection) for r in self._catalog.find("protection", f"{model}/"))
        return {one.alias: one for one in found}

    def change(self, model: str, alias: str, needs: Needs, why: str, *, actor: str | None = None) -> Protection:
        """Declare what a move needs from now on.

        Raises:
            Misuse: The alias is "champion", which always needs a gate record, or the settings ask for more.
            Conflict: The alias was moved meanwhile; try again.
        """
        what, key = f"alias {model}@{alias}", f"{model}/{alias}"
        if alias == CHAMPION:
            raise Misuse(f"{what}: a champion always needs a passed gate record. Protect another alias.")
        check_reason(what, why)
        settings = self._of_settings(model, alias)
        if _STRICTER.index(needs) < _STRICTER.index(settings):
            raise Misuse(
                f"{what}: the settings require a {settings} for a move, and {needs!r} is less. Change "
                f"[registry.protected.{model}] in trimtab.toml."
            )
        made = Protection(
            model=model,
            alias=alias,
            needs=needs,
            at_us=self._clock.now_us(),
            actor=actor or self._actor,
            why=why.strip(),
        )
        body = msgspec.json.encode(made)
        try:
            self._catalog.write(
                [
                    Put("protection", key, body),
                    Append(f"protection/{key}", made.at_us, body),
                    self._aliases.touch(model, alias),
                ]
            )
        except Conflict as error:
            raise Conflict(f"{what}: it was moved meanwhile. Read it again, then decide.") from error
        return made


def hold(model: str, alias: str, reason: str) -> Put:
    """Return the change that refuses moves of an alias (except roll-backs) until `release`; `reason` is the message."""
    return Put(_HOLD, f"{model}/{alias}", msgspec.json.encode(reason))


def release(model: str, alias: str) -> Remove:
    """Return the change that allows moves of an alias again."""
    return Remove(_HOLD, f"{model}/{alias}")


def not_held(model: str, alias: str) -> Remove:
    """Return the condition that a transaction needs to move an alias."""
    return Remove(_HOLD, f"{model}/{alias}", expected=0)


def refuse_held(catalog: Catalog, model: str, alias: str) -> None:
    """Refuse to move an alias that waits for an approval.

    Raises:
        Conflict: An approval is pending; the message says who must approve, and how.
    """
    record = catalog.get(_HOLD, f"{model}/{alias}")
    if record is not None:
        raise Conflict(f"alias {model}@{alias}: {msgspec.json.decode(record.body, type=str)} Answer that first.")


def check_reason(what: str, why: str) -> None:
    """Refuse a reason that is too short.

    Raises:
        Misuse: The reason has fewer than ten characters.
    """
    if len(why.strip()) < SHORTEST_REASON:
        raise Misuse(f"{what}: why={why!r} is too short. Give a reason of {SHORTEST_REASON} letters or more.")
