"""Choose how to score single rows: measure several functions (scoring paths), and take the fastest whose scores agree
with those of the library. # D99
"""

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

_TIME_NS = 20_000_000  # for how long each path is measured
_LEAST_CALLS = 5  # at least how many times each path is called
ROUNDING = 1e-12  # differences up to this are always allowed, except if the library promises none


class RowTrial(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of one scoring path (one way to score a single row)."""

    name: str
    us: float  # the median time of a call, in microseconds
    difference: float  # the largest difference from scoring the same rows in a batch
    accepted: bool  # whether this difference is allowed


class RowChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The scoring path of a version on one kind of machine, with the measurements of all paths."""

    format: int = 1
    version: str  # the id of the version
    machine: str  # the kind of machine; see `machine_kind`
    chosen: str
    allowed: float  # the largest allowed difference; 0: all bits must be equal
    rows: int  # the number of rows that were measured
    at_us: int
    trials: tuple[RowTrial, ...]

    @property
    def text(self) -> str:
        """The choice as text, such as `3.4 us by path prepared (library: 17.1 us)`.

        >>> trials = [RowTrial(name=n, us=us, difference=0.0, accepted=True) for n, us in (("a", 3.4), ("b", 17.1))]
        >>> RowChoice(version="", machine="", chosen="a", allowed=0.0, rows=9, at_us=0, trials=tuple(trials)).text
        '3.4 us by path a (b: 17.1 us)'
        """
        times = {one.name: f"{one.us:.3g} us{'' if one.accepted else ', refused'}" for one in self.trials}
        others = ", ".join(f"{name}: {text}" for name, text in times.items() if name != self.chosen)
        return f"{times[self.chosen]} by path {self.chosen}{f' ({others})' if others else ''}"


def machine_kind(environment: Environment, runtime: str) -> str:
    """Return the kind of machine that a choice is valid for: architecture, processor, and version of the library."""
    library = runtime_row(runtime).library
    return f"{platform.machine()}-{cpu_level()}-{library}-{environment.packages.get(library, 'none')}"


def allowed_difference(artifact: Artifact) -> float:
    """Return how far the scores of a row alone and in a batch may differ. 0: the library promises equal ones."""
    return 0.0 if artifact.row_exact else max(artifact.row_tolerance, ROUNDING)


def refuse_unlike(scorer: Scorer, rows: Sequence[list[float]], *, parity: float) -> int | None:
    """Make a scorer use the library's own path if its present path is wrong.

    Each row is scored alone and in a batch. The present path is wrong if the largest difference of the two is above
    `parity`, and also above that of the library's own path. No other thread may use the scorer meanwhile.

    Args:
        scorer: The loaded scorer, without calibration, because calibration could make a tiny difference larger.
        parity: The largest allowed difference (for scores above 1: relative to the score).

    Returns:
        The index of the row with the largest error; None if the scorer keeps its path.
    """
    inner = several_paths(scorer)
    if inner is None or inner.row_call == "library":
        return None
    expected, name = score_rows(scorer, list(rows)), inner.row_call
    found = _differences(scorer, rows, expected)
    worst = max(found, default=0.0)
    if worst <= parity:
        return None
    inner.choose("library")
    if worst <= max(_differences(scorer, rows, expected)):
        inner.choose(name)
        return None
    return found.index(worst)


def refuse_unlike_here(artifact: Artifact, scorer: Scorer, rows: Sequence[list[float]]) -> bool:
    """Apply `refuse_unlike` to the scorer of a version on this machine. Return True if its path was wrong."""
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
    """Measure the scoring paths on rows, and make `scorer` use the fastest one that agrees with the library.

    Args:
        rows: Rows of the matrix to measure in addition to the golden rows (see `Golden`), for example those of the
            holdout.
        stopwatch_ns: Returns the time of a monotonic clock.

    Returns:
        The choice; None if there is only one path.
    """
    inner = several_paths(scorer)
    if inner is None:
        return None
    tested = [*golden_rows(artifact), *rows]
    expected, allowed, trials = score_rows(scorer, tested), allowed_difference(artifact), []
    for name in inner.row_calls:
        inner.choose(name)
        found = [scorer.predict_row(row) for row in tested]
        apart = max(map(difference, expected, found))
        # the tolerance may have been measured with this path, so it does not prove that the path is right
        unlike = ROUNDING < apart <= allowed and refuse_unlike_here(artifact, scorer, tested)
        inner.choose(name)
        us = _median_us(scorer.predict_row, tested, stopwatch_ns)
        accepted = name == "library" or (apart <= allowed and not unlike)
        trials.append(RowTrial(name=name, us=us, difference=apart, accepted=accepted))
    best = min((one for one in trials if one.accepted), key=lambda one: one.us)
    inner.choose(best.name)
    return RowChoice(
        version=version,
        machine=machine,
        chosen=best.name,
        allowed=allowed,
        rows=len(tested),
        at_us=at_us,
        trials=tuple(trials),
    )


def difference(one: Score, other: Score) -> float:
    """Return the largest difference between two scores of a row; infinite if the classes differ or a score is NaN."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference, one, other), default=0.0)
    if isinstance(one, list) or isinstance(other, list):
        return math.inf
    return math.inf if math.isnan(one - other) else abs(one - other)


def _differences(scorer: Scorer, rows: Sequence[list[float]], expected: Sequence[Score]) -> list[float]:
    """Return how far each row's score is from the expected one (for a number above 1: relative to that number)."""
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
