"""The gate of a living project: champions of other features, measured time, a person's approval."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
import shop

from trimtab.app.project import Project
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.records import GateRecord
from trimtab.core.time import DAY_US
from trimtab.registry import LoadedModel
from trimtab.steering.gate.version_checks import Proving, fast_enough, loads_in_fresh_process

STRICT = "margin=-0.5, calibration=0.5"


def changed(folder: Path, *changes: tuple[str, str]) -> Path:
    text = shop.PROJECT + shop.ONLINE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "project.py").write_text(text)
    return folder


def retrained(project: Project) -> tuple[list[str], GateRecord]:
    project.apply()
    decisions = project.train("buyer")
    gate = next(d for d in decisions if d.act == "gate")
    return [d.act for d in decisions], project.registry.get_gate(str(gate.evidence["gate"]))


def verdicts(gate: GateRecord) -> dict[str, str]:
    return {one.name: one.verdict for one in gate.findings}


def test_a_champion_of_other_features_answers_with_its_own_for_the_same_requests(trained: Path) -> None:
    with shop.opened(changed(trained, ('{"x": tt.col("x")', '{"twice": tt.col("x") * 0.0'))) as project:
        acts, gate = retrained(project)
        assert acts == ["train", "gate", "promote"]  # no more than .5 worse
        assert gate.champion == project.registry.get("buyer@2").id
        rival = next(one for one in gate.findings if one.name == "rival")
        assert rival.reason.startswith("buyer@1 answered with its own features instead of its refit buyer@2")
        first = project.registry.gates_of(project.registry.get("buyer@1"))[0]
        assert gate.champion_metric == pytest.approx(first.candidate_metric)  # of the same window, as it was judged
        assert gate.difference is not None
        assert gate.difference > 0.05  # the one feature that says something is gone


def test_new_definitions_that_lose_what_the_old_ones_knew_are_refused(trained: Path) -> None:
    strict = (STRICT, "calibration=0.5")
    with shop.opened(changed(trained, strict, ('{"x": tt.col("x")', '{"none": tt.col("x") * 0.0'))) as project:
        acts, gate = retrained(project)
        assert acts[-1] == "refuse"
        assert not gate.checks["better_by_margin"]


def test_a_champion_whose_request_columns_are_gone_cannot_be_asked_and_the_record_says_so(trained: Path) -> None:
    with shop.opened(
        changed(trained, ('"at": tt.Time, "x": float})', '"at": tt.Time})'), ('{"x": tt.col("x"), ', "{"))
    ) as project:
        acts, gate = retrained(project)
        assert acts[-1] == "promote"
        assert gate.champion_metric is None
        assert verdicts(gate)["rival"] == "no evidence"
        assert "needs a column 'x'" in gate.reason


def test_virtual_time_measures_no_latency_and_no_process_and_says_so(trained: Path) -> None:
    rules = f'{STRICT}, latency="5ms", slices={{"site": tt.col("site")}}'
    with shop.opened(changed(trained, (STRICT, rules), ('{"x"', '{"also": tt.col("x") + 1.0, "x"'))) as project:
        acts, gate = retrained(project)
        assert acts[-1] == "promote"
        found = verdicts(gate)
        assert (found["latency"], found["fresh_process"]) == ("not measured", "not measured")
        assert "latency" not in gate.checks
        assert {name for name in found if name.startswith("slice ")} == {"slice site=north", "slice site=south"}


def test_a_new_process_loads_a_version_and_a_damaged_one_is_refused_with_the_cause(trained: Path) -> None:
    from trimtab.app.training.fresh_process import loads_in_new_process

    with shop.opened(trained) as project:
        version = project.registry.get("buyer@2")
        proving = Proving(lambda one: loads_in_new_process(project.config, project.state_folder, one), time.time_ns)
        assert loads_in_fresh_process(proving, version).verdict == "held"
        (blob,) = [one for one in project.state_folder.rglob(f"*{version.artifact[2:]}*") if one.is_file()]
        blob.chmod(0o644)
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 255
        blob.write_bytes(bytes(data))
        check = loads_in_fresh_process(proving, version)
        assert check.verdict == "failed"
        assert version.artifact[:12] in check.reason


class Slow:
    """A scorer under which a stopwatch goes on by some microseconds a row, and now and then by more."""

    def __init__(self, row_us: int) -> None:
        self.row_us = row_us
        self.now_ns = 0
        self.calls = 0

    def stopwatch_ns(self) -> int:
        return self.now_ns

    def predict_row(self, row: list[float]) -> float:
        self.calls += 1
        busy = self.calls <= 20 and self.calls % 3 == 0  # the first round is disturbed
        self.now_ns += (50 if busy else 1) * self.row_us * 1_000
        return 0.5


@pytest.mark.parametrize(("row_us", "verdict"), [(1_000, "held"), (9_000, "failed")])
def test_the_best_round_of_one_row_predictions_is_held_against_the_limit(
    trained: Path, row_us: int, verdict: str
) -> None:
    slow = Slow(row_us)
    with shop.opened(trained) as project:
        loaded: LoadedModel = msgspec.structs.replace(
            project.registry.load(project.registry.get("buyer@2")),
            scorer=slow,  # type: ignore[arg-type]  # one row at a time is all that is measured
        )
    sample = Columns.of(
        {"x": ("float", [0.1, 0.2]), "site": ("str", ["north", None]), "site.level": ("float", [1.0, None])}
        | {"site.level_1d": ("float", [1.0, None])}
    )
    check = fast_enough(Proving(lambda version: None, slow.stopwatch_ns), loaded, sample, limit_us=5_000)
    assert (check.verdict, check.figure) == (verdict, pytest.approx(row_us / 1e3))
    assert "a p99 of 5 ms is allowed" in check.reason


def test_a_person_approves_or_rejects_what_passed_and_the_status_shows_who_waits(trained: Path) -> None:
    approval = ("**rules)", 'approval="2d", **rules)')
    more = ('{"x"', '{"also": tt.col("x") + 1.0, "x"')
    with shop.opened(changed(trained, approval, more)) as project:
        project.apply()
        assert [d.act for d in project.train("buyer")] == ["train", "gate", "ask"]
        assert "buyer@4 passed, and waits for approval." in [run.outcome for run in project.runs("buyer")]
        phase = project.status().deployments[0].phase
        assert phase.startswith("buyer@4 waits for approval until 2024-04-12T00:00:00Z: trimtab approve buyer, or")
        project.freeze("Holidays.")
        assert "trimtab approve buyer (after: trimtab unfreeze), or" in project.status().deployments[0].phase
        project.unfreeze("Back.")
    with shop.opened(trained) as project:  # another process
        with pytest.raises(Conflict, match="A candidate waits for approval"):
            project.train("buyer")
        assert [d.act for d in project.approve("buyer", why="Looked at it.", actor="Ada")] == ["approve", "promote"]
        assert project.registry.get("buyer@champion").number == 4
        assert project.status().deployments[0].phase == "idle"
        assert [(d.actor, d.cause) for d in project.ledger() if d.act == "approve"] == [("Ada", "Looked at it.")]
        assert project.predict("buyer", [shop.visit("a", shop.NOW_US)])[0].version == "buyer@4"
        with pytest.raises(Conflict, match="no candidate waits for approval"):
            project.reject("buyer", why="Too late.")


def test_without_a_name_the_only_candidate_that_waits_is_meant(trained: Path) -> None:
    approval = ("**rules)", 'approval="2d", **rules)')
    more = ('{"x"', '{"also": tt.col("x") + 1.0, "x"')
    before = ('buyer("buyer", batch)', 'buyer("first", batch)\nbuyer("buyer", batch)')
    with shop.opened(changed(trained, approval, more, before)) as project:
        for call in (project.approve, lambda: project.reject(why="x")):
            with pytest.raises(Conflict, match="no candidate of first, buyer, learner waits for approval"):
                call()
        for call in (project.train, project.search):
            with pytest.raises(Misuse, match=r"no model is named, and there are first, buyer, learner\. Name one"):
                call()
        project.apply()
        assert [d.act for d in project.train("buyer")] == ["train", "gate", "ask"]
        assert [(d.act, d.model) for d in project.reject(why="x")] == [("reject", "buyer")]
        assert [d.act for d in project.train("buyer")] == ["train", "gate", "ask"]
        assert [(d.act, d.model) for d in project.approve()] == [("approve", "buyer"), ("promote", "buyer")]


def test_who_is_rolled_back_under_it_leaves_a_candidate_that_nobody_can_approve(trained: Path) -> None:
    approval = ("**rules)", 'approval="2d", **rules)')
    with shop.opened(changed(trained, ('{"x"', '{"also": tt.col("x") + 1.0, "x"'))) as project:
        retrained(project)
    with shop.opened(changed(trained, approval, ('{"x"', '{"more": tt.col("x") + 2.0, "x"'))) as project:
        assert retrained(project)[0][-1] == "ask"
        project.roll_back("buyer", why="A test.")
        with pytest.raises(Conflict, match="The candidate was dropped; train another one"):
            project.approve("buyer")
        assert project.ledger()[-1].act == "refuse"
        with pytest.raises(Misuse, match="why"):
            project.reject("buyer", why="")


def test_without_an_answer_a_tick_drops_the_candidate(trained: Path) -> None:
    approval = ("**rules)", 'approval="2d", **rules)')
    with shop.opened(changed(trained, approval, ('{"x"', '{"also": tt.col("x") + 1.0, "x"'))) as project:
        assert retrained(project)[0][-1] == "ask"
    with shop.opened(trained, shop.NOW_US + 3 * DAY_US) as project:
        assert "waited for approval until" in project.status().deployments[0].phase
        assert [d.act for d in project.tick()] == ["expire"]
        assert project.status().deployments[0].phase.startswith("idle; an alarm begins no training until 2024-")


def test_a_candidate_is_dropped_if_no_approval_is_declared_any_more(trained: Path) -> None:
    declared = (trained / "project.py").read_text()
    approval = ("**rules)", 'approval="2d", **rules)')
    also = ('{"x"', '{"also": tt.col("x") + 1.0, "x"')
    with shop.opened(changed(trained, approval, also)) as project:
        assert retrained(project)[0][-1] == "ask"
    (trained / "project.py").write_text(declared.replace(*also))
    with shop.opened(trained, shop.NOW_US + DAY_US) as project:
        (decision,) = project.tick()
        assert (decision.act, decision.cause) == (
            "refuse", "The deployment no longer declares an approval. Train again."
        )  # fmt: skip
