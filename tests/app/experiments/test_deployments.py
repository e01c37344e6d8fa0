"""Experiments over deployments: the endpoint of the first one splits its requests between several models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import shop

from trimtab.app.experiments.logged_units import LoggedUnits
from trimtab.app.project import Project
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.time import DAY_US
from trimtab.experiments.days import stored_days
from trimtab.experiments.exposures import Intake
from trimtab.experiments.reading.planted_runs import made_state
from trimtab.serving.arms.arm_counts import ServiceMetrics
from trimtab.serving.arms.arm_metrics import metrics_key, write_metrics
from trimtab.serving.arms.arms import ArmShares, arm_shares

EXPERIMENT = """
buyer = buyer("buyer", batch)
plain = tt.deployment(tt.model(
    "plain", request=visit, features=[{"x": tt.col("x")}], metric="log_loss", estimator=batch,
    label=tt.label(sales, key="visit_id", value="bought", wait="2d")), gate=tt.beats_champion(margin=-0.5))
tt.experiment("inputs", unit="visit_id", variants={"control": buyer, "plain": plain}, share=0.8, metrics=[
    tt.metric("loss", prediction="loss", within="1d", role="primary"),
    tt.metric("score", prediction="score", within="1d")], slices=["site"], overrides={"tester": "plain"})
