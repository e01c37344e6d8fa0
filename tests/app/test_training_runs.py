"""Trainings as runs: what is finished is not done again, whatever is killed, and what fails says why."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import shop

import forked
from trimtab.app.inspect.doctor import examine
from trimtab.app.keep.backup import restore
from trimtab.app.project import Project, open_project
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.core.time import DAY_US
from trimtab.run import Cancelled, Run
from trimtab.steering.candidates.builder import CandidateBuilder
from trimtab.steering.candidates.judging import Case
from trimtab.steering.candidates.plans import Made, Plan, aged_sources

IN_PROCESS = {"TRIMTAB_TRAINING_EXECUTOR": "thread"}
TALLY = """

def batch():
    import os
    from sklearn.linear_model import LogisticRegression

    with open(os.environ["TALLY"], "a") as file:
        file.write("x")
    return LogisticRegression(C=STRENGTH)


STRENGTH = 1.0
"""


@pytest.fixture(scope="module")
def loaded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that counts its fits, with data and nothing trained."""
    folder = shop.write_project(tmp_path_factory.mktemp("runs") / "loaded")
    text = (folder / "project.py").read_text()
    (folder / "project.py").write_text(text.replace('\nbuyer("buyer", batch)', f'{TALLY}\nbuyer("buyer", batch)'))
    with open_project(folder, environment=IN_PROCESS) as project:
        shop.load(project)
        project.apply_first()
    return folder


@pytest.fixture(scope="module")
def trained_here_once(loaded_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(loaded_once, tmp_path_factory.mktemp("runs") / "trained"))
    with pytest.MonkeyPatch.context() as patch, opened(folder) as project:
        patch.setenv("TALLY", os.devnull)
        assert project.train()[-1].act == "promote"
    return folder


@pytest.fixture
def trained_here(trained_here_once: Path, tmp_path: Path, tally: Callable[[], int]) -> Path:
    """A copy of the project that counts its fits, with a champion."""
    return Path(shutil.copytree(trained_here_once, tmp_path / "project"))


@pytest.fixture
def tally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    file = tmp_path / "tally"
    file.touch()
    monkeypatch.setenv("TALLY", str(file))
    return lambda: file.stat().st_size


@pytest.fixture
def loaded(loaded_once: Path, tmp_path: Path, tally: Callable[[], int]) -> Path:
    return Path(shutil.copytree(loaded_once, tmp_path / "project"))


def opened(folder: Path) -> Project:
    """The project on the system's clock, trained in this process."""
    return open_project(folder, environment=IN_PROCESS)


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "project.py").read_text()
    assert old in text
    (folder / "project.py").write_text(text.replace(old, new))


def cached(run: Run) -> dict[str, bool]:
    return {step.name: step.cached for step in run.steps if step.name != "partial"}


STEPS = ["snapshot", "fit", "evaluate", "judge", "refit", "register", "promote"]


def test_a_tick_during_a_training_leaves_the_training_alone(loaded: Path) -> None:
    ticked: list[object] = []

    def tick(run: Run) -> None:
        if not ticked:
            ticked.append(project.loop("buyer").tick())

    with opened(loaded) as project:
        assert project.train(watch=tick)[-1].act == "promote"
        assert ticked == [[]]
        (run,) = project.runs()
        assert run.outcome == "Promoted buyer@2."
        assert [step.name for step in run.steps if step.name != "partial"] == STEPS


def test_training_twice_gives_the_same_version_and_does_nothing_the_second_time(
    loaded: Path, tally: Callable[[], int]
) -> None:
    with opened(loaded) as project:
        assert [d.act for d in project.train()] == ["train", "gate", "promote"]
        first, fits = project.registry.get("buyer@champion"), tally()
        assert project.train() == []
        assert (project.registry.get("buyer@champion"), tally()) == (first, fits)
        one, two = project.runs("buyer")
        assert (list(cached(one)), one.state, one.outcome) == (STEPS, "done", "Promoted buyer@2.")
        assert [s.state for s in one.steps if s.name == "partial"]  # the fits of the evaluation, each a step
        assert (cached(two), two.state) == ({"snapshot": True}, "done")
        assert (
            two.outcome == "Unchanged: buyer@2 is the result of this data and code. A new seed alone changes nothing."
        )
        assert project.run(two.id) == two


