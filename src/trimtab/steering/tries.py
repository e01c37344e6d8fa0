"""How often the days of a gate were judged on already: each further recipe is asked for a stronger proof. # D124"""

from __future__ import annotations

import msgspec

from trimtab.core.records import GateRecord
from trimtab.registry import Registry
from trimtab.steering.definitions import BeatsChampion


def tries(registry: Registry, model: str, recipe: str, *, start_us: int, end_us: int) -> int:
    """The number of a recipe among all that were compared with a champion on days of this window; from 1 on.

    A recipe keeps its number when it is judged again.

    Args:
        registry: Has the gate records.
        model: Its name.
        recipe: Which one.
        start_us: Of the window.
        end_us: Of the window.
    """
    first_us: dict[str, int] = {}
    for version in registry.versions(model):
        for gate in registry.gates_of(version):
            if gate.candidate == version.id and _compared(gate) and _overlap(gate, start_us, end_us):
                first_us[version.recipe] = min(gate.judged_at_us, first_us.get(version.recipe, gate.judged_at_us))
    own_us = first_us.get(recipe, 2**62)
    return 1 + sum(other != recipe and at_us < own_us for other, at_us in first_us.items())


def stricter(rule: BeatsChampion, number: int, choices: int = 1) -> BeatsChampion:
    """The rule for the recipe of a number, which is the best of some choices: each shares the allowed error.

    Its error is divided by the square of the number, so that all recipes that are ever tried on the same days let an
    equal one through with 1.65 times that error at most; and by the choices (Bonferroni).

    >>> from trimtab.steering.definitions import beats_champion
    >>> [round(stricter(beats_champion(), number).level, 4) for number in (1, 2, 3)]
    [0.9, 0.975, 0.9889]
    >>> round(stricter(beats_champion(), 1, choices=3).level, 4)
    0.9667
    """
    shares = number**2 * choices
    return rule if shares == 1 else msgspec.structs.replace(rule, level=1.0 - (1.0 - rule.level) / shares)


def _compared(gate: GateRecord) -> bool:
    return gate.difference is not None


def _overlap(gate: GateRecord, start_us: int, end_us: int) -> bool:
    return gate.window_start_us < end_us and gate.window_end_us > start_us
