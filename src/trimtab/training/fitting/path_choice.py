"""Which way through a model one row takes: those that agree with the model are timed, and the quickest is taken."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter_ns

import msgspec

from trimtab.training.environment import Environment, cpu_level
from trimtab.training.fitting.artifact import Artifact, CalibratedScorer, golden_rows, score_rows
from trimtab.training.runtimes.ports import Score, Scorer
from trimtab.training.runtimes.scoring_paths import several_paths
from trimtab.training.runtimes.table import runtime_named, runtime_row

_TIME_NS = 20_000_000  # for which a way is timed, or
_LEAST_CALLS = 5
_ROUNDING = 1e-12  # a tolerance is never smaller, where bits are not promised


class RowTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One way, tried."""

    name: str
    us: float  # the median of one call, in microseconds
    difference: float  # the largest, to what the model says to the same rows as a batch
    accepted: bool  # whether it is within what the version allows


class RowChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The way that a version takes on machines of one kind, and what it was chosen from. # D99"""

    format: int = 1
    version: str  # the address
    machine: str  # see `machine_kind`
    chosen: str
    allowed: float  # 0: equal bits
    rows: int  # on how many rows
    at_us: int
    trials: tuple[RowTrial, ...]

    @property
    def said(self) -> str:
        """For people: `prepared 3.4 us (library 17.1 us)`.

        >>> trials = [RowTrial(name=n, us=us, difference=0.0, accepted=True) for n, us in (("a", 3.4), ("b", 17.1))]
        >>> RowChoice(version="", machine="", chosen="a", allowed=0.0, rows=9, at_us=0, trials=tuple(trials)).said
        'a 3.4 us (b 17.1 us)'
        """
        times = {one.name: f"{one.name} {one.us:.3g} us{'' if one.accepted else ', refused'}" for one in self.trials}
        others = ", ".join(text for name, text in times.items() if name != self.chosen)
        return f"{times[self.chosen]}{f' ({others})' if others else ''}"


def machine_kind(environment: Environment, runtime: str) -> str:
    """What a choice holds for: architecture, processor and the version of the library."""
    library = runtime_row(runtime).library
    return f"{platform.machine()}-{cpu_level()}-{library}-{environment.packages.get(library, 'none')}"


def allowed_difference(artifact: Artifact) -> float:
    """How far a row may be from a batch: 0 (equal bits) where the version's runtime is row-exact."""
    return 0.0 if artifact.row_exact else max(artifact.row_tolerance, _ROUNDING)


def refuse_unlike(scorer: Scorer, rows: Sequence[list[float]], *, parity: float) -> int | None:
    """Let one row take the library's own way, where the one that it takes says something else.

    It does where it is further from a batch than `parity` and than the library's own way is. Nothing else may use the
    scorer meanwhile.

    Args:
        scorer: As it is loaded, without its calibration, whose steps make much of a last bit.
        rows: Of the matrix.
        parity: How far a way may be off, relative to scores above 1.

    Returns:
        Which row the way is the furthest off at; None where it stays.
    """
    inner = several_paths(scorer)
    if inner is None or inner.row_call == "library":
        return None
    expected, name = score_rows(scorer, list(rows)), inner.row_call
    found = _apart(scorer, rows, expected)
    worst = max(found, default=0.0)
    if worst <= parity:
        return None
    inner.choose("library")
    if worst <= max(_apart(scorer, rows, expected)):
        inner.choose(name)
        return None
    return found.index(worst)


def refuse_unlike_here(artifact: Artifact, scorer: Scorer, rows: Sequence[list[float]]) -> bool:
    """`refuse_unlike` for a version's scorer, calibrated or not; whether the way was refused."""
    plain = scorer.inner if isinstance(scorer, CalibratedScorer) else scorer
    parity = 0.0 if artifact.row_exact else runtime_named(artifact.runtime).parity
    return refuse_unlike(plain, rows, parity=parity) is not None


def choose_row_call(
    artifact: Artifact,
    scorer: Scorer,
    rows: Sequence[list[float]] = (),
    *,
    version: str,
    machine: str,
    at_us: int,
    stopwatch_ns: Callable[[], int] = perf_counter_ns,
) -> RowChoice | None:
    """Try each way on the golden rows and on others, and let `scorer` take the quickest that agrees.

    Nothing else may use the scorer meanwhile.

    Args:
        artifact: The version's.
        scorer: What scores with it, as it is loaded.
        rows: More rows of the matrix: of the days that it was judged on.
        version: Its address.
        machine: `machine_kind` of here.
        at_us: When.
        stopwatch_ns: Never goes back.

    Returns:
        What was found; None where there is only one way.
    """
    inner = several_paths(scorer)
    if inner is None:
        return None
    asked = [*golden_rows(artifact), *rows]
    expected, allowed, trials = score_rows(scorer, asked), allowed_difference(artifact), []
    for name in inner.row_calls:
        inner.choose(name)
        found = [scorer.predict_row(row) for row in asked]
        apart = max(map(difference, expected, found))
        # a tolerance may have been measured by a way that was wrong: it says nothing of that way
        unlike = _ROUNDING < apart <= allowed and refuse_unlike_here(artifact, scorer, asked)
        inner.choose(name)
        us = _median_us(scorer.predict_row, asked, stopwatch_ns)
        accepted = name == "library" or (apart <= allowed and not unlike)
        trials.append(RowTrial(name=name, us=us, difference=apart, accepted=accepted))
    best = min((one for one in trials if one.accepted), key=lambda one: one.us)
    inner.choose(best.name)
    return RowChoice(
        version=version,
        machine=machine,
        chosen=best.name,
        allowed=allowed,
        rows=len(asked),
        at_us=at_us,
        trials=tuple(trials),
    )


def difference(one: Score, other: Score) -> float:
    """The largest difference between two scores of a row; infinite for other classes, and where one is no number."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference, one, other), default=0.0)
    if isinstance(one, list) or isinstance(other, list):
        return math.inf
    return math.inf if math.isnan(one - other) else abs(one - other)


def _apart(scorer: Scorer, rows: Sequence[list[float]], expected: Sequence[Score]) -> list[float]:
    """How far each row alone is from what is expected, relative to scores above 1."""
    return [
        difference(scorer.predict_row(row), score) / (1.0 if isinstance(score, list) else max(1.0, abs(score)))
        for row, score in zip(rows, expected, strict=True)
    ]


def _median_us(call: Callable[[list[float]], object], rows: Sequence[list[float]], clock: Callable[[], int]) -> float:
    taken: list[int] = []
    began = clock()
    while True:
        for row in rows:
            before = clock()
            call(row)
            after = clock()
            taken.append(after - before)
            if after - began > _TIME_NS and len(taken) >= _LEAST_CALLS:
                return round(median(taken) / 1e3, 3)
