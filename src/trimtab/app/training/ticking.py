"""Run one tick of all deployments: a pass that closes days, checks quality, and trains if necessary."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from trimtab.app.alerts.alerting import alert_after_tick
from trimtab.app.state.lost_records import store_ends
from trimtab.app.system import System
from trimtab.app.training.loops import Loops
from trimtab.core.errors import TrimtabError
from trimtab.core.records import Decision
from trimtab.core.shown import Shown


class Ticked(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The result of a tick for one deployment."""

    model: str
    decisions: list[Decision]
    at_work: str | None = None  # if the tick was skipped, a message that names the process that used the loop


def tick_all(
    system: System, watch: Callable[[Ticked], object] | None = None, also: Sequence[Callable[[System], object]] = ()
) -> list[Decision]:
    """Run one tick of all deployments, then the further steps in `also`; see `Project.tick`."""
    system.state.check_clock()  # an error if the clock is ahead: otherwise days in the future would be closed. # D0170
    decisions: list[Decision] = []
    failed: list[Exception] = []
    for name in system.definitions.deployments:
        try:
            ticked = _tick(system, name)
        except Exception as error:  # also from a user's code; recorded by the loop, and raised below
            failed.append(error)
            continue
        decisions += ticked.decisions
        if watch is not None:
            watch(ticked)
    for step in also:
        try:
            step(system)
        except TrimtabError as error:
            failed.append(error)
    alert_after_tick(system)
    if failed:
        for other in failed[1:]:
            failed[0].add_note(f"Another step failed too: {other}")
        raise failed[0]
    from trimtab.app.plan.applying import drop_unneeded

    drop_unneeded(system)
    store_ends(system.state)
    return decisions


def _tick(system: System, name: str) -> Ticked:
    if system.definitions.deployments[name].learn == "online":
        system.part(Loops).teacher(name).teach()
    busy: list[str] = []
    decisions = system.part(Loops).loop(name).tick(busy.append)
    return Ticked(model=name, decisions=decisions, at_work=busy[0] if busy else None)
