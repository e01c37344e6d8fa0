"""What a serving process does in the background: aliases are followed at once, whatever is being loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shop

from processes import PATIENCE_S, eventually
from trimtab.app.models.version_memory import VersionMemory
from trimtab.app.project import Project, open_project
from trimtab.app.serve.background import BackgroundTasks, Ticker
from trimtab.app.state.service_failures import forget_failures, service_failures
from trimtab.app.training.loops import Loops
from trimtab.core.errors import Unavailable
from trimtab.core.time import DAY_US
from trimtab.registry import LoadedModel, Version
from trimtab.run import Cancelled
from trimtab.store.ports import Put


class SlowLoads:
    """A project's loads, of which those of `slow` versions take until `end`."""

    def __init__(self, project: Project) -> None:
        self.slow: set[str] = set()
        self.begun: list[str] = []
        self.end = threading.Event()
        self._load = project._load
        project.version_memory = VersionMemory(self, project.config.serve.model_memory_bytes)

    def __call__(self, version: Version) -> LoadedModel:
        self.begun.append(version.name)
        if version.name in self.slow:
            assert self.end.wait(PATIENCE_S)
        return self._load(version)


@pytest.fixture
def project(trained: Path) -> Iterator[Project]:
    with shop.opened(trained) as opened:
        opened.views.catch_up()
        yield opened


@pytest.fixture
def loads(project: Project) -> Iterator[SlowLoads]:
    made = SlowLoads(project)
    yield made
    made.end.set()


@pytest.fixture
def keeper(project: Project, loads: SlowLoads) -> Iterator[BackgroundTasks]:
    made = BackgroundTasks(project, keeps=False)
    made.follow()
    with made.start():
        yield made
        loads.end.set()


def put_in_service(project: Project, name: str) -> None:
    """Make a version champion as if a gate had passed it."""
    registry = project.registry
    version = registry.get(name)
    champion = registry.alias(version.model, "champion")
    assert champion is not None
    number = len(registry.history(version.model, "champion"))
    passed = registry.gates_of(registry.get(f"{version.model}@2"))[0]
    gate = msgspec.structs.replace(passed, id=f"{version.model}-{number}", candidate=version.id, champion=champion.id)
    registry.put_gate(gate)
    registry.move(version.model, "champion", version, why="A test.", gate=gate)


def becomes(look: Callable[[], Any], wanted: Any) -> None:
    eventually(lambda: look() == wanted, f"needed {wanted}")


def answering(project: Project) -> tuple[str, str]:
    (answer,) = project.served("buyer").endpoint.answer([shop.visit("one", shop.NOW_US)])
    return answer.version, answer.arm


def test_a_slow_load_of_one_deployment_keeps_no_other_from_being_rolled_back(
    project: Project, loads: SlowLoads, keeper: BackgroundTasks
) -> None:
    put_in_service(project, "buyer@1")
    becomes(lambda: answering(project)[0], "buyer@1")
    loads.slow.add("learner@1")
    put_in_service(project, "learner@1")
    becomes(lambda: "learner@1" in loads.begun, True)
    project.roll_back("buyer", why="It was better.")
    becomes(lambda: answering(project)[0], "buyer@2")
    learner = project.served("learner").endpoint
    assert learner.serving is not None
    assert (learner.serving.label, keeper.failures) == ("learner@2", {})
    loads.end.set()
    becomes(lambda: learner.current.served.label, "learner@1")


def test_a_slow_load_keeps_a_canary_of_the_same_deployment_from_nothing(
    project: Project, loads: SlowLoads, keeper: BackgroundTasks
) -> None:
    project.set_arm("buyer@2", "canary", share=1.0)
    becomes(lambda: answering(project), ("buyer@2", "canary"))
    loads.slow.add("buyer@1")
    put_in_service(project, "buyer@1")
    becomes(lambda: "buyer@1" in loads.begun, True)
    project.set_arm("buyer", "canary", share=0.0)
    becomes(lambda: answering(project), ("buyer@2", "champion"))
    project.roll_back("buyer", why="It was better.")
    loads.end.set()
    ended(project)
    assert answering(project) == ("buyer@2", "champion")
    assert keeper.failures == {}


def test_a_sleeping_model_is_woken_while_another_one_is_loaded(
    project: Project, loads: SlowLoads, keeper: BackgroundTasks
) -> None:
    memory = project.version_memory
    assert project.served("buyer").sleep()
    memory.cap_bytes = 0
    memory.hold("buyer", ())  # its version is gone from memory
    memory.cap_bytes = 2**30
    loads.slow.add("learner@1")
    put_in_service(project, "learner@1")
    becomes(lambda: "learner@1" in loads.begun, True)
    answered: list[tuple[str, str]] = []
    asker = threading.Thread(target=lambda: answered.append(answering(project)), daemon=True)
    asker.start()
    asker.join(PATIENCE_S / 2)
    assert answered == [("buyer@2", "champion")]
    assert loads.begun.count("buyer@2") == 2
    assert not loads.end.is_set()


