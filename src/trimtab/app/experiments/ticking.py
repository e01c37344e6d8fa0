"""Run one tick of a project: all deployments, then all experiments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trimtab.app.experiments.running import Running
from trimtab.app.training.ticking import Ticked, tick_all
from trimtab.core.errors import Conflict
from trimtab.core.records import Decision
from trimtab.experiments.records import KIND
from trimtab.steering.loop_state import FREEZE

if TYPE_CHECKING:
    from trimtab.app.system import System


def tick_project(
    system: System, watch: Callable[[Ticked], object] | None = None, also: Sequence[Callable[[System], object]] = ()
) -> list[Decision]:
    """Run one tick of all deployments, then the steps in `also`, and all experiments; see `Project.tick`.

    The days of experiments are closed last, because the deployments find red windows (times of faulty inputs or labels)
    in which days do not count. All of this is done even if a deployment failed; its error is raised afterwards. While
    the machine's clock is ahead, nothing is done, because a ramp would be stepped too early.
    """
    system.state.check_clock()
    decisions: list[Decision] = []
    try:
        decisions += tick_all(system, watch, also)
    finally:
        try:
            decisions += tick_experiments(system)
        finally:
            if system.state.catalog.find(KIND):
                from trimtab.app.experiments.closing import close_due  # loads SciPy

                close_due(system)
    return decisions


def tick_experiments(system: System) -> list[Decision]:
    """Stop experiments that must stop (see `must_stop`), and ramp others as declared, unless the project is frozen.

    An experiment that another process changes at the same time is left for the next tick.
    """
    found: list[Decision] = []
    for record in system.state.catalog.find(KIND):
        if system.state.catalog.get(FREEZE, "all") is not None:
            break
        try:
            found += _tick(system, record.key)
        except Conflict:
            continue
    return found


def _tick(system: System, name: str) -> list[Decision]:
    running = Running(system, name, why="The declared ramp.", actor="policy")
    if (why := running.must_stop()) is not None:
        return [Running(system, name, why=why, actor="policy").stop()]
    decision = running.ramp_when_due()
    return [] if decision is None else [decision]
