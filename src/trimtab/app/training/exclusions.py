"""List the time windows that are excluded from training because of faulty inputs or labels, and release them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trimtab.core.time import format_time
from trimtab.monitoring.inputs.red_windows import RedWindow, red_windows, released
from trimtab.steering.ledger import Entry, Ledger

if TYPE_CHECKING:
    from trimtab.app.system import System

ACT = "release"


def exclusions(system: System, model: str | None, *, all_of_them: bool) -> list[RedWindow]:
    """Return the excluded time windows of a model; see `Project.exclusions`."""
    name = system.definitions.deployment(model).name
    return red_windows(system.state.catalog, name, released=all_of_them)


def release(system: System, window: str, *, model: str | None, why: str, actor: str) -> RedWindow:
    """Use a time window for training again; see `Project.release`."""
    name, catalog, now_us = system.definitions.deployment(model).name, system.state.catalog, system.clock.now_us()
    freed, changes = released(catalog, name, window, why=why, actor=actor, now_us=now_us)
    entry = Entry(
        at_us=now_us,
        model=name,
        act=ACT,
        cause=why,
        actor=actor,
        evidence={"window": freed.id, "start_us": freed.start_us, "end_us": freed.end_us},
    )
    Ledger(catalog).write([entry], changes)
    return freed


def exclusion_lines(found: Sequence[RedWindow]) -> list[str]:
    """Return one line of text for each window, oldest first."""
    lines = []
    for one in found:
        until = "now" if one.end_us is None else format_time(one.end_us)[:16]
        freed = "" if one.released_why is None else f"  released by {one.released_by}: {one.released_why}"
        about = f"{one.kind} of {one.subject}" if one.subject else one.kind
        lines.append(f"{format_time(one.start_us)[:16]} to {until}  {about}  {one.id}{freed}")
    return lines or ["No time window is excluded for faulty inputs or labels."]
