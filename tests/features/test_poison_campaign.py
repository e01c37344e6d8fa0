"""No event stops or changes another value; every path agrees on what fails, and all of it is counted."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from poison import run


@pytest.mark.parametrize("seed", range(20))
def test_hostile_events_fail_alone_on_every_path(seed: int) -> None:
    outcome = run(seed)
    assert outcome.reads
    assert outcome.wrong == []


@pytest.mark.soak
def test_many_random_definitions_withstand_hostile_events(
    soak_report: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    first = secrets.randbits(48)
    outcomes = [run(seed) for seed in range(first, first + 200)]
    wrong = [f"seeds from {first}: {one}" for outcome in outcomes for one in outcome.wrong]
    reads, counted = sum(one.reads for one in outcomes), sum(one.failures for one in outcomes)
    with capsys.disabled():
        print(f"\npoison: seeds from {first}, {reads:,} values, {counted:,} failures counted, {len(wrong)} wrong")
    soak_report("poison", runs=200, failures=len(wrong), values=reads, counted=counted)
    assert counted > 1_000
    assert wrong == []
