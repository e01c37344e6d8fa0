"""Alerts of a project, to real receivers on this machine: delivered once, kept while they cannot be, never lost."""

from __future__ import annotations

import json
import os
import random
import signal as signals
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import shop

import forked
from receivers import HttpReceiver, http_receiver
from trimtab.app.project import Project, open_project
from trimtab.app.state.lease import Lease
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from trimtab.monitoring.alerts.outbox import FIRST_US, LONGEST_US
from trimtab.monitoring.signals import settle_signals
from trimtab.store.ports import Put
from trimtab.testing import builders

KINDS = ("null_values", "no_labels")


def receiver(url: str, name: str = "team", **more: Any) -> str:
    settings = {"kind": "webhook", "url": url, **more}
    return "\n".join(
        [f"[alerts.receivers.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    )


def write(folder: Path, *settings: str) -> Path:
    return shop.write_project(folder / "shop", settings="\n".join(settings) + "\n")


@contextmanager
def opened(folder: Path, *settings: str) -> Iterator[Project]:
    with shop.opened(write(folder, *settings)) as project:
        project.send_alerts()
        yield project


def a_signal(
    project: Project,
    subject: str = "column x",
    *,
    model: str = "buyer",
    severity: Literal["info", "red"] = "red",
    owner: str | None = None,
) -> Signal:
    now_us = project.clock.now_us()
    return builders.a_signal(
        now_us,
        id=f"null_values/{model}/{subject}/{now_us}",
        model=model,
        version="0123456789abcdef",
        onset_us=now_us - HOUR_US,
        severity=severity,
        subject=subject,
        owner=owner,
    )


def find(project: Project, *found: Signal, model: str = "buyer") -> None:
    """A monitor looks, and finds these."""
    _, changes = settle_signals(project.state.catalog, model, KINDS, found, now_us=project.clock.now_us())
    project.state.catalog.write(changes)


def subjects(server: HttpReceiver) -> list[tuple[str, list[str]]]:
    """Kind of each message that came, and what it tells of."""
    return [(one.json["kind"], [f"{a['what']} {a['subject']}" for a in one.json["alerts"]]) for one in server.got]


def test_a_signal_reaches_people_with_all_they_need(tmp_path: Path) -> None:
    with http_receiver() as server, opened(tmp_path, receiver(server.url)) as project:
        find(project, a_signal(project), a_signal(project, "column y"))
        project.send_alerts()
        project.send_alerts()
        assert subjects(server) == [("alerts", ["begun column x", "begun column y"])]
        alert = server.got[0].json["alerts"][0]
        assert (alert["severity"], alert["model"], alert["version"]) == ("red", "buyer", "0123456789ab")
        assert (alert["since"], alert["found"]) == ("2024-04-09T23:00:00Z", "2024-04-10T00:00:00Z")
        assert (alert["message"], alert["evidence"]) == ("Half of x is null.", {"share": 0.5})
        assert alert["todo"]
        shop.move(project, HOUR_US)
        assert "buyer: Half of x is null. (Raised 2024-04-10.)" in project.status().red
        find(project)
        shop.move(project, 36 * HOUR_US)
        project.send_alerts()
        assert subjects(server)[1:] == [("alerts", ["ended column x", "ended column y"])]
        assert server.got[1].json["alerts"][0]["ended_because"] == "the cause is no longer found"
        assert len({one.key for one in server.got}) == 2


def test_a_version_is_called_by_its_name(trained: Path) -> None:
    with http_receiver() as server:
        (trained / "trimtab.toml").write_text(receiver(server.url))
        with shop.opened(trained) as project:
            version = project.registry.alias("buyer", "champion")
            assert version is not None
            find(project, msgspec.structs.replace(a_signal(project), version=version.id))
            project.send_alerts()
        assert server.got[0].json["alerts"][0]["version"] == version.name == "buyer@2"
        assert server.got[0].json["title"] == "RED buyer@2: null_values, column x"


def test_labels_that_stop_and_come_back_are_told_by_the_ticks_of_the_loop(trained: Path) -> None:
    """The whole way: answers, closed days, a monitor, a signal that begins and ends, and two messages."""
    with http_receiver() as server:
        (trained / "trimtab.toml").write_text(receiver(server.url) + "\n[alerts]\nflapping = '12h'\n")
        with shop.opened(trained) as project:
            project.tick()
            for day in range(8):
                at_us = shop.move(project, DAY_US)
                rows = [shop.visit(f"d{day}-{n}", at_us, x=n / 10 - 1) for n in range(20)]
                project.predict("buyer", rows)
                if day >= 5:  # the labels are back
                    sales = [
                        {"visit_id": row["visit_id"], "site": "north", "bought": row["x"] > 0, "closed_at": row["at"]}
                        for row in rows
                    ]
                    project.push("sales", sales)
                project.tick()
            for _ in range(5):
                shop.move(project, DAY_US)
                project.tick()
            about = [a for post in server.got for a in post.json["alerts"] if a["kind"] == "no_labels"]
            assert [(one["what"], one["model"], one["version"]) for one in about] == [
                ("begun", "buyer", "buyer@2"),
                ("ended", "buyer", "buyer@2"),
            ]
            assert "No label has come" in about[0]["message"]
            assert about[0]["todo"].startswith("Repair the feed of the labels")


def test_what_no_look_has_seen_yet_is_shown_as_not_told(tmp_path: Path) -> None:
    with opened(tmp_path, receiver("http://127.0.0.1:9/")) as project:
        find(project, a_signal(project))
        assert (
            "  red   buyer/null_values/column x since 2024-04-10T00:00:00Z (no alert sent)" in project.alerts().lines()
        )


def test_the_owner_is_that_of_the_signal_else_that_of_the_deployment(tmp_path: Path) -> None:
    with http_receiver() as server:
        folder = write(tmp_path, receiver(server.url))
        project_file = folder / "project.py"
        project_file.write_text(
            project_file.read_text().replace('buyer("buyer", batch)', 'buyer("buyer", batch, owner="team shop")')
        )
        with shop.opened(folder) as project:
            find(project, a_signal(project), a_signal(project, "column y", owner="team weather"))
            project.send_alerts()
        assert [alert["owner"] for alert in server.got[0].json["alerts"]] == ["team shop", "team weather"]


def test_a_receiver_gets_the_models_severities_and_changes_that_it_wants(tmp_path: Path) -> None:
    with http_receiver() as all_, http_receiver() as ends, http_receiver() as red, http_receiver() as others:
        settings = [
            receiver(all_.url, "all", severity="info"),
            receiver(ends.url, "ends", tell=["ended"]),
            receiver(red.url, "red"),
        ]
        with opened(tmp_path, *settings, "[alerts]\nflapping = '0s'") as project:
            find(project, a_signal(project, "a", severity="info"), a_signal(project, "b"))
            project.send_alerts()
            find(project)
            project.send_alerts()
        assert subjects(all_) == [("alerts", ["begun a", "begun b"]), ("alerts", ["ended a", "ended b"])]
        assert subjects(ends) == [("alerts", ["ended b"])]
        assert subjects(red) == [("alerts", ["begun b"]), ("alerts", ["ended b"])]
        assert others.got == []


def test_a_model_that_is_not_deployed_is_refused_when_the_project_is_opened(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"trimtab\.toml: alerts\.receivers\.team\.models: 'bayer' is not deployed.*buyer"):
        shop.opened(write(tmp_path, receiver("http://127.0.0.1:9/", models=["bayer"])))


# --- receivers that fail


def test_what_was_refused_is_sent_again_under_the_same_key_after_a_pause(tmp_path: Path) -> None:
    with http_receiver(500, "close", 200) as server, opened(tmp_path, receiver(server.url)) as project:
        find(project, a_signal(project))
        project.send_alerts()
        project.send_alerts()
        assert len(server.got) == 1
        [one] = project.alerts().receivers
        failed = "the receiver answered 500 ok"
        assert (one.waiting, one.error, one.failing_since) == (1, failed, "2024-04-10T00:00:00Z")
        shop.move(project, FIRST_US)
        project.send_alerts()
        shop.move(project, FIRST_US)
        project.send_alerts()
        assert len(server.got) == 2  # the second pause is twice as long
        shop.move(project, FIRST_US)
        project.send_alerts()
        assert len(server.got) == 3
        assert len({post.key for post in server.got}) == 1
        assert len({post.body for post in server.got}) == 1
        [one] = project.alerts().receivers
        assert (one.waiting, one.delivered, one.error, one.failing_since) == (0, 1, "", None)


def test_a_receiver_that_asks_to_be_left_alone_is_left_alone(tmp_path: Path) -> None:
    answers = http_receiver(429, 200, headers={"Retry-After": "300"})
    with answers as server, opened(tmp_path, receiver(server.url)) as project:
        find(project, a_signal(project))
        project.send_alerts()
        shop.move(project, 299 * SECOND_US)
        project.send_alerts()
        assert len(server.got) == 1
        shop.move(project, SECOND_US)
        project.send_alerts()
        assert len(server.got) == 2


def test_a_pause_of_any_number_of_digits_is_cut_to_the_longest(tmp_path: Path) -> None:
    answers = http_receiver(429, 200, headers={"Retry-After": "9" * 400})
    with answers as server, opened(tmp_path, receiver(server.url)) as project:
        find(project, a_signal(project))
        project.send_alerts()
        project.send_alerts()
        assert len(server.got) == 1
        shop.move(project, LONGEST_US)
        project.send_alerts()
        assert len(server.got) == 2


def test_a_receiver_that_hangs_keeps_no_other_from_its_alert(tmp_path: Path) -> None:
    with http_receiver("hang") as stuck, http_receiver() as well:
        settings = [receiver(stuck.url, "a_stuck", timeout="1s"), receiver(well.url, "well")]
        with opened(tmp_path, *settings) as project:
            find(project, a_signal(project))
            looking = threading.Thread(target=project.send_alerts)
            looking.start()
            assert stuck.came.acquire(timeout=30)
            assert well.came.acquire(timeout=30)
            looking.join(30)
            assert not looking.is_alive()
            find(project, a_signal(project), a_signal(project, "column y"))
            project.send_alerts()
            assert [told for _, told in subjects(well)] == [["begun column x"], ["begun column y"]]
            assert len(stuck.got) == 1
            red = [line for line in project.status().red if line.startswith("alerts: ")]
            assert red == [
                "alerts: receiver a_stuck (webhook): failing since 2024-04-10T00:00:00Z: "
                "127.0.0.1 gave no answer within 1 s; 2 alerts wait"
            ]


def test_what_cannot_be_delivered_is_dropped_at_its_age_counted_and_shown(tmp_path: Path) -> None:
    with http_receiver(500, 200) as server, opened(tmp_path, receiver(server.url), "[alerts]\nkeep = '1h'") as project:
        find(project, a_signal(project), a_signal(project, "column y"))
        project.send_alerts()
        shop.move(project, 2 * HOUR_US)
        project.send_alerts()
        assert len(server.got) == 1
        [one] = project.alerts().receivers
        assert (one.waiting, one.dropped) == (0, 2)
        said = "2 alerts dropped, not delivered in time, the last at 2024-04-10T02:00:00Z"
        assert any(said in line for line in project.status().red)
        find(project, a_signal(project, "column z"))
        project.send_alerts()  # it is well again, and what was lost stays red for a week
        assert len(server.got) == 2
        assert any(said in line for line in project.status().red)
        shop.move(project, 8 * DAY_US)
        assert not any(said in line for line in project.status().red)
        assert said in "\n".join(project.alerts().lines())


def test_a_clock_that_was_set_back_keeps_no_receiver_waiting(tmp_path: Path) -> None:
    with http_receiver(500, 200) as server:
        folder = write(tmp_path, receiver(server.url))
        with shop.opened(folder) as project:
            find(project, a_signal(project))
            project.send_alerts()
        with shop.opened(folder, shop.NOW_US - 30 * DAY_US) as project:
            project.send_alerts()
        assert len(server.got) == 2
        assert LONGEST_US < DAY_US


def test_what_waits_for_a_receiver_that_is_not_declared_any_more_is_dropped_and_counted(tmp_path: Path) -> None:
    with http_receiver(500) as server, http_receiver() as other:
        folder = write(tmp_path, receiver(server.url, "old"))
        with shop.opened(folder) as project:
            find(project, a_signal(project))
            project.send_alerts()
        write(tmp_path, receiver(other.url, "new"))
        with shop.opened(folder) as project:
            project.send_alerts()
            assert [(one.name, one.kind, one.dropped) for one in project.alerts().receivers] == [
                ("new", "webhook", 0),
                ("old", "gone", 1),
            ]
            said = (
                "alerts: receiver old (gone): 1 alert dropped, as the receiver was removed, the last at "
                "2024-04-10T00:00:00Z"
            )
            assert said in project.status().red


def test_without_receivers_nothing_is_kept_and_a_new_one_hears_of_what_stands(tmp_path: Path) -> None:
    with http_receiver() as server:
        folder = write(tmp_path, receiver(server.url))
        with shop.opened(folder) as project:
            find(project, a_signal(project, "column a"))
            project.send_alerts()
        write(tmp_path)
        with shop.opened(folder) as project:
            project.send_alerts()
            find(project, a_signal(project, "column b"))
            find(project, a_signal(project, "column c"))
            project.send_alerts()
            assert "No receiver is declared" in project.alerts().lines()[0]
        write(tmp_path, receiver(server.url))
        with shop.opened(folder) as project:
            project.send_alerts()
        assert subjects(server)[1:] == [("alerts", ["begun column c"])]


# --- several processes, and their deaths

SENDS = """
import sys
from trimtab.app.project import open_project

with open_project(sys.argv[1], environment={}) as project:
    project.send_alerts()
"""


def test_a_process_that_is_killed_while_it_delivers_leaves_the_alert_to_the_next_under_the_same_key(
    tmp_path: Path,
) -> None:
    with http_receiver("hang", 200) as server:
        folder = write(tmp_path, receiver(server.url, timeout="30s"))
        with open_project(folder, environment={}) as project:
            project.send_alerts()
            find(project, a_signal(project))
            killed = forked.Popen([sys.executable, "-c", SENDS, str(folder)], env=shop.environment())
            assert server.came.acquire(timeout=60)
            [one] = project.alerts().receivers
            assert one.waiting == 1
            killed.send_signal(signals.SIGKILL)
            killed.wait(30)
            project.send_alerts()
            project.send_alerts()
            assert project.alerts().receivers[0].waiting == 0
        assert len(server.got) == 2
        assert server.got[0].key == server.got[1].key
        assert server.got[0].body == server.got[1].body


def test_several_at_once_deliver_an_alert_once(tmp_path: Path) -> None:
    with http_receiver() as server:
        folder = write(tmp_path, receiver(server.url))
        projects = [open_project(folder, environment={}) for _ in range(4)]
        try:
            projects[0].send_alerts()
            find(projects[0], a_signal(projects[0]))
            ready = threading.Barrier(len(projects))

            def send(project: Project) -> None:
                ready.wait(30)
                for _ in range(5):
                    project.send_alerts()

            threads = [threading.Thread(target=send, args=(project,)) for project in projects]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert subjects(server) == [("alerts", ["begun column x"])]
        finally:
            for project in projects:
                project.close()


def test_nothing_is_done_while_another_process_has_the_lease(tmp_path: Path) -> None:
    with http_receiver() as server, opened(tmp_path, receiver(server.url)) as project:
        find(project, a_signal(project))
        lease = Lease(project.state.catalog, "alerts", project.state_folder)
        assert lease.take()
        project.send_alerts()
        assert server.got == []
        lease.release()
        project.send_alerts()
        assert len(server.got) == 1


def test_a_restart_tells_nothing_twice(tmp_path: Path) -> None:
    with http_receiver() as server:
        folder = write(tmp_path, receiver(server.url))
        for _ in range(3):
            with shop.opened(folder) as project:
                find(project, a_signal(project))
                project.send_alerts()
        assert len(server.got) == 1


# --- where it runs


def test_a_tick_delivers_also_when_a_deployment_fails(tmp_path: Path) -> None:
    with http_receiver() as server:
        folder = write(tmp_path, receiver(server.url))
        file = folder / "project.py"
        file.write_text(file.read_text().replace("return LogisticRegression()", "raise OSError('no library')"))
        with shop.opened(folder) as project:
            shop.load(project)
            find(project, a_signal(project))
            with pytest.raises(Exception, match="no library"):
                project.tick()
            assert subjects(server) == [("alerts", ["begun column x"])]


def test_a_receiver_that_fails_does_not_make_a_tick_fail(trained: Path) -> None:
    (trained / "trimtab.toml").write_text(receiver("http://127.0.0.1:9/"))
    with shop.opened(trained) as project:
        project.send_alerts()
        find(project, a_signal(project))
        project.tick()
        assert project.alerts().receivers[0].waiting == 1


@pytest.mark.slow
def test_a_service_delivers_in_the_background_and_ends_in_time_while_another_receiver_hangs(trained: Path) -> None:
    with http_receiver() as server, http_receiver("hang") as hanging:
        settings = receiver(server.url), receiver(hanging.url, "pager", timeout="30s")
        (trained / "trimtab.toml").write_text("\n".join(settings))
        with shop.serving(trained) as (process, _):
            with shop.opened(trained, time.time_ns() // 1_000) as project:
                find(project, a_signal(project))
            assert server.came.acquire(timeout=60)
            assert subjects(server) == [("alerts", ["begun column x"])]
            assert hanging.came.acquire(timeout=60)
            process.terminate()
            _, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
        assert "Traceback" not in said


# --- heartbeats


def heartbeat(url: str) -> str:
    return receiver(url, "alive", kind="heartbeat", every="1s")


def test_a_heartbeat_is_asked_while_all_is_well_and_not_when_alerts_do_not_arrive(tmp_path: Path) -> None:
    with (
        http_receiver() as alive,
        http_receiver(500, 200) as server,
        opened(tmp_path, heartbeat(alive.url), receiver(server.url)) as project,
    ):
        assert [one.method for one in alive.got] == ["GET"]
        find(project, a_signal(project))
        project.send_alerts()
        project.alerting._beaten_s.clear()  # a second later
        project.send_alerts()
        assert len(alive.got) == 1
        shop.move(project, FIRST_US)
        project.send_alerts()
        project.alerting._beaten_s.clear()
        project.send_alerts()
        assert len(alive.got) == 2


def test_a_heartbeat_stops_when_the_loop_fails(tmp_path: Path) -> None:
    with http_receiver() as alive, opened(tmp_path, heartbeat(alive.url)) as project:
        turn = {
            "doing": "tick",
            "holder": "p",
            "began_us": 0,
            "ended_us": 0,
            "last_tick_us": None,
            "last_error": "it broke",
        }
        project.state.catalog.write([Put("loop_turn", "buyer", msgspec.json.encode(turn))])
        project.alerting._beaten_s.clear()
        project.send_alerts()
        assert len(alive.got) == 1


def test_a_heartbeat_that_does_not_arrive_is_red(tmp_path: Path) -> None:
    with http_receiver(404) as alive, opened(tmp_path, heartbeat(alive.url)) as project:
        assert any("receiver alive (heartbeat): failing" in line for line in project.status().red)


# --- by hand


def test_a_mute_has_an_end_a_reason_and_its_row_of_the_ledger(tmp_path: Path) -> None:
    with http_receiver() as server, opened(tmp_path, receiver(server.url)) as project:
        find(project, a_signal(project))
        row = project.mute_alerts("buyer/null_values", time="4h", why="the feed is being moved", actor="ann")
        assert (row.act, row.model, row.actor) == ("mute", "buyer", "ann")
        assert row.cause == "buyer/null_values until 2024-04-10T04:00:00Z: the feed is being moved"
        assert row.evidence == {"what": "buyer/null_values", "until": "2024-04-10T04:00:00Z"}
        project.send_alerts()
        assert server.got == []
        [shown] = [one for one in project.alerts().signals if one.muted]
        assert shown.what == "buyer/null_values/column x"
        assert "muted: buyer/null_values until 2024-04-10T04:00:00Z by ann: the feed is being moved" in (
            project.alerts().lines()
        )
        project.unmute_alerts("buyer/null_values", why="moved", actor="bob")
        project.send_alerts()
        assert subjects(server) == [("alerts", ["begun column x"])]
        assert [d.act for d in project.ledger()] == ["mute", "unmute"]
        assert project.verify_ledger() == 2


def test_a_mute_ends_by_itself(tmp_path: Path) -> None:
    with http_receiver() as server, opened(tmp_path, receiver(server.url)) as project:
        project.mute_alerts("buyer", time="4h", why="w")
        find(project, a_signal(project))
        shop.move(project, 4 * HOUR_US - MINUTE_US)
        project.send_alerts()
        assert server.got == []
        shop.move(project, MINUTE_US)
        project.send_alerts()
        assert len(server.got) == 1
        assert project.alerts().mutes == []


@pytest.mark.parametrize(
    ("what", "time_", "why", "said"),
    [
        ("bayer", "4h", "w", "nothing has this name"),
        ("bayer/no_labels", "4h", "w", "no model 'bayer'"),
        ("buyer/no_lables", "4h", "w", "no kind of signal 'no_lables'"),
        ("", "4h", "w", "nothing has this name"),
        ("buyer", "0s", "w", "more than 0"),
        ("buyer", "400d", "w", "at most 90d"),
        ("buyer", "soon", "w", "'soon' is not a duration"),
        ("buyer", "4h", "  ", "no reason"),
    ],
)
def test_a_mute_of_nothing_or_without_an_end_or_a_reason_is_refused(
    tmp_path: Path, what: str, time_: str, why: str, said: str
) -> None:
    with opened(tmp_path) as project:
        with pytest.raises((NotFound, Misuse), match=said):
            project.mute_alerts(what, time=time_, why=why)
        assert project.ledger() == []


def test_what_is_not_muted_cannot_be_unmuted(tmp_path: Path) -> None:
    with opened(tmp_path) as project, pytest.raises(NotFound, match="Muted: nothing"):
        project.unmute_alerts("buyer")


def test_a_budget_that_is_used_up_is_told_shown_and_ends_in_a_digest(tmp_path: Path) -> None:
    settings = "[alerts]\npages_per_week = 1"
    with http_receiver() as server, opened(tmp_path, receiver(server.url), settings) as project:
        first = a_signal(project, "a")
        find(project, first)
        project.send_alerts()
        assert server.got[0].json["notes"] == [
            "buyer: the weekly limit of immediate alerts is reached (1, red). Others wait for a digest."
        ]
        find(project, first, a_signal(project, "b"), a_signal(project, "c"))
        project.send_alerts()
        assert len(server.got) == 1
        [budget] = project.alerts().budgets
        assert (budget.pages, budget.of, budget.a_week, budget.held) == (1, 1, 0.25, 2)
        shown = "pages: buyer red: 1 of at most 1 in seven days, 0.2 a week over 4 weeks, 2 held back for the digest"
        assert shown in project.alerts().lines()
        shop.move(project, DAY_US)
        project.send_alerts()
        assert subjects(server)[1:] == [("digest", ["begun b", "begun c"])]
        assert server.got[1].json["title"] == "project: 2 alerts held back"


def test_no_secret_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/s3cret")
    monkeypatch.setenv("KEY", "hmac-s3cret")
    settings = [
        '[alerts.receivers.a]\nkind = "slack"\nurl = "$HOOK"',
        receiver("http://127.0.0.1:9/s3cret/path", "b", secret="$KEY"),
    ]
    with opened(tmp_path, *settings) as project:
        find(project, a_signal(project))
        project.send_alerts()
        tested = project.test_alerts()
        shown = "\n".join([*project.alerts().lines(), *project.status().red, repr(tested), repr(project.alerts())])
        assert [one.ok for one in tested] == [False, False]
    assert "s3cret" not in shown
    assert "$HOOK" in shown
    stored = b"".join(path.read_bytes() for path in (tmp_path / "shop" / ".trimtab").rglob("*") if path.is_file())
    assert b"s3cret" not in stored


def test_a_test_alert_goes_to_one_receiver_past_outbox_and_budget(tmp_path: Path) -> None:
    with http_receiver() as server, opened(tmp_path, receiver(server.url)) as project:
        [tested] = project.test_alerts("team")
        assert (tested.receiver, tested.kind, tested.ok, tested.said) == ("team", "webhook", True, "200 ok")
        assert subjects(server) == [("test", [])]
        assert project.alerts().budgets == []
        with pytest.raises(NotFound, match=r"'taem' is not declared. Declared receivers: team"):
            project.test_alerts("taem")


def test_os_environ_is_where_secrets_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as server:
        monkeypatch.setitem(os.environ, "HOOK", server.url)
        with opened(tmp_path, '[alerts.receivers.a]\nkind = "slack"\nurl = "$HOOK"') as project:
            assert project.test_alerts()[0].ok


def test_a_wait_for_the_outbox_is_not_needed_to_see_what_waits(tmp_path: Path) -> None:
    with http_receiver("hang", 200) as server:
        folder = write(tmp_path, receiver(server.url, timeout="30s"))
        with open_project(folder, environment={}) as project:
            project.send_alerts()
            find(project, a_signal(project))
            looking = threading.Thread(target=project.send_alerts)
            looking.start()
            assert server.came.acquire(timeout=30)
            [one] = project.alerts().receivers
            assert (one.waiting, one.delivered) == (1, 0)
            project.send_alerts()  # returns at once
            server.release.set()
            looking.join(30)
            assert not looking.is_alive()


# --- kills at any point

LOOKS = """
import sys
from trimtab.app.project import open_project

with open_project(sys.argv[1], environment={}) as project:
    print("open", flush=True)
    while True:
        project.send_alerts()
"""


def kill_while_it_delivers(tmp_path: Path, kills: int) -> dict[str, int]:
    """Of the alerts of two receivers: how many were lost, came under more than one key, and came again."""
    chance = random.Random(1)
    settings = "[alerts]\npages_per_week = 100000\nflapping = '0s'"
    with http_receiver() as server:
        files = '[alerts.receivers.log]\nkind = "file"\npath = "alerts.jsonl"\n'
        folder = write(tmp_path, receiver(server.url), files, settings)
        with open_project(folder, environment={}) as project:
            project.send_alerts()
            standing: list[Signal] = []
            for number in range(kills):
                command = [sys.executable, "-c", LOOKS, str(folder)]
                with forked.Popen(command, env=shop.environment(), stdout=subprocess.PIPE, text=True) as looking:
                    assert looking.stdout is not None
                    assert looking.stdout.readline() == "open\n"
                    standing.append(a_signal(project, f"column {number}"))
                    find(project, *standing)
                    if number % 2:  # the kill falls anywhere before the delivery, or right behind its arrival
                        while server.came.acquire(blocking=False):
                            pass
                        assert server.came.acquire(timeout=30)
                    time.sleep(chance.random() * (0.004 if number % 2 else 0.05))
                    looking.kill()
            project.send_alerts()
            assert [one.waiting for one in project.alerts().receivers] == [0, 0]
        came = [(post.key, alert["id"]) for post in server.got for alert in post.json["alerts"]]
        lines = map(json.loads, (folder / "alerts.jsonl").read_text().splitlines())
        logged = [(line["key"], line["alert"]["id"]) for line in lines]
    faults = Counter({"lost": 0, "other key": 0, "again": 0})
    for found in (came, logged):
        keys = {one: {key for key, of in found if of == one} for _, one in found}
        faults["lost"] += kills - len(keys)
        faults["other key"] += sum(len(of) > 1 for of in keys.values())
        faults["again"] += len(found) - len(set(found))
    return dict(faults)


def test_whoever_is_killed_while_it_delivers_loses_nothing_and_changes_no_key(tmp_path: Path) -> None:
    faults = kill_while_it_delivers(tmp_path, 6)
    assert (faults["lost"], faults["other key"]) == (0, 0)


@pytest.mark.soak
def test_many_kills_lose_no_alert(tmp_path: Path, soak_report: Callable[..., None]) -> None:
    faults = kill_while_it_delivers(tmp_path, 150)
    soak_report("kill_alerts", runs=150, failures=faults["lost"] + faults["other key"], came_again=faults["again"])
    assert (faults["lost"], faults["other key"]) == (0, 0)
    assert faults["again"]  # else no kill fell between the delivery and the note of it
