"""Plan experiments on the project's own history, and run them on it many times with a planted effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real

from trimtab.app.replay.past_units import past_units
from trimtab.app.system import System
from trimtab.core.errors import Misuse
from trimtab.core.shown import shown
from trimtab.experiments.reading.plan import ExperimentPlan, plan_experiment
from trimtab.experiments.reading.planted_runs import PlantedRuns, planted_runs


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
    numbers = all(isinstance(one, Real) for one in (effect, runs, days))
    if not numbers or not -1.0 < effect < 100.0 or days < 2:
        raise Misuse(
            f"simulate: effect={shown(effect)[:100]}, runs={shown(runs)[:100]} and days={shown(days)[:100]}. Give "
            "numbers: an effect above -1 (such as 0.05), and at least 2 days."
        )
    definition = system.definitions.experiment(name)
    past = past_units(system, definition, days=days, origin=units)
    used = abs(system.config.seed if seed is None else seed)
    return planted_runs(definition, past, effect=effect, runs=runs, seed=used, progress=progress)


def experiment_plan(
    system: System, name: str, *, effects: Sequence[float], days: int, units: str | None
) -> ExperimentPlan:
    """Plan a declared experiment from past units; see `Project.experiment_plan`."""
    definition = system.definitions.experiment(name)
    return plan_experiment(definition, past_units(system, definition, days=days, origin=units), effects=effects)
