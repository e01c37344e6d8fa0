"""Choice of a scoring path: time the paths that agree with the library, and take the fastest.  # D99"""

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

_TIME_NS = 20_000_000  # each path is timed for so long,
_LEAST_CALLS = 5  # and for at least so many calls
ROUNDING = 1e-12  # the smallest tolerance for runtimes that do not promise equal bits


class RowTrial(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of one scoring path."""

    name: str
    us: float  # the median of one call, in microseconds
    difference: float  # the largest difference from the scores of the same rows as a batch
    accepted: bool  # whether the difference is within the version's tolerance


class RowChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The scoring path of a version on machines of one kind, with the measured alternatives."""

    format: int = 1
    version: str  # the id of the version
    machine: str  # see `machine_kind`
    chosen: str
    allowed: float  # the allowed difference; 0: equal bits
    rows: int  # the number of measured rows
    at_us: int
    trials: tuple[RowTrial, ...]

    @property
    def text(self) -> str:
        """The choice as text: `prepared 3.4 us (library 17.1 us)`.

        >>> trials = [RowTrial(name=n, us=us, difference=0.0, accepted=True) for n, us in (("a", 3.4), ("b", 17.1))]
        >>> RowChoice(version="", machine="", chosen="a", allowed=0.0, rows=9, at_us=0, trials=tuple(trials)).text
        'a 3.4 us (b 17.1 us)'
        """
        times = {one.name: f"{one.name} {one.us:.3g} us{'' if one.accepted else ', refused'}" for one in self.trials}
        others = ", ".join(text for name, text in times.items() if name != self.chosen)
        return f"{times[self.chosen]}{f' ({others})' if others else ''}"


def machine_kind(environment: Environment, runtime: str) -> str:
    """The kind of machine that a choice is valid for: architecture, processor and version of the library."""
    library = runtime_row(runtime).library
    return f"{platform.machine()}-{cpu_level()}-{library}-{environment.packages.get(library, 'none')}"


def allowed_difference(artifact: Artifact) -> float:
    """The largest allowed difference between a row and a batch; 0 (equal bits) if the runtime is row-exact."""
    return 0.0 if artifact.row_exact else max(artifact.row_tolerance, ROUNDING)


def refuse_unlike(scorer: Scorer, rows: Sequence[list[float]], *, parity: float) -> int | None:
    """Switch a scorer to the library's path if the scorer's own path is wrong.

    A path is wrong if its scores differ from those of a batch by more than `parity`, and by more than the library's own
    path does. Nothing else may use the scorer meanwhile.

    Args:
        scorer: The loaded scorer without calibration, because calibration may enlarge a difference in the last bit.
        rows: Rows of the matrix to compare on.
        parity: The largest allowed difference, relative to scores above 1.

    Returns:
        The row with the largest error; None if the scorer keeps its path.
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
    """Apply `refuse_unlike` to a version's scorer, calibrated or not; return True if the path was refused."""
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
    """Measure each scoring path on golden and other rows, and switch `scorer` to the fastest that agrees.

    Args:
        artifact: The version's artifact.
        scorer: The loaded scorer of the version.
        rows: More rows of the matrix, from the days that the version was judged on.
        version: The id of the version.
        machine: The `machine_kind` of this machine.
        at_us: The present time.
        stopwatch_ns: A monotonic clock.

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
        # this path itself may have measured the tolerance, so the tolerance does not prove the path right
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
    """The largest difference between two scores of a row; infinite if the classes differ or a score is NaN."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference, one, other), default=0.0)
    if isinstance(one, list) or isinstance(other, list):
        return math.inf
    return math.inf if math.isnan(one - other) else abs(one - other)


def _differences(scorer: Scorer, rows: Sequence[list[float]], expected: Sequence[Score]) -> list[float]:
    """The difference between each row's score and the expected score, relative to scores above 1."""
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
