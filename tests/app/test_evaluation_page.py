from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import shop

from trimtab.app.versions.evaluation_page import evaluation_page, evaluation_text
from trimtab.core.errors import NotFound, Unavailable
from trimtab.registry import Version
from trimtab.stats import CalibrationBin, Interval, MetricValue, choose_threshold
from trimtab.testing.builders import a_version
from trimtab.training import CurvePoint, Evaluation, Month, Permuted, Slice, Week
from trimtab.training.data.leakage import Leak
from trimtab.training.data.weights import Balance
from trimtab.training.judge.influence import Influence

JULY_US = 1_372_636_800_000_000  # 2013-07-01
WIDE = Interval(estimate=0.4, low=0.3, high=0.5, level=0.95)
ABOVE = Interval(estimate=0.6, low=0.55, high=0.65, level=0.95)
PART: dict[str, Any] = {"rows": 600, "value": 0.4, "auc": 0.7, "mean_score": 0.2, "mean_label": 0.21}
BINS = (CalibrationBin(low=0.1, high=0.2, rows=900, mean_score=0.15, label_share=0.2),)


def evaluation(**changes: Any) -> Evaluation:
    plain: dict[str, Any] = {
        "model": "late",
        "artifact": "a" * 64,
        "metric": "log_loss",
        "rows": 1200,
        "start_us": JULY_US,
        "end_us": JULY_US + 14 * 86_400_000_000,
        "value": 0.4,
        "interval": WIDE,
        "block": "day",
        "auc": 0.7,
        "auc_interval": None,
        "calibration_error": 0.02,
        "calibration": BINS,
        "months": (Month(month="2013-07", interval=WIDE, **PART),),
        "baselines": {"constant": 0.5, "linear": None},
        "importance": {"hour": 1.0},
        "importance_kind": "library",
    }
    return Evaluation(**{**plain, **changes})


def full() -> Evaluation:
    return evaluation(
        figures=(
            MetricValue(name="log_loss", value=0.4, interval=WIDE, better="lower"),
            MetricValue(name="bias", value=-0.01, interval=None, better="near", goal=0.0),
        ),
        weeks=tuple(Week(week=f"2013-07-{d:02}", interval=WIDE if d > 1 else None, **PART) for d in range(1, 29, 3)),
        slices=(
            Slice(column="carrier", holds="UA", interval=WIDE, **PART),
            Slice(column="carrier", holds="<b>EV", interval=ABOVE, **PART),
            Slice(column="carrier", holds="null", interval=None, **PART),
        ),
        recalibration="beta",
        raw_calibration=BINS,
        raw_calibration_error=0.05,
        permuted=(
            Permuted(name="hour", features=("hour",), rise=0.1, spread=0.01, repeats=5),
            Permuted(name="sky (all)", features=("sky.temp", "sky.wind"), rise=0.2, spread=0.01, repeats=5),
        ),
        learning_curve=(
            CurvePoint(rows=100, since_us=JULY_US, value=None, interval=None),
            CurvePoint(rows=1000, since_us=JULY_US, value=0.4, interval=WIDE),
        ),
        thresholds=choose_threshold(
            [0, 1, 0, 1], [0.1, 0.4, 0.3, 0.9], [0, 0, 1, 1], false_positive=1, false_negative=5
        ),
        left_out={"missing": 7},
    )


def version() -> Version:
    return a_version(
        id="b" * 64, model="late", number=7, runtime="lightgbm", cut_us=JULY_US, rows=1000, made_at_us=JULY_US
    )


def test_a_page_shows_every_part_of_an_evaluation_and_fetches_nothing():
    page = evaluation_page(version(), full())
    headings = re.findall(r"<h[23][^>]*>(.*?)</h[23]>", page)
    assert headings == [
        "Metrics",
        "Baselines",
        "Calibration",
        "Decision threshold",
        "Slices",
        "Months",
        "Weeks",
        "Feature importance",
        "Learning curve",
        "Labels and leaks",
        "Version",
    ]
    assert "could not be evaluated: 7 missing" in page
    assert "Not available: linear" in page
    assert "0.0500 before, 0.0200 after" in page
    assert "carrier = &lt;b&gt;EV" in page
    assert "<b>EV" not in page
    assert not re.search(r"""(?:src|href)=["']http""", page)


