"""Experiments over versions: the endpoint splits by the assignment, and the gate keeps its door."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import shop

from processes import eventually
from trimtab.app.project import Project
from trimtab.app.serve.operations import ProjectModels
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.experiments.days import stored_days
from trimtab.experiments.exposures import decode
from trimtab.serving.arms.arm_counts import ServiceMetrics
from trimtab.serving.arms.arm_metrics import metrics_key, write_metrics
from trimtab.serving.arms.arms import ArmShares, arm_shares
from trimtab.serving.client import connect
from trimtab.serving.failures import Late
from trimtab.serving.http.routes.operations import Move

EXPERIMENT = """
compared = buyer("buyer", batch)
tt.experiment("smaller", model=compared.model, unit="visit_id", share=0.8,
    variants={"control": "champion", "other": "buyer@1"}, overrides={"tester": "other"})
tt.experiment("later", model=compared.model, unit="visit_id", variants={"control": "champion", "other": "buyer@9"})
"""


def declared(folder: Path) -> Path:
    text = shop.PROJECT.replace('\nbuyer("buyer", batch)\n', EXPERIMENT)
    assert text != shop.PROJECT
    (folder / "project.py").write_text(text)
    return folder


@pytest.fixture
def project(trained: Path) -> Iterator[Project]:
    with shop.opened(declared(trained)) as project:
        yield project


def arms(project: Project, n: int = 60) -> dict[str, str]:
    """The arm that answers each of some visits."""
    project.served("buyer").refresh()
    names = ["tester", *(f"visit-{one}" for one in range(n))]
    answers = project.predict("buyer", [shop.visit(name, shop.NOW_US) for name in names])
    return dict(zip(names, (one.arm for one in answers), strict=True))


def test_the_endpoint_splits_requests_by_the_assignment(project: Project) -> None:
    row = project.start_experiment("smaller", why="The smaller one is as good.", actor="Ada")
    assert (row.act, row.model, row.actor) == ("start_experiment", "buyer", "Ada")
    assert (row.evidence["version"], row.evidence["share"]) == ("buyer@1", 0.8)
    found = arms(project)
    assigned = {name: project.assign("smaller", name) for name in found}
    assert found == {name: "canary" if one.variant == "other" else "champion" for name, one in assigned.items()}
    assert found["tester"] == "canary"
    assert 10 < sum(arm == "canary" for arm in found.values()) < 40
    assert assigned["tester"].value == "buyer@1"
    assert "  canary: buyer@1, on 40 % of the requests" in "\n".join(project.status().lines())
    with pytest.raises(Misuse, match="its exposures are the predictions of 'buyer'"):
        project.assign("smaller", "visit-1", expose=True)


@pytest.fixture
def three(trained: Path) -> Iterator[Project]:
    """The project with a third version, which another estimator has made, and an experiment over all of them."""
    declared(trained)
    text = (trained / "project.py").read_text()
    text = text.replace("return LogisticRegression()", "return LogisticRegression(C=0.01)") + THREE
    (trained / "project.py").write_text(text)
    with shop.opened(trained) as project:
        project.apply()
        project.train("buyer")
        assert "buyer@3" in {one.name for one in project.registry.versions("buyer")}
        project.roll_back("buyer", why="The new one is compared first.")
        yield project


THREE = """
tt.experiment("several", model=compared.model, unit="visit_id", weights={"control": 0.4, "first": 0.4, "third": 0.2},
    variants={"control": "champion", "first": "buyer@1", "third": "buyer@3"}, metrics=[
        tt.metric("score", prediction="score", within="1d", role="primary")])
