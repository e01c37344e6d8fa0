"""Versions beside the one in service: set by a person, followed by whoever serves, written down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shop
from alias_moves import promote

from trimtab.app.models.version_memory import VersionMemory
from trimtab.app.project import Project
from trimtab.app.serve.operations import ProjectModels
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.time import DAY_US
from trimtab.registry import LoadedModel, Version
from trimtab.serving.arms.arms import ArmShares, arm_shares
from trimtab.serving.http.routes.operations import Move, RollBack
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store.ports import Append, Put, Remove


def answered_as(project: Project) -> tuple[str, str]:
    """The version and the arm of an answer, without a look at what moved."""
    (answer,) = project.served("buyer").endpoint.answer([shop.visit("one", shop.NOW_US)])
    return answer.version, answer.arm


@pytest.fixture
def unfilled(trained: Path) -> Iterator[Project]:
    """A project whose version in service, buyer@4, has features of its own; those of buyer@2 are not kept any more."""
    (trained / "project.py").write_text(shop.PROJECT.replace('over="1d"', 'over="2d"'))
    with (trained / "trimtab.toml").open("a") as file:
        file.write("\n[serve]\nmodel_memory_bytes = 1\n")
    with shop.opened(trained) as project:
        project.apply()
        assert [decision.act for decision in project.train("buyer")][-1] == "promote"
        project.views.catch_up()
        shop.move(project, 8 * DAY_US)
        assert project.views.drop()
        yield project


def damage(project: Project, name: str) -> None:
    """Overwrite a version's artifact."""
    blob = project.registry.get(name).artifact
    (file,) = [path for path in (project.state_folder / "blob").rglob("*") if path.name.endswith(blob[4:])]
    file.write_bytes(b"damaged")


@pytest.mark.parametrize("share", [True, "0.1", None])
def test_a_share_that_could_not_be_read_again_is_refused(trained: Path, share: Any) -> None:
    with shop.opened(trained) as project:
        with pytest.raises(Misuse, match=r"canary: share=.* Give a number from 0"):
            project.set_arm("buyer@1", "canary", share=share, why="Try the smaller one.")
        project.set_arm("buyer@1", "canary", share=np.float32(0.5), why="Try the smaller one.")  # type: ignore[arg-type]  # as a user may
        assert "  canary: buyer@1, on 50 % of the requests" in project.status().lines()


def test_a_canary_answers_its_share_until_it_is_ended(trained: Path) -> None:
    with shop.opened(trained) as project:
        served = project.served("buyer")
        served.refresh()
        row = project.set_arm("buyer@1", "canary", share=1.0, why="Try the smaller one.", actor="Ada")
        assert (row.act, row.actor, row.cause) == ("set_arm", "Ada", "canary 1: Try the smaller one.")
        assert row.evidence == {"arm": "canary", "share": 1.0, "version": "buyer@1"}
        served.refresh()
        (answer,) = project.predict("buyer", [shop.visit("a", shop.NOW_US)])
        assert (answer.version, answer.arm) == ("buyer@1", "canary")
        assert "  canary: buyer@1, on 100 % of the requests" in project.status().lines()
        project.set_arm("buyer", "canary", share=0.0)
        assert not any("canary:" in line for line in project.status().lines())
        served.refresh()
        (answer,) = project.predict("buyer", [shop.visit("b", shop.NOW_US)])
        assert (answer.version, answer.arm) == ("buyer@2", "champion")
        assert project.why(project.predict("buyer", [shop.visit("c", shop.NOW_US)])[0].id)
        assert len(project.registry.history("buyer", "canary")) == 1
        assert [d.act for d in project.ledger()][-2:] == ["set_arm", "set_arm"]
        assert project.verify_ledger() == len(project.ledger())


