"""tick as a scheduler calls it: what it says of turns that were another's, and of those that failed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command import Run

from trimtab.app import open_project
from trimtab.app.state.lease import Lease

PROJECT = """
import trimtab as tt
from sklearn.linear_model import LogisticRegression


def broken():
    raise OSError("libbroken.so.1: cannot open shared object file")


flight = tt.request("flight", key="id", time="at", columns={"id": str, "at": tt.Time, "km": float})
landings = tt.source("landings", time="at", key="id", columns={"id": str, "at": tt.Time, "late": bool})
label = tt.label(landings, key="id", value=tt.col("late"), wait="1h")
for name, estimator in ESTIMATORS.items():
    model = tt.model(name, request=flight, features=[{"far": tt.col("km")}], label=label, estimator=estimator,
        metric="log_loss")
    tt.deployment(model, gate=tt.beats_champion())
"""


def write(folder: Path, estimators: str) -> None:
    text = PROJECT.replace("for name", f"ESTIMATORS = {estimators}\nfor name")
    (folder / "project.py").write_text(text)
    (folder / "trimtab.toml").write_text("")


def test_a_turn_that_is_another_processs_is_said_to_be_so(tmp_path: Path, call: Run) -> None:
    write(tmp_path, '{"late": LogisticRegression}')
    with open_project(tmp_path) as project:
        lease = Lease(project.state.catalog, "loop.late", project.state_folder)
        assert lease.take()
        try:
            said = "tick 'late': another process is working on this deployment. Try again when it is done.\n"
            for arguments, out in ((["tick"], ""), (["tick", "--json"], "[]\n")):
                done = call(*arguments)
                assert (done.returncode, done.stdout, done.stderr) == (0, out, said)
        finally:
            lease.release()


def test_a_tick_says_that_automation_is_frozen(tmp_path: Path, call: Run) -> None:
    write(tmp_path, '{"late": LogisticRegression}')
    assert call("freeze", "--why", "strange data").returncode == 0
    assert re.fullmatch(r"Nothing was done: automation is frozen since 20.{14}: strange data\n", call("tick").stdout)
    assert call("unfreeze").returncode == 0
    assert "frozen" not in call("tick").stdout


@pytest.mark.slow
def test_what_was_decided_is_shown_also_when_another_deployment_failed(
    tmp_path: Path, call: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_TRAINING_EXECUTOR", "thread")
    write(tmp_path, '{"first": broken, "late": LogisticRegression}')
    start = datetime(2020, 1, 1, tzinfo=UTC)
    flights, landings = ["id,at,km"], ["id,at,late"]
    for n in range(1_500):
        at = start + timedelta(hours=n)
        flights.append(f"f{n},{at.isoformat()},{n * 7 % 100}")
        landings.append(f"f{n},{(at + timedelta(minutes=30)).isoformat()},{str(n * 7 % 100 + n % 60 > 80).lower()}")
    (tmp_path / "flights.csv").write_text("\n".join(flights))
    (tmp_path / "landings.csv").write_text("\n".join(landings))
    for source, file in (("flight", "flights.csv"), ("landings", "landings.csv")):
        assert call("ingest", source, file).returncode == 0
    done = call("tick", "--json")
    assert done.returncode not in (0, 70), done.stderr
    assert "libbroken.so.1" in json.loads(done.stderr.splitlines()[-1])["message"]
    decided = [(row["model"], row["act"]) for row in json.loads(done.stdout)]
    assert decided[-1] == ("late", "promote")
    assert {model for model, _ in decided} == {"late"}
    again = call("tick")  # now nothing is due at the one, and the other fails as before
    assert (again.returncode, again.stdout) == (done.returncode, "")
    assert "libbroken.so.1" in again.stderr