"""


@pytest.fixture
def project(trained: Path) -> Iterator[Project]:
    text = shop.PROJECT.replace('\nbuyer("buyer", batch)\n', EXPERIMENT)
    (trained / "project.py").write_text(text)
    with shop.opened(trained) as project:
        project.train("plain")
        assert project.registry.alias("plain", "champion") is not None
        yield project


def test_a_deployment_without_a_version_in_service_is_named_at_the_start(trained: Path) -> None:
    (trained / "project.py").write_text(shop.PROJECT.replace('\nbuyer("buyer", batch)\n', EXPERIMENT))
    with shop.opened(trained) as project, pytest.raises(Conflict, match="no version of 'plain' is in service yet"):
        project.start_experiment("inputs", why="Fewer inputs are as good.")


def unit(name: str) -> dict[str, object]:
    return {"visit_id": name, "site": None}


def answered(project: Project, n: int = 80) -> dict[str, str]:
    """The model that answers each of some visits."""
    names = ["tester", *(f"visit-{one}" for one in range(n))]
    answers = project.predict("buyer", [shop.visit(name, shop.NOW_US) for name in names])
    return dict(zip(names, (one.model for one in answers), strict=True))


def test_the_first_deployment_routes_requests_by_the_assignment(project: Project) -> None:
    row = project.start_experiment("inputs", why="Fewer inputs are as good.")
    assert (row.act, row.model) == ("start_experiment", "buyer")
    found = answered(project)
    assigned = {name: project.assign("inputs", unit(name)) for name in found}
    assert found == {name: one.value for name, one in assigned.items()}
    assert 15 < sum(model == "plain" for model in found.values()) < 50
    assert found["tester"] == "plain"
    champion = project.registry.get("plain@champion")
    (one,) = project.predict("buyer", [shop.visit("tester", shop.NOW_US)])
    assert (one.model, one.version, one.arm, one.flags) == ("plain", champion.name, "champion", ("routed",))
    (own,) = project.predict("plain", [shop.visit("tester", shop.NOW_US)])
    assert (own.score, own.flags) == (one.score, ())
    assert "canary plain: deployment plain, on 40 % of the requests" in "\n".join(project.status().lines())
    with pytest.raises(Conflict, match="the experiment 'inputs' splits its requests"):
        project.set_arm("buyer@1", "canary", share=0.5, why="Another canary.")
    project.pause_experiment("inputs", why="Something is odd.")
    assert {*answered(project).values()} == {"buyer"}
    project.resume_experiment("inputs", why="It was nothing.")
    assert answered(project) == found
    project.stop_experiment("inputs", why="Enough is known.")
    assert {*answered(project).values()} == {"buyer"}
    assert arm_shares(project.state.catalog, "buyer") == ArmShares()
    assert project.verify_ledger() == len(project.ledger())


def test_metrics_are_those_of_the_routed_predictions(project: Project) -> None:
    project.start_experiment("inputs", why="Fewer inputs are as good.")
    visits = [shop.visit(f"visit-{n}", shop.NOW_US) | {"site": ("north", "south")[n % 2]} for n in range(60)]
    answers = project.predict("buyer", visits)
    project.predict("plain", [shop.visit(f"direct-{n}", shop.NOW_US) for n in range(9)])  # no exposures
    assigned = {str(row["visit_id"]): project.assign("inputs", row) for row in visits}
    shop.move(project, 3_600_000_000)
    project.push("sales", [{"visit_id": name, "closed_at": project.clock.now_us(), "site": "north", "bought": True}
                           for name in assigned])  # fmt: skip
    shop.move(project, 5 * DAY_US)
    project.tick()
    (day, *_) = stored_days(project.state.catalog, "inputs", 1)
    taking = Counter(one.variant for one in assigned.values() if one.takes_part)
    assert {name: one.units for name, one in day.variants.items()} == taking
    for name, of in day.variants.items():
        mine = [
            a.score for a in answers if assigned[a.request_id].takes_part and assigned[a.request_id].variant == name
        ]
        assert (of.labelled, of.missing, of.not_shown) == (len(mine), 0, {})
        assert of.metrics["score"].y[0] == pytest.approx(sum(mine), rel=1e-12)
        assert of.metrics["loss"].units == len(mine)
        assert {*of.slice_units} == {"site=north", "site=south"}


def test_a_deployment_that_is_not_loaded_leaves_its_units_to_the_control_with_the_reason(project: Project) -> None:
    project.start_experiment("inputs", why="Fewer inputs are as good.")
    served = project.served("buyer")
    served.refresh()  # but "plain" was never loaded in this process
    answers = served.endpoint.answer([shop.visit(f"visit-{n}", shop.NOW_US) for n in range(40)])
    assert {one.model for one in answers} == {"buyer"}
    shop.move(project, 5 * DAY_US)
    project.tick()
    (day, *_) = stored_days(project.state.catalog, "inputs", 1)
    assert day.variants["plain"].units > 5
    assert day.variants["plain"].not_shown == {"other deployment": day.variants["plain"].units}
    assert day.variants["control"].not_shown == {}


def test_the_control_goes_on_if_a_deployment_is_no_longer_declared(project: Project) -> None:
    project.start_experiment("inputs", why="Fewer inputs are as good.")
    text = (project.config.folder / "project.py").read_text()
    left = text[: text.index("plain = tt.deployment")].replace("buyer = buyer(", "buyer(")
    (project.config.folder / "project.py").write_text(left)
    with shop.opened(project.config.folder) as again:
        assert {*answered(again, 20).values()} == {"buyer"}
        assert "the project file lacks the deployment of 'plain'" in again.experiment("inputs").note
    changed = left + '\ntt.experiment("inputs", unit="visit_id", variants={"control": 0, "plain": 1})\n'
    (project.config.folder / "project.py").write_text(changed)
    with shop.opened(project.config.folder) as again:
        note = again.experiment("inputs").note
        assert note.endswith("which is compared. Declare it again, or stop the experiment")  # and no second advice


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("buyer",), "plain won, but buyer is not declared: let clients call plain"),
        (("buyer", "plain"), "plain won, but buyer is not declared: plain is not declared, either"),
    ],
)
def test_the_note_of_a_winner_names_deployments_that_are_gone(
    gone: tuple[str, ...], said: str, project: Project
) -> None:
    project.start_experiment("inputs", why="Fewer inputs are as good.")
    file = project.config.folder / "project.py"
    text = file.read_text()
    text = text[: text.index("tt.experiment(")].replace("buyer = buyer(", "made = buyer(")
    text = text.replace('made = buyer("buyer", batch)\n', "")
    file.write_text(text if "plain" not in gone else text[: text.index("plain = tt.deployment")])
    with shop.opened(project.config.folder) as again:
        again.conclude_experiment("inputs", "plain", why="It is as good.")
        assert said in again.experiment("inputs").note


def test_a_deployment_that_harms_the_service_stops_the_experiment(project: Project) -> None:
    project.start_experiment("inputs", why="Fewer inputs are as good.")
    counts = [
        ServiceMetrics(model=name, version=project.registry.get(f"{name}@champion").id, arm="champion", requests=1_000,
                       failures=900 * (name == "plain")) for name in ("buyer", "plain")]  # fmt: skip
    write_metrics(project.state.catalog, {metrics_key(one, shop.NOW_US // 60_000_000, "test"): one for one in counts})
    row = next(row for row in project.tick() if row.act == "stop_experiment")
    assert row.cause.startswith("plain: ")
    assert {*answered(project).values()} == {"buyer"}


def test_a_winner_is_not_routed_to_and_no_alias_moves(project: Project) -> None:
    before = {name: project.registry.get(f"{name}@champion").id for name in ("buyer", "plain")}
    project.start_experiment("inputs", why="Fewer inputs are as good.")
    row = project.conclude_experiment("inputs", "plain", why="It is as good.")
    assert row.evidence["call instead"] == "plain"
    assert {*answered(project).values()} == {"buyer"}
    assert "requests to buyer are answered by buyer again: let clients call plain" in project.experiment("inputs").note
    assert {name: project.registry.get(f"{name}@champion").id for name in before} == before
    assert project.assign("inputs", unit("visit-1")).value == "plain"


OTHERS = """
batch_ = tt.deployment(tt.model("other", request=visit, features=[{"x": tt.col("x")}], metric="log_loss",
    estimator=batch, label=buyer.model.label), gate=tt.beats_champion(margin=-0.5))