def test_an_answer_of_a_canary_says_so_and_shows_no_later_promotion(trained: Path) -> None:
    with shop.opened(trained) as project:
        promoted = project.why(project.predict("buyer", [shop.visit("a", shop.NOW_US)])[0].id)
        assert (promoted.arm, promoted.promoted is None) == ("champion", False)
        assert promoted.lines()[0].endswith(" to a")
        project.set_arm("buyer@1", "canary", share=1.0, why="Try the smaller one.")
        project.served("buyer").refresh()
        (answer,) = project.predict("buyer", [shop.visit("b", shop.NOW_US)])
        shop.move(project, 60_000_000)
        later = Entry(
            at_us=project.clock.now_us(), model="buyer", act="promote", cause="Later.", version=answer.version
        )
        Ledger(project.state.catalog).write([later])
        found = project.why(answer.id)
        assert (found.arm, found.promoted) == ("canary", None)
        assert found.lines()[0].endswith(" to b, as the canary")
        shadow = msgspec.structs.replace(found, arm="shadow").lines()[0]
        assert shadow.endswith(", as the shadow (only for the log: the client got another version's answer)")


def test_an_arm_refuses_rows_that_only_the_request_of_its_champion_takes(trained: Path) -> None:
    """Rows are checked by the champion's request, which may be an older one."""
    with shop.opened(trained) as project:
        served = project.served("buyer")
        project.set_arm("buyer@1", "canary", share=1.0)
        (answer,) = project.predict("buyer", [shop.visit("one", shop.NOW_US)])
        assert answer.arm == "canary"
        assert served.endpoint.canary is not None
        canary = served.endpoint.canary.answerer
        (row,) = canary.rows.check([shop.visit("a", shop.NOW_US)])
        assert canary.inputs([row], shop.NOW_US).rows
        with pytest.raises(Misuse, match="'site' must be str; found 7, a int"):
            canary.inputs([row | {"site": 7}], shop.NOW_US)
        del row["site"]
        with pytest.raises(Misuse, match=r"'site' \(str\) is missing"):
            canary.inputs([row], shop.NOW_US)


def test_a_canary_is_ended_while_the_champion_waits_for_features(unfilled: Project) -> None:
    served = unfilled.served("buyer")
    unfilled.set_arm("buyer@3", "canary", share=1.0)
    served.refresh()
    unfilled.registry.roll_back("buyer", "champion", why="It was better.")
    assert served.refresh().version.name == "buyer@4"
    assert answered_as(unfilled) == ("buyer@3", "canary")
    unfilled.set_arm("buyer", "canary", share=0.0)
    assert served.refresh().version.name == "buyer@4"
    assert answered_as(unfilled) == ("buyer@4", "champion")
    unfilled.set_arm("buyer@3", "shadow", share=1.0)
    served.refresh()
    assert served.endpoint.shadow is not None
    assert served.endpoint.shadow.answerer.served.label == "buyer@3"


