"""The status as text: red first, warnings next, ages instead of times."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import shop
from hypothesis import given
from hypothesis import strategies as st

from trimtab.app.inspect.status import _began_with, _reference_in_words
from trimtab.app.inspect.status_text import with_ages
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, SECOND_US, format_age, format_time
from trimtab.monitoring.signals import settle_signals
from trimtab.registry.protection import CHAMPION
from trimtab.registry.versions import Act
from trimtab.testing.builders import a_signal

ISO = re.compile(r"\d\d:\d\d:\d\d")


def test_what_is_red_stands_first_and_then_warnings(trained: Path) -> None:
    now_us = shop.NOW_US + 3 * HOUR_US + 123_456
    with shop.opened(trained, now_us) as project:
        project.freeze("strange data")
        status = project.status()
        plain = msgspec.structs.replace(status, red=[]).lines()
        found = msgspec.structs.replace(
            status,
            red=["buyer: something is wrong since 2024-04-09T00:00:00.5Z"],
            unapplied=["view site"],
        ).lines()
    assert not any(line.startswith("RED") for line in plain)
    assert re.fullmatch(r"2024-04-10 03:00 UTC: nothing is red, \d+ warnings?", plain[0])
    assert found[0].startswith("2024-04-10 03:00 UTC: 1 red, ")
    assert found[1] == "RED  buyer: something is wrong for 27 h"
    kinds = [line[:4] for line in found[2:]]
    count = kinds.count("WARN")
    assert kinds[:count] == ["WARN"] * count != []
    assert "WARN FROZEN: no automation until `trimtab unfreeze`" in found
    assert "WARN not applied: view site (changed in the project file; see: trimtab plan)" in found
    assert "buyer: buyer@2 in service for 3 h, trained on what was known 3 h ago" in found
    assert [line for line in plain + found if ISO.search(line)] == []


def test_a_signal_is_as_old_as_its_raising_and_the_date_of_its_change_is_another(trained: Path) -> None:
    with shop.opened(trained) as project:
        status = project.status()
    onset_us, raised_us = shop.NOW_US - 19 * DAY_US, shop.NOW_US - 5 * DAY_US
    ended = a_signal(
        raised_us, onset_us=onset_us, ended_at_us=shop.NOW_US - 2 * DAY_US, ended_because="The values are back."
    )
    known = a_signal(raised_us, onset_us=onset_us, severity="info")
    raised = f"raised 5 d ago (the change began about {format_time(onset_us)[:10]})"
    assert msgspec.structs.replace(status, signals=[ended, known]).lines()[-2:] == [
        f"was red, {raised}, ended 2 d ago: The values are back.  m: Half of x is null.",
        f"info, {raised}  m: Half of x is null.",
    ]


def test_the_source_of_a_models_requests_does_not_look_like_a_feed_that_stopped(trained: Path) -> None:
    with shop.opened(trained, shop.NOW_US + 55 * DAY_US) as project:
        status = project.status()
    assert [one.name for one in status.sources if one.is_request] == ["visit"]
    lines = [one for one in status.lines() if re.match(r"(visit|sales) +[\d,]+ events", one)]
    assert [one.partition(", newest ")[2].partition(" ago")[2] for one in lines] == [
        "", " (answered requests are logged as predictions)"
    ]  # fmt: skip


def test_a_quality_that_is_provisional_is_a_warning(trained: Path) -> None:
    with shop.opened(trained) as project:
        status = project.status()
        (first, *_) = status.deployments
        known = project.loop("buyer").monitor.watch
        assert known is not None
        found = _reference_in_words(known)
        watch = f"quality steady, last closed day 2024-04-08{found}"
        lines = msgspec.structs.replace(status, deployments=[msgspec.structs.replace(first, watch=watch)]).lines()
    days = min(figure.spec.reference_blocks for figure in known.figures.values())
    grows = f"the reference has only {days} days; closed days are added until it has 28"
    assert found == f" (provisional: {grows})"
    assert f"WARN buyer: the normal quality is provisional: {grows}" in lines
    assert any(line.startswith("  quality steady, last closed day 2024-04-08 (provisional); ") for line in lines)


def test_quality_is_not_called_steady_while_no_labels_have_arrived(trained: Path) -> None:
    rows = [{"visit_id": "", "site": "north", "at": "", "x": 0.1 * n} for n in range(30)]
    found = []
    with shop.opened(trained) as project:
        for day in range(6):
            asked = [{**row, "visit_id": f"{day}-{n}", "at": project.clock.now_us()} for n, row in enumerate(rows)]
            for n, answer in enumerate(project.predict("buyer", asked)):
                if day in (1, 2, 4):
                    project.label(answer.id, n / 30 < answer.score)
            shop.move(project, DAY_US)
            project.tick()
            found.append(project.status().deployments[0].watch)
    assert [one.partition(", last closed")[0] for one in found[2:]] == [  # labels take two days
        "quality not known: no labels have arrived yet for the closed days",
        "quality steady",
        "quality steady",
        "quality steady, but no labels have arrived for the newest 1 day",
    ]


@pytest.mark.parametrize(
    ("act", "actor", "since_day", "earlier_alarm", "began"),
    [
        ("move", "Ada", -16, None, True),  # the reference days of the new version show it
        ("move", "Ada", 0, None, True),
        ("move", "Ada", 3, None, False),  # the data changed later
        ("move", "policy", -16, None, False),  # it passed its gate
        ("roll_back", "Ada", -16, None, False),
        ("move", "Ada", -16, (-10, 0), False),  # the replaced version had an alarm
        ("move", "Ada", -16, (-30, -20), True),
    ],
)
def test_an_alarm_began_with_a_version_that_a_person_put_in_service_instead_of_a_healthy_one(
    trained: Path, act: Act, actor: str, since_day: int, earlier_alarm: tuple[int, int] | None, began: bool
) -> None:
    with shop.opened(trained) as project:
        version = project.registry.get("buyer@champion")
        move = msgspec.structs.replace(
            project.registry.history("buyer", CHAMPION)[-1], act=act, actor=actor, previous="v1", at_us=shop.NOW_US
        )
        if earlier_alarm is not None:
            raised_us, ended_us = (shop.NOW_US + day * DAY_US for day in earlier_alarm)
            alarm = a_signal(raised_us, kind="quality_loss", model="buyer", version="v1")
            for now_us, found in ((raised_us, [alarm]), (ended_us, [])):
                catalog = project.state.catalog
                catalog.write(settle_signals(catalog, "buyer", ("quality_loss",), found, now_us=now_us)[1])
        assert _began_with(project, version, move, shop.NOW_US + since_day * DAY_US) == began


@pytest.mark.fast
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("since 2024-03-01T00:00:00Z", "for 24 h"),
        ("until 2024-03-05T00:00:00.123456Z at most", "for 3 d more at most"),
        ("until 2024-02-01T00:00:00Z", "until 2024-02-01T00:00:00Z"),
        ("stamped at 2024-03-01T23:59:59Z", "stamped 1 s ago"),
        ("2024-03-01T23:00:00Z promote: 2024-03-01", "60 min ago promote: 2024-03-01"),
        ("id 2024-03-01", "id 2024-03-01"),
    ],
)
def test_times_become_ages(text: str, shown: str) -> None:
    now_us = 1_709_337_600_000_000  # 2024-03-02
    assert with_ages(text, now_us) == shown


@given(st.integers(-(400 * DAY_US), 400 * DAY_US))
def test_an_age_has_at_most_a_few_digits_and_the_right_size(us: int) -> None:
    shown = format_age(us)
    if shown == "just now":
        assert abs(us) <= SECOND_US // 2
        return
    count, unit = re.fullmatch(r"(?:in )?(\d+) (s|min|h|d)(?: ago)?", shown).groups()  # type: ignore[union-attr]
    size_us = int(count) * {"s": SECOND_US, "min": MINUTE_US, "h": HOUR_US, "d": DAY_US}[unit]
    assert abs(size_us - abs(us)) <= max(0.26 * abs(us), SECOND_US / 2)
    assert (us > 0) == shown.endswith("ago")
    assert not ISO.search(with_ages(f"at {format_time(us + 10**15)}", 10**15))


def test_after_a_refusal_a_project_without_a_version_is_not_only_told_to_train_again(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path)
    with shop.opened(folder) as project:
        shop.load(project)
        assert any("no version is in service; run: trimtab train" in line for line in project.status().red)
    text = (folder / "project.py").read_text()
    (folder / "project.py").write_text(text.replace("calibration=0.5", "calibration=0.000001"))
    with shop.opened(folder) as project:
        assert [one.act for one in project.train("buyer")][-1] == "refuse"
        (line,) = [one for one in project.status().red if "no version is in service" in one]
        assert "the last candidate was refused" in line
