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
_LEAST_ROWS = 200  # least rows of a window from which a histogram is made


class Standing(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The values that a policy without a gate may use at the end of a day. All of them were known by then."""

    now_us: int
    fitted_us: int  # when the version in service was fitted
    inputs: tuple[str, ...]  # names of the inputs
    learnt: NDArray[np.float64]  # inputs of at most 20,000 rows that the version was fitted on; shape (rows, inputs)
    # takes a number of days, returns the inputs of the newest answers; shape (rows, inputs)
    asked: Callable[[int], NDArray[np.float64]]
    training_set: Callable[[], TrainingSet]  # returns all rows and the labels known by now; takes a while


class Refit(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a policy that wants another version, which is fitted and answers at once."""

    why: str
    since_us: int | None = None  # rows asked before this time are not learnt from; None: all rows are


Decide = Callable[[Standing], Refit | None]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A way to keep a model good. Without `decide`, it is the project's loop with `rules`."""

    name: str
    rules: Callable[[Deployment], Deployment] = lambda deployment: deployment
    decide: Decide | None = None  # called at each midnight; the version that it wants goes into service without a gate
    own: bool = False  # the project's own rules, as declared


def project() -> Policy:
    """The project's own rules."""
    return Policy(name="project", own=True)


def never() -> Policy:
    """The policy that keeps the first version for ever."""
    return Policy(name="never", rules=lambda deployment: msgspec.structs.replace(deployment, retrain=Triggers()))


def every(period: str | int) -> Policy:
    """A retraining after each period, through the project's gate.

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
    """A retraining when the quality alarm rings, through the project's gate; with `period`, also after each period.

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
    """A retraining after each period on all known rows, in service at once, without a gate.

    Raises:
        Misuse: The period is shorter than a day.
    """
    days = _days(period)

    def decide(standing: Standing) -> Refit | None:
        due = standing.now_us >= standing.fitted_us + days * DAY_US
        return Refit(why=f"{days} days have passed.") if due else None

    return Policy(name=f"ungated {days}d", decide=decide)


def naive(*, window: str | int = "7d", most: float = 0.2, keep: str | int = "60d") -> Policy:
    """A retraining when any input drifts, on the newest rows, in service at once: what a mere drift report would do.

    Args:
        window: The period of the newest answers, which are compared with the rows that were learnt from.
        most: The population stability index above which an input counts as drifted.
        keep: How old the rows may be that are learnt from.

    Raises:
        Misuse: `window` or `keep` is shorter than a day.

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
        learnt: Shape (rows, inputs), NaN for nulls, which are a bin of their own.
        asked: The rows that are compared with `learnt`, in the same form.

    Returns:
        Shape (inputs,); empty where either has fewer than 200 rows.

    >>> rng = np.random.default_rng(0)
    >>> stability(rng.normal(size=(4000, 1)), rng.normal(size=(4000, 1)) + [1.0]).round(1).tolist()
    [1.0]
    """
    from trimtab.stats import psi  # imported here because it loads SciPy

    if min(len(learnt), len(live)) < _LEAST_ROWS:
        return np.zeros(0)
    found = []
    for before, now in zip(learnt.T, live.T, strict=True):
        there = before[~np.isnan(before)]
        edges = np.unique(np.quantile(there, np.arange(1, _BINS) / _BINS)) if there.size else np.zeros(0)
        found.append(psi(*(_histogram(values, edges) for values in (before, now))))
    return np.array(found)


def policy_of(text: str, folder: Path) -> Policy:
    """The policy that a text of the command line names.

    Args:
        text: "project", "never", "every 30d", "alarm", "alarm or 30d", "ungated 30d", "naive", or FILE.py:FUNCTION, a
            function that takes a `Standing` and returns a `Refit` or None.
        folder: The folder in which files are looked for.

    Raises:
        Misuse: The text names no policy.
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
    assert spec is not None  # a .py file always has a loader
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
