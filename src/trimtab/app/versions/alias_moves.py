"""Move aliases, and record each move in the ledger of decisions in the same transaction.  # D85"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.app.system import System
from trimtab.core.records import Decision
from trimtab.registry import AliasMove
from trimtab.registry.protection import CHAMPION
from trimtab.steering.ledger import Entry, Evidence, Ledger
from trimtab.store.ports import Append, Put, Remove

NO_REASON = "No reason was given."


class Ledgered:
    """Writes the move of an alias and its row of the ledger together. Pass it to the registry as `together`."""

    decision: Decision  # the row that was written to the ledger

    def __init__(self, system: System, act: str) -> None:
        self._system = system
        self._act = act

    def __call__(self, row: AliasMove, changes: Sequence[Put | Append | Remove]) -> None:
        """Write both the move and the row, or neither of them."""
        self.decision = write_row(self._system, row, changes, self._act, self._evidence(row))

    def _evidence(self, row: AliasMove) -> Evidence:
        named = self._system.registry.get
        return {
            **({} if row.previous is None else {"from": named(row.previous).name}),
            "to": named(row.version).name,
            **({} if row.gate is None else {"gate": row.gate}),
        }


def write_row(
    system: System, row: AliasMove, changes: Sequence[Put | Append | Remove], act: str, evidence: Evidence
) -> Decision:
    """Write changes together with a row of the ledger about the move of an alias."""
    entry = Entry(
        at_us=row.at_us,
        model=row.model,
        act=act,
        actor=row.actor,
        cause=row.why,
        evidence=dict(evidence),
        version=row.version,
        replaced=row.previous,
    )
    return Ledger(system.state.catalog).write([entry], changes)[0]


def roll_back(system: System, model: str, *, why: str, actor: str) -> Decision:
    """Move the champion alias back to the previous version; see `Project.roll_back`."""
    name, ledgered = system.definitions.deployment(model).name, Ledgered(system, "roll_back")
    system.registry.roll_back(name, CHAMPION, why=why or NO_REASON, actor=actor, together=ledgered)
    return ledgered.decision
