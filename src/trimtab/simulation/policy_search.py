"""Choose a policy on the first part of a replay, and measure on the second part how good it is."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US
from trimtab.simulation.policies import Policy, alarm, every, never, project, ungated
from trimtab.simulation.results import ReplayResult, ScenarioResult
from trimtab.stats import Interval

_REPEATS = 500


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one policy on one part of the history."""

    loss: float | None  # the mean of the model's own metric; None: no row of the part has a label
    trainings: int  # the number of candidates that were trained, even if the gate refused them


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one policy on both parts."""

    policy: str
    first: Part
    second: Part
    # in the first part, no policy with as many trainings or fewer has a lower loss, and none with fewer an equal loss
    best: bool


class PolicyChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The result of choosing a policy."""

    metric: str
    split_us: int  # the time between the two parts
    trials: list[Trial]  # sorted by the number of trainings in the first part, fewest first
    chosen: str
    why: str  # the reason for the choice, in one sentence
    # in the second part, for each other policy: the loss of the chosen policy minus that of the other (below 0: the
    # chosen policy is better)
    gains: dict[str, Interval]


def grid() -> list[Policy]:
    """Return the policies that are compared by default. Each name is also a text for `policy_of`.

    >>> [one.name for one in grid()]
    ['project', 'never', 'alarm', 'alarm or 30d', 'every 7d', 'every 14d', 'every 30d', 'every 60d', 'ungated 30d']
    """
    schedules = [every(f"{days}d") for days in (7, 14, 30, 60)]
    return [project(), never(), alarm(), alarm("30d"), *schedules, ungated("30d")]


def choose_policy(result: ReplayResult, *, share: float = 0.5, seed: int = 0) -> PolicyChoice:
    """Choose a policy on the first part of a replay, and measure on the second part how good it is.

    Of the policies that are not provably worse than the policy with the lowest loss, the one with the fewest trainings
    is chosen. Provably worse: the 95 % interval of the difference (bootstrap of whole days) lies above 0.

    Args:
        result: The result of a replay in which several policies scored the same requests.
        share: The share of the days that belong to the first part.
        seed: The seed of the draws.

    Raises:
        Misuse: There is only one policy, a part has fewer than 14 days, no row of the first part has a label, or the
            policies scored different requests or have different labels.
    """
    scenarios = list(result.lines.values())
    days = (result.until_us - result.start_us) // DAY_US
    first_days = round(share * days)
    if len(scenarios) < 2 or min(first_days, days - first_days) < 14:
        raise Misuse(
            f"search: {len(scenarios)} policies over {days} days, {first_days} of them to choose on. Needed: two "
            "policies or more, and 14 days in each part."
        )
    split_us = result.start_us // DAY_US * DAY_US + first_days * DAY_US
    if any(not np.array_equal(one.labels, scenarios[0].labels, equal_nan=True) for one in scenarios):
        raise Misuse("search: the policies have different requests or labels. Give policies of one deployment.")
    before = scenarios[0].at_us < split_us
    parts = {one.name: (_part(one, before, None, split_us), _part(one, ~before, split_us, None)) for one in scenarios}
    known = {name: part for name, (part, _) in parts.items() if part.loss is not None}
    if not known:
        raise Misuse("search: no row of the first part has a label. Replay a longer history.")
    lowest = min(known, key=lambda name: known[name].loss or 0.0)
    even = [name for name in known if _not_worse(result, name, lowest, before, seed)]
    chosen = min(even, key=lambda name: (known[name].trainings, known[name].loss or 0.0))
    return PolicyChoice(
        metric=scenarios[0].metric,
        split_us=split_us,
        trials=sorted(
            (
                Trial(policy=name, first=one, second=two, best=_on_front(name, known))
                for name, (one, two) in parts.items()
            ),
            key=lambda trial: (trial.first.trainings, trial.first.loss or 0.0),
        ),
        chosen=chosen,
        why=_why(chosen, lowest, known, len(even)),
        gains={
            name: found
            for name in parts
            if name != chosen and (found := _difference(result, chosen, name, ~before, seed)) is not None
        },
    )


def _why(chosen: str, lowest: str, known: dict[str, Part], even: int) -> str:
    if chosen == lowest:
        return f"It has the lowest loss of the first part, with {known[chosen].trainings} trainings."
    return (
        f"Of {even} policies that are not provably worse than {lowest} (the lowest loss, {known[lowest].trainings} "
        f"trainings) it has the fewest trainings: {known[chosen].trainings}."
    )


def _part(scenario: ScenarioResult, rows: NDArray[np.bool_], since_us: int | None, until_us: int | None) -> Part:
    trained = [
        one
        for one in scenario.decisions
        if one.act == "train"
        and (since_us is None or one.at_us >= since_us)
        and (until_us is None or one.at_us < until_us)
    ]
    found = scenario.rows(rows & scenario.judged)
    return Part(loss=scenario.measures[0].value(found), trainings=len(trained))


def _difference(result: ReplayResult, name: str, other: str, rows: NDArray[np.bool_], seed: int) -> Interval | None:
    a, b = result.lines[name], result.lines[other]
    judged = rows & a.judged
    days = a.at_us[judged] // DAY_US
    if np.unique(days).size < 2:
        return None
    return a.measures[0].difference(a.rows(judged), b.rows(judged), days, seed=seed, repeats=_REPEATS)


def _not_worse(result: ReplayResult, name: str, lowest: str, rows: NDArray[np.bool_], seed: int) -> bool:
    found = None if name == lowest else _difference(result, name, lowest, rows, seed)
    return name == lowest or (found is not None and not found.above(0.0))


def _on_front(name: str, known: dict[str, Part]) -> bool:
    mine = known.get(name)
    if mine is None or mine.loss is None:
        return False
    return not any(
        one.loss is not None
        and (one.loss, one.trainings) != (mine.loss, mine.trainings)
        and one.loss <= (mine.loss or 0.0)
        and one.trainings <= mine.trainings
        for other, one in known.items()
        if other != name
    )
