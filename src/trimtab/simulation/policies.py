"""Retraining policies to compare in a replay: the project's own rules, other rules, and policies without a gate."""

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
_LEAST_ROWS = 200  # a histogram needs this many rows


class Standing(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is known at the end of a day, when a policy without a gate decides whether to retrain."""

    now_us: int
    fitted_us: int  # the time of the newest fit, even if that fit failed
    inputs: tuple[str, ...]  # the names of the model's inputs
    # the inputs of up to 20,000 rows on which the version was fitted; shape (rows, inputs)
    learnt: NDArray[np.float64]
    # takes a number of days (at most 90); returns the model inputs of all predictions in the last days, shape (rows,
    # inputs)
    asked: Callable[[int], NDArray[np.float64]]
    # returns all rows with the labels known by now, which takes some time
    training_set: Callable[[], TrainingSet]


class Refit(msgspec.Struct, frozen=True, kw_only=True):
    """The decision to fit a new version, which goes into service at once."""

    why: str
    since_us: int | None = None  # rows before this time are not used for the fit; None: all rows are used


Decide = Callable[[Standing], Refit | None]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A retraining policy. Without `decide`, the project's loop runs with the deployment that `rules` returns."""

    name: str
    rules: Callable[[Deployment], Deployment] = lambda deployment: deployment
    # called at each midnight; if it returns a `Refit`, the new version is put in service without a gate
    decide: Decide | None = None
    own: bool = False  # whether this is the project's own policy, as declared


def project() -> Policy:
    """Return the project's own policy."""
    return Policy(name="project", own=True)


def never() -> Policy:
    """Return the policy that never retrains, so that the first version stays in service."""
    return Policy(name="never", rules=lambda deployment: msgspec.structs.replace(deployment, retrain=Triggers()))


def every(period: str | int) -> Policy:
    """Return the policy that retrains after each period. New versions must pass the project's gate.

    Raises:
        Misuse: The period is no whole number of days.

    >>> every("30d").name
    'every 30d'
    """
    rule = Every(_days(period) * DAY_US)
    return Policy(
        name=f"every {format_duration(rule.period_us)}",
        rules=lambda deployment: msgspec.structs.replace(deployment, retrain=Triggers((rule,))),
    )


def alarm(period: str | int | None = None) -> Policy:
    """Return the policy that retrains when the quality alarm rings. New versions must pass the project's gate.

    If `period` is given, it also retrains after each period.

    Raises:
        Misuse: The period is no whole number of days.

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
    """Return the policy that retrains on all rows after each period. New versions need not pass a gate.

    Raises:
        Misuse: The period is no whole number of days.
    """
    days = _days(period)

    def decide(standing: Standing) -> Refit | None:
        due = standing.now_us >= standing.fitted_us + days * DAY_US
        return Refit(why=f"{days} days have passed.") if due else None

    return Policy(name=f"ungated {days}d", decide=decide)


def naive(*, window: str | int = "7d", most: float = 0.2, keep: str | int = "60d") -> Policy:
    """Return the policy that retrains on the newest rows when any input drifts, as simple drift reports suggest.

    New versions go into service at once, without a gate. After each fit, no drift is looked for until `window` has
    passed.

    Args:
        window: Inputs of the predictions made in this time are compared with the rows on which the model was fitted.
        most: An input has drifted if its population stability index is above this.
        keep: New versions are fitted on rows up to this age.

    Raises:
        Misuse: `window` or `keep` is no whole number of days.

    Source: the limit of 0.2 is a rule of thumb from Siddiqi (2006), Credit Risk Scorecards.
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
            why=f"Input {name} drifted: its stability index over {days} days is {drifts.max():.2f}.",
            since_us=standing.now_us - kept * DAY_US,
        )

    return Policy(name="naive", decide=decide)


def stability(learnt: NDArray[np.float64], live: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the population stability index of each input. The bins are tenths of the rows in `learnt`.

    Args:
        learnt: The rows on which the model was fitted, shape (rows, inputs). Nulls are NaN, and have their own bin.
        live: The rows to compare with `learnt`, in the same form.

    Returns:
        Shape (inputs,); empty if `learnt` or `live` has fewer than 200 rows.

    >>> rng = np.random.default_rng(0)
    >>> stability(rng.normal(size=(4000, 1)), rng.normal(size=(4000, 1)) + [1.0]).round(1).tolist()
    [1.0]
    """
    from trimtab.stats import psi  # imported here, because it loads SciPy

    if min(len(learnt), len(live)) < _LEAST_ROWS:
        return np.zeros(0)
    found = []
    for before, now in zip(learnt.T, live.T, strict=True):
        there = before[~np.isnan(before)]
        edges = np.unique(np.quantile(there, np.arange(1, _BINS) / _BINS)) if there.size else np.zeros(0)
        found.append(psi(*(_histogram(values, edges) for values in (before, now))))
    return np.array(found)


def policy_of(text: str, folder: Path) -> Policy:
    """Return the policy for a text from the command line.

    Args:
        text: "project", "never", "30d" or "every 30d", "alarm", "alarm or 30d" or "alarm|30d", "ungated 30d" or
            "naive". Or FILE.py:NAME, for a `Policy`, or for a function that takes a `Standing` and returns a `Refit`
            or None.
        folder: Where FILE is.

    Raises:
        Misuse: The text is not a policy, or the file raises an error.
        NotFound: There is no such file or function.

    >>> policy_of("30d", Path()).name, policy_of("alarm|30d", Path()).name
    ('every 30d', 'alarm or 30d')
    """
    if ".py:" in text:
        return _of_file(text.strip(), folder)
    words = text.replace("|", " or ").split()
    makes: dict[str, Callable[[], Policy]] = {"project": project, "never": never, "naive": naive, "alarm": alarm}
    match words:
        case [word] if word in makes:
            return makes[word]()
        case [period] | ["every", period] if period[:1].isdigit():
            return every(period)
        case ["ungated", period] if period[:1].isdigit():
            return ungated(period)
        case ["alarm", period] | ["alarm", "or", period] | ["alarm", "or", "every", period] if period[:1].isdigit():
            return alarm(period)
        case [period, "or", "alarm"] | ["every", period, "or", "alarm"] if period[:1].isdigit():
            return alarm(period)
    raise Misuse(
        f'policy {text!r}: unknown. Give project, never, 30d (every 30 days), alarm, "alarm|30d", "ungated 30d", naive '
        'or FILE.py:FUNCTION; several with commas between them: --policy never,30d,alarm,"alarm|30d".'
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
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's file may raise any error
        raise Misuse(f"policy {text!r}: {file.name} raised {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if isinstance(found, Policy):
        return found
    if not callable(found):
        raise NotFound(f"policy {text!r}: {file.name} has no function {function!r}.")
    decide: Any = found
    return Policy(name=function, decide=decide)


def _days(period: str | int) -> int:
    days, rest = divmod(duration_us(period), DAY_US)
    if rest or not days:
        raise Misuse(f'policy: {period!r} is no whole number of days. Policies decide at midnight: give e.g. "30d".')
    return days


def _histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    null = np.isnan(values)
    counts = np.bincount(np.searchsorted(edges, values[~null]), minlength=edges.size + 1)
    return np.append(counts, int(null.sum())).astype(np.int64)
