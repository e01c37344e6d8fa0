"""The harness itself: what it measures, what it refuses, what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import harness

    return harness


def benchmark(harness, *, target: str = "ratio >= 0.8", floor=lambda state: state["floor"].pop()):
    return harness.Benchmark(
        name="toy",
        target=target,
        unit="records/s",
        better="higher",
        setup=lambda folder: {"ours": [9.0, 1.0, 8.0], "floor": [2.0, 30.0, 10.0]},
        ours=lambda state: state["ours"].pop(),
        floor=floor,
    )


def test_a_result_is_the_ratio_of_the_two_medians(harness, tmp_path: Path):
    result = harness.measure(benchmark(harness), repeats=3, folder=tmp_path)
    assert (result.ours, result.floor, result.ratio, result.met) == (8.0, 10.0, 0.8, True)


def test_ours_and_floor_take_turns(harness):
    order: list[str] = []
    toy = harness.Benchmark(
        name="toy",
        target="ratio <= 1.5",
        unit="s",
        better="lower",
        setup=lambda folder: None,
        ours=lambda state: order.append("ours") or 1.0,
        floor=lambda state: order.append("floor") or 1.0,
    )
    harness.measure(toy, repeats=4)
    assert order == ["floor", "ours", "ours", "floor"] * 2


def test_without_a_floor_our_own_figure_is_judged(harness):
    result = harness.measure(benchmark(harness, target="ours >= 8.5", floor=None), repeats=3)
    assert (result.floor, result.ratio, result.met) == (None, None, False)


@pytest.mark.parametrize("target", ["fast >= 1", "ratio == 1", "ratio >= much"])
def test_a_target_that_cannot_be_judged_is_refused(harness, target: str):
    with pytest.raises(ValueError, match="must read like"):
        benchmark(harness, target=target)


def test_a_ratio_without_a_floor_is_refused(harness):
    with pytest.raises(ValueError, match="needs a floor"):
        benchmark(harness, floor=None)


def test_two_repeats_are_refused(harness):
    with pytest.raises(ValueError, match="at least 3"):
        harness.measure(benchmark(harness), repeats=2)


def test_every_benchmark_file_describes_itself(harness):
    assert [harness.load(name).name for name in harness.names()] == harness.names()


def test_an_unknown_benchmark_is_named_with_those_there_are():
    done = subprocess.run([sys.executable, BENCHMARKS / "run.py", "nonesuch"], capture_output=True, text=True)
    assert done.returncode
    assert "no benchmark 'nonesuch'" in done.stderr


def test_soak_campaigns_are_reported_and_short_versions_are_not(pytester: pytest.Pytester):
    tests = pytester.mkdir("tests")
    for name in ("conftest.py", "forked.py", "fork_server.py"):
        (tests / name).write_text((Path(__file__).parent / name).read_text())
    (tests / "test_kill.py").write_text(
        "import pytest\n"
        "def test_short(soak_report):\n    soak_report('kill', runs=2, failures=0)\n"
        "@pytest.mark.soak\n"
        "def test_long(soak_report):\n    soak_report('kill', runs=200, failures=0, median_s=0.5)\n"
        "@pytest.mark.soak\n"
        "def test_broken(soak_report):\n    assert False\n"
    )
    pytester.makeini("[pytest]\nmarkers = soak: long")
    pytester.runpytest_subprocess("tests").assert_outcomes(passed=2, failed=1)
    assert json.loads((pytester.path / "build" / "soak.json").read_text()) == [
        {"name": "kill", "runs": 200, "failures": 0, "figures": {"median_s": 0.5}},
        {"name": "test_broken", "runs": 0, "failures": 1, "figures": {}},
    ]
