"""A rollout in a project: the shadow over what was asked, the canary's share, and what is shown of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import shop

from trimtab.app.project import Project
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.monitoring.inputs.red_windows import KIND as RED
from trimtab.monitoring.inputs.red_windows import RedWindow
from trimtab.serving.arms.arm_counts import ServiceMetrics
from trimtab.serving.arms.arm_metrics import KIND as ARM_FIGURES
from trimtab.serving.arms.arms import CANARY, ArmShares, arm_shares
from trimtab.serving.arms.arms import KIND as ARMS
from trimtab.store import Put

STAGES = 'shadow="2d", margin=0.5, canary=[0.5], step="1h"'


def with_stages(folder: Path, stages: str, more: str = "") -> Path:
    declared = f'buyer("buyer", batch, rollout=tt.rollout({stages}){more})'
    project = shop.PROJECT.replace('buyer("buyer", batch)', declared)
    (folder / "project.py").write_text(project + shop.ONLINE)
    return folder


def answered(project: Project, version: str, requests: int) -> None:
    """What a service would have written of a canary."""
    figures = ServiceMetrics(model="buyer", version=project.registry.get(version).id, arm=CANARY, requests=requests)
    minute = project.clock.now_us() // MINUTE_US
    key = f"buyer/{figures.version}/{CANARY}/{minute:012d}/test"
    project.state.catalog.write([Put(ARM_FIGURES, key, msgspec.json.encode(figures))])


@pytest.fixture
def rolled(trained: Path) -> Path:
    return with_stages(trained, STAGES)


@pytest.mark.parametrize("served", [True, False])
def test_a_promotion_goes_through_shadow_and_canary(rolled: Path, served: bool) -> None:
    rng = np.random.default_rng(2)
    with shop.opened(rolled) as project:
        found = project.promote("buyer@1", why="The smaller one.", actor="Ada")
        assert (found.state, [d.act for d in found.decisions]) == ("in its rollout", ["gate", "shadow"])
        assert project.registry.get("buyer@champion").number == 2
        acts: list[str] = []
        while "canary" not in acts:
            assert len(project.loop("buyer").controller.state.shadow) < 7
            shop.a_day_of_visits(project, rng, 20)
            acts += [d.act for d in project.tick() if d.model == "buyer"]
        assert acts == ["compare", "canary"]
        compared = next(d for d in project.ledger() if d.act == "compare")
        assert compared.actor == "Ada"
        rows = compared.evidence["shadow_rows"]
        assert isinstance(rows, int)
        assert rows >= 2 * 20  # logged requests; before them there are days of history that neither had seen
        assert arm_shares(project.state.catalog, "buyer").canary == 0.5
        assert project.registry.aliases("buyer")[CANARY].version == project.registry.get("buyer@1").id
        (line,) = [one for one in project.status().lines() if "canary 50% stage" in one]
        assert "canary 50% stage. It lasts for 60 min more at least, and until the canary has answered 50" in line
        shop.move(project, HOUR_US)
        (line,) = [one for one in project.status().lines() if "canary 50% stage" in one]
        assert "It waits until the canary has answered 50 requests, or is refused in 23 h. " in line
        assert project.tick() == []  # it has answered nobody yet
        if served:
            answered(project, "buyer@1", 100)
        else:  # in Python, only the log shows who answered
            now_us = project.clock.now_us()
            one = project.predictions.find(project.predict("buyer", [shop.visit("c", now_us)])[0].id)
            canary = msgspec.structs.replace(one, arm=CANARY, version=project.registry.get("buyer@1").id)
            project.predictions.append([msgspec.structs.replace(canary, id=f"p_{n}") for n in range(50)])
        assert [d.act for d in project.tick()] == ["promote"]
        assert project.registry.get("buyer@champion").number == 1
        assert arm_shares(project.state.catalog, "buyer").canary == 0.0
        phase = project.status().deployments[0].phase
        assert phase.startswith("idle; buyer@1 may be rolled back until 2024-")
        assert "may be rolled back for 60 min more, if" in "".join(project.status().lines())
        assert project.verify_ledger() == len(project.ledger())


def test_what_is_shown_of_a_rollout(rolled: Path) -> None:
    with shop.opened(rolled) as project:
        first = project.stages("buyer")[0]
        assert (first.name, first.state) == ("watch", "now")
        project.promote("buyer@1", why="The smaller one.", actor="Ada")
        found = project.stages("buyer")
        assert [(one.name, one.state) for one in found] == [
            ("wait for labels", "done"),
            ("fit and judge", "done"),
            ("shadow", "now"),
            ("canary 50%", "next"),
            ("promote", "next"),
            ("bake", "next"),
            ("watch", "next"),
        ]
        assert found[2].said.startswith("No day has been compared yet")
        assert "left out" not in found[2].said
        red = RedWindow(id="w", model="buyer", kind="null_values", subject="column x", start_us=0, end_us=None)
        project.state.catalog.write([Put(RED, "buyer/w", msgspec.json.encode(red))])
        assert project.stages("buyer")[2].said == (
            f"{found[2].said} Days are left out for: null_values of column x since 2024-04-08. "
            "To list them: trimtab quality exclusions buyer."
        )
        (shown,) = [one for one in project.status().deployments if one.model == "buyer"]
        assert shown.phase.startswith("buyer@1 in its shadow stage until 2024-0")
        with pytest.raises(Conflict, match="in its shadow stage"):
            project.promote("buyer@1")
        assert [d.act for d in project.reject("buyer", why="We know of a bug in it.")] == ["reject"]
        assert project.stages("buyer")[0].state == "now"


def test_another_canary_is_not_overwritten(rolled: Path) -> None:
    with shop.opened(with_stages(rolled, "canary=[0.5]")) as project:
        project.set_arm("buyer@2", CANARY, share=0.1, why="Somebody looks at the champion itself.")
        assert project.promote("buyer@1", why="The smaller one.").state == "refused"
        assert "another version answers 10% of the requests as the canary" in project.ledger()[-1].cause
        project.set_arm("buyer", CANARY, share=0.0)
        assert project.promote("buyer@1", why="The smaller one.").state == "in its rollout"


def test_a_scheduled_training_waits_while_an_experiment_splits_the_requests(rolled: Path) -> None:
    with shop.opened(with_stages(rolled, "canary=[0.5]", ', retrain=tt.every("1d")')) as project:
        shares = ArmShares(canary=0.5, experiment="smaller")
        project.state.catalog.write([Put(ARMS, "buyer", msgspec.json.encode(shares))])
        shop.move(project, 9 * DAY_US)
        assert [row.act for row in project.tick()] == ["trigger"]
        said = "The experiment 'smaller' splits the requests, so no candidate can be the canary. Wait, or stop it: "
        said += "trimtab experiment stop smaller --why TEXT"
        assert project.status().deployments[0].phase.endswith(f" Not yet: {said}")
        assert project.promote("buyer@1", why="The smaller one.").state == "refused"
        assert project.ledger()[-1].cause == f"rollout of 'buyer': {said}"


def test_a_candidate_of_a_definition_that_was_changed_is_dropped_and_trained_again(rolled: Path) -> None:
    rng, acts = np.random.default_rng(2), list[str]()
    with shop.opened(with_stages(rolled, STAGES, ', retrain=tt.every("1d")')) as project:
        for _ in range(12):
            shop.a_day_of_visits(project, rng, 20)
            acts += [row.act for row in project.tick()] if "shadow" not in acts else []
        assert acts[-1] == "shadow"
        now_us = project.clock.now_us()
    text = (rolled / "project.py").read_text()
    (rolled / "project.py").write_text(text.replace("return LogisticRegression()", "return LogisticRegression(C=0.5)"))
    with shop.opened(rolled, now_us) as project:
        project.apply()
        (dropped,) = project.tick()
        assert (dropped.act, dropped.cause[:35]) == ("supersede", "The model is declared in another wa")
        begun = project.tick()
        assert begun[0].act == "trigger"
        trained = next(row for row in begun if row.act == "train")
        assert project.registry.get(str(trained.version)).recipe == project.definitions.models["buyer"].hash


def test_what_was_refused_in_its_rollout_needs_a_new_gate(rolled: Path) -> None:
    stages = 'shadow="2d", margin=0.5, canary=[0.5], step="1h", within="4d"'
    with shop.opened(with_stages(rolled, stages)) as project:
        gate = project.promote("buyer@1", why="The smaller one.", actor="Ada").gate
        version, registry = project.registry.get("buyer@1"), project.registry
        assert gate is not None
        assert registry.passed_gate(version) is not None
        while not (ended := [row for row in project.tick() if row.act == "refuse"]):
            shop.move(project, DAY_US)  # nobody asks, so the shadow compares nothing
        assert registry.passed_gate(version) is None
        (record,) = [one for one in registry.gates_of(version) if "rollout" in one.checks]
        assert (record.checks, record.reason, record.difference) == ({"rollout": False}, ended[0].cause, None)
        with pytest.raises(Misuse, match="the version has no passed gate record"):
            project.set_arm("buyer@1", CANARY, share=0.3)
        said = rf"{gate.id}, the version was refused in its rollout on 2024-\d\d-\d\d: .*trimtab promote buyer@1"
        with pytest.raises(Misuse, match=said):
            registry.move("buyer", "champion", version, gate=gate.id, why="I know better than that.")
        assert record.reason in registry.card(version)
        registry.protect("buyer", CANARY, "gate", why="askers see its answers")
        with pytest.raises(Misuse, match="no gate record"):
            project.set_arm("buyer@1", CANARY, share=0.3, why="I know better than that.")
        project.registry.put_gate(msgspec.structs.replace(gate, id="again", judged_at_us=project.clock.now_us() + 1))
        project.set_arm("buyer@1", CANARY, share=0.3)
        assert registry.history("buyer", CANARY)[-1].gate == "again"


def test_stages_over_http_and_in_the_terminal(rolled: Path) -> None:
    with shop.opened(rolled) as project:
        project.promote("buyer@1", why="The smaller one.", actor="Ada")
    with shop.serving(rolled) as (_, url):
        status, body = shop.call(f"{url}/v1/models/buyer/stages")
        assert status == 200
        (now,) = [one for one in body["stages"] if one["state"] == "now"]
        assert now["name"] == "shadow"
        assert shop.call(f"{url}/v1/models/nope/stages")[0] == 404
        assert "Stages of the loop" in shop.call(f"{url}/v1/models/buyer/page")[1]
