"""Going back to the version before: the alias and the ledger change in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trimtab.core.records import Decision
from trimtab.registry import AliasMove
from trimtab.steering.controller import CHAMPION
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store.ports import Append, Put, Remove

if TYPE_CHECKING:
    from trimtab.app.project import Project


def roll_back(project: Project, model: str, *, why: str, actor: str) -> Decision:
    """See `Project.roll_back`."""
    name, registry = project.definitions.deployment(model).name, project.registry
    written: list[Decision] = []

    def write(row: AliasMove, changes: Sequence[Put | Append | Remove]) -> None:
        entry = Entry(
            at_us=row.at_us,
            model=name,
            act="roll_back",
            actor=actor,
            cause=row.why,
            evidence={"from": registry.get(str(row.previous)).name, "to": registry.get(row.version).name},
            version=row.version,
            replaced=row.previous,
        )
        written.extend(Ledger(project.state.catalog).write([entry], changes))

    registry.roll_back(name, CHAMPION, why=why or "No reason was given.", actor=actor, together=write)
    return written[-1]
