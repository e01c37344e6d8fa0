"""The stored state of a deployment's loop. It changes in the transaction that records the decisions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict
from trimtab.core.records import Decision
from trimtab.core.time import format_time
from trimtab.registry.protection import CHAMPION, hold, release
from trimtab.steering.causes import shortest_period_us
from trimtab.steering.definitions import Deployment
from trimtab.steering.ledger import Entry, Evidence, Ledger
from trimtab.steering.loop.quiet_times import after_cancel, after_refusal
from trimtab.steering.loop_state import APPROVAL, FREEZE, IDLE, KIND, LoopState, Repair
from trimtab.store.ports import Append, Catalog, Put, Remove


class DeploymentRecord:
    """The stored `LoopState` of one deployment, together with the ledger: the record of its decisions."""

    def __init__(self, deployment: Deployment, *, ledger: Ledger, catalog: Catalog, clock: Clock) -> None:
        self._deployment = deployment
        self._ledger = ledger
        self._catalog = catalog
        self._clock = clock
        self.reload()

    def reload(self) -> None:
        """Read the state again, because another process may have changed it."""
        record = self._catalog.get(KIND, self._deployment.name)
        self._revision = 0 if record is None else record.revision
        cooldown_us = self._deployment.cooldown_us
        fresh = LoopState(cooldown_us=cooldown_us, alarm_cooldown_us=cooldown_us)
        self.state = fresh if record is None else msgspec.json.decode(record.body, type=LoopState)

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
        """Return a decision to be written. By default, its actor is the person who began the repair, or "policy"."""
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

    def entry_about(
        self, repair: Repair, act: str, cause: str, evidence: Evidence | None = None, *, actor: str | None = None
    ) -> Entry:
        """Return a decision about the successor of a repair (the new version)."""
        found = {"gate": repair.gate.id, **(evidence or {})}
        return self.entry(act, cause, found, version=repair.successor, actor=actor)

    def write(
        self, entries: Sequence[Entry], also: Sequence[Put | Remove | Append] = (), **changes: object
    ) -> list[Decision]:
        """Store decisions, the changed fields of the state (`changes`) and further changes (`also`) in one transaction.

        Raises:
            Conflict: Another process has changed the state.
        """
        state = msgspec.structs.replace(self.state, **changes)
        put = Put(KIND, self._deployment.name, msgspec.json.encode(state), expected=self._revision)
        decisions = self._ledger.write(entries, [put, *also, *self._held(state)])
        self.state, self._revision = state, self._revision + 1
        return decisions

    def refuse(
        self,
        entries: Sequence[Entry],
        also: Sequence[Put | Append | Remove] = (),
        *,
        longest: bool = False,
        **changes: object,
    ) -> list[Decision]:
        """End a repair with a refusal. The champion stays, and a quiet time begins for causes of the same kind.

        Args:
            also: Further changes of the catalogue, written in the same transaction.
            longest: Whether the quiet time has its greatest length at once, instead of doubling with each refusal.
            **changes: Further fields of the state.
        """
        deployment = self._deployment
        period_us = shortest_period_us(deployment.retrain)
        now_us = self._clock.now_us()
        quiet = after_refusal(self.state, deployment.cooldown_us, now_us, period_us, longest=longest)
        return self.write(entries, also, **{**IDLE, **quiet, **changes})

    def cancel(self, entry: Entry) -> list[Decision]:
        """End a repair without a refusal: a person cancelled it, or its cause is no longer declared."""
        quiet = after_cancel(self.state, self._deployment.cooldown_us, self._clock.now_us())
        return self.write([entry], **IDLE, **quiet)

    def frozen(self) -> str | None:
        """Return why all automation is frozen (stopped by a person); None if it is not."""
        record = self._catalog.get(FREEZE, "all")
        return None if record is None else str(msgspec.json.decode(record.body))

    def check_frozen(self) -> None:
        """Raise `Conflict` if all automation is frozen."""
        why = self.frozen()
        if why is not None:
            raise Conflict(
                f"{self._deployment.name!r}: automation is frozen ({why}), so nothing is trained or promoted. "
                "End that first: trimtab unfreeze"
            )

    def waits(self, state: LoopState) -> str:
        """Return a message about the candidate that waits for approval: until when, and how to approve or reject it."""
        name = self._deployment.name
        return (
            f"A candidate waits for approval until {format_time(state.expires_us)}. To decide: "
            f"trimtab approve {name}, or trimtab reject {name} --why TEXT."
        )

    def _held(self, state: LoopState) -> list[Put | Remove]:
        """Return changes that forbid moving the alias while a candidate waits for approval, and allow it afterwards."""
        name = self._deployment.name
        if state.phase == APPROVAL:
            return [hold(name, CHAMPION, self.waits(state))]
        return [release(name, CHAMPION)] if self.state.phase == APPROVAL else []
