"""Versions in memory: loaded once, beside each other, and dropped only when nobody holds them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import shop

from trimtab.app.models.version_memory import VersionMemory
from trimtab.core.errors import Corrupt, Misuse
from trimtab.registry import LoadedModel, Version

_PATIENCE_S = 30.0  # for what happens at once, or never


class Loads:
    """Loads versions of a registry, counted; those in `shut` wait until they are let go on, those in `broken` fail."""

    def __init__(self, load: Callable[[Version], LoadedModel]) -> None:
        self.shut: dict[str, threading.Event] = {}
        self.broken: dict[str, Exception] = {}
        self.begun: Counter[str] = Counter()
        self._load = load

    def __call__(self, version: Version) -> LoadedModel:
        self.begun[version.name] += 1
        if (gate := self.shut.get(version.name)) is not None:
            assert gate.wait(_PATIENCE_S)
        if (error := self.broken.get(version.name)) is not None:
            raise error
        return self._load(version)


@pytest.fixture
def opened(trained: Path) -> Iterator[tuple[Loads, Version, Version]]:
    with shop.opened(trained) as project:
        yield Loads(project.registry.load), project.registry.get("buyer@1"), project.registry.get("buyer@2")


def finished(memory: VersionMemory) -> None:
    for thread in memory.threads:
        thread.join(_PATIENCE_S)
        assert not thread.is_alive()


def test_nobody_waits_for_the_load_of_another_version(opened: Any) -> None:
    loads, one, two = opened
    memory = VersionMemory(loads, 2**30)
    loads.shut[two.name] = threading.Event()
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(memory.get, two, "slow")
        quick = pool.submit(memory.get, one, "quick")
        assert quick.result(_PATIENCE_S).version.id == one.id
        assert pool.submit(memory.too_full).result(_PATIENCE_S) is False
        pool.submit(memory.hold, "quick", ()).result(_PATIENCE_S)
        assert not slow.done()
        loads.shut[two.name].set()
        assert slow.result(_PATIENCE_S).version.id == two.id


def test_a_version_is_loaded_once_however_many_ask_for_it_meanwhile(opened: Any) -> None:
    loads, one, _ = opened
    memory = VersionMemory(loads, 2**30)
    loads.shut[one.name] = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(memory.get, one, f"holder {n}") for n in range(8)]
        assert memory.begin(one, "another") is None
        loads.shut[one.name].set()
        found = {id(each.result(_PATIENCE_S)) for each in asked}
    assert len(found) == 1
    assert memory.begin(one, "another") is not None
    assert loads.begun == {one.name: 1}


def test_a_load_that_fails_fails_for_all_who_wait_for_it_and_the_next_one_tries_again(opened: Any) -> None:
    loads, one, _ = opened
    memory = VersionMemory(loads, 2**30)
    loads.shut[one.name] = threading.Event()
    loads.broken[one.name] = Corrupt("damaged")
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(memory.get, one, "buyer") for _ in range(2)]
        loads.shut[one.name].set()
        for each in asked:
            with pytest.raises(Corrupt, match="damaged"):
                each.result(_PATIENCE_S)
    loads.broken.clear()
    assert memory.get(one, "buyer").version.id == one.id
    assert memory.find(one, "buyer") is not None


class InterruptedLoads(dict[str, Any]):
    """The loads under way, of which one is interrupted as soon as it is registered, or as soon as it is removed."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at: str | None = at
        self.asked = threading.Semaphore(0)

    def setdefault(self, key: str, default: Any = None) -> Any:
        found = super().setdefault(key, default)
        self.asked.release()
        self._interrupt("registered")
        return found

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._interrupt("removed")

    def _interrupt(self, at: str) -> None:
        if self.at == at:
            self.at = None
            raise KeyboardInterrupt


def asked_apart(memory: VersionMemory, version: Version) -> tuple[threading.Thread, list[LoadedModel | str]]:
    """Ask for a version in a thread that may wait for ever; what it was told."""
    told: list[LoadedModel | str] = []

    def ask() -> None:
        try:
            told.append(memory.get(version, "buyer"))
        except BaseException as error:
            told.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread, told


def test_nobody_waits_for_a_load_that_was_interrupted_before_it_began(opened: Any) -> None:
    loads, one, _ = opened
    memory = VersionMemory(loads, 2**30)
    memory._loads = InterruptedLoads("registered")
    with pytest.raises(KeyboardInterrupt):
        memory.get(one, "buyer")
    thread, told = asked_apart(memory, one)
    thread.join(_PATIENCE_S / 3)
    assert [each.version.id for each in told if isinstance(each, LoadedModel)] == [one.id]
    assert loads.begun == {one.name: 1}


