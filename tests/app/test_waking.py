"""Models that sleep while an alias moves: they wake with the newest version that may answer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import shop
from alias_moves import promote

from processes import eventually
from trimtab.app.models.version_memory import VersionMemory
from trimtab.app.project import Project
from trimtab.app.serve.background import BackgroundTasks
from trimtab.app.state.service_failures import service_failures
from trimtab.core.errors import Unavailable
from trimtab.core.time import DAY_US
from trimtab.registry import LoadedModel, Version


def no_memory(folder: Path) -> None:
    """Let every model sleep that can, so that each load shows."""
    with (folder / "trimtab.toml").open("a") as file:
        file.write("\n[serve]\nmodel_memory_bytes = 1\n")


def answered_by(project: Project) -> str:
    (answer,) = project.served("buyer").endpoint.answer([shop.visit("one", shop.NOW_US)])
    return answer.version


def damage(folder: Path, artifact: str) -> None:
    """Overwrite a version's artifact."""
    (file,) = [path for path in (folder / ".trimtab" / "blob").rglob("*") if path.name.endswith(artifact[4:])]
    file.write_bytes(b"damaged")


@pytest.fixture
def loaded() -> list[str]:
    """The versions that were loaded, in their order."""
    return []


@pytest.fixture
def asleep(trained: Path, loaded: list[str]) -> Iterator[Project]:
    """A project whose model slept by buyer@4 when buyer@2 came back, whose features are not kept any more."""
    (trained / "project.py").write_text(shop.PROJECT.replace('over="1d"', 'over="2d"'))
    no_memory(trained)
    with shop.opened(trained) as project:
        project.apply()
        assert [decision.act for decision in project.train("buyer")][-1] == "promote"
        project.views.catch_up()
        shop.move(project, 8 * DAY_US)
        assert project.views.drop()

        def load(version: Version) -> LoadedModel:
            loaded.append(version.name)
            return project._load(version)

        project.version_memory = VersionMemory(load, 1, retry_s=0.0)
        served = project.served("buyer")
        assert served.refresh().version.name == "buyer@4"
        assert served.sleep()
        project.registry.roll_back("buyer", "champion", why="It was better.")
        loaded.clear()
        yield project


def test_a_model_wakes_with_the_version_of_before_until_the_features_of_the_new_one_are_filled(
    asleep: Project, loaded: list[str]
) -> None:
    served = asleep.served("buyer")
    assert answered_by(asleep) == "buyer@4"
    assert loaded == ["buyer@4"]  # who asks waits for one load
    served.follow(wait=True)
    assert answered_by(asleep) == "buyer@4"
    asleep.views.catch_up()
    served.follow(wait=True)
    assert answered_by(asleep) == "buyer@2"


def test_a_model_wakes_with_the_new_version_once_its_features_are_filled(asleep: Project, loaded: list[str]) -> None:
    asleep.served("buyer").follow()
    asleep.views.catch_up()
    assert asleep.served("buyer").endpoint.unloaded
    assert answered_by(asleep) == "buyer@2"
    assert loaded == ["buyer@2"]


def test_who_wakes_a_model_does_not_wait_for_what_answers_beside_it(asleep: Project, loaded: list[str]) -> None:
    served = asleep.served("buyer")
    asleep.views.catch_up()
    asleep.set_arm("buyer@4", "shadow", share=1.0)
    assert answered_by(asleep) == "buyer@2"
    assert loaded == ["buyer@2"]
    served.follow(wait=True)
    assert loaded == ["buyer@2", "buyer@4"]
    assert served.endpoint.shadow is not None


def test_a_model_wakes_with_the_version_of_before_where_the_new_one_cannot_be_loaded(
    asleep: Project, loaded: list[str]
) -> None:
    asleep.views.catch_up()
    damage(asleep.config.folder, asleep.registry.get("buyer@2").artifact)
    assert answered_by(asleep) == "buyer@4"
    keeper = BackgroundTasks(asleep, keeps=False)
    keeper.follow()
    assert "buyer@2" in keeper.failures["follow buyer"]
    assert answered_by(asleep) == "buyer@4"


