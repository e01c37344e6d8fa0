"""Searches of a project: recorded, resumed after a kill, cancelled, blind to the window, taken by the next training."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shop

import forked
from processes import eventually
from trimtab.app.project import Project, open_project
from trimtab.app.training.searches import KIND, TRIAL, with_chosen
from trimtab.core.errors import Conflict, Misuse, NotFound, Unavailable
from trimtab.core.time import DAY_US
from trimtab.run import Cancelled, Run, Step
from trimtab.store.ports import Put
from trimtab.training.search import Trial, parameters_text

pytest.importorskip("optuna")
IN_PROCESS = {"TRIMTAB_TRAINING_EXECUTOR": "thread"}
SEARCH = """

def tuned(strength=1.0, intercept=True):
    import os, pathlib, time
    from sklearn.linear_model import LogisticRegression

    time.sleep(float(os.environ.get("SLOW_S", "0")))
    if "HELD" in os.environ:  # where two sets of parameters are tried, and the third one for ever
        tried = pathlib.Path(os.environ["HELD"])
        known = {*(tried.read_text().split() if tried.exists() else []), f"{strength}/{intercept}"}
        tried.write_text(" ".join(known))
        if len(known) > 2:
            time.sleep(600)
    return LogisticRegression(C=strength, fit_intercept=intercept)


def searched():
    model = tt.model(
        "buyer", request=visit, features=[{"x": tt.col("x"), "site": tt.col("site").category()}, site],
        label=tt.label(sales, key="visit_id", value="bought", wait="2d"), estimator=tuned, metric="log_loss",
        search=tt.search({"strength": tt.number(0.001, 100.0, log=True), "intercept": tt.choice(True, False)},
                         trials=3, seed=1))
    return tt.deployment(model, gate=tt.beats_champion(calibration=0.5))