loss = tt.metric("loss", prediction="loss", within="1d", role="primary")
tt.experiment("second", unit="visit_id", variants={"control": batch_, "plain": plain}, metrics=[loss])
tt.experiment("versions", unit="visit_id", model=plain.model, variants={"new": "champion", "old": "plain@1"},
    metrics=[loss])
"""


def test_a_deployment_is_in_one_experiment_at_a_time(project: Project) -> None:
    folder = project.config.folder
    (folder / "project.py").write_text((folder / "project.py").read_text() + OTHERS)
    with shop.opened(folder) as again:
        again.train("other")
        again.start_experiment("inputs", why="Fewer inputs are as good.")
        again.pause_experiment("inputs", why="What was routed still counts.")
        for name in ("second", "versions"):
            with pytest.raises(Conflict, match=f"{name!r}: 'inputs' is paused and compares 'plain', too"):
                again.start_experiment(name, why="It would count the requests that the first one routes.")
        again.resume_experiment("inputs", why="It was nothing.")
        assert "plain" in answered(again).values()
        again.predict("plain", [shop.visit("own", shop.NOW_US)])
        definition, now_us = again.declared.experiment("versions"), again.clock.now_us()
        state = made_state(definition, now_us, 0, {"new": 1.0, "old": 0.0})
        units = LoggedUnits(again, definition, state, again.definitions.deployment("plain").model.request)
        read = units.predictions(Intake(now_us, now_us + 1, now_us))
        assert [row["visit_id"] for _, found in read for _, _, row in found] == ["own"]  # no routed one
        again.stop_experiment("inputs", why="Enough is known.")
        again.start_experiment("second", why="The first one has ended.")
        with pytest.raises(Conflict, match="'inputs': 'second' is running and compares 'plain', too"):
            again.start_experiment("inputs", why="The other way round.")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"plain": plain}', '"plain": "buyer@1"}', "Give only deployments"),
        ('"plain": plain}', '"plain": buyer}', "Give 2 to 5 different ones"),
        ('"plain": plain}', '"plain": plain}, model=buyer.model', "and leave model out"),
        ('value="bought", wait="2d")), gate', 'value="bought", wait="3d")), gate', "'plain' has another label than"),
        ('metric="log_loss", estimator=batch,', 'metric="brier", estimator=batch,', "'plain' has metric='brier'"),
        ('"plain", request=visit', '"plain", request=other', "'plain' takes other requests than 'buyer'"),
    ],
)
def test_deployments_that_cannot_be_compared_are_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = shop.PROJECT.replace('\nbuyer("buyer", batch)\n', EXPERIMENT)
    text = text.replace("\ndef batch", '\nother = tt.request("other", key="visit_id", time="at", columns={\n'
                        '    "visit_id": str, "at": tt.Time, "x": float, "site": str})\n\ndef batch')  # fmt: skip
    assert old in text
    shop.write_project(tmp_path)
    (tmp_path / "project.py").write_text(text.replace(old, new))
    with pytest.raises(Misuse, match=said):
        shop.opened(tmp_path)