def blob_of(folder: Path, digest: str) -> Path:
    return folder / ".trimtab" / "blob" / digest


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(("harm", "all_of_them"), [(flip, True), (Path.unlink, False)])
def test_a_champion_whose_artifact_is_lost_is_red_and_training_puts_the_same_bytes_back(
    trained_here: Path, tally: Callable[[], int], harm: Callable[[Path], None], all_of_them: bool
) -> None:
    loaded = trained_here
    with opened(loaded) as project:
        first, fits = project.registry.get("buyer@champion"), tally()
        assert not any("artifact" in line for line in project.status().red)
    file = blob_of(loaded, first.artifact)
    sound = file.read_bytes()
    blobs = [path for path in (loaded / ".trimtab" / "blob").rglob("*") if len(path.name) == 64]
    for path in blobs if all_of_them else [file]:
        harm(path)
    found = next(finding for finding in examine(loaded, {}) if finding.name == "champions")
    assert (found.state, first.name in found.found, file.name[:12] in found.found) == ("missing", True, True)
    assert found.fix.startswith("Run: trimtab train buyer (it fits the version again and restores the same bytes)")
    with opened(loaded) as project:
        (red,) = [line for line in project.status().red if "artifact" in line]
        assert red.startswith(f"buyer: {first.name} ")
        assert "Run: trimtab train buyer (it fits the version again and restores the same bytes)" in red
        assert "trimtab storage restore BACKUP --force" in red
        assert project.train() == []
        assert "put back" in project.runs()[-1].outcome
        assert (file.read_bytes(), project.registry.get("buyer@champion")) == (sound, first)
        assert tally() > fits
        assert not any("artifact" in line for line in project.status().red)
        project.train()
        assert (
            project.runs()[-1].outcome
            == "Unchanged: buyer@2 is the result of this data and code. A new seed alone changes nothing."
        )
    assert next(finding for finding in examine(loaded, {}) if finding.name == "champions").state == "ok"


def test_a_lost_artifact_comes_back_from_a_backup(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained) as project:
        project.backup(tmp_path / "copy")
        file = blob_of(trained, project.registry.get("buyer@champion").artifact)
    sound = file.read_bytes()
    flip(file)
    with shop.opened(trained) as project:
        assert any("lost its artifact" in line for line in project.status().red)
    restore(tmp_path / "copy", trained / ".trimtab", force=True)
    assert file.read_bytes() == sound
    with shop.opened(trained) as project:
        assert not any("artifact" in line for line in project.status().red)
        assert project.predict("buyer", [shop.visit("q1", shop.NOW_US)])[0].score is not None


def test_what_is_told_of_a_lost_artifact_is_what_mends_it(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained) as project:
        project.export("buyer@1", tmp_path / "out")
    edit(trained, "return LogisticRegression()", "return LogisticRegression(C=0.5)")
    with shop.opened(trained) as project:
        project.apply()
        blob_of(trained, project.registry.get("buyer@champion").artifact).unlink()
        (red,) = [line for line in project.status().red if "artifact" in line]
        assert "trimtab train buyer" in red
        blob_of(trained, project.registry.get("buyer@1").artifact).unlink()  # which would stand in for it
        with pytest.raises(
            Corrupt, match=r"No candidate can be judged without it\. .*trimtab storage restore BACKUP --force"
        ):
            project.train("buyer")
    edit(trained, "return LogisticRegression(C=0.5)", "return LogisticRegression()")
    with shop.opened(trained) as project:
        project.apply()
        project.train("buyer")
        assert not any("artifact" in line for line in project.status().red)
    with shop.opened(shop.write_project(tmp_path / "other")) as project:
        shop.load(project)
        project.import_model(tmp_path / "out", "buyer", first=True, why="there is no other model yet")
        file = blob_of(tmp_path / "other", project.registry.get("buyer@champion").artifact)
        file.unlink()
        (red,) = [line for line in project.status().red if "artifact" in line]
        assert "Import its file again: trimtab versions import out --model buyer." in red
        found = next(finding for finding in examine(tmp_path / "other", {}) if finding.name == "champions")
        assert "trimtab versions import out --model buyer" in found.fix
        project.import_model(tmp_path / "out", "buyer")
        assert not any("artifact" in line for line in project.status().red)


