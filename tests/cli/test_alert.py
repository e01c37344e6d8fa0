"""`trimtab alert`: what it shows, and how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Run

from receivers import HttpReceiver, http_receiver
from trimtab.cli.verbs import TOP
from trimtab.monitoring.alerts.alert_records import alert_of
from trimtab.monitoring.alerts.runbook import OTHERWISE, RUNBOOK
from trimtab.testing.builders import a_signal

PROJECT = """
import trimtab as tt

flight = tt.request("flight", key="id", time="at", columns={"id": str, "at": tt.Time, "km": float})
landings = tt.source("landings", time="at", key="id", columns={"id": str, "at": tt.Time, "late": bool})


def estimator():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


model = tt.model("late", request=flight, features=[{"far": tt.col("km")}],
    label=tt.label(landings, key="id", value=tt.col("late"), wait="1h"), estimator=estimator, metric="log_loss")
tt.deployment(model, owner="team flights")
"""


@pytest.fixture
def server() -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        yield made


def write(folder: Path, *urls: str) -> None:
    (folder / "project.py").write_text(PROJECT)
    receivers = [
        f'[alerts.receivers.r{n}]\nkind = "webhook"\nurl = "{url}"\ntimeout = "1s"\n' for n, url in enumerate(urls)
    ]
    (folder / "trimtab.toml").write_text("".join(receivers))


def test_a_test_alert_that_arrives_is_status_0_and_one_that_does_not_is_status_1(
    tmp_path: Path, call: Run, server: HttpReceiver
) -> None:
    with http_receiver(403) as refusing:
        write(tmp_path, server.url, refusing.url)
        done = call("alert", "test", "r0")
        assert (done.returncode, done.stdout[:24]) == (0, "r0  webhook  arrived in ")
        assert done.stdout.endswith("s: 200 ok\n")
        done = call("alert", "test")
        assert done.returncode == 1
        assert "r1  webhook  FAILED in " in done.stdout
        assert "the receiver answered 403 ok" in done.stdout
        done = call("alert", "test", "r1", "--json")
        assert (done.returncode, json.loads(done.stdout)[0]["ok"]) == (1, False)
    assert call("alert", "test", "pager").returncode == 3


def test_without_receivers_a_test_fails_and_the_list_says_how_to_have_one(tmp_path: Path, call: Run) -> None:
    write(tmp_path)
    assert call("alert", "test").returncode == 1
    done = call("alert")
    assert done.returncode == 0
    assert "[alerts.receivers.NAME]" in done.stdout


def test_a_mute_is_listed_and_taken_back(tmp_path: Path, call: Run, server: HttpReceiver) -> None:
    write(tmp_path, server.url)
    done = call("alert", "mute", "late/no_labels", "--for", "4h", "--why", "the feed is being moved")
    assert done.returncode == 0, done.stderr
    assert "mute" in done.stdout
    shown = call("alert", "list").stdout
    assert "muted: late/no_labels until" in shown
    assert "the feed is being moved" in shown
    assert [one["what"] for one in json.loads(call("alert", "--json").stdout)["mutes"]] == ["late/no_labels"]
    assert call("alert", "unmute", "late/no_labels").returncode == 0
    assert "muted" not in call("alert").stdout
    assert call("alert", "unmute", "late/no_labels").returncode == 3
    assert [json.loads(row)["act"] for row in call("ledger", "--json").stdout.splitlines()] == ["mute", "unmute"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["mute"], 2, "Missing argument 'WHAT'"),
        (["mute", "late"], 2, "mute needs --for DURATION"),
        (["mute", "late", "--for", "4h"], 2, "no reason is given"),
        (["mute", "late", "--for", "4", "--why", "w"], 2, "duration"),
        (["mute", "lata", "--for", "4h", "--why", "w"], 3, "nothing has this name"),
        (["list", "--for", "4h"], 2, "No such option"),
        (["test", "--why", "w"], 2, "No such option"),
        (["tset"], 2, "Did you mean 'alert test'?"),
        (["list", "x"], 2, "unexpected extra argument (x)"),
    ],
)
def test_wrong_usage_is_said(tmp_path: Path, call: Run, arguments: list[str], status: int, said: str) -> None:
    write(tmp_path)
    done = call("alert", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_the_owner_of_a_deployment_is_a_text(tmp_path: Path, call: Run) -> None:
    write(tmp_path)
    file = tmp_path / "project.py"
    file.write_text(file.read_text().replace('owner="team flights"', "owner=7"))
    done = call("alert")
    assert done.returncode == 2
    assert "owner=7" in done.stderr


def test_every_command_that_an_alert_names_exists() -> None:
    signal = a_signal(0, id="", kind="k", version="", evidence={}, message="")
    look = alert_of(signal, "begun", version="", owner=None, returned=0).look
    named = set(re.findall(r"trimtab (\w+)", " ".join([*look, *RUNBOOK.values(), OTHERWISE])))
    assert {"status", "quality"} <= named <= set(TOP)
