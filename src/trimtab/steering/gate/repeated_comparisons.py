"""Repeated comparisons on the same days: each one needs stronger evidence than the one before. # D0195"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trimtab.registry import Registry
from trimtab.steering.definitions import BeatsChampion


class Judgement(msgspec.Struct, frozen=True):
    """A comparison of a recipe (a model's definition and way of fitting) with a champion on some days."""

    recipe: str
    start_us: int
    end_us: int


def comparisons_of(registry: Registry, model: str, judgement: Judgement) -> float:
    """Return `number_of` for a judgement. The earlier judgements are taken from the gate records of a model.

    Records without a comparison, and those of scheduled refits (which need no proof), are left out.
    """
    found = [
        (gate.judged_at_us, Judgement(version.recipe, gate.window_start_us, gate.window_end_us))
        for version in registry.versions(model)
        for gate in registry.gates_of(version)
        if gate.candidate == version.id and gate.difference is not None and "not_provably_worse" not in gate.checks
    ]
    return number_of(judgement, found)


def number_of(judgement: Judgement, made: Iterable[tuple[int, Judgement]]) -> float:
    """Return 1 plus, for each earlier judgement, the share of this judgement's days that the earlier one covered.

    So an earlier judgement counts for a half if half of the present days are new, and not at all if all are new. If the
    same recipe was judged on the same days before, only judgements older than the first such judgement count, so that a
    repetition gets the same number.

    Args:
        judgement: The judgement that is made now.
        made: The earlier judgements, each with its time.

    >>> week = Judgement("a", 0, 7)
    >>> number_of(Judgement("a", 0, 14), [(1, week)]), number_of(Judgement("b", 0, 7), [(1, week)])
    (1.5, 2.0)
    """
    first: dict[Judgement, int] = {}
    for at_us, one in made:
        first[one] = min(at_us, first.get(one, at_us))
    own_us = first.pop(judgement, 2**62)
    return 1.0 + sum(_share(judgement, one) for one, at_us in first.items() if at_us < own_us)


def stricter(rule: BeatsChampion, number: float, choices: int = 1) -> BeatsChampion:
    """Return the rules for the `number`-th judgement on the same days, which took the best of `choices` pairs.

    A pair is a candidate and a window. The error 1 - level is divided by the number of pairs (Bonferroni), and by the
    square of `number`. The sum of 1 / k**2 is pi**2 / 6 = 1.65. So if candidates are only as good as the champion, the
    probability that one of them passes on the same days is at most 1.65 times the error.

    >>> from trimtab.steering.definitions import beats_champion
    >>> [round(stricter(beats_champion(), number).level, 4) for number in (1, 1.5, 2, 3)]
    [0.9, 0.9556, 0.975, 0.9889]
    >>> round(stricter(beats_champion(), 1, choices=3).level, 4)
    0.9667
    """
    shares = number**2 * choices
    return rule if shares == 1 else msgspec.structs.replace(rule, level=1.0 - (1.0 - rule.level) / shares)


def _share(judgement: Judgement, earlier: Judgement) -> float:
    common_us = min(judgement.end_us, earlier.end_us) - max(judgement.start_us, earlier.start_us)
    return max(0, common_us) / max(1, judgement.end_us - judgement.start_us)