"""


def test_a_champion_that_changed_and_changed_back_is_said(three: Project) -> None:
    three.start_experiment("smaller", why="The smaller one is as good.")
    assert three.experiment("smaller").note == ""
    shop.move(three, 60_000_000)
    three.promote("buyer@3", why="It is better.")
    assert "the champion changed since the start, so the control of newer days" in three.experiment("smaller").note
    three.roll_back("buyer", why="It is worse.")
    assert three.registry.get("buyer@champion").name == "buyer@2"
    assert "changed since the start and changed back, so on some days the control" in three.experiment("smaller").note


def test_several_versions_are_compared_with_the_champion_at_one_time(three: Project) -> None:
    champion = three.registry.get("buyer@champion").name
    assert champion == "buyer@2"
    three.start_experiment("several", why="One of them is as good.")
    three.served("buyer").refresh()
    names = [f"visit-{n}" for n in range(100)]
    answers = dict(zip(names, three.predict("buyer", [shop.visit(one, shop.NOW_US) for one in names]), strict=True))
    assigned = {name: three.assign("several", name) for name in names}
    version = {"control": "buyer@2", "first": "buyer@1", "third": "buyer@3"}
    assert {n: one.version for n, one in answers.items()} == {n: version[one.variant] for n, one in assigned.items()}
    assert {one.arm for one in answers.values()} == {"champion", "canary"}
    singly = {name: three.predict("buyer", [shop.visit(name, shop.NOW_US)])[0] for name in names[:20]}
    assert {n: one.version for n, one in singly.items()} == {n: answers[n].version for n in names[:20]}
    lines = "\n".join(three.status().lines())
    assert "canary first: buyer@1, on 40 % of the requests" in lines
    assert "canary third: buyer@3, on 20 % of the requests" in lines
    assert "buyer@3" in {one.name for one in three.live.versions("buyer")}
    shop.move(three, 4 * DAY_US)
    three.tick()
    (day, *_) = stored_days(three.state.catalog, "several", 1)
    counts = Counter(one.variant for one in assigned.values())
    assert {name: one.units for name, one in day.variants.items()} == counts
    assert {reason for one in day.variants.values() for reason in one.not_shown} == set()
    with pytest.raises(Conflict, match="'several' compares versions of 'buyer'"):
        three.start_experiment("smaller", why="Another experiment.")


def test_if_one_of_several_versions_harms_the_service_the_experiment_stops(three: Project) -> None:
    three.start_experiment("several", why="One of them is as good.")
    ids = {name: three.registry.get(name).id for name in ("buyer@2", "buyer@3")}
    counts = [
        ServiceMetrics(model="buyer", version=ids["buyer@3"], arm="canary", requests=1_000, failures=900),
        ServiceMetrics(model="buyer", version=ids["buyer@2"], arm="champion", requests=1_000),
    ]
    write_metrics(three.state.catalog, {metrics_key(one, shop.NOW_US // 60_000_000, "test"): one for one in counts})
    row = next(row for row in three.tick() if row.act == "stop_experiment")
    assert row.cause.startswith("third: ")
    three.served("buyer").refresh()
    answers = three.predict("buyer", [shop.visit(f"visit-{n}", shop.NOW_US) for n in range(30)])
    assert {one.version for one in answers} == {"buyer@2"}


def test_a_winner_among_several_versions_goes_through_the_gate(three: Project) -> None:
    three.start_experiment("several", why="One of them is as good.")
    row = three.conclude_experiment("several", "third", why="It is better by 3 %.")
    assert row.evidence["promotion"] == "promoted"
    assert three.registry.get("buyer@champion").name == "buyer@3"


def test_a_ramp_a_pause_and_a_stop_reach_the_endpoint(project: Project) -> None:
    project.start_experiment("smaller", why="The smaller one is as good.")
    first = arms(project)
    project.ramp_experiment("smaller", share=1.0, why="It works.")
    second = arms(project)
    assert {name for name, arm in first.items() if arm == "canary"} < {n for n, a in second.items() if a == "canary"}
    project.pause_experiment("smaller", why="Something is odd.")
    assert {*arms(project).values()} == {"champion"}
    project.resume_experiment("smaller", why="It was nothing.")
    assert arms(project) == second
    project.stop_experiment("smaller", why="Enough is known.")
    assert {*arms(project).values()} == {"champion"}
    assert arm_shares(project.state.catalog, "buyer") == ArmShares()
    assert project.verify_ledger() == len(project.ledger())


def test_the_canary_of_an_experiment_cannot_be_taken_but_ended_and_then_the_experiment_stops(
    project: Project,
) -> None:
    project.start_experiment("smaller", why="The smaller one is as good.")
    with pytest.raises(Conflict, match=r"the experiment 'smaller' splits its requests\. Stop it first"):
        project.set_arm("buyer@2", "canary", share=0.5, why="Another canary.")
    moved = Move(version="buyer@2", expected="buyer@1", why="Another canary.")
    with pytest.raises(Conflict, match="the experiment 'smaller' splits its requests"):
        ProjectModels(project).move("buyer", "canary", moved, actor="Bo")
    with pytest.raises(Conflict, match="'smaller' compares versions of 'buyer'"):
        project.start_experiment("later", why="Another experiment.")
    project.set_arm("buyer", "canary", share=0.0, why="Something is wrong.")
    assert {*arms(project).values()} == {"champion"}
    assert "its canary was ended" in project.experiment("smaller").note
    row = next(row for row in project.tick() if row.act == "stop_experiment")
    assert (row.actor, row.cause) == ("policy", "A person has ended the canary.")
    assert project.experiment("smaller").phase == "stopped"


def test_a_version_that_harms_the_service_stops_the_experiment(project: Project) -> None:
    project.start_experiment("smaller", why="The smaller one is as good.")
    state = {name: project.registry.get(name).id for name in ("buyer@1", "buyer@2")}
    counts = [
        ServiceMetrics(model="buyer", version=state["buyer@1"], arm="canary", requests=1_000, failures=900),
        ServiceMetrics(model="buyer", version=state["buyer@2"], arm="champion", requests=1_000),
    ]
    minute = shop.NOW_US // 60_000_000
    write_metrics(project.state.catalog, {metrics_key(one, minute, "test"): one for one in counts})
    row = next(row for row in project.tick() if row.act == "stop_experiment")
    assert row.actor == "policy"
    assert "fail" in row.cause
    assert {*arms(project).values()} == {"champion"}


def test_a_canary_that_is_there_and_versions_that_cannot_be_compared_are_refused(project: Project) -> None:
    project.set_arm("buyer@1", "canary", share=0.1)
    with pytest.raises(Conflict, match=r"a canary answers 10% of the requests of 'buyer'\. End it first"):
        project.start_experiment("smaller", why="The smaller one is as good.")
    project.set_arm("buyer", "canary", share=0.0)
    with pytest.raises(NotFound, match="buyer@9"):
        project.start_experiment("later", why="The newest is better.")
    text = (project.config.folder / "project.py").read_text().replace("buyer@9", "buyer@2")
    (project.config.folder / "project.py").write_text(text)
    with (
        shop.opened(project.config.folder) as again,
        pytest.raises(Misuse, match="variants 'control' and 'other' are both buyer@2"),
    ):
        again.start_experiment("later", why="The newest is better.")


def test_an_online_learner_is_refused_as_a_confound(trained: Path) -> None:
    declared(trained)
    with (trained / "project.py").open("a") as file:
        file.write(
            'learner = buyer("learner", stream, learn="online")\n'
            'tt.experiment("x", model=learner.model, variants={"control": "champion", "new": "learner@2"})\n'
        )
    with pytest.raises(Misuse, match="'learner' has learn=\"online\", so one learner takes the labels of all variants"):
        shop.opened(trained)


@pytest.mark.parametrize(("margin", "promotion", "champion"), [("-0.5", "promoted", 1), ("0.5", "refused", 2)])
def test_a_winner_is_promoted_by_the_gate_or_not_at_all(
    trained: Path, margin: str, promotion: str, champion: int
) -> None:
    declared(trained)
    text = (trained / "project.py").read_text()
    (trained / "project.py").write_text(text.replace("margin=-0.5", f"margin={margin}"))
    with shop.opened(trained) as project:
        project.start_experiment("smaller", why="The smaller one is as good.")
        row = project.conclude_experiment("smaller", "other", why="It is better by 3 %.")
        status = project.experiment("smaller")
        assert (row.act, row.evidence["winner"], status.phase) == ("conclude_experiment", "other", "concluded")
        assert row.evidence["promotion"] == promotion
        answer = project.assign("smaller", "anyone")
        assert answer.reason == "concluded"
        reading = project.experiment_report("smaller")
        assert reading.winner == "other"
        if promotion == "refused":
            said = "other won, but buyer@1 is not in service, and all units get the champion: refused, "
            assert status.note.startswith(said)
            assert reading.notes[-1] == status.note
            assert (answer.variant, answer.value) == ("control", "buyer@champion")
            assert str(row.evidence["promotion reason"]).startswith("Refused")
        else:
            assert (status.note, answer.variant) == ("", "other")
        assert project.registry.get("buyer@champion").name == f"buyer@{champion}"
        assert {*arms(project).values()} == {"champion"}
        assert arm_shares(project.state.catalog, "buyer") == ArmShares()


def test_an_experiment_whose_variants_are_one_version_is_stopped(project: Project) -> None:
    project.start_experiment("smaller", why="The smaller one is as good.")
    assert project.experiment("smaller").note == ""
    project.promote("buyer@1", why="Its answers are as good, and it is smaller.")
    assert project.registry.get("buyer@champion").name == "buyer@1"
    assert "it equals the control: stop the experiment" in project.experiment("smaller").note
    (row,) = [one for one in project.tick() if one.act == "stop_experiment"]
    assert "it and the control are the same version" in row.cause
    assert project.experiment("smaller").phase == "stopped"


def test_when_the_control_wins_nothing_is_promoted(project: Project) -> None:
    project.start_experiment("smaller", why="The smaller one is as good.")
    row = project.conclude_experiment("smaller", "control", why="It is worse by 3 %.")
    assert "promotion" not in row.evidence
    assert project.registry.get("buyer@champion").name == "buyer@2"
    assert {*arms(project).values()} == {"champion"}


def test_units_whose_request_got_no_answer_are_exposures_with_the_reason(project: Project) -> None:
    project.start_experiment("smaller", why="The smaller one is as good.")
    arms(project)
    canary = project.served("buyer").endpoint.canary
    assert canary is not None
    assert canary.unanswered is not None
    rows = [shop.visit(f"visit-{n}", shop.NOW_US) for n in range(50)]
    canary.unanswered(rows[:30], Late("too late"))
    canary.unanswered(rows[30:], ValueError("a bug of the user's"))
    canary.unanswered(rows[:1], Misuse("no such column"))
    assert project.state.exposures.positions() == {}
    project.served("buyer").refresh()
    log = project.state.exposures
    logged = [decode(record) for partition in log.positions() for record in log.read(partition, 0)]
    assigned = {f"visit-{n}": project.assign("smaller", f"visit-{n}") for n in range(50)}
    assert {one.unit: one.variant for one in logged} == {
        unit: one.variant for unit, one in assigned.items() if one.takes_part
    }
    assert len(logged) == sum(one.takes_part for one in assigned.values())
    late = {one.unit for one in logged if one.reason == "timeout"}
    assert late == {one.unit for one in logged if int(one.unit.removeprefix("visit-")) < 30}
    assert {one.reason for one in logged} == {"timeout", "error"}


def test_a_service_splits_its_requests_and_follows_the_end(trained: Path) -> None:
    with shop.opened(declared(trained)) as project:
        project.start_experiment("smaller", why="The smaller one is as good.")
        wanted = {f"visit-{n}": project.assign("smaller", f"visit-{n}").variant for n in range(40)}
    with shop.serving(trained) as (_, url), connect(url) as client:
        rows = [shop.visit(name, shop.NOW_US) for name in wanted]

        def arms() -> list[str]:
            return [answer.arm for answer in client.predict("buyer", rows)]

        expected = ["canary" if variant == "other" else "champion" for variant in wanted.values()]
        eventually(lambda: arms() == expected)
        assert client.assign("smaller", "tester").value == "buyer@1"
        with pytest.raises(Misuse, match="its exposures are the predictions of 'buyer'"):
            client.assign("smaller", "tester", expose=True)
        with shop.opened(trained) as project:
            project.stop_experiment("smaller", why="Enough is known.")
        eventually(lambda: {*arms()} == {"champion"})


def test_a_winner_whose_deployment_has_a_rollout_goes_through_its_stages(trained: Path) -> None:
    declared(trained)
    text = (trained / "project.py").read_text()
    rollout = 'buyer("buyer", batch, rollout=tt.rollout(canary=[0.05], step="1h"))'
    (trained / "project.py").write_text(text.replace('buyer("buyer", batch)', rollout))
    with shop.opened(trained) as project:
        project.start_experiment("smaller", why="The smaller one is as good.")
        row = project.conclude_experiment("smaller", "other", why="It is better by 3 %.")
        assert row.evidence["promotion"] == "in its rollout"
        assert arm_shares(project.state.catalog, "buyer") == ArmShares(canary=0.05)
        assert arms(project)["tester"] == "champion"  # the split is by site again, as of every canary
        assert project.registry.get("buyer@champion").name == "buyer@2"


def test_units_that_come_back_after_the_share_was_lowered_met_two_versions(project: Project) -> None:
    project.start_experiment("smaller", why="The smaller one is as good.")
    first = arms(project)
    shop.move(project, HOUR_US)
    project.ramp_experiment("smaller", share=0.2, why="The service is slow.")
    then = arms(project)
    moved = sum(first[name] == "canary" and then[name] == "champion" for name in first)
    assert moved > 5
    shop.move(project, 2 * DAY_US)
    reading = project.experiment_report("smaller")
    assert reading.crossed == moved
    assert sum(one.units for one in reading.variants if one.name == "other") > moved
