from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import shop

from trimtab.app.project import Project
from trimtab.app.versions.comparing import _record, feature_changes
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.expressions.nodes import col
from trimtab.core.time import DAY_US
from trimtab.events.definitions import Time, source
from trimtab.features.aggregates import latest, mean
from trimtab.features.definitions import request, view
from trimtab.features.feature_set import FeatureSet, feature_set
from trimtab.registry.describing.compare import Comparison
from trimtab.registry.describing.compare_page import comparison_document
from trimtab.report import html_page, terminal_text

_WIDER = ('tt.mean("level", over="1d")', 'tt.mean("level", over="2d")')


def _changed(folder: Path, project: Project, *replacements: tuple[str, str]) -> None:
    """Another version, of changed definitions."""
    text = (folder / "project.py").read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    (folder / "project.py").write_text(text)


@pytest.fixture(scope="module")
def compared(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The version in service, and one of changed definitions trained later."""
    import shutil

    folder = Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("compare") / "project"))
    with shop.opened(folder) as project:
        _changed(folder, project, _WIDER, ('{"x": tt.col("x"),', '{"x": tt.col("x"), "x2": tt.col("x") * 2.0,'))
    with shop.opened(folder, shop.NOW_US + DAY_US) as project:
        # a label that did not come with the file: since then, labels are complete up to now
        project.push("sales", [{"visit_id": "other", "site": "north", "bought": True, "closed_at": shop.NOW_US}])
        project.train("buyer")
        return project.compare("buyer@2", "buyer@3", window="10d")


def test_definitions_data_and_metrics_of_two_versions_stand_side_by_side(compared: Comparison) -> None:
    changes = {change.name: (change.what, change.words) for change in compared.features}
    assert changes["site.level_1d"][0] == "changed"
    assert "over 1d -> 2d" in changes["site.level_1d"][1]
    assert changes["x2"][0] == "added"
    assert compared.same_features == 3
    pairs = {pair.what: pair for pair in compared.data}
    assert not pairs["known until"].same or not pairs["training set"].same
    assert pairs["request definition"].same
    assert {pair.what for pair in compared.recipe if not pair.same} >= {"recipe", "features", "number of features"}
    assert compared.parameters is not None
    assert all(pair.same for pair in compared.parameters)
    assert all(pair.same for pair in compared.environment)
    assert compared.metrics[0].name == "log_loss"
    assert compared.metrics[0].one_interval is not None


def test_both_answer_the_same_rows_each_by_its_own_features(compared: Comparison) -> None:
    found = compared.predictions
    assert found is not None, compared.not_scored
    assert 200 < found.rows < 400
    assert found.end_us - found.start_us < 10 * DAY_US
    assert found.difference.value == pytest.approx(found.other.value - found.one.value)
    assert found.difference.interval is not None
    assert found.difference.interval.low < found.difference.value < found.difference.interval.high
    assert 0 < found.seen_one <= found.rows  # it refits its candidate with the newest rows too
    apart = [abs(row.one - row.other) for row in found.most]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] == pytest.approx(found.most_moved)
    assert 0.0 <= found.moved <= 1.0


def test_the_comparison_reads_well_in_a_terminal_and_on_a_page(compared: Comparison) -> None:
    text = terminal_text(comparison_document(compared))
    for said in (
        "Predictions for the same rows",
        "+ added",
        "~ changed",
        "may have been fitted on",
        "this comparison cannot replace a gate",
        "x2",
    ):
        assert said in text
    page = html_page(comparison_document(compared))
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    assert "architecture" in page  # "All values" left out the environment
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert msgspec.json.decode(msgspec.json.encode(compared), type=Comparison).one == "buyer@2"


def test_only_rows_whose_labels_were_final_before_the_fit_may_have_been_learnt(trained: Path) -> None:
    with shop.opened(trained) as project:
        first, refit = (_record(project, f"buyer@{n}") for n in (1, 2))
    assert first.evaluation is not None
    wait_us = first.manifest.wait_us
    assert first.learnt_until_us == first.evaluation.start_us - wait_us
    manifest = msgspec.structs.replace(refit.manifest, complete_us=refit.manifest.cut_us - DAY_US)
    refit = msgspec.structs.replace(refit, manifest=manifest)  # as if the file with the labels had ended a day before
    assert refit.learnt_until_us == manifest.cut_us - DAY_US - wait_us


def test_labels_and_corrections_after_the_wait_do_not_count_as_they_do_not_in_closed_days(trained: Path) -> None:
    with shop.opened(trained) as project:
        ids = [f"v{shop.DAYS * 30 - n:05d}" for n in range(90, 150)]  # three to five days ago; the wait is two days
        sold = {"site": "north", "bought": True, "closed_at": shop.NOW_US}
        project.push("sales", [{**sold, "visit_id": "other"}])  # since then, labels are complete up to now
        before = project.compare("buyer@1", "buyer@2").predictions
        project.push("sales", [{**sold, "visit_id": one} for one in ids])
        assert before is not None
        assert project.compare("buyer@1", "buyer@2").predictions == before


def test_a_version_against_itself_differs_in_nothing(trained: Path) -> None:
    with shop.opened(trained) as project:
        found = project.compare("buyer@2", "buyer@2")
        assert found.predictions is not None
        assert (found.predictions.moved, found.predictions.most) == (0.0, ())
        assert found.predictions.difference.value == 0.0
        assert all(pair.same for pair in (*found.about, *found.data, *found.recipe))
        assert "these rows show no significant difference" in terminal_text(comparison_document(found))
        assert project.compare("buyer@2", "buyer@1", window=None).predictions is None


def test_what_cannot_be_compared_is_said(trained: Path) -> None:
    with shop.opened(trained) as project:
        with pytest.raises(Misuse, match="versions of two models"):
            project.compare("buyer@1", "learner@1")
        with pytest.raises(NotFound, match="buyer"):
            project.compare("buyer@1", "buyer@9")
        for window in ("a while", "0d"):
            with pytest.raises(Misuse, match=f"compare: window: '{window}'"):
                project.compare("buyer@1", "buyer@2", window=window)
        for moved in (float("nan"), float("inf"), -1.0):
            with pytest.raises(Misuse, match=f"compare: moved: {moved} is not a difference"):
                project.compare("buyer@1", "buyer@2", moved=moved)


def test_versions_that_were_judged_on_the_same_rows_are_not_said_to_have_rows_of_their_own(
    compared: Comparison, trained: Path
) -> None:
    own = "evaluated on its own rows"
    assert own in terminal_text(comparison_document(compared))
    with shop.opened(trained) as project:
        refit = project.compare("buyer@1", "buyer@2", window=None)  # it has the evaluation of what it refits
    assert refit.same_rows
    assert own not in terminal_text(comparison_document(refit))


def _features(over: str = "1d", *, x: float = 2.0, max_age: str = "9h") -> FeatureSet:
    readings = source("readings", time="at", columns={"site": str, "level": float, "more": float})
    visit = request("visit", key="id", time="at", columns={"id": str, "site": str, "at": Time, "x": float})
    site = view(
        "site",
        source=readings,
        by="site",
        features={"level": latest("level", max_age=max_age), "mean": mean("level", over=over)},
    )
    return feature_set(visit, [{"twice": col("x") * x, "excess": col("site.level") - col("x")}, site])


@pytest.mark.fast
def test_a_feature_changes_with_what_it_is_computed_from() -> None:
    assert feature_changes(_features(), _features()) == ([], 4)
    changes, same = feature_changes(_features(), _features(max_age="8h"))
    assert {change.name: change.words for change in changes} == {
        "excess": "a feature or column that it reads has changed",
        "site.level": "max age 9h -> 8h",
    }
    assert same == 2
    changes, same = feature_changes(_features(), _features(x=3.0))
    assert [change.name for change in changes] == ["twice"]
    assert same == 3