def test_a_record_of_a_champion_that_was_changed_outside_is_found_by_the_doctor(trained: Path) -> None:
    with contextlib.closing(sqlite3.connect(trained / ".trimtab" / "catalog.db")) as catalog:
        where = "kind = 'version' AND instr(body, '\"number\":2')"
        catalog.execute(f"UPDATE record SET body = replace(body, 'x86_64', 'x86_65') || ' ' WHERE {where}")
        catalog.commit()
    said = next(finding for finding in examine(trained, {}) if finding.name == "state")
    assert (said.state, "record version/" in said.found, "Restore" in said.found) == ("missing", True, True)


def test_a_lost_artifact_is_put_back_from_its_own_training_set_whatever_came_since(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / "project")
    with shop.opened(folder) as project:
        shop.load(project)
        project.train()
        file = blob_of(folder, project.registry.get("buyer@champion").artifact)
    sound = file.read_bytes()
    file.unlink()
    with shop.opened(folder, shop.NOW_US + 2 * DAY_US) as project:
        shop.load(project, end_us=shop.NOW_US + DAY_US)
        assert project.train() == []
        said = project.runs()[-1].outcome
        assert "buyer@2: its artifact was lost, so it was fitted again, and the artifact was put back." in said
        assert file.read_bytes() == sound
        with pytest.raises(Unavailable, match="new to the champion"):
            project.train()