searched()
"""


@pytest.fixture(scope="module")
def loaded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shop.write_project(tmp_path_factory.mktemp("search") / "loaded")
    text = (folder / "project.py").read_text()
    (folder / "project.py").write_text(text.replace('\nbuyer("buyer", batch)\n', SEARCH))
    with shop.opened(folder) as project:
        shop.load(project)
        project.apply_first()
    return folder


@pytest.fixture
def loaded(loaded_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(loaded_once, tmp_path / "project"))


def trials_in(project: Project) -> list[Trial]:
    """Every trial of the newest search but for how long it took."""
    return [msgspec.structs.replace(trial, took_s=0.0) for trial in project.trials().trials]


def test_a_search_is_a_run_and_its_best_parameters_are_of_the_next_training(loaded: Path) -> None:
    with shop.opened(loaded) as project:
        with pytest.raises(NotFound, match=r"nothing was searched yet. Search: trimtab search run buyer"):
            project.trials()
        seen: list[Run] = []
        found = project.search(watch=seen.append)
        assert [trial.number for trial in found.trials] == [0, 1, 2]
        best = found.search.best
        assert best is not None
        assert best.value == min(trial.value for trial in found.trials if trial.state == "done")
        run = project.runs()[-1]
        assert (run.kind, run.state) == ("search", "done")
        assert [step.name for step in run.steps] == ["snapshot", "trials"]
        assert "3 trials; the best: log_loss" in run.outcome
        assert sum(line.startswith("trial ") for line in run.lines) == 3
        assert 0 < max(one.steps[-1].progress or 0.0 for one in seen) <= 1
        assert project.train()[-1].act == "promote"
        version = project.registry.get("buyer@champion")
        assert version.chosen is not None
        assert (version.chosen.values, version.chosen.search) == (best.values, found.search.id)
        assert f"trial {best.number} of search {found.search.id[:12]}" in project.registry.card(version)
        page = project.report("buyer@champion").read_text()
        assert "Parameter search" in page
        assert f"{parameters_text(best.values)}.</p>" in page  # as written in the project file, such as "True"
        assert found.search.id[:12] in page
        assert "best: trial" in "\n".join(found.lines())
        assert project.train() == []  # the same data, code, seed and parameters
        assert "Unchanged" in project.runs()[-1].outcome


def test_the_version_of_other_parameters_has_another_recipe(loaded: Path) -> None:
    with shop.opened(loaded) as project:
        declared = project.definitions.deployments["buyer"]
        assert project.loop("buyer").deployment.model.hash == declared.model.hash
        project.search(trials=2)
        chosen = project.loop("buyer").deployment.model
        assert chosen.chosen is not None
        assert chosen.hash != declared.model.hash
        text = (loaded / "project.py").read_text()
    (loaded / "project.py").write_text(text.replace("0.001, 100.0", "200.0, 300.0"))
    with shop.opened(loaded) as project:  # what was found does not lie in this space
        assert project.loop("buyer").deployment.model.chosen is None


def test_what_is_finished_is_done_no_more_and_more_trials_go_on(loaded: Path) -> None:
    with shop.opened(loaded) as project:
        first = project.search(trials=2)
        assert project.search(trials=2).trials == first.trials
        more = project.search(trials=3)
        assert more.search.id == first.search.id
        assert more.trials[:2] == first.trials
        assert len(project.search(time="1us").trials) == 3
        with pytest.raises(Misuse, match="trials=0"):
            project.search(trials=0)


def test_no_trial_sees_the_days_that_the_gate_judges_on(loaded: Path, tmp_path: Path) -> None:
    """Planted: in a copy, what the gate's window holds is the opposite; the search finds the same, number by number."""
    planted = Path(shutil.copytree(loaded, tmp_path / "planted"))
    until_us = []
    with shop.opened(loaded) as project:
        project.search(trials=2)
        plain = trials_in(project)
        until_us.append(project.trials().search.until_us)
    with shop.opened(planted) as project:
        frame = project.history.frames_at(["sales"])[0]["sales"]
        late = [row for row in frame.columns.to_rows() if row["closed_at"] >= until_us[0]]
        assert len(late) > 100
        project.push("sales", [{**row, "bought": not row["bought"]} for row in late])
        project.search(trials=2)
        assert project.trials().search.until_us == until_us[0]
        assert trials_in(project) == plain
        window_us = project.definitions.deployments["buyer"].gate.window_us
        newest_us = max(row["closed_at"] for row in late)
        assert until_us[0] <= newest_us + DAY_US - window_us
        project.train()
        assert project.registry.gates_of(project.registry.versions("buyer")[0])[-1].window_start_us >= until_us[0]


def test_the_gate_does_not_judge_on_days_that_a_search_has_seen(loaded: Path) -> None:
    with shop.opened(loaded) as project:
        project.search(trials=2)
    text = (loaded / "project.py").read_text()
    (loaded / "project.py").write_text(text.replace("calibration=0.5)", 'calibration=0.5, window="21d")'))
    with shop.opened(loaded) as project:
        with pytest.raises(Unavailable, match=r"used data known by .* Search again: trimtab search run buyer"):
            project.train()
        shop.move(project, 1)
        project.search(trials=2)
        assert project.train()[-1].act == "promote"


def test_a_killed_search_goes_on_to_what_would_have_come_without(loaded: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(loaded, tmp_path / "whole"))
    script = "import trimtab as tt; tt.open('.').search()"
    environment = {**shop.environment(), "HELD": str(tmp_path / "tried")}
    killed = forked.Popen([sys.executable, "-c", script], cwd=loaded, env=environment, stderr=subprocess.DEVNULL)
    with open_project(loaded, environment=IN_PROCESS) as project:
        eventually(lambda: len(project.state.catalog.find(TRIAL)) == 2 or killed.poll() is not None)
        killed.send_signal(signal.SIGKILL)
        killed.wait(timeout=60)
        assert project.runs()[-1].state == "interrupted"
        assert with_chosen(project.state.catalog, project.definitions.deployments["buyer"]).model.chosen is None
        assert len(project.state.catalog.find(TRIAL)) == 2  # its child, which was at the third one, ends by itself
        project.search()
        assert any("finished already" in line for line in project.runs()[-1].lines)
        assert len(project.state.catalog.find(KIND)) == 1
        interrupted = trials_in(project)
    with open_project(whole, environment=IN_PROCESS) as project:
        project.search()
        assert trials_in(project) == interrupted


