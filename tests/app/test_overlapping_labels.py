"""Labels that each sum up some days: what is judged shares no day of them with what was learnt."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import shop
from test_logged_answers import comparisons_of

from trimtab.app.project import Project
from trimtab.app.training.loops import Loops
from trimtab.core.errors import Misuse
from trimtab.core.records import ChangeOnset
from trimtab.core.time import DAY_US
from trimtab.features.definitions import label
from trimtab.registry import Version
from trimtab.steering.candidates import comparisons
from trimtab.steering.candidates.comparison_targets import ComparisonTarget, champion_target
from trimtab.steering.candidates.windows import labelled_until, unseen_from
from trimtab.steering.loop_state import Changes
from trimtab.training.data.sets import TrainingSet

SPAN_US, WAIT_US = 3 * DAY_US, 4 * DAY_US


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = shop.write_project(tmp_path_factory.mktemp("overlap") / "p")
    file = folder / "project.py"
    file.write_text(file.read_text().replace('wait="2d"', 'wait="4d", span="3d"'))
    with shop.opened(folder) as opened:
        shop.load(opened)
        opened.train("buyer")
        yield opened


def gap(learnt: np.ndarray, judged: np.ndarray, rows: TrainingSet) -> int:
    """The time between the nearest two requests, of which one was learnt from and one is judged."""
    return int(np.abs(rows.at_us[learnt][:, None] - rows.at_us[judged]).min())


@pytest.mark.parametrize("learnt_days", [14, 20, 24])
@pytest.mark.parametrize("changed_day", [None, 16, 22])
def test_neither_champion_nor_candidate_shares_a_label_with_what_is_judged(
    project: Project, learnt_days: int, changed_day: int | None
) -> None:
    model, champion = project.definitions.models["buyer"], project.registry.alias("buyer", "champion")
    rows = project.part(Loops).living_data().training_set(model, cut_us=project.clock.now_us())
    assert champion is not None
    older: Version = msgspec.structs.replace(champion, cut_us=shop.BEGIN_US + learnt_days * DAY_US + WAIT_US)
    target = champion_target(project.registry, older, model, labelled_until(rows))
    assert target is not None
    onset = None
    if changed_day is not None:
        at_us = shop.BEGIN_US + changed_day * DAY_US
        onset = ChangeOnset(at_us=at_us, earliest_us=at_us - DAY_US, latest_us=at_us + DAY_US)
    plan = comparisons_of(project).plan(rows, target, Changes(onset=onset))
    known = rows.usable & (model.label.final_at(rows.at_us) <= older.cut_us)
    assert gap(known, plan.window.rows, rows) >= SPAN_US
    assert np.sum(plan.folds, axis=0).max() == 1
    for source in plan.sources:
        for fold in plan.folds:
            assert gap(plan.learnt(source, fold), fold, rows) >= SPAN_US
    # the new days are enough for two halves with a gap, or else they are all judged by a fit on the days before
    halves = changed_day is not None and max(changed_day, learnt_days + 3) <= 26
    assert (len(plan.folds) == 2) == halves


@pytest.mark.parametrize("changed_day", [25, 26, 27])
def test_a_repair_waits_for_two_halves_of_labelled_days(
    project: Project, changed_day: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, champion = project.definitions.models["buyer"], project.registry.alias("buyer", "champion")
    rows = project.part(Loops).living_data().training_set(model, cut_us=project.clock.now_us())
    assert champion is not None
    compared, at_us = comparisons_of(project), shop.BEGIN_US + changed_day * DAY_US
    older = ComparisonTarget(champion, shop.BEGIN_US + 14 * DAY_US)
    monkeypatch.setattr(compared, "target", lambda until_us: older)
    lack = compared.lack(rows, Changes(onset=ChangeOnset(at_us=at_us, earliest_us=at_us, latest_us=at_us)))
    days = (labelled_until(rows) - at_us) // DAY_US
    said = (
        f"Only {days}d of labelled days lie after the change of 2024-03-{changed_day + 1}. Labels overlap, so 10d are"
    )
    assert (lack is None) == (days >= 10)
    assert lack is None or lack.startswith(said)
    monkeypatch.setattr(comparisons, "excluded_days", lambda rows, model, since_us=0: " 5 of the 9 days are excluded.")
    again = compared.lack(rows, Changes(onset=ChangeOnset(at_us=at_us, earliest_us=at_us, latest_us=at_us)))
    assert lack is None or again == f"{lack} 5 of the 9 days are excluded."


def test_days_after_a_change_that_are_all_excluded_are_the_reason_for_waiting(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, champion = project.definitions.models["buyer"], project.registry.alias("buyer", "champion")
    rows = project.part(Loops).living_data().training_set(model, cut_us=project.clock.now_us())
    assert champion is not None
    compared, at_us = comparisons_of(project), labelled_until(rows)
    monkeypatch.setattr(compared, "target", lambda until_us: ComparisonTarget(champion, shop.BEGIN_US + 14 * DAY_US))
    changes = Changes(onset=ChangeOnset(at_us=at_us, earliest_us=at_us, latest_us=at_us))
    lack = compared.lack(rows, changes)
    assert lack is not None
    assert "can be learnt from. Load requests and labels." in lack
    monkeypatch.setattr(comparisons, "excluded_days", lambda rows, model, since_us: f" All days since {since_us}.")
    lack = compared.lack(rows, changes)
    assert lack is not None
    assert lack.endswith(f" can be learnt from: All days since {at_us}.")


def test_the_shadow_of_a_candidate_begins_after_the_last_day_that_shares_its_labels(project: Project) -> None:
    model = project.definitions.models["buyer"]
    rows = project.part(Loops).living_data().training_set(model, cut_us=project.clock.now_us())
    begins_us = unseen_from(rows, SPAN_US)
    assert begins_us % DAY_US == 0
    newest_us = int(rows.at_us[rows.usable].max())
    assert newest_us + SPAN_US < begins_us <= newest_us + SPAN_US + DAY_US
    assert unseen_from(rows, 0) == newest_us // DAY_US * DAY_US + DAY_US


@pytest.mark.parametrize("span", [3, 60_000_000, "30min"])
def test_a_span_without_a_unit_is_refused(project: Project, span: str | int) -> None:
    with pytest.raises(Misuse, match=r"is less than an hour\. Give it with a unit"):
        label(project.definitions.sources["sales"], key="visit_id", value="bought", wait="4d", span=span)
