"""versions, tag, protect and gc as people call them."""

from __future__ import annotations

import getpass
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command import Run

PROJECT = """
import trimtab as tt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def scaled():  # one row has two ways through it
    return make_pipeline(StandardScaler(), LogisticRegression())


flight = tt.request("flight", key="id", time="at", columns={"id": str, "at": tt.Time, "km": float})
landings = tt.source("landings", time="at", key="id", columns={"id": str, "at": tt.Time, "late": bool})
model = tt.model("late", request=flight, features=[{"far": tt.col("km")}],
    label=tt.label(landings, key="id", value=tt.col("late"), wait="1h"),
    estimator=scaled, metric="log_loss")
tt.deployment(model, retrain=tt.every("30d"), gate=tt.beats_champion(margin=0.002))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "project.py").write_text(PROJECT)
    (folder / "trimtab.toml").write_text("")
    start = datetime(2020, 1, 1, tzinfo=UTC)
    flights, landings = ["id,at,km"], ["id,at,late"]
    for n in range(1_500):
        at = start + timedelta(hours=n)
        flights.append(f"f{n},{at.isoformat()},{n * 7 % 100}")
        landings.append(f"f{n},{(at + timedelta(minutes=30)).isoformat()},{str(n * 7 % 100 + n % 60 > 80).lower()}")
    (folder / "flights.csv").write_text("\n".join(flights))
    (folder / "landings.csv").write_text("\n".join(landings))
    return folder


def test_versions_are_listed_tagged_found_protected_and_collected(call: Run, trained: Path) -> None:
    first = call("versions", cwd=trained)
    assert first.stderr == ""
    assert first.stdout == "No version yet. Train: trimtab train\n"
    wrong = call("versions", "tag", "late@1", "x", cwd=trained)
    assert (wrong.returncode, "no versions of 'late'; there are none at all" in wrong.stderr) == (3, True)
    for source, file in (("flight", "flights.csv"), ("landings", "landings.csv")):
        assert call("ingest", source, file, cwd=trained).returncode == 0
    done = call("train", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert f" by {getpass.getuser()}" in call("versions", "show", "late@champion", cwd=trained).stdout
    way = call("versions", "show", "late@champion", cwd=trained).stdout.partition("one row takes ")[2].partition(";")[0]
    assert re.fullmatch(r"[\d.e+]+ us by path \w+ \(\w+: [\d.e+]+ us(, refused)?\)", way)
    (choice,) = json.loads(call("--json", "versions", "show", "late@champion", cwd=trained).stdout)["row_calls"]
    assert f" by path {choice['chosen']} (" in way
    run = json.loads(call("--json", "runs", cwd=trained).stdout)["id"]
    assert f"late@1: one row takes {way}" in call("runs", "show", run, cwd=trained).stdout
    shown = call("versions", "list", "late", cwd=trained).stdout
    assert "champion" in shown
    assert "log_loss 0." in shown
    assert call("versions", "tag", "late@1", "seen", "region:eu", "--note", "By hand.", cwd=trained).stdout == (
        "late@1: region:eu, seen\n"
    )
    assert call("versions", "tag", "late@1", cwd=trained).returncode == 2
    assert "begin with a letter or digit" in call("versions", "tag", "late@1", "No Tag", cwd=trained).stderr
    found = call("versions", "--tag", "seen", "--json", cwd=trained).stdout.splitlines()
    assert [json.loads(line)["tags"] for line in found] == [["region:eu", "seen"]]
    assert f"By hand. ({getpass.getuser()})" in call("versions", "--search", "by HAND", cwd=trained).stdout
    assert (
        call("versions", "--metric", "auc>1", cwd=trained).stdout == "No version matches. There are versions of late.\n"
    )
    assert "auc 0." in call("versions", "--metric", "auc>0", cwd=trained).stdout
    for arguments in (["versions", "list", "ltae"], ["versions", "list", "ltae", "--tag", "seen", "--json"]):
        misspelt = call(*arguments, cwd=trained)
        assert (misspelt.returncode, misspelt.stdout) == (3, "")
        assert "no model 'ltae'. Models: late." in misspelt.stderr
    for option, what in (("--feature", "feature or view"), ("--metric", "metric"), ("--source", "source")):
        none = call("versions", option, "nothing", cwd=trained)
        assert (none.returncode, f"no version has a {what} 'nothing'. There are: " in none.stderr) == (3, True)
    assert call("versions", "--metric", "log_loss=1", cwd=trained).returncode == 2
    said = call(
        "versions", "protect", "late", "canary", "--needs", "gate", "--why", "five percent see it", cwd=trained
    ).stdout
    assert said == "late@canary: a move needs gate from now on\n"
    again = call(
        "versions",
        "protect",
        "late",
        "canary",
        "--needs",
        "gate",
        "--why",
        "five percent see it",
        "--json",
        cwd=trained,
    )
    assert json.loads(again.stdout)["actor"] == getpass.getuser()
    none = call("versions", "protect", "nope", "live", "--needs", "gate", "--why", "five percent see it", cwd=trained)
    assert (none.returncode, "no model 'nope'. There are: late." in none.stderr) == (3, True)
    dry = call("storage", "gc", "--dry-run", cwd=trained).stdout
    assert "stays  late@1" in dry
    assert "removing 0 versions and 0 blobs that nothing names: 0 B would be free" in dry
    assert call("storage", "gc", "--grace", "x", cwd=trained).returncode == 2
    again = json.loads(call("storage", "gc", "--grace", "0s", "--evidence", "0s", "--json", cwd=trained).stdout)
    assert again["going"] == []  # the champion, and the version that it refits
    assert any("alias champion points to it" in kept["why"] for kept in again["kept"])


def test_content_that_is_imported_again_is_said_to_be_there_already(call: Run, trained: Path, tmp_path: Path) -> None:
    import lightgbm
    import numpy as np

    rows = np.arange(200.0).reshape(-1, 1)
    data = lightgbm.Dataset(rows, (rows[:, 0] > 90).astype(float), feature_name=["far"])
    model = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 3)
    model.save_model(tmp_path / "theirs.txt")
    scores = zip(rows[80:100, 0].tolist(), model.predict(rows[80:100]).tolist(), strict=True)
    golden = tmp_path / "golden.ndjson"
    golden.write_text("\n".join(json.dumps({"far": far, "score": score}) for far, score in scores))
    for source, file in (("flight", "flights.csv"), ("landings", "landings.csv")):  # maybe by no test before this one
        assert call("ingest", source, file, cwd=trained).returncode == 0
    given = ("versions", "import", str(tmp_path / "theirs.txt"), "--model", "late", "--golden", str(golden))
    first = call(*given, cwd=trained)
    assert first.returncode == 0, first.stderr
    assert "checked on 20 golden rows" in first.stdout
    name = first.stdout.split(" ", 1)[0]
    assert f"Nothing is new: this content was imported as {name} on " in call(*given, cwd=trained).stdout
    other = call(*given, "--seen-until", "2020-02-01", "--window", "7d", cwd=trained)
    assert (other.returncode, other.stdout) == (4, ""), other.stderr
    assert f"the same content was imported already, as {name} at " in other.stderr
    assert (
        "not 2020-02-01T00:00:00 (to set another: trimtab promote --seen-until); it was not scored on a window"
        in other.stderr
    )
    shown = call("versions", "show", name, cwd=trained).stdout
    assert "imported from theirs.txt, training data may reach until" in shown


def test_where_no_model_is_named_the_first_is_taken_and_the_others_are_said(call: Run, tmp_path: Path) -> None:
    second = 'slow = tt.model("slow", request=flight, features=[{"far": tt.col("km")}], label=model.label,\n'
    second += '    estimator=scaled, metric="log_loss")\n'
    (tmp_path / "project.py").write_text(f"{PROJECT}\n{second}tt.deployment(slow, gate=tt.beats_champion())\n")
    (tmp_path / "trimtab.toml").write_text("")
    for name in (["train"], ["search", "run"]):
        verb = " ".join(name)
        said = f"{verb}: no MODEL was given, so 'late' is taken. For the others: trimtab {verb} slow\n"
        assert said in call(*name).stderr
        assert "no MODEL" not in call(*name, "slow").stderr
    waits = "waits for approval"
    for command, state in ((("approve",), waits), (("reject", "--why", "x"), f"{waits} or is in its rollout")):
        done = call(*command)
        said = f"trimtab: {command[0]}: no candidate of late, slow {state}. See: trimtab status\n"
        assert (done.returncode, done.stderr) == (4, said)
    none = call("search", "trials")
    assert (none.returncode, "nothing was searched yet for late, slow" in none.stderr) == (3, True)
    first = call("versions", "list", "slow")
    assert first.stderr == ""
    assert first.stdout == "No version yet. Train: trimtab train slow\n"
    nobody = call("versions", "list", "slwo")
    assert (nobody.returncode, "Models: late, slow." in nobody.stderr) == (3, True)
