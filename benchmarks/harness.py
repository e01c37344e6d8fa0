"""How a benchmark is described, measured and judged.

A benchmark is one file `benchmarks/<name>.py`, or `benchmarks/doors/door_<name>.py` for one that calls what a user
calls and compares it with what the user would write or install instead. It is named as in the table of `make bench`,
and has

    NAME = "log_append"          the file's name
    TARGET = "ratio >= 0.8"      or "ours <= 60": what is judged (`ratio` is ours / floor), how, against what
    UNIT = "records/s"           of the figures that `ours` and `floor` return
    BETTER = "higher"            or "lower"
    def setup(folder): ...       makes the input under an empty folder; what it returns goes to the next two, and is
                                 closed after them if it has a `close`
    def ours(state): ...         measures once, and returns the figure in UNIT
    def floor(state): ...        the same for the floor; left out when there is none
    def more(state): ...         left out, or further figures of the same state, by name, measured after the pairs
    def peers(state, python): ...  left out, or the figures of other products for the same job, by name. `python` is the
                                 interpreter of an environment of their own (`make bench-peers`)

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

HERE = Path(__file__).parent
DOORS = HERE / "doors"
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
    more: Callable[[Any], Mapping[str, float]] | None = None
    peers: Callable[[Any, Path], Mapping[str, float]] | None = None

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
    more: dict[str, float] = {}
    peers: dict[str, float] = {}

    @property
    def met(self) -> bool:
        """Whether the target was reached."""
        judged, comparison, bound = self.target.split()
        figure = self.ours if judged == "ours" else self.ratio
        return figure is not None and COMPARISONS[comparison](figure, float(bound))


def names() -> list[str]:
    """The benchmarks there are, by name."""
    return sorted(_files())


def _files() -> dict[str, Path]:
    found = [*HERE.glob("*.py"), *DOORS.glob("*.py")]
    return {path.stem: path for path in found if path.stem not in {"run", "harness"} and path.stem[0] != "_"}


def load(name: str) -> Benchmark:
    """Read the benchmark of that name."""
    if name not in names():
        raise SystemExit(f"There is no benchmark {name!r}. There are: {', '.join(names())}.")
    for folder in (DOORS, HERE):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    file = _files()[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if name != module.NAME:
        raise SystemExit(f"{file} calls itself {module.NAME!r}: file and NAME must be the same.")
    return Benchmark(
        name=name,
        target=module.TARGET,
        unit=module.UNIT,
        better=module.BETTER,
        setup=module.setup,
        ours=module.ours,
        floor=getattr(module, "floor", None),
        more=getattr(module, "more", None),
        peers=getattr(module, "peers", None),
    )


def measure(
    benchmark: Benchmark, *, repeats: int, folder: Path | None = None, peers_python: Path | None = None
) -> Result:
    """Measure floor and ours in turn, `repeats` times (at least 3), and take the medians.

    Every other pair starts with ours, so that neither always runs on the warmer machine. `folder` is where the
    benchmark may write; left out, a temporary one that is removed. With `peers_python`, the interpreter of the
    environment of the peers, they are measured once after the pairs.
    """
    if repeats < 3:
        raise ValueError(
            f"{benchmark.name}: {repeats} repeats; at least 3 are needed for a median that means something."
        )
    if folder is None:
        with tempfile.TemporaryDirectory(prefix=f"{benchmark.name}-") as temporary:
            return measure(benchmark, repeats=repeats, folder=Path(temporary), peers_python=peers_python)
    ours, floor, more, peers = [], [], {}, {}
    with prepared(benchmark, folder) as state:
        for turn in range(repeats):
            if turn % 2:
                ours.append(benchmark.ours(state))
            if benchmark.floor is not None:
                floor.append(benchmark.floor(state))
            if not turn % 2:
                ours.append(benchmark.ours(state))
        if benchmark.more is not None:
            more = dict(benchmark.more(state))
        if peers_python is not None and benchmark.peers is not None:
            peers = dict(benchmark.peers(state, peers_python))
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
        more=more,
        peers=peers,
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
