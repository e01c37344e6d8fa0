"""runs and run as people call them."""

from __future__ import annotations

from pathlib import Path

from command import Run as Call

from trimtab.cli.loop.runs import run_lines
from trimtab.run import Run

PROJECT = """
import trimtab as tt
from sklearn.linear_model import LogisticRegression

flight = tt.request("flight", key="id", time="at", columns={"id": str, "at": tt.Time, "km": float})
landings = tt.source("landings", time="at", key="id", columns={"id": str, "at": tt.Time, "late": bool})
model = tt.model("late", request=flight, features=[{"far": tt.col("km")}],
    label=tt.label(landings, key="id", value=tt.col("late"), wait="1h"),
    estimator=LogisticRegression, metric="log_loss")
tt.deployment(model)
"""


def test_runs_of_a_model_that_is_none_are_not_found(call: Call, tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    (tmp_path / "trimtab.toml").write_text("")
    assert call("runs", "--model", "late").stdout == "No run yet. Train: trimtab train late\n"
    none = call("runs", "--model", "nope")
    assert (none.returncode, "no deployment of model 'nope'. Deployments: late." in none.stderr) == (3, True)


def test_a_training_whose_page_cannot_be_written_says_what_was_decided(
    call: Call, churn_csv: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "churn"
    call("init", str(churn_csv), "--label", "churned", "--estimator", "linear")
    for source in ("churn", "churn_labels"):
        assert call("ingest", source, str(churn_csv), cwd=folder).returncode == 0
    (folder / ".trimtab" / "reports").touch()
    done = call("train", cwd=folder)
    assert (done.returncode, "promote  " in done.stdout, "log loss" in done.stdout) == (5, True, True)
    assert "trimtab versions report churned@1" in done.stderr
    (folder / ".trimtab" / "reports").unlink()
    assert call("versions", "report", "churned@1", cwd=folder).returncode == 0


def test_a_missing_choice_is_told_on_one_line(call: Call) -> None:
    said = call("versions", "protect", "late", "live", "--why", "w").stderr
    assert "gate, reason, nothing" in said
    assert "\\t" not in said


def test_a_cancelled_run_says_so_once() -> None:
    run = Run(
        id="run_1",
        kind="training",
        model="late",
        state="cancelled",
        actor="a person",
        holder="process 7",
        began_us=0,
        ended_us=2_000_000,
        outcome="run run_1: Cancelled by a person.",
        error="Cancelled",
    )
    assert list(run_lines(run))[-1] == "Cancelled by a person."
