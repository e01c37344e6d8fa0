"""Who did it: every command that changes something writes down the account that it ran under."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from command import Run

from trimtab import cli
from trimtab.app import Project
from trimtab.registry import Registry
from trimtab.serving.access_keys import AccessKeys

PROJECT = """
import trimtab as tt
from sklearn.linear_model import LogisticRegression


def tuned(strength=1.0):
    return LogisticRegression(C=strength)


flight = tt.request("flight", key="id", time="at", columns={"id": str, "at": tt.Time, "carrier": str, "km": float})
landings = tt.source("landings", time="at", key="id", columns={"id": str, "at": tt.Time, "carrier": str, "late": bool})
model = tt.model("late", request=flight, features=[{"far": tt.col("km")}],
    label=tt.label(landings, key="id", value=tt.col("late"), wait="1h"), estimator=tuned, metric="log_loss",
    search=tt.search({"strength": tt.number(0.1, 10.0)}, trials=1))
tt.deployment(model, gate=tt.beats_champion())
"""


def acting(kind: type) -> set[str]:
    """The methods that take who acts."""
    methods = inspect.getmembers(kind, inspect.isfunction)
    return {name for name, method in methods if "actor" in inspect.signature(method).parameters and name[0] != "_"}


def receiver(called: ast.Attribute) -> str:
    return ast.unparse(called.value)


def test_every_command_says_who_acts_wherever_that_is_asked_for() -> None:
    takes = {"project": acting(Project), "project.registry": acting(Registry), "project.keys": acting(AccessKeys)}
    assert {"forget", "apply", "search", "train", "freeze"} <= takes["project"]
    found, silent = set(), []
    for file in sorted(Path(cli.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name = node.func.attr
            if name in takes.get(receiver(node.func), set()):
                found.add(name)
                actors = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "actor"]
                if actors not in (["account()"], ["actor or account()"]):
                    silent.append(f"{file.name}:{node.lineno} {name}")
    assert silent == []
    assert len(found) > 15


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project.py").write_text(PROJECT)
    (tmp_path / "trimtab.toml").write_text("")
    flights = [f"f{n},2020-01-{1 + n:02d},UA,{n}" for n in range(20)]
    (tmp_path / "flights.csv").write_text("\n".join(["id,at,carrier,km", *flights]))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "wilma")
    monkeypatch.setenv("TRIMTAB_TRAINING_EXECUTOR", "thread")
    return tmp_path


def ledger(call: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in call("ledger", "--json").stdout.splitlines()]


def test_who_applies_forgets_and_searches_is_named(folder: Path, call: Run) -> None:
    pytest.importorskip("optuna")
    assert call("ingest", "flight", "flights.csv").returncode == 0
    for command in (["apply", "--yes"], ["forget", "carrier", "UA"], ["freeze"], ["unfreeze"]):
        done = call(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert [(row["act"], row["actor"]) for row in ledger(call)] == [
        ("apply", "wilma"),
        ("forget", "wilma"),
        ("freeze", "wilma"),
        ("unfreeze", "wilma"),
    ]
    assert call("search").returncode != 0  # there are no labels, which the run says
    (run,) = [json.loads(line) for line in call("runs", "--json").stdout.splitlines()]
    assert (run["kind"], run["actor"]) == ("search", "wilma")