def test_a_model_that_can_wake_with_no_version_says_so_and_wakes_as_soon_as_it_can(
    asleep: Project, loaded: list[str]
) -> None:
    keeper = BackgroundTasks(asleep, keeps=False)
    damage(asleep.config.folder, asleep.registry.get("buyer@4").artifact)
    keeper.follow()
    assert keeper.failures == {}  # nobody has asked for it
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"buyer@2 cannot answer yet \(.*filled\), and buyer@4, which answered"):
            answered_by(asleep)
    assert asleep.served("buyer").endpoint.unloaded
    keeper.follow()
    assert "buyer@2 cannot answer yet" in keeper.failures["follow buyer"]
    assert service_failures(asleep.state.catalog) == keeper.failures
    asleep.views.catch_up()
    keeper.follow()
    assert keeper.failures == service_failures(asleep.state.catalog) == {}
    assert loaded[-1] == "buyer@2"
    assert answered_by(asleep) == "buyer@2"


def test_a_service_answers_by_the_version_of_before_where_a_model_sleeps_that_gets_a_damaged_one(trained: Path) -> None:
    no_memory(trained)
    with shop.serving(trained) as (_, url):

        def state() -> Any:
            _, index = shop.call(f"{url}/v2/repository/index", {})
            return {one["name"]: one.get("reason") for one in index}["buyer"]

        def ask() -> tuple[int, Any]:
            status, said = shop.call(f"{url}/v1/models/buyer/predict", {"request": shop.visit("one", shop.NOW_US)})
            return status, said.get("version")

        eventually(lambda: state() == "the next request loads it")
        with shop.opened(trained) as project:
            damage(trained, project.registry.get("buyer@1").artifact)
            promote(project, "buyer@1")
            assert ask() == (200, "buyer@2")
            red = eventually(lambda: [line for line in project.status().red if "follow buyer failed" in line])
            assert "buyer@1" in red[0] or "sha256" in red[0]
            assert ask() == (200, "buyer@2")


SLOW = """

class Slow:
    def fit(self, inputs, target):
        first = inputs[:, 0]
        self.share, self.mean = float(target.mean()), float(first.mean())
        self.slope = float(((first - self.mean) * target).mean() / first.var())
        return self

    def predict(self, inputs):
        return (self.share + self.slope * (inputs[:, 0] - self.mean)).clip(0.01, 0.99)

    def __setstate__(self, state):
        import pathlib, time

        self.__dict__.update(state)
        folder = pathlib.Path(__file__).parent
        while (folder / "hold").exists():
            (folder / "held").touch()
            time.sleep(0.01)


buyer("slow", Slow)
"""


def test_requests_that_wait_for_a_slow_load_hold_up_neither_other_models_nor_events_of_a_service(
    tmp_path: Path,
) -> None:
    folder = shop.write_project(tmp_path / "project")
    text = (folder / "project.py").read_text().replace('metric="log_loss")', 'metric="log_loss", trust="pickle")')
    (folder / "project.py").write_text(text + SLOW)
    no_memory(folder)
    with shop.opened(folder) as project:
        shop.load(project)
        for name in project.definitions.deployments:
            project.train(name)
    with shop.serving(folder) as (_, url), ThreadPoolExecutor(20) as askers:

        def sleeps() -> bool:
            _, index = shop.call(f"{url}/v2/repository/index", {})
            return {one["name"]: one["reason"] for one in index}["slow"] == "the next request loads it"

        def ask(model: str, rows: int) -> int:
            sent = {"rows": [shop.visit(f"v{n}", shop.NOW_US) for n in range(rows)]}
            return shop.call(f"{url}/v1/models/{model}/predict", sent)[0]

        eventually(sleeps)
        (folder / "hold").touch()
        try:
            waiting = [askers.submit(ask, "slow", 1) for _ in range(20)]
            eventually((folder / "held").exists)
            assert ask("buyer", 70) == 200
            reading = {"site": "north", "level": 1.0, "read_at": shop.NOW_US}
            assert shop.call(f"{url}/v1/events/readings", reading)[0] == 200
            assert not any(one.done() for one in waiting)
        finally:
            (folder / "hold").unlink()
        assert {one.result(60) for one in waiting} == {200}
