"""Policies to compare in a replay: the project's rules, changed rules, and functions that retrain without a gate."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, duration_us, format_duration
from trimtab.steering.causes import Every, OnQualityDrop, Triggers
from trimtab.steering.definitions import Deployment
from trimtab.training.data.sets import TrainingSet

_BINS = 10
_LEAST_ROWS = 200  # of a window that a histogram is made of


class Standing(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a policy without a gate may look at when a day is over. All of it was known by then."""

    now_us: int
    fitted_us: int  # when the version in service was fitted
    inputs: tuple[str, ...]  # their names
    learnt: NDArray[np.float64]  # inputs of rows that it was fitted on, at most 20,000 of them; (rows, inputs)
    asked: Callable[[int], NDArray[np.float64]]  # by days: the inputs of the newest answers; (rows, inputs)
    training_set: Callable[[], TrainingSet]  # all rows and the labels known by now; it takes a while


class Refit(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a policy that wants another version: it is fitted, and answers at once."""

    why: str
    since_us: int | None = None  # rows asked before that are not learnt from; None: all are


Decide = Callable[[Standing], Refit | None]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A way to keep a model good. Without `decide` it is the project's loop under `rules`."""

    name: str
    rules: Callable[[Deployment], Deployment] = lambda deployment: deployment
    decide: Decide | None = None  # asked at each midnight; what it wants goes in service without a gate
    own: bool = False  # the project's, as declared


def project() -> Policy:
    """The project's own rules."""
    return Policy(name="project", own=True)


def never() -> Policy:
    """The first version for ever."""
    return Policy(name="never", rules=lambda deployment: msgspec.structs.replace(deployment, retrain=Triggers()))


def every(period: str | int) -> Policy:
    """A retraining each period, through the project's gate.

    Raises:
        Misuse: The period is shorter than a day.

    >>> every("30d").name
    'every 30d'
    """
    rule = Every(_days(period) * DAY_US)
    return Policy(
        name=f"every {format_duration(rule.period_us)}",
        rules=lambda deployment: msgspec.structs.replace(deployment, retrain=Triggers((rule,))),
    )


def alarm(period: str | int | None = None) -> Policy:
    """A retraining when the quality alarm rings, through the project's gate; with a period also each period.

    Raises:
        Misuse: The period is shorter than a day.

    >>> alarm().name, alarm("30d").name
    ('alarm', 'alarm or 30d')
    """
    days = None if period is None else _days(period)

    def rules(deployment: Deployment) -> Deployment:
        own = next((one for one in deployment.retrain.any_of if isinstance(one, OnQualityDrop)), OnQualityDrop())
        return msgspec.structs.replace(
            deployment, retrain=Triggers((own,) if days is None else (own, Every(days * DAY_US)))
        )

    return Policy(name="alarm" if days is None else f"alarm or {days}d", rules=rules)


def ungated(period: str | int) -> Policy:
    """A retraining each period on all that is known, in service at once, without a gate.

    Raises:
        Misuse: The period is shorter than a day.
    """
    days = _days(period)

    def decide(standing: Standing) -> Refit | None:
        due = standing.now_us >= standing.fitted_us + days * DAY_US
        return Refit(why=f"{days} days have passed.") if due else None

    return Policy(name=f"ungated {days}d", decide=decide)


def naive(*, window: str | int = "7d", most: float = 0.2, keep: str | int = "60d") -> Policy:
    """A retraining when any input drifts, on the newest rows, in service at once: what a drift report alone would do.

    Args:
        window: The newest answers that are held against the rows that were learnt from.
        most: The population stability index of an input above which it counts as drift.
        keep: How far back the rows go that are learnt from.

    Raises:
        Misuse: The window or what is kept is shorter than a day.

    Source: the rule of thumb of 0.2 is Siddiqi's (2006, Credit Risk Scorecards).
    """
    days, kept = _days(window), _days(keep)

    def decide(standing: Standing) -> Refit | None:
        if standing.now_us < standing.fitted_us + days * DAY_US:
            return None
        drifts = stability(standing.learnt, standing.asked(days))
        if not drifts.size or not drifts.max() > most:
            return None
        name = standing.inputs[int(drifts.argmax())]
        return Refit(
            why=f"Input {name} drifted: its stability index of {days} days is {drifts.max():.2f}.",
            since_us=standing.now_us - kept * DAY_US,
        )

    return Policy(name="naive", decide=decide)


def stability(learnt: NDArray[np.float64], live: NDArray[np.float64]) -> NDArray[np.float64]:
    """The population stability index of each input, over tenths of the rows that were learnt from.

    Args:
        learnt: Shape (rows, inputs), NaN where there is none; nulls are a bin of their own.
        asked: The same of the rows that are held against them.

    Returns:
        Shape (inputs,); empty where either has fewer than 200 rows.

    >>> rng = np.random.default_rng(0)
    >>> stability(rng.normal(size=(4000, 1)), rng.normal(size=(4000, 1)) + [1.0]).round(1).tolist()
    [1.0]
    """
    from trimtab.stats import psi  # here: it loads SciPy with its room

    if min(len(learnt), len(live)) < _LEAST_ROWS:
        return np.zeros(0)
    found = []
    for before, now in zip(learnt.T, live.T, strict=True):
        there = before[~np.isnan(before)]
        edges = np.unique(np.quantile(there, np.arange(1, _BINS) / _BINS)) if there.size else np.zeros(0)
        found.append(psi(*(_histogram(values, edges) for values in (before, now))))
    return np.array(found)


def policy_of(text: str, folder: Path) -> Policy:
    """The policy that a word of the command line names.

    Args:
        text: "project", "never", "every 30d", "alarm", "alarm or 30d", "ungated 30d", "naive", or FILE.py:FUNCTION, a
            function that takes a `Standing` and gives a `Refit` or None.
        folder: Where files are looked for.

    Raises:
        Misuse: It names none.
        NotFound: There is no such file or function.
    """
    word, _, rest = text.strip().partition(" ")
    if ".py:" in text:
        return _of_file(text.strip(), folder)
    makes: dict[str, Callable[[], Policy]] = {"project": project, "never": never, "naive": naive, "alarm": alarm}
    if word in makes and not rest:
        return makes[word]()
    takes: dict[str, Callable[[str], Policy]] = {"every": every, "ungated": ungated, "alarm": alarm}
    if word in takes and rest:
        return takes[word](rest.strip().removeprefix("or "))
    raise Misuse(
        f"policy {text!r} is none. Give project, never, every 30d, alarm, alarm or 30d, ungated 30d, naive, or "
        "FILE.py:FUNCTION."
    )


def _of_file(text: str, folder: Path) -> Policy:
    name, _, function = text.rpartition(":")
    file = folder / name
    if not file.is_file():
        raise NotFound(f"policy {text!r}: there is no file {file}.")
    spec = importlib.util.spec_from_file_location(f"trimtab_policy_{file.stem}", file)
    assert spec is not None  # a .py file always has one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if isinstance(found, Policy):
        return found
    if not callable(found):
        raise NotFound(f"policy {text!r}: {file.name} has no function {function!r}.")
    decide: Any = found
    return Policy(name=function, decide=decide)


def _days(period: str | int) -> int:
    days = duration_us(period) // DAY_US
    if days < 1:
        raise Misuse(f'policy: {period!r} is shorter than a day. Give whole days such as "30d".')
    return int(days)


def _histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    null = np.isnan(values)
    counts = np.bincount(np.searchsorted(edges, values[~null]), minlength=edges.size + 1)
    return np.append(counts, int(null.sum())).astype(np.int64)