def test_what_cannot_be_loaded_is_said_until_it_can_be_however_often_it_is_looked_at(
    project: Project, loads: SlowLoads
) -> None:
    project.version_memory = VersionMemory(loads, 2**30, retry_s=0.0)
    keeper = BackgroundTasks(project, keeps=False)
    keeper.follow()
    assert keeper.failures == {}
    artifact = project.registry.get("buyer@1").artifact
    (file,) = [path for path in (project.state_folder / "blob").rglob("*") if path.name.endswith(artifact[4:])]
    sound = file.read_bytes()
    file.write_bytes(b"damaged")
    put_in_service(project, "buyer@1")
    keeper.follow()
    said = keeper.failures
    assert list(said) == ["follow buyer"]
    for _ in range(5):  # each look begins another try
        keeper._round(keeper._follow, count=False)
        assert keeper.failures == said
        ended(project)
    assert keeper.failed == {"follow buyer": 1}
    assert service_failures(project.state.catalog) == said
    keeper._round(keeper._follow)
    assert keeper.failed == {"follow buyer": 2}
    assert project.served("buyer").endpoint.fails_to_load
    ended(project)
    file.write_bytes(sound)
    keeper._round(keeper._follow, count=False)
    ended(project)
    keeper._round(keeper._follow, count=False)
    assert keeper.failures == service_failures(project.state.catalog) == {}
    assert answering(project) == ("buyer@1", "champion")


def fails(keeper: BackgroundTasks, said: str) -> None:
    """Let a round of a piece of work fail."""

    def fail() -> None:
        raise Unavailable(said)

    keeper._round({"follow buyer": fail})


def test_a_worker_that_outlives_its_service_leaves_alone_what_the_next_in_its_place_says(project: Project) -> None:
    catalog = project.state.catalog
    orphan = BackgroundTasks(project, keeps=False, worker=1)
    with orphan.start():
        forget_failures(catalog)  # a service begins anew
        fails(orphan, "late")
        assert service_failures(catalog) == {"follow buyer (worker 1)": "late"}
        with BackgroundTasks(project, keeps=False, worker=1).start() as keeper:
            assert service_failures(catalog) == {}
            fails(keeper, "new")
            fails(orphan, "later")
            assert service_failures(catalog) == {"follow buyer (worker 1)": "new"}
            orphan.close()
            assert service_failures(catalog) == {"follow buyer (worker 1)": "new"}
            keeper._round({"follow buyer": lambda: None})
            assert service_failures(catalog) == {}
            fails(keeper, "again")
            forget_failures(catalog, 1)
            fails(keeper, "once more")  # and what it says is noted though somebody removed what it said
            assert service_failures(catalog) == {"follow buyer (worker 1)": "once more"}
        assert catalog.find("service") == []


def test_what_a_service_of_an_earlier_trimtab_noted_is_passed_over(project: Project) -> None:
    project.state.catalog.write([Put("service", "failures", b'{"follow buyer": "it failed"}')])
    assert service_failures(project.state.catalog) == {}


def ended(project: Project) -> None:
    """Wait for the loads that are under way."""
    for thread in project.version_memory.threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_between_two_ticks_what_is_predicted_is_read_ahead(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load a minute's predictions are some seconds of work, in which requests wait for the processor."""
    done: list[str] = []
    monkeypatch.setattr("trimtab.app.serve.background._ROUND_S", 0.01)
    monkeypatch.setattr("trimtab.app.serve.background._TICK_S", 0.5)
    monkeypatch.setattr("trimtab.app.experiments.ticking.tick_project", lambda system: done.append("tick"))
    monkeypatch.setattr(project.part(Loops), "read_ahead", done.append)
    with BackgroundTasks(project, answers=False).start():
        becomes(lambda: done.count("tick") > 1, True)
    ticks = [place for place, what in enumerate(done) if what == "tick"]
    assert done[:3] == ["tick", "buyer", "learner"]  # nothing is read ahead before the first tick
    assert done[ticks[0] + 1 : ticks[1]].count("buyer") > 1


def test_nothing_is_read_ahead_of_ticks_that_fail(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher, or a catalogue, that fails keeps a tick from its beginning; days would be filled, and never closed."""
    done: list[str] = []

    def tick(system: object) -> None:
        done.append("tick")
        raise Unavailable("the catalogue is gone")

    monkeypatch.setattr("trimtab.app.serve.background._ROUND_S", 0.01)
    monkeypatch.setattr("trimtab.app.serve.background._TICK_S", 0.2)
    monkeypatch.setattr("trimtab.app.experiments.ticking.tick_project", tick)
    monkeypatch.setattr(project.part(Loops), "read_ahead", done.append)
    with BackgroundTasks(project, answers=False).start():
        becomes(lambda: done.count("tick") > 2, True)
    assert set(done[done.index("tick") :]) == {"tick"}


def test_ticks_of_a_process_that_answers_are_done_in_a_child_by_the_definitions_it_started_with(trained: Path) -> None:
    here: list[str] = []
    with open_project(trained) as project, Ticker(project, lambda: False) as ticker:
        ticker.work("read ahead buyer", lambda: here.append("ahead"))  # nothing to read before the first tick
        before = project.state.catalog.mark()
        ticker.work("tick", lambda: here.append("tick"))
        assert project.state.catalog.mark() != before
        ticker.work("read ahead buyer", lambda: here.append("ahead"))
        ticker.work("retention", lambda: here.append("retention"))
        report = ticker.skew(project.clock.now_us() - DAY_US)
        assert (report.by, report.rows) == ("service", 0)
        assert here == []
        file = trained / "project.py"
        file.write_text(
            file.read_text().replace(
                "def batch():", "unused = tt.source('unused', time='at', columns={})\n\n\ndef batch():"
            )
        )
        with Ticker(project, lambda: False) as other:
            other.work("tick", lambda: here.append("tick"))
            other.work("retention", lambda: here.append("retention"))
        assert here == ["tick", "retention"]
        with Ticker(project, lambda: True) as ended, pytest.raises(Cancelled, match="stopping"):
            ended.work("tick", lambda: here.append("tick"))
        assert here == ["tick", "retention"]
