"""Apply changed definitions: store them, fill new online features, and remove features that nothing needs.  # D36"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from trimtab.app.plan.planning import change_of, named_views, refusals
from trimtab.app.state.applied import AppliedDefinitions
from trimtab.app.state.documents import documents
from trimtab.app.system import System
from trimtab.core.errors import Conflict, Misuse, Unavailable
from trimtab.core.records import Decision
from trimtab.core.shown import Shown
from trimtab.features.definitions import View
from trimtab.steering.ledger import Entry, Ledger

_LOOK_S = 0.1


class AppliedPlan(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The result of applying a plan."""

    decision: Decision | None  # the row in the ledger of decisions; None: the definitions were applied already
    filled: list[str]  # the names of the views that were filled
    dropped: list[str]

    def lines(self) -> list[str]:
        """The result as lines of text."""
        out = [] if self.decision is None else [f"applied: {self.decision.cause} (ledger row {self.decision.sequence})"]
        out += [f"filled: view {name}" for name in self.filled]
        out += [f"dropped: online features of view {name}" for name in self.dropped]
        return out or ["Nothing to do: all definitions in the project file are applied already."]


def apply_plan(
    system: System, *, actor: str, progress: Callable[[int, int], object] | None, patience_s: float
) -> AppliedPlan:
    """Apply the definitions of the project file; see `Project.apply`."""
    refused = refusals(system)
    if refused:
        raise Misuse(f"apply: {' '.join(refused)}")
    decision = _write(system, actor)
    models = [one.model for one in system.definitions.deployments.values()]
    filled = _fill(system, [view for model in models for view in model.features.views], progress, patience_s)
    return AppliedPlan(decision=decision, filled=filled, dropped=drop_unneeded(system, actor))


def apply_first(system: System) -> Decision | None:
    """Apply the definitions if none have been applied in this project, and none is refused. Otherwise return None."""
    if AppliedDefinitions(system.state.catalog).now() or refusals(system):
        return None
    try:
        return _write(system, "policy", "First use of the project: ")
    except Conflict:
        if AppliedDefinitions(system.state.catalog).now():  # another process has just applied them
            return None
        raise


def drop_unneeded(system: System, actor: str = "policy") -> list[str]:
    """Delete online features that nothing needs, record this in the ledger, and return the names of their views."""
    views = system.views
    gone = views.unneeded()
    if not gone or (views.followed() and not views.follows):
        return []  # the process that applies the log deletes them after its next tick
    names = named_views(system, gone)
    if not views.drop():
        return []  # another process now applies the log, and will delete them
    said = ", ".join(names)
    cause = f"Online features dropped: no version in service and no applied definition uses view {said} any more."
    entry = Entry(
        at_us=system.clock.now_us(), model="*", act="drop", cause=cause, actor=actor, evidence={"views": len(gone)}
    )
    Ledger(system.state.catalog).write([entry])
    return names


def _write(system: System, actor: str, prefix: str = "") -> Decision | None:
    applied = AppliedDefinitions(system.state.catalog)
    before, now = applied.now(), documents(system.declared)
    models = [one.model for one in system.definitions.deployments.values()]
    if {key: one.document for key, one in before.items()} == now:
        return None
    system.layouts.keep()
    changes = [change_of(key, before.get(key), now.get(key)) for key in dict.fromkeys([*now, *before])]
    counts = {what: sum(change.what == what for change in changes) for what in ("new", "changed", "removed", "noted")}
    cause = f"{prefix}definitions applied: {', '.join(f'{n} {what}' for what, n in counts.items() if n)}."
    return applied.write(before, now, models, at_us=system.clock.now_us(), cause=cause, actor=actor)


def _fill(
    system: System, views: list[View], progress: Callable[[int, int], object] | None, patience_s: float
) -> list[str]:
    """Fill new views, or wait until the process that applies the log has filled them. Return their names."""
    held = system.views
    lacking = {view.hash: view for view in views if not held.filled([view])}
    total = len(lacking)
    end_s = time.monotonic() + patience_s
    while any(not held.filled([view]) for view in lacking.values()):
        held.catch_up()
        done = sum(held.filled([view]) for view in lacking.values())
        if progress is not None:
            progress(done, total)
        if done < total:
            if time.monotonic() > end_s:
                raise Unavailable(
                    f"apply: the definitions are applied; {total - done} of {total} views are not filled after "
                    f"{patience_s:.0f} s. The process that applies events continues to fill them: look again later."
                )
            time.sleep(_LOOK_S)
    return [view.name for view in lacking.values()]
