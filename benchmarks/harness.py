"""How a benchmark is described, measured and judged.

A benchmark is one file `benchmarks/<name>.py`, named as in the table of `make bench`, with

    NAME = "log_append"          the file's name
    TARGET = "ratio >= 0.8"      or "ours <= 60": what is judged (`ratio` is ours / floor), how, against what
    UNIT = "records/s"           of the figures that `ours` and `floor` return
    BETTER = "higher"            or "lower"
    def setup(folder): ...       makes the input under an empty folder; what it returns goes to the next two, and is
                                 closed after them if it has a `close`
    def ours(state): ...         measures once, and returns the figure in UNIT
    def floor(state): ...        the same for the floor; left out when there is none

`ours` and `floor` take turns, so that a noisy neighbour meets both. A file whose name starts with `_` holds what
several benchmarks share.
"""

from __future__ import annotations

import cProfile
import importlib.util
import io
import operator
import pstats
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

HERE = Path(__file__).parent
JUDGED = {"ours", "ratio"}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge}
Better = Literal["higher", "lower"]


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table before it is measured."""

    name: str
    target: str  # e.g. "ratio >= 0.8"
    unit: str
    better: Better
    setup: Callable[[Path], Any]
    ours: Callable[[Any], float]
    floor: Callable[[Any], float] | None

    def __post_init__(self) -> None:
        judged, comparison, bound = self.target.split()
        if judged not in JUDGED or comparison not in COMPARISONS or not re.fullmatch(r"\d+(\.\d+)?", bound):
            raise ValueError(f"{self.name}: target {self.target!r} must read like 'ratio >= 0.8' or 'ours <= 60'.")
        if judged == "ratio" and self.floor is None:
            raise ValueError(f"{self.name}: target {self.target!r} needs a floor to compare with.")
        if self.better not in get_args(Better):
            raise ValueError(f"{self.name}: BETTER is 'higher' or 'lower', not {self.better!r}.")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `build/bench.json`: medians, and how many repeats they are the medians of."""

    name: str
    ours: float
    floor: float | None
    ratio: float | None
    target: str
    unit: str
    better: Better
    repeats: int

    @property
    def met(self) -> bool:
        """Whether the target was reached."""
        judged, comparison, bound = self.target.split()
        figure = self.ours if judged == "ours" else self.ratio
        return figure is not None and COMPARISONS[comparison](figure, float(bound))


def names() -> list[str]:
    """The benchmarks there are, by name."""
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in {"run", "harness"} and p.stem[0] != "_")


def load(name: str) -> Benchmark:
    """Read the benchmark in `benchmarks/<name>.py`."""
    if name not in names():
        raise SystemExit(f"There is no benchmark {name!r}. There are: {', '.join(names())}.")
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if name != module.NAME:
        raise SystemExit(f"benchmarks/{name}.py calls itself {module.NAME!r}: file and NAME must be the same.")
    return Benchmark(
        name=name,
        target=module.TARGET,
        unit=module.UNIT,
        better=module.BETTER,
        setup=module.setup,
        ours=module.ours,
        floor=getattr(module, "floor", None),
    )


def measure(benchmark: Benchmark, *, repeats: int, folder: Path | None = None) -> Result:
    """Measure floor and ours in turn, `repeats` times (at least 3), and take the medians.

    Every other pair starts with ours, so that neither always runs on the warmer machine. `folder` is where the
    benchmark may write; left out, a temporary one that is removed.
    """
    if repeats < 3:
        raise ValueError(
            f"{benchmark.name}: {repeats} repeats; at least 3 are needed for a median that means something."
        )
    if folder is None:
        with tempfile.TemporaryDirectory(prefix=f"{benchmark.name}-") as temporary:
            return measure(benchmark, repeats=repeats, folder=Path(temporary))
    ours, floor = [], []
    with prepared(benchmark, folder) as state:
        for turn in range(repeats):
            if turn % 2:
                ours.append(benchmark.ours(state))
            if benchmark.floor is not None:
                floor.append(benchmark.floor(state))
            if not turn % 2:
                ours.append(benchmark.ours(state))
    middle, base = statistics.median(ours), statistics.median(floor) if floor else None
    return Result(
        name=benchmark.name,
        ours=middle,
        floor=base,
        ratio=None if base is None else middle / base,
        target=benchmark.target,
        unit=benchmark.unit,
        better=benchmark.better,
        repeats=repeats,
    )


@contextmanager
def prepared(benchmark: Benchmark, folder: Path) -> Iterator[Any]:
    """What `setup` returns. It is closed before its folder is removed, if it has a `close`."""
    state = benchmark.setup(folder)
    try:
        yield state
    finally:
        if hasattr(state, "close"):
            state.close()


def profile(benchmark: Benchmark, *, lines: int = 25) -> str:
    """Where our side spends its time: one measurement under Python's profiler, by time inside each function.

    The profiler makes calls dearer than they are, so shares of small functions come out too large.
    """
    with (
        tempfile.TemporaryDirectory(prefix=f"{benchmark.name}-") as temporary,
        prepared(benchmark, Path(temporary)) as state,
    ):
        benchmark.ours(state)
        profiler, text = cProfile.Profile(), io.StringIO()
        profiler.runcall(benchmark.ours, state)
        pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
    return f"{benchmark.name}\n{text.getvalue()}"
