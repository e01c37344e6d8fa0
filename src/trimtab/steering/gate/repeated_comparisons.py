"""The error that all comparisons on the same days share: each further comparison needs a stronger proof. # D0195"""

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


def comparisons_of(registry: Registry, model: str, judgement: Judgement) -> float:
    """The number of a judgement among all gate records of a model, see `number_of`."""
    found = [
        (gate.judged_at_us, Judgement(version.recipe, gate.window_start_us, gate.window_end_us))
        for version in registry.versions(model)
        for gate in registry.gates_of(version)
        if gate.candidate == version.id and gate.difference is not None and "not_provably_worse" not in gate.checks
    ]
    return number_of(judgement, found)


def number_of(judgement: Judgement, made: Iterable[tuple[int, Judgement]]) -> float:
    """1 plus, for each earlier judgement, the share of the days of this judgement that the earlier one covered.

    A retry on a window of which half is new counts for a half; a judgement of other days counts for nothing. The same
    recipe on the same window is the same judgement and keeps its number.

    Args:
        judgement: The judgement to number.
        made: The judgements made so far, each with its time.

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
    """The rule for judgement number `number`, which chose the best of `choices` pairs of candidate and window.

    The error 1 - level is divided by the choices (Bonferroni) and by the square of the number. All comparisons on the
    same days together then let a candidate that only equals the champion pass with at most pi**2 / 6 = 1.65 times that
    error (the sum of 1 / k**2).

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
