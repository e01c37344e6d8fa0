"""What every test may use: the report of the soak campaigns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

SOAK_JSON = Path(__file__).parents[1] / "build" / "soak.json"


class Campaign(msgspec.Struct, frozen=True):
    """One line of `build/soak.json`."""

    name: str
    runs: int
    failures: int
    figures: dict[str, float]


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
