"""Where a deployment stands, and its decisions: the state and the rows that tell of it change in one write."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict
from trimtab.core.records import Decision
from trimtab.registry.protection import CHAMPION, hold, release
from trimtab.steering.definitions import Deployment
from trimtab.steering.ledger import Entry, Evidence, Ledger
from trimtab.steering.loop_state import APPROVAL, FREEZE, KIND, LoopState
from trimtab.store.ports import Append, Catalog, Put, Remove


class DeploymentRecord:
    """The stored `LoopState` of one deployment.

    Args:
        deployment: Which.
        ledger: Gets its decisions.
        catalog: Has the state.
        clock: The time of decisions.
        waits: Says who must be asked while a state waits for approval.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        ledger: Ledger,
        catalog: Catalog,
        clock: Clock,
        waits: Callable[[LoopState], str],
    ) -> None:
        self._deployment = deployment
        self._ledger = ledger
        self._catalog = catalog
        self._clock = clock
        self._waits = waits
        self.reload()

    def reload(self) -> None:
        """Read the state again: another process may have moved it."""
        record = self._catalog.get(KIND, self._deployment.name)
        self._revision = 0 if record is None else record.revision
        cooldown_us = self._deployment.cooldown_us
        fresh = LoopState(cooldown_us=cooldown_us, alarm_cooldown_us=cooldown_us)
        state = fresh if record is None else msgspec.json.decode(record.body, type=LoopState)
        if not state.alarm_cooldown_us:  # written by an earlier trimtab
            state = msgspec.structs.replace(state, alarm_cooldown_us=cooldown_us)
        self.state = state

    def entry(
        self,
        act: str,
        cause: str,
        evidence: Evidence | None = None,
        *,
        version: str | None = None,
        replaced: str | None = None,
        data_hash: str | None = None,
        actor: str | None = None,
    ) -> Entry:
        """A decision to be written; where no actor is named it is who asked for what is in flight, else the policy."""
        return Entry(
            at_us=self._clock.now_us(),
            model=self._deployment.name,
            act=act,
            cause=cause,
            actor=actor or self.state.asked_by or "policy",
            evidence=dict(evidence or {}),
            version=version,
            replaced=replaced,
            data_hash=data_hash,
        )

    def write(
        self, entries: Sequence[Entry], also: Sequence[Put | Remove | Append] = (), **changes: object
    ) -> list[Decision]:
        """Write decisions, the state after them and what belongs to it: all in one write.

        Raises:
            Conflict: Another process has moved the state.
        """
        state = msgspec.structs.replace(self.state, **changes)
        put = Put(KIND, self._deployment.name, msgspec.json.encode(state), expected=self._revision)
        decisions = self._ledger.write(entries, [put, *also, *self._held(state)])
        self.state, self._revision = state, self._revision + 1
        return decisions

    def frozen(self) -> str | None:
        """Why all automation is stopped; None when it is not."""
        record = self._catalog.get(FREEZE, "all")
        return None if record is None else str(msgspec.json.decode(record.body))

    def check_frozen(self) -> None:
        """Raise `Conflict` when all automation is stopped."""
        why = self.frozen()
        if why is not None:
            raise Conflict(
                f"{self._deployment.name!r}: automation is frozen ({why}), so nothing is trained or promoted. "
                "Let it go on first: trimtab unfreeze"
            )

    def _held(self, state: LoopState) -> list[Put | Remove]:
        """The changes that keep the alias where it is while a candidate waits for approval, and let it go after."""
        name = self._deployment.name
        if state.phase == APPROVAL:
            return [hold(name, CHAMPION, self._waits(state))]
        return [release(name, CHAMPION)] if self.state.phase == APPROVAL else []