def test_a_lost_artifact_is_put_back_with_the_weights_of_its_fit(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def aged(self: CandidateBuilder, plan: Plan, best: Made, case: Case, target: object) -> tuple[Plan, Made]:
        plan = msgspec.structs.replace(plan, sources=(*plan.sources, aged_sources(plan)[0]))
        return plan, self._fits.of_plan(case.training_set, plan)[-1]

    monkeypatch.setattr(CandidateBuilder, "_aged", aged)
    with opened(loaded) as project:
        project.train()
        champion = project.registry.get("buyer@champion")
        assert champion.half_life_us == 28 * DAY_US
        file = blob_of(loaded, champion.artifact)
        sound = file.read_bytes()
        file.unlink()
        assert project.train() == []
        assert file.read_bytes() == sound


def test_the_same_data_code_and_seed_give_the_same_version_at_another_time(
    loaded: Path, tmp_path: Path, tally: Callable[[], int]
) -> None:
    copy, ids = shutil.copytree(loaded, tmp_path / "copy"), []
    for folder, clock in ((loaded, None), (copy, VirtualClock(shop.NOW_US + 60 * DAY_US))):
        with open_project(folder, clock=clock, environment=IN_PROCESS) as project:
            project.train(actor=folder.name)
            ids.append([version.id for version in project.registry.versions("buyer")])
            assert {version.actor for version in project.registry.versions("buyer")} == {folder.name}
            assert f" by {folder.name}." in project.card("buyer@champion")
    assert ids[0] == ids[1]


def test_what_was_refused_is_refused_again_without_a_fit_and_a_changed_constant_is_fitted(
    loaded: Path, tally: Callable[[], int]
) -> None:
    edit(loaded, "calibration=0.5", "calibration=0.00001")
    with opened(loaded) as project:
        assert project.train()[-1].act == "refuse"
        fits = tally()
        again = project.train()
        assert (again[-1].act, tally()) == ("refuse", fits)
        run = project.runs()[-1]
        assert cached(run) == {"snapshot": True, "fit": True, "evaluate": True, "judge": True}
        assert run.outcome.startswith("buyer@1 was refused, not calibrated: ")
    edit(loaded, "STRENGTH = 1.0", "STRENGTH = 0.5")
    with opened(loaded) as project:
        project.apply()
        project.train()
        assert cached(project.runs()[-1]) == {"snapshot": True, "fit": False, "evaluate": False, "judge": False}
        assert tally() == 2 * fits
        assert [version.number for version in project.registry.versions("buyer")] == [1, 2]


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        ("raise ValueError('no licence')", "its estimator function raised ValueError: no licence"),
        ("return LogisticRegression(C=-1.0)", r"LogisticRegression\.fit raised InvalidParameterError: .* \(on "),
        (
            "from sklearn.linear_model import LinearRegression; return LinearRegression()",
            r"lie outside \[0, 1\], e\.g\.",
        ),
    ],
)
def test_a_bad_estimator_fails_the_run_with_its_cause_and_touches_no_champion(
    trained_here: Path, estimator: str, said: str
) -> None:
    loaded = trained_here
    with opened(loaded) as project:
        champion = project.registry.get("buyer@champion")
    edit(loaded, "    return LogisticRegression(C=STRENGTH)", f"    {estimator}")
    later_us = shop.NOW_US + 30 * DAY_US
    with open_project(loaded, clock=VirtualClock(later_us), environment=IN_PROCESS) as project:
        project.apply()
        rows = 60 * [0.5, -2.0, 2.0]
        at_us = [later_us - DAY_US * 20 + n * DAY_US // 12 for n in range(len(rows))]
        visits = [shop.visit(f"new{n}", at, x) for n, (at, x) in enumerate(zip(at_us, rows, strict=True))]
        sales = [
            {"visit_id": v["visit_id"], "site": "north", "bought": v["x"] > 0, "closed_at": v["at"] + 1} for v in visits
        ]
        project.ingest("visit", visits)
        project.ingest("sales", sales)
        with pytest.raises(Misuse, match=said):
            project.train()
        (run,) = [run for run in project.runs() if run.state == "failed"]
        assert (run.error, run.steps[-1].name, run.steps[-1].state) == ("Misuse", "fit", "failed")
        assert project.registry.get("buyer@champion") == champion
        assert project.ledger()[-1].act == "failed"


def test_a_window_without_labels_fails_the_run_and_stores_no_training_set(tmp_path: Path) -> None:
    with open_project(shop.write_project(tmp_path / "bare"), environment=IN_PROCESS) as project:
        project.ingest("visit", [shop.visit(str(n), shop.BEGIN_US + n * DAY_US) for n in range(5)])
        with pytest.raises(Unavailable, match="None of 5 requests has a label"):
            project.train()
        (run,) = project.runs()
        assert (run.state, run.error, [s.state for s in run.steps]) == ("failed", "Unavailable", ["failed"])
        assert "None of 5 requests has a label" in run.outcome
        assert [f for f in (tmp_path / "bare/.trimtab/blob").glob("*") if f.read_bytes()[:4] == b"PAR1"] == []


def test_a_disk_that_fills_while_a_fit_is_stored_fails_the_run_and_the_next_one_goes_on(
    loaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(loaded) as project:
        put, full = project.state.blob.put, [True]

        def put_until_full(data: bytes) -> str:
            if full and b"sklearn" in data:  # an artifact
                raise Unavailable("blob: No space left on device.")
            return put(data)

        monkeypatch.setattr(project.state.blob, "put", put_until_full)
        with pytest.raises(Unavailable, match="No space left"):
            project.train()
        run = project.runs()[-1]
        assert (run.state, run.error, run.steps[-1].name) == ("failed", "Unavailable", "fit")
        assert project.registry.versions("buyer") == []
        full.clear()
        assert project.train()[-1].act == "promote"
        assert cached(project.runs()[-1])["snapshot"]


def test_another_process_trains_gives_way_and_is_cancelled_from_outside(loaded: Path) -> None:
    edit(
        loaded,
        "    return LogisticRegression(",
        "    import time\n\n    time.sleep(60)\n    return LogisticRegression(",
    )
    edit(
        loaded,
        "    import os\n",
        "    import os\n\n    print('nice', os.nice(0), os.environ['OMP_NUM_THREADS'], flush=True)\n",
    )
    ended: list[BaseException] = []
    with open_project(loaded, environment={"TRIMTAB_TRAINING_NICE": "7"}) as project:

        def train() -> None:
            try:
                project.train()
            except Cancelled as error:
                ended.append(error)

        thread = threading.Thread(target=train)
        thread.start()
        with open_project(loaded, environment={}) as other:
            run = under_way(other, lambda run: len(run.steps) == 2 and any("nice" in line for line in run.lines))
            assert f"nice {min(19, os.nice(0) + 7)} 1" in run.lines
            assert [step.state for step in run.steps] == ["done", "running"]
            other.cancel_run(run.id, actor="Ada")
            thread.join(120)
            assert not thread.is_alive()
            assert "Cancelled by Ada" in str(ended[0])
            seen = other.run(run.id)
            assert (seen.state, [s.state for s in seen.steps]) == ("cancelled", ["done", "cancelled"])
            assert [d.act for d in other.ledger()][-1] == "cancel"
            assert (other.registry.versions("buyer"), other.loop().controller.state.phase) == ([], "idle")


def under_way(project: Project, ready: Callable[[Run], bool]) -> Run:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = project.runs()
        if found and ready(found[-1]):
            return found[-1]
        time.sleep(0.05)
    raise AssertionError(f"no run got there: {project.runs()}")


class Campaign:
    """Kills `trimtab train` at random points of projects until each has its version."""

    def __init__(self, loaded: Path, folder: Path, tally: Callable[[], int]) -> None:
        self.problems: list[str] = []
        self.kills = 0
        self._loaded, self._folder, self._tally = loaded, folder, tally
        whole = self._copy("whole")
        began = time.monotonic()
        assert self._started(whole).wait() == 0
        self._whole_s = time.monotonic() - began
        self._expected = self._versions(whole)

    def project(self, number: int, kills: int, chance: random.Random) -> None:
        """Kill one project's training so many times, or until it is done, then let it end."""
        folder = self._copy(f"killed{number}")
        for _ in range(kills):
            process = self._started(folder)
            try:
                process.wait(chance.uniform(0.2, 1.0) * self._whole_s)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                self.kills += 1
            else:
                break  # it was done sooner: a further kill would find nothing under way
            time.sleep(0.3)  # its child sees that and ends
            self._look(folder)
        finished, fits = self._finished(folder), self._tally()
        if self._started(folder).wait() != 0:
            self.problems.append(f"{folder.name}: the last training failed")
        self._look(folder)
        if self._versions(folder) != self._expected:
            self.problems.append(f"{folder.name}: {self._versions(folder)} where {self._expected} was expected")
        with opened(folder) as project:
            run = project.runs()[-1]
        done = {f"{step.name}/{step.inputs_hash}": step.cached for step in run.steps}
        if redone := [name for name in finished if done.get(name) is False]:
            self.problems.append(f"{folder.name}: {redone} done again")
        expected = sum(step.name in ("fit", "partial", "refit") and not step.cached for step in run.steps)
        if self._tally() - fits != expected:
            self.problems.append(f"{folder.name}: {self._tally() - fits} fits where {expected} were to do")

    def _look(self, folder: Path) -> None:
        """No version is half there, the alias points to one that is, no run is under way."""
        with opened(folder) as project:
            versions = project.registry.versions("buyer")
            for version in versions:
                project.registry.load(version)
            champion = project.registry.alias("buyer", "champion")
            if champion is not None and champion.id not in {version.id for version in versions}:
                self.problems.append(f"{folder.name}: {champion.id} is in service and not registered")
            states = Counter(run.state for run in project.runs())
            if states.keys() - {"done", "interrupted"}:
                self.problems.append(f"{folder.name}: {states}")
            project.verify_ledger()

    def _versions(self, folder: Path) -> tuple[list[str], str]:
        with opened(folder) as project:
            return [v.id for v in project.registry.versions("buyer")], project.registry.get("buyer@champion").id

    def _finished(self, folder: Path) -> set[str]:
        with opened(folder) as project:
            return {r.key.removeprefix("train.") for r in project.state.catalog.find("step", "train.")}

    def _copy(self, name: str) -> Path:
        return Path(shutil.copytree(self._loaded, self._folder / name))

    def _started(self, folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "trimtab.cli", "--project", str(folder), "train"]
        return forked.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_training_that_is_killed_at_random_points_gives_the_version_of_one_that_was_not(
    loaded: Path, tmp_path: Path, tally: Callable[[], int]
) -> None:
    campaign = Campaign(loaded, tmp_path, tally)
    campaign.project(1, 2, random.Random(3))
    assert campaign.problems == []


@pytest.mark.soak
def test_a_hundred_kills_of_trainings_leave_no_version_half_there(
    loaded: Path, tmp_path: Path, tally: Callable[[], int], soak_report: Callable[..., None]
) -> None:
    campaign, chance, projects = Campaign(loaded, tmp_path, tally), random.Random(11), 0
    while campaign.kills < 100:
        projects += 1
        campaign.project(projects, chance.randint(1, 6), chance)
    soak_report("kill_train", runs=campaign.kills, failures=len(campaign.problems), projects=projects)
    assert campaign.problems == []