def test_a_canary_is_ended_while_the_champion_cannot_be_loaded(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.views.catch_up()
        served = project.served("buyer")
        project.set_arm("buyer@2", "canary", share=1.0)
        served.refresh()
        damage(project, "buyer@1")
        promote(project, "buyer@1")
        for share, arm in ((1.0, "canary"), (0.0, "champion"), (1.0, "canary")):
            project.set_arm("buyer", "canary", share=share)
            with pytest.raises(Corrupt, match="buyer@1"):
                served.refresh()
            assert answered_as(project) == ("buyer@2", arm)


class Loads:
    """A project's loads, of which those of the versions `odd` raise what no trimtab would."""

    def __init__(self, project: Project) -> None:
        self.odd: set[str] = set()
        self._load = project._load
        project.version_memory = VersionMemory(self, 1, retry_s=0.0)

    def __call__(self, version: Version) -> LoadedModel:
        if version.name in self.odd:
            raise ValueError("an estimator of mine")
        return self._load(version)


@pytest.mark.parametrize("arm", ["canary", "shadow"])
def test_an_arm_whose_estimator_raises_anything_lets_the_champion_answer_and_be_followed(
    trained: Path, arm: str
) -> None:
    with shop.opened(trained) as project:
        loads = Loads(project)
        loads.odd.add("buyer@1")
        served = project.served("buyer")
        project.set_arm("buyer@1", arm, share=1.0)
        assert served.refresh().version.name == "buyer@2"
        assert not served.is_whole
        with pytest.raises(Misuse, match=rf"buyer \({arm}\): it cannot be loaded here: ValueError: an estimator of"):
            served.follow(wait=True)
        assert answered_as(project) == ("buyer@2", "champion")
        assert project.version_memory._waiting["buyer"] == frozenset()  # it said what it holds all the same
        loads.odd.clear()
        served.refresh()
        assert served.is_whole


def test_a_version_that_is_not_in_service_any_more_is_let_go_though_the_arms_cannot_be_read(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread() -> ArmShares:
        raise Unavailable("no catalogue")

    with shop.opened(trained) as project:
        project.views.catch_up()
        Loads(project)
        served, memory = project.served("buyer"), project.version_memory
        served.refresh()
        promote(project, "buyer@1")
        memory.get(project.registry.get("buyer@1"), "buyer")
        monkeypatch.setattr(served._arms, "shares", unread)
        with pytest.raises(Unavailable):
            served.refresh()
        assert answered_as(project) == ("buyer@1", "champion")
        assert memory.find(project.registry.get("buyer@1"), "a test") is not None
        assert memory.find(project.registry.get("buyer@2"), "a test") is None


def test_a_version_that_waits_for_features_stays_in_memory(unfilled: Project) -> None:
    served = unfilled.served("buyer")
    served.refresh()
    unfilled.registry.roll_back("buyer", "champion", why="It was better.")
    assert served.refresh().version.name == "buyer@4"
    damage(unfilled, "buyer@2")  # it cannot be loaded any more
    assert served.refresh().version.name == "buyer@4"
    unfilled.views.catch_up()
    assert served.refresh().version.name == "buyer@2"


def test_a_version_that_waits_for_features_lets_no_model_sleep(unfilled: Project) -> None:
    served, memory = unfilled.served("buyer"), unfilled.version_memory
    served.refresh()
    memory.cap_bytes = memory.used_bytes()  # as much as what answers needs
    unfilled.registry.roll_back("buyer", "champion", why="It was better.")
    served.refresh()
    assert memory.used_bytes() > memory.cap_bytes
    unfilled.make_room()
    assert not served.endpoint.unloaded
    assert answered_as(unfilled) == ("buyer@4", "champion")


def test_a_model_sleeps_only_with_the_version_that_it_would_wake_with(unfilled: Project) -> None:
    served, memory = unfilled.served("buyer"), unfilled.version_memory
    served.refresh()
    unfilled.registry.roll_back("buyer", "champion", why="It was better.")
    served.refresh()
    assert memory.too_full()
    unfilled.make_room()
    assert answered_as(unfilled) == ("buyer@4", "champion")
    unfilled.views.catch_up()
    assert served.refresh().version.name == "buyer@2"
    unfilled.make_room()
    assert served.endpoint.unloaded
    assert answered_as(unfilled) == ("buyer@2", "champion")


def test_an_arm_that_cannot_be_is_refused_and_nothing_is_written(trained: Path) -> None:
    with shop.opened(trained) as project:
        rows = len(project.ledger())
        with pytest.raises(Misuse, match="canary, shadow"):
            project.set_arm("buyer@1", "champion", share=0.5)
        with pytest.raises(Misuse, match="the share is 2"):
            project.set_arm("buyer@1", "canary", share=2.0)
        with pytest.raises(NotFound, match="no version is its shadow yet"):
            project.set_arm("buyer", "shadow", share=0.5)
        with pytest.raises(NotFound):
            project.set_arm("buyer@77", "canary", share=0.5)
        assert len(project.ledger()) == rows
        assert arm_shares(project.state.catalog, "buyer").canary == 0.0


@pytest.mark.parametrize("arm", ["canary", "shadow"])
def test_an_arm_that_another_process_sets_meanwhile_is_a_conflict(
    trained: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    with shop.opened(trained) as project, shop.opened(trained) as other:
        for each in ("canary", "shadow"):
            project.set_arm("buyer@1", each, share=0.1)
        catalog = project.state.catalog
        write = catalog.write

        def late(changes: Sequence[Put | Append | Remove]) -> None:
            monkeypatch.setattr(catalog, "write", write)
            other.set_arm("buyer", arm, share=0.5)
            write(changes)

        monkeypatch.setattr(catalog, "write", late)
        with pytest.raises(Conflict):
            project.set_arm("buyer", "canary", share=0.2)
        rows = len(project.ledger())
        project.set_arm("buyer", "canary", share=0.2)
        assert len(project.ledger()) == rows + 1
        assert arm_shares(catalog, "buyer") == ArmShares(canary=0.2, shadow=0.5 if arm == "shadow" else 0.1)


def test_a_move_of_an_arm_over_http_is_in_the_ledger_as_one_by_hand(trained: Path) -> None:
    with shop.opened(trained) as project:
        models = ProjectModels(project)
        project.set_arm("buyer@1", "canary", share=0.25)
        before = len(project.ledger())
        models.move("buyer", "canary", Move(version=2, expected=1, why="newer"), actor="release-bot")
        models.roll_back("buyer", "canary", RollBack(expected=2, why="worse"), actor="Ada")
        models.move("buyer", "shadow", Move(version=2, expected=None, why="to look at"), actor="Ada")
        models.move("buyer", "challenger", Move(version=2, expected=None, why="answers nobody"), actor="Ada")
        rows = project.ledger()[before:]
        assert [(row.act, row.actor, row.cause, row.evidence) for row in rows] == [
            ("set_arm", "release-bot", "canary 0.25: newer", {"arm": "canary", "share": 0.25, "version": "buyer@2"}),
            ("set_arm", "Ada", "canary 0.25: worse", {"arm": "canary", "share": 0.25, "version": "buyer@1"}),
            ("set_arm", "Ada", "shadow 0: to look at", {"arm": "shadow", "share": 0.0, "version": "buyer@2"}),
        ]
        assert arm_shares(project.state.catalog, "buyer") == ArmShares(canary=0.25)
        assert project.verify_ledger() == len(project.ledger())


def test_an_arm_that_needs_a_gate_takes_the_record_that_a_version_has(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained) as project:
        project.registry.protect("buyer", "canary", "gate", why="askers see its answers")
        project.export("buyer@1", tmp_path / "out")
        stranger = project.import_model(tmp_path / "out", "buyer").name
        with pytest.raises(Misuse, match="no passed gate record"):
            project.set_arm(stranger, "canary", share=0.1)
        project.set_arm("buyer@1", "canary", share=0.1)
        (row,) = project.registry.history("buyer", "canary")
        assert row.gate == project.registry.gates_of(project.registry.get("buyer@1"))[-1].id


def test_versions_beyond_the_memory_that_is_allowed_sleep_until_they_are_asked(trained: Path) -> None:
    with (trained / "trimtab.toml").open("a") as file:
        file.write("\n[serve]\nmodel_memory_bytes = 1\n")
    with shop.opened(trained) as project:
        names = list(project.definitions.deployments)
        for name in names:
            project.served(name).refresh()
        memory = project.version_memory
        assert memory.too_full()
        project.make_room()
        sleeping = {name: project.served(name).endpoint.unloaded for name in names}
        assert sleeping["buyer"]
        assert project.served("buyer").endpoint.ready
        project.served("buyer").follow()
        assert project.served("buyer").endpoint.unloaded  # whoever only looks does not wake it
        (answer,) = project.served("buyer").endpoint.answer([shop.visit("a", shop.NOW_US)])
        assert answer.version == "buyer@2"
        assert not project.served("buyer").endpoint.unloaded


def test_a_model_that_was_woken_was_used_before_anybody_looks(trained: Path) -> None:
    """Whoever makes room put the one to sleep again that had just been woken."""
    with shop.opened(trained) as project:
        served = project.served("buyer")
        served.refresh()
        before_us = served.last_used_us()
        shop.move(project, DAY_US)
        assert served.sleep()
        served._wake()  # as its first asker does, who has yet to be counted
        assert served.last_used_us() == before_us + DAY_US


def test_an_arm_is_shown_as_itself_after_however_many_promotions(trained: Path) -> None:
    """Eight versions later its answers were shown as the champion's."""
    with shop.opened(trained) as project:
        project.views.catch_up()
        served = project.served("buyer")
        served.refresh()
        project.set_arm("buyer@1", "canary", share=1.0)
        served.refresh()
        assert answered_as(project) == ("buyer@1", "canary")
        champion = served.endpoint.serving
        assert champion is not None
        for number in range(12):
            made = msgspec.structs.replace(champion, version=f"{number:064}", label=f"buyer@{number + 10}")
            served.endpoint.know(made)
            served.refresh()
        assert answered_as(project) == ("buyer@1", "canary")
        assert served.endpoint.label(f"{0:064}") == "buyer@10"  # counted answers keep their name