def test_a_search_can_be_cancelled_and_keeps_its_trials(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOW_S", "0.1")
    with open_project(loaded, environment=IN_PROCESS) as project:

        def watch(run: Run) -> None:
            if len(run.lines) >= 1 and not run.is_over:
                with pytest.raises(Conflict, match="another process is running it"):
                    project.search()
                project.cancel_run(run.id)

        with pytest.raises(Cancelled):
            project.search(trials=1_000, watch=watch)
        assert project.runs()[-1].state == "cancelled"
        assert 1 <= len(project.trials().trials) < 1_000
        assert project.trials().search.ended_us is None


def test_what_cannot_be_searched_for_is_refused(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / "plain", online=True)
    with shop.opened(folder) as project:
        shop.load(project)
        with pytest.raises(Misuse, match=r"search of 'buyer': the model declares no search. Add search=tt.search"):
            project.search("buyer")
        with pytest.raises(NotFound, match="no deployment of model 'nobody'"):
            project.search("nobody")


def test_a_failed_search_says_so(loaded: Path) -> None:
    text = (loaded / "project.py").read_text()
    (loaded / "project.py").write_text(text.replace("C=strength", "C=-strength"))
    with shop.opened(loaded) as project:
        with pytest.raises(Misuse, match=r"all 3 trials failed. The newest error: trial 2"):
            project.search()
        run: Any = project.runs()[-1]
        assert (run.state, run.error) == ("failed", "Misuse")
        assert project.loop("buyer").deployment.model.chosen is None


def test_old_searches_and_what_killed_trainings_left_are_collected(loaded: Path) -> None:
    with shop.opened(loaded) as project:
        chosen = project.search(trials=2).search
        assert project.train()[-1].act == "promote"
        catalog, blob = project.state.catalog, project.state.blob
        for number in range(3):
            at = {"began_us": chosen.began_us - number - 1, "ended_us": (chosen.ended_us or 0) - number - 1}
            old = msgspec.structs.replace(chosen, id=f"{number}" * 64, **at)
            trial = msgspec.json.encode(project.trials().trials[0])
            catalog.write([Put(KIND, f"buyer/{old.id}", msgspec.json.encode(old))])
            catalog.write([Put(TRIAL, f"{old.id}/000000", trial, expected=0)])
        left = blob.put(b"a fit that nobody will take")
        step = Step(name="train.fit", inputs_hash="f" * 64, result=left, finished_at_us=shop.NOW_US, attempts=1)
        catalog.write([Put("step", f"train.fit/{step.inputs_hash}", msgspec.json.encode(step))])
        assert project.collect(dry_run=True, searches=1).forgotten == ()  # all of it is new
        with pytest.raises(Misuse, match="searches=0"):
            project.collect(searches=0)
    with shop.opened(loaded, shop.NOW_US + 20 * DAY_US) as project:
        for path in (loaded / ".trimtab" / "blob").rglob("*"):
            os.utime(path, (shop.NOW_US / 1e6, shop.NOW_US / 1e6))
        found = project.collect(dry_run=True, searches=1)
        assert [one.name[:12] for one in found.forgotten] == [
            "buyer/000000", "buyer/111111", "buyer/222222", "train.fit/ff",
        ]  # fmt: skip
        assert left in [one.digest for one in found.orphans]
        assert project.state.blob.exists(left)
        assert len(project.collect(dry_run=True).forgotten) == 1
        assert project.collect(searches=1) == found
        assert not project.state.blob.exists(left)
        assert project.trials().search.id == chosen.id
        assert len(project.state.catalog.find(KIND)) == 1
        assert project.collect(dry_run=True, searches=1).forgotten == ()
