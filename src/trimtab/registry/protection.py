"""Protected aliases: the evidence that moves of an alias need, and moves that wait for an approval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse
from trimtab.registry.aliases import Aliases
from trimtab.store.ports import Append, Catalog, Put, Remove

Needs = Literal["nothing", "reason", "gate"]
# for each declared model: its aliases that the settings protect, and what their moves need
Declared = Mapping[str, Mapping[str, Needs]]
_STRICTER: tuple[Needs, ...] = ("nothing", "reason", "gate")
# the alias "champion" is always protected: its moves need a gate record (a stored, passed judgement)
CHAMPION = "champion"
CANARY = "canary"  # its version answers a share of the requests
SHORTEST_REASON = 10  # characters
_HOLD = "hold"  # the kind of catalogue record that marks an alias as waiting for an approval


class Protection(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the evidence that moves of an alias need."""

    format: Literal[1] = 1
    model: str
    alias: str
    needs: Needs
    at_us: int
    actor: str
    why: str


class Protections:
    """Reads and changes protections. A changed protection also binds moves that have begun but are not committed.

    For this, it is written in one transaction with the alias's own record, so that a move which read the previous
    protection conflicts.
    """

    def __init__(self, catalog: Catalog, aliases: Aliases, *, declared: Declared, clock: Clock, actor: str) -> None:
        self._catalog = catalog
        self._aliases = aliases
        self._declared = declared
        self._clock = clock
        self._actor = actor

    def needs(self, model: str, alias: str) -> Needs:
        """Return what a move of an alias needs: the stricter of the settings and the stored protection.

        Read the alias before you call this. Then a later change of the protection makes the move conflict.
        """
        if alias == CHAMPION:
            return "gate"
        record = self._catalog.get("protection", f"{model}/{alias}")
        recorded: Needs = "nothing" if record is None else msgspec.json.decode(record.body, type=Protection).needs
        return max(recorded, self._of_settings(model, alias), key=_STRICTER.index)

    def _of_settings(self, model: str, alias: str) -> Needs:
        return self._declared.get(model, {}).get(alias, "nothing")

    def of(self, model: str) -> dict[str, Protection]:
        """Return the stored protections of a model's aliases, by alias."""
        found = (msgspec.json.decode(r.body, type=Protection) for r in self._catalog.find("protection", f"{model}/"))
        return {one.alias: one for one in found}

    def change(self, model: str, alias: str, needs: Needs, why: str, *, actor: str | None = None) -> Protection:
        """Store what moves of an alias need from now on.

        Raises:
            Misuse: The alias is "champion", which always needs a gate record, the settings require more than `needs`,
                or `why` has fewer than ten characters.
            Conflict: The alias was moved at the same time; try again.
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
            raise Conflict(f"{what}: it was changed meanwhile. Read it again before you decide.") from error
        return made


def hold(model: str, alias: str, reason: str) -> Put:
    """Return the change that forbids moves of an alias, except roll-backs, until `release`. Errors say the reason."""
    return Put(_HOLD, f"{model}/{alias}", msgspec.json.encode(reason))


def release(model: str, alias: str) -> Remove:
    """Return the change that ends a `hold`, so that the alias can be moved again."""
    return Remove(_HOLD, f"{model}/{alias}")


def not_held(model: str, alias: str) -> Remove:
    """Return a change to add to a move of an alias, so that the move fails while the alias is held."""
    return Remove(_HOLD, f"{model}/{alias}", expected=0)


def refuse_held(catalog: Catalog, model: str, alias: str) -> None:
    """Raise `Conflict` while a move of the alias waits for an approval. The message says who must approve, and how."""
    record = catalog.get(_HOLD, f"{model}/{alias}")
    if record is not None:
        raise Conflict(
            f"alias {model}@{alias}: {msgspec.json.decode(record.body, type=str)} Approve or reject that first."
        )


def check_reason(what: str, why: str) -> None:
    """Raise `Misuse` if a reason has fewer than ten characters."""
    if len(why.strip()) < SHORTEST_REASON:
        raise Misuse(f"{what}: why={why!r} is too short. Give a reason of {SHORTEST_REASON} letters or more.")
