"""What every test may use: reports of soak campaigns, `processes`, `uncollected`; what of the outside reaches none."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings

from trimtab.run.signals import ENDING

sys.path.insert(0, str(Path(__file__).parent))
for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "force_color"):  # all is here, and plain text
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # tests run beside each other: no thread spins until others come
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process that a test starts compiles the library anew
sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background of a script, which children inherit
    signal.signal(signal.SIGINT, lambda number, frame: None)  # ignored here as before, and as usual in children
if settings().deadline is not None:  # at home: random examples as ever; under CI Hypothesis has a profile of its own
    settings.register_profile("home", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("home")

SOAK_JSON = Path(__file__).parents[1] / "build" / "soak.json"


class Campaign(msgspec.Struct, frozen=True):
    """One line of `build/soak.json`."""

    name: str
    runs: int
    failures: int
    figures: dict[str, float]


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A command that is stopped ignores what asks it to end; run in this process, it may not do so for later tests."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def soak_report(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Record a campaign: `soak_report("kill_ingest", runs=300, failures=lost, median_recovery_s=0.4)`.

    Call it before asserting, so that a failed campaign is in the report too. Only tests marked `soak` are reported: the
    short version of a campaign may call it as well and leaves no trace. A campaign that stops before it calls this is
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


@pytest.fixture
def uncollected() -> Iterator[None]:
    """As a service that has loaded its models: what holds itself stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
