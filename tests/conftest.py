"""Fixtures for every test, and the environment of all tests: no proxy, temporary files in memory."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings

# A fit of small data takes a tenth of the time with one thread: others only wait for each other while tests run in
# parallel. The variable is read when NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from trimtab.run import executors
from trimtab.run.signals import ENDING

sys.path.insert(0, str(Path(__file__).parent))

import forked

executors.subprocess = forked.LIKE_SUBPROCESS  # type: ignore[attr-defined]  # a child that trains is forked: no imports
for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "force_color"):  # no network, no colours
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # tests run in parallel, so no idle thread may spin
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # processes that a test starts must not compile the library again
sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # pytest was started in the background of a script
    signal.signal(signal.SIGINT, lambda number, frame: None)  # children would inherit SIG_IGN, but not this function
if settings().deadline is not None:  # not under CI, where Hypothesis loads its own profile
    settings.register_profile("home", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("home")
# Every fsync on a disk takes milliseconds, and opening a project needs dozens. A killed process loses nothing of a file
# system in memory, so tests with kills prove the same there. `make soak` and the fast subset of CI set TMPDIR, and so
# run on the disk.  # D0210
MEMORY = Path("/dev/shm")
SCRATCH: list[
    str
] = []  # the folder that this process made, which is removed at its end; pytest removes its own folders
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 << 30:
    SCRATCH.append(tempfile.mkdtemp(prefix="trimtab-tests-", dir=MEMORY))
    os.environ["TMPDIR"] = tempfile.tempdir = SCRATCH[0]
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)

SOAK_JSON = Path(__file__).parents[1] / "build" / "soak.json"


class Campaign(msgspec.Struct, frozen=True):
    """One line of `build/soak.json`."""

    name: str
    runs: int
    failures: int
    figures: dict[str, float]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what collection makes (modules, thousands of tests) out of every later garbage collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Look for no doctests in the tests themselves, which takes seconds."""
    found = yield
    return [one for one in found if type(one).__name__ != "DoctestModule"]


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Restore signal handlers: a command that was stopped in this process leaves SIGTERM and SIGINT ignored."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def soak_report(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Record a campaign: `soak_report("kill_ingest", runs=300, failures=lost, median_recovery_s=0.4)`.

    Call it before the assertions, so that a failed campaign is in the report too. Only tests marked `soak` are
    reported; a call from the short version of a campaign has no effect. A campaign that raises before its call is
    reported as one failure under the test's name.
    """
    campaigns: list[Campaign] = []

    def record(name: str, *, runs: int, failures: int, **figures: float) -> None:
        campaigns.append(Campaign(name, runs, failures, figures))

    yield record
    if request.node.get_closest_marker("soak"):
        request.config.stash.setdefault(REPORT, []).extend(campaigns or [Campaign(request.node.name, 0, 1, {})])


REPORT = pytest.StashKey[list[Campaign]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    campaigns = session.config.stash.get(REPORT, [])
    if campaigns:
        SOAK_JSON.parent.mkdir(exist_ok=True)
        SOAK_JSON.write_bytes(msgspec.json.format(msgspec.json.encode(campaigns), indent=2) + b"\n")


def pytest_unconfigure() -> None:
    for folder in SCRATCH:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Switch the garbage collector off, as a service does once its models are loaded."""
    gc.disable()
    yield
    gc.enable()