def test_whoever_waits_for_a_load_that_is_interrupted_at_its_end_is_told(opened: Any) -> None:
    loads, one, _ = opened
    memory = VersionMemory(loads, 2**30)
    memory._loads = under_way = InterruptedLoads("removed")
    loads.shut[one.name] = threading.Event()
    (first, told_first), (second, told_second) = asked_apart(memory, one), asked_apart(memory, one)
    for _ in range(2):
        assert under_way.asked.acquire(timeout=_PATIENCE_S)
    loads.shut[one.name].set()
    for thread in (first, second):
        thread.join(_PATIENCE_S / 3)
    said = "Misuse: buyer@1 cannot be loaded here: KeyboardInterrupt: "
    assert sorted(map(str, [*told_first, *told_second])) == ["KeyboardInterrupt: ", said]
    assert memory.get(one, "buyer").version.id == one.id


def test_whoever_must_not_wait_is_told_what_the_last_try_raised_until_one_succeeds(opened: Any) -> None:
    loads, one, _ = opened
    memory = VersionMemory(loads, 2**30, retry_s=0.0)
    loads.broken[one.name] = AttributeError("a bug of the user's")
    assert memory.begin(one, "buyer") is None
    finished(memory)
    loads.broken.clear()
    loads.shut[one.name] = threading.Event()
    for _ in range(3):  # it is being tried again
        with pytest.raises(Misuse, match=r"buyer@1 cannot be loaded here: AttributeError: a bug of the user's"):
            memory.begin(one, "buyer")
    assert loads.begun[one.name] == 2
    loads.shut[one.name].set()
    finished(memory)
    assert memory.begin(one, "buyer") is not None
    assert loads.begun[one.name] == 2


def test_what_failed_is_not_tried_again_at_each_look(opened: Any) -> None:
    loads, one, _ = opened
    memory = VersionMemory(loads, 2**30, retry_s=3_600.0)
    loads.broken[one.name] = Corrupt("damaged")
    with pytest.raises(Corrupt, match="damaged"):
        memory.get(one, "buyer")
    for _ in range(3):
        with pytest.raises(Corrupt, match="damaged"):
            memory.begin(one, "buyer")
    assert loads.begun[one.name] == 1
    assert memory.threads == []


def test_a_version_that_somebody_asked_for_stays_until_he_says_what_he_holds(opened: Any) -> None:
    loads, one, two = opened
    memory = VersionMemory(loads, 1)
    first, second = memory.get(one, "first"), memory.get(two, "second")
    assert (memory.find(one, "first"), memory.find(two, "second")) == (first, second)
    memory.hold("first", ())
    assert memory.used_bytes() == len(second.artifact.estimator)
    memory.hold("second", ())
    assert memory.used_bytes() == 0


def test_what_waits_stays_in_memory_and_only_what_answers_can_be_too_much(opened: Any) -> None:
    loads, one, two = opened
    sizes = [len(loads._load(version).artifact.estimator) for version in (one, two)]
    memory = VersionMemory(loads, max(sizes))
    memory.get(one, "buyer")
    memory.hold("buyer", {one.id})
    memory.get(two, "buyer")
    assert not memory.too_full()
    memory.hold("buyer", {one.id}, {two.id})
    assert memory.used_bytes() == sum(sizes)
    assert not memory.too_full()
    memory.hold("buyer", {one.id, two.id})
    assert memory.too_full()
    memory.hold("buyer", {two.id})
    assert memory.used_bytes() == sizes[1]
    assert not memory.too_full()


def test_least_used_versions_that_nobody_holds_go_first(opened: Any) -> None:
    loads, one, two = opened
    sizes = [len(loads._load(version).artifact.estimator) for version in (one, two)]
    memory = VersionMemory(loads, sum(sizes))
    for version in (one, two, one):
        memory.get(version, "buyer")
    memory.hold("buyer", ())
    memory.cap_bytes = max(sizes)
    memory.hold("buyer", ())
    assert memory.find(two, "another") is None
    assert memory.find(one, "another") is not None
    assert memory.costs(two) is None
    costs = memory.costs(one)
    assert costs is not None
    assert costs.alone_s > 0.0


def test_the_version_that_answered_until_now_goes_after_those_that_ended_before(opened: Any) -> None:
    """It kept the place of the day on which it was loaded, and a roll back goes to it."""
    loads, one, two = opened
    sizes = [len(loads._load(version).artifact.estimator) for version in (one, two)]
    memory = VersionMemory(loads, sum(sizes))
    memory.get(one, "buyer")
    memory.hold("buyer", {one.id})
    memory.get(two, "another")
    memory.hold("another", {two.id})
    memory.hold("another", ())
    memory.hold("buyer", ())
    memory.cap_bytes = max(sizes)
    memory.hold("buyer", ())
    assert memory.find(one, "buyer") is not None
    assert memory.find(two, "buyer") is None