@pytest.mark.fast
def test_a_model_of_numbers_has_no_column_for_what_only_chances_have():
    page = evaluation_page(version(), evaluation(metric="squared_error", calibration=(), auc=None))
    assert "AUC" not in page
    assert ">AUC<" in evaluation_page(version(), evaluation())


@pytest.mark.fast
def test_a_summary_for_the_terminal_is_short_and_says_what_stands_out():
    text = evaluation_text(full())
    assert "1,200 labelled rows unseen by the model, 2013-07-01 to 2013-07-15" in text
    assert "could not be evaluated: 7 missing" in text
    assert "log_loss is significantly higher than on all rows (0.4000): carrier = <b>EV." in text
    assert text.index("sky (all)") < text.index("hour")
    assert re.search(r"one half +0\.5000 +1\.2500", text)
    assert len(text.splitlines()) < 45
    assert max(map(len, text.splitlines())) < 100


@pytest.mark.fast
def test_a_summary_says_how_many_features_it_leaves_out_and_writes_figures_alike():
    shuffled = tuple(Permuted(name=f"f{n}", features=(f"f{n}",), rise=0.1, spread=0.0, repeats=5) for n in range(10))
    moved = tuple(Influence(name=f"f{n}", mean=0.1, direction=None) for n in range(9))
    text = evaluation_text(evaluation(permuted=shuffled, influences=moved, baselines={"constant": 0.549}))
    assert "constant     0.5490" in text
    assert re.search(r"f7 +0\.1000 +0\.0000\n\(and 2 more\)", text)
    assert re.search(r"f7 +0\.1000 +no order\n\(and 1 more\)", text)
    assert "more)" not in evaluation_text(evaluation(permuted=shuffled[:8], influences=moved[:8]))


def test_a_project_writes_page_card_and_figures_and_gives_them_as_numbers(trained: Path, tmp_path: Path):
    with shop.opened(trained) as project:
        page = project.report("buyer@champion", tmp_path / "out.html")
        document = json.loads((tmp_path / "out.json").read_text("utf-8"))
        assert document["version"] == "buyer@2"
        assert document["judged"] == "buyer@1"
        found = project.evaluation("buyer@champion")
        assert document["evaluation"]["value"] == found.value
        assert found == project.evaluation("buyer@1")
        assert found.learning_curve[-1].value == found.value
        assert (tmp_path / "out.md").is_file()
        assert page.read_text("utf-8").startswith("<!doctype html>")
        with pytest.raises(NotFound):
            project.evaluation("buyer@99")


def test_a_page_that_cannot_be_written_is_said_and_leaves_nothing_half_written(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "out.json").mkdir()
    with shop.opened(trained) as project:
        for to, at in [(tmp_path / "out.html", "out.json"), (tmp_path / "file" / "out.html", "file")]:
            with pytest.raises(
                Unavailable, match=rf"{at}: .*Check free space and access.*trimtab versions report buyer@2"
            ):
                project.report("buyer@champion", to)
    assert not list(tmp_path.glob(".*"))


def test_leaks_and_classes_stand_on_the_page_and_in_the_summary() -> None:
    balance = (
        Balance(label=0.0, rows=9000, kept=900, weight=0.9, holdout=1000),
        Balance(label=1.0, rows=1000, kept=1000, weight=0.1, holdout=200),
    )
    leaks = (
        Leak(check="foretells", name="paid", severity="error", found="Feature 'paid' <knows>.", todo="x", allowed=True),
        Leak(check="group", name="user", severity="warning", found="Groups on both sides.", todo="Go by the new ones."),
    )
    told = evaluation(balance=balance, leaks=leaks)
    page, text = evaluation_page(version(), told), evaluation_text(told)
    assert "Labels and leaks" in page
    assert "Allowed (foretells): Feature &#39;paid&#39; &lt;knows&gt;." in page.replace("&#x27;", "&#39;")
    assert "Note (group): Groups on both sides. Go by the new ones." in text
    assert re.search(r"0 +9,000 +900 +47\.4% +90\.0% +1,000 +83\.3%", text)
    assert "No leak was found" in evaluation_page(version(), evaluation(leaks=()))
    assert "No check for leaks was made" in evaluation_page(version(), evaluation())
