"""`project.quality()` and `trimtab quality` over closed blocks of a real loop."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import block_process
import msgspec
import pytest
from click.testing import CliRunner
from test_block_kills import prepared

import trimtab as tt
from trimtab.cli.group import trimtab
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.time import DAY_US, MINUTE_US
from trimtab.store.ports import Append
from trimtab.testing.builders import a_signal

NOW_US, STEP_US, A_DAY = block_process.NOW_US, block_process.STEP_US, block_process.A_DAY
DAYS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has answered for sixteen days."""
    made = prepared(tmp_path_factory.mktemp("quality") / "p")
    block_process.lived(made, DAYS)
    return made


@pytest.fixture
def project(folder: Path) -> Iterator[tt.Project]:
    with tt.open(folder, clock=VirtualClock(NOW_US + DAYS * DAY_US), environment={}) as opened:
        yield opened


def naive(project: tt.Project) -> dict[tuple[int, str, str], list[tuple[float, float | None]]]:
    """By day, arm and site what was answered, and the label that was known within the wait."""
    known: dict[str, tuple[float, int]] = {}
    for step in range(DAYS * A_DAY):
        for row in block_process.labels(step).to_rows():
            if row["closed_at"] > NOW_US + step * STEP_US + 5 * MINUTE_US:
                continue  # dated ahead: set aside, never a label
            known.setdefault(row["id"], (row["bought"], max(NOW_US + step * STEP_US, row["closed_at"])))
    found = defaultdict(list)
    for block in project.predictions.scan():
        for p in block:
            label = known.get(p.request_id)
            there = label is not None and label[1] <= p.at_us + DAY_US
            site = ["north", "south", "east"][int(p.id.split("_")[2]) % 3]
            value = label[0] if there and label is not None else None
            found[p.at_us // DAY_US * DAY_US, p.arm, site].append((p.score, value))
    return found


@pytest.mark.slow
def test_days_are_what_a_plain_reading_of_the_logs_gives(project: tt.Project) -> None:
    rows = project.quality().to_rows()
    expected = naive(project)
    assert len(rows) > 20
    for row in rows:
        mine = [
            one for (day, arm, _), some in expected.items() if (day, arm) == (row["block"], row["arm"]) for one in some
        ]
        labelled = [(s, y) for s, y in mine if y is not None]
        losses = [-math.log(s if y else 1 - s) for s, y in labelled]
        assert (row["predictions"], row["labelled"]) == (len(mine), len(labelled))
        assert row["missing"] == len(mine) - len(labelled)
        assert row["loss"] == pytest.approx(math.fsum(losses) / len(losses))
        assert row["score"] == pytest.approx(sum(s for s, _ in labelled) / len(labelled))
        assert row["loss_low"] < row["loss"] < row["loss_high"]
        assert row["version"].startswith("one@")


def test_longer_blocks_and_hours_add_up(project: tt.Project) -> None:
    def total(rows: list[dict[str, Any]], name: str) -> float:
        return math.fsum(row[name] * row["labelled"] for row in rows)

    days = project.quality().to_rows()
    for by in ("hour", "week", "month", "all"):
        rows = project.quality(by=by).to_rows()  # type: ignore[arg-type]
        assert sum(row["predictions"] for row in rows) == sum(row["predictions"] for row in days)
        known = [row for row in rows if row["labelled"]]
        assert total(known, "loss") == pytest.approx(total(days, "loss"))
        assert total(known, "excess_loss") == pytest.approx(total(days, "excess_loss"))
    assert len({row["block"] for row in project.quality(by="month").to_rows()}) == 1
    firsts: dict[str, int] = {}
    for row in days:
        firsts[row["version"] + row["arm"]] = min(row["block"], firsts.get(row["version"] + row["arm"], row["block"]))
    whole = {row["version"] + row["arm"]: row["block"] for row in project.quality(by="all").to_rows()}
    assert whole == firsts  # the block of all days begins with the first of them
    weeks = {row["block"] for row in project.quality(by="week").to_rows()}
    assert all((week // DAY_US + 3) % 7 == 0 for week in weeks)


def test_slices_are_what_expressions_over_the_request_say(project: tt.Project) -> None:
    def figures(slices: str) -> dict[tuple[str, str], tuple[int, int, float]]:
        rows = project.quality(slices=slices, by="all").to_rows()
        return {(row["arm"], row["slice"]): (row["predictions"], row["labelled"], row["loss"]) for row in rows}

    by_site, northern, by_side = figures("site"), figures("northern"), figures("side")
    assert {name for _, name in northern} == {"northern"}
    assert {name for _, name in by_side} == {"side=left", "side=right"}
    for arm in ("champion", "canary"):
        assert northern[arm, "northern"] == by_site[arm, "site=north"]
        assert by_side[arm, "side=right"] == by_site[arm, "site=east"]
        north, south = by_site[arm, "site=north"], by_site[arm, "site=south"]
        assert by_side[arm, "side=left"][:2] == (north[0] + south[0], north[1] + south[1])
    watch = project.loop("one").monitor.watch
    assert watch is not None
    assert watch.slices.keys() == {"site=north", "northern", "side=left"}  # all of the history was in the north
    assert watch.slices["northern"].spec == watch.slices["site=north"].spec
    said = CliRunner().invoke(
        trimtab, ["--project", str(project.config.folder), "quality", "show", "one", "--slices", "northern"]
    )
    assert "northern" in said.output


def test_slices_are_those_of_the_request(project: tt.Project) -> None:
    expected = naive(project)
    rows = project.quality(slices="site", by="all").to_rows()
    assert {row["slice"] for row in rows} == {"site=north", "site=south", "site=east"}
    last_us = max(row["block"] for row in project.quality().to_rows())
    for row in rows:
        mine = [
            one
            for (day, arm, site), some in expected.items()
            if day <= last_us and arm == row["arm"] and row["slice"] == f"site={site}"
            for one in some
        ]
        assert row["predictions"] == len(mine)
        assert row["labelled"] == sum(y is not None for _, y in mine)
    with pytest.raises(Misuse, match=r"no slices by 'x' are kept. There are: northern, side, site"):
        project.quality(slices="x")
    with pytest.raises(Misuse, match="slices are kept by the day"):
        project.quality(slices="site", by="hour")


def test_late_labels_amend_a_closed_day_beside_what_it_was(project: tt.Project) -> None:
    first = {row["arm"]: row for row in project.quality(until=NOW_US + DAY_US).to_rows()}
    amended = {row["arm"]: row for row in project.quality(until=NOW_US + DAY_US, amended=True).to_rows()}
    for arm, row in first.items():
        assert row["amended"]
        assert row["late"] == 0
        assert amended[arm]["late"] > 0
        assert amended[arm]["labelled"] == row["labelled"] + amended[arm]["late"]


def test_one_version_and_a_span_of_days(project: tt.Project) -> None:
    rows = project.quality(since=NOW_US + 2 * DAY_US, until="2024-03-05", version="one@champion").to_rows()
    assert {row["block"] for row in rows} == {NOW_US + 2 * DAY_US, NOW_US + 3 * DAY_US}
    assert not project.quality(since=NOW_US + 300 * DAY_US).rows
    with pytest.raises(Misuse, match=r"by='year'. Needed: one of hour, day"):
        project.quality(by="year")  # type: ignore[arg-type]


def test_nothing_to_accept_is_a_conflict(project: tt.Project) -> None:
    with pytest.raises(Misuse, match="Give one sentence"):
        project.accept_level(why=" ")
    with pytest.raises(Conflict, match=r"no signal `quality_level` .* is open"):
        project.accept_level(why="because")


def test_the_command_shows_a_table_and_a_plot(folder: Path) -> None:
    def ran(*arguments: str, as_json: bool = False) -> str:
        before = ["--project", str(folder), *(["--json"] if as_json else [])]
        found = CliRunner().invoke(trimtab, [*before, "quality", *arguments])
        assert found.exit_code == 0, found.output
        return found.output

    shown = ran("--until", "2024-03-08")
    assert "2024-03-02" in shown
    assert "excess loss" in shown
    assert any(block in shown for block in "▁▂▃▄▅▆▇█")
    assert "site=north" in ran("--slices", "site", "--by", "all")
    rows = [json.loads(line) for line in ran("--by", "week", as_json=True).splitlines()]
    assert rows[0]["model"] == "one"
    assert "There are no closed days for these options." in ran("--since", "2030-01-01")


def test_the_page_tells_days_slices_signals_and_decisions(project: tt.Project, tmp_path: Path) -> None:
    now_us = project.clock.now_us()
    ended = a_signal(
        now_us - 20 * DAY_US, id="e", model="one", kind="quality_loss", subject="", onset_us=now_us - 21 * DAY_US
    )
    ended = msgspec.structs.replace(ended, ended_at_us=now_us - 10 * DAY_US, ended_because="one@1 was put in service")
    project.state.catalog.write([Append("signals", 0, msgspec.json.encode(ended))])
    file = project.quality_page("one", to=tmp_path / "new")
    assert file == tmp_path / "new" / "one-quality.html"
    page = file.read_text()
    for heading in ("Open signals", "Days", "Slices", "Decisions"):
        assert f">{heading}</h2>" in page
    for title in ("Loss", "Mean score and mean label of champion", "Share of predictions that have a label"):
        assert f"<title>{title}</title>" in page or f">{title}</text>" in page
    for signal in (one for one in project.signals() if one.ended_at_us is None):
        assert escape(signal.message) in page
    # signals that ended more than a week ago are in the table and, as vertical lines, in the plots
    assert "one@1 was put in service" in page[page.index("Signals that ended in the last 120 days") :]
    assert page.count(">quality_loss</text>") >= 3
    parts = [row for name in ("site", "side", "northern") for row in project.quality(slices=name, by="all").to_rows()]
    many = [row for row in parts if row["labelled"] >= 30]
    worst = {row["slice"] for row in many if row["loss_low"] == max(one["loss_low"] for one in many)}
    first = page[page.index(">Slices</h2>") :].partition("</td>")[0]
    assert first.endswith(tuple(worst))
    assert "No version is in service yet." in page  # why the first one was trained


def test_the_command_writes_the_page(folder: Path, tmp_path: Path) -> None:
    at = tmp_path / "q.html"
    ran = CliRunner().invoke(trimtab, ["--project", str(folder), "quality", "show", "one", "--page", str(at)])
    assert (ran.exit_code, ran.output) == (0, f"Written: {at}\n")
    assert at.read_text().startswith("<!doctype html>")
    refused = CliRunner().invoke(trimtab, ["--project", str(folder), "quality", "--page", str(at), "--by", "week"])
    assert refused.exit_code == 2
    assert "--by has no effect with --page, which has its own blocks." in refused.output
    nowhere = CliRunner().invoke(trimtab, ["--project", str(folder), "quality", "--page", "/proc/none/q.html"])
    assert nowhere.exit_code != 0
    assert "Check free space and access, then try again." in nowhere.output
