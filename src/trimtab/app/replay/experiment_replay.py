"""Simulate experiments: run one many times on the project's own history, with a planted effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trimtab.app.replay.past_units import past_units
from trimtab.core.errors import Misuse
from trimtab.experiments.reading.planted_runs import PlantedRuns, planted_runs

if TYPE_CHECKING:
    from trimtab.app.system import System


def simulate_experiment(
    system: System,
    name: str,
    *,
    effect: float,
    runs: int,
    days: int,
    units: str | None,
    seed: int | None,
    progress: Callable[[int, int], object] | None,
) -> PlantedRuns:
    """Run a declared experiment on past units; see `Project.simulate_experiment`."""
    if not -1.0 < effect < 100.0 or days < 2:
        raise Misuse(f"simulate: effect={effect} and days={days}. Give an effect above -1 and at least 2 days.")
    definition = system.definitions.experiment(name)
    past = past_units(system, definition, days=days, origin=units)
    used = system.config.seed if seed is None else seed
    return planted_runs(definition, past, effect=effect, runs=runs, seed=used, progress=progress)
