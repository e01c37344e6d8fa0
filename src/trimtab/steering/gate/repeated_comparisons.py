"""The error that judgements of the same days share: each further one is asked for a stronger proof. # D124, D195"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trimtab.registry import Registry
from trimtab.steering.definitions import BeatsChampion


class Judgement(msgspec.Struct, frozen=True):
    """A recipe that was compared with a champion on some days."""

    recipe: str
    start_us: int
    end_us: int


def tries(registry: Registry, model: str, asked: Judgement) -> float:
    """The number of a judgement among all that were made on its days: `number_of`, of a model's gate records."""
    found = [
        (gate.judged_at_us, Judgement(version.recipe, gate.window_start_us, gate.window_end_us))
        for version in registry.versions(model)
        for gate in registry.gates_of(version)
        if gate.candidate == version.id and gate.difference is not None and "not_provably_worse" not in gate.checks
    ]
    return number_of(asked, found)


def number_of(asked: Judgement, made: Iterable[tuple[int, Judgement]]) -> float:
    """1, and for each earlier judgement the share of these days that it had looked at.

    A retry on a window of which half is new counts for a half, one of other days for nothing. The same recipe on the
    same window is the same judgement, and keeps its number.

    Args:
        asked: The judgement.
        made: Those that were made, with their times.

    >>> week = Judgement("a", 0, 7)
    >>> number_of(Judgement("a", 0, 14), [(1, week)]), number_of(Judgement("b", 0, 7), [(1, week)])
    (1.5, 2.0)
    """
    first: dict[Judgement, int] = {}
    for at_us, one in made:
        first[one] = min(at_us, first.get(one, at_us))
    own_us = first.pop(asked, 2**62)
    return 1.0 + sum(_share(asked, one) for one, at_us in first.items() if at_us < own_us)


def stricter(rule: BeatsChampion, number: float, choices: int = 1) -> BeatsChampion:
    """The rule for the judgement of a number, of the best of some choices: each shares the allowed error.

    Its error is divided by the square of the number, so that all that is ever tried on the same days lets an equal
    recipe through with 1.65 times that error at most; and by the choices (Bonferroni).

    >>> from trimtab.steering.definitions import beats_champion
    >>> [round(stricter(beats_champion(), number).level, 4) for number in (1, 1.5, 2, 3)]
    [0.9, 0.9556, 0.975, 0.9889]
    >>> round(stricter(beats_champion(), 1, choices=3).level, 4)
    0.9667
    """
    shares = number**2 * choices
    return rule if shares == 1 else msgspec.structs.replace(rule, level=1.0 - (1.0 - rule.level) / shares)


def _share(asked: Judgement, earlier: Judgement) -> float:
    common_us = min(asked.end_us, earlier.end_us) - max(asked.start_us, earlier.start_us)
    return max(0, common_us) / max(1, asked.end_us - asked.start_us)
