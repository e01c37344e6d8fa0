"""Online learning: predict first, learn each label exactly once, go on after a crash as if there had been none."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import forked

sys.path.insert(0, str(Path(__file__).parent))

from learning_process import Averages, examples

from trimtab.core.errors import Conflict, Corrupt, Misuse, Unavailable
from trimtab.serving.arms.online_learning import Example, OnlineDeployment, learnt
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.testing import MemoryKeyValue

ROWS = [[float(n), 0.0] for n in range(6)]


@pytest.fixture
def store() -> Any:
    return MemoryKeyValue()


def deployment(store: Any, every_us: int = 10) -> OnlineDeployment:
    return OnlineDeployment("late/online", Averages(), store, every_us=every_us)


def scores(learnt_until: int) -> list[float]:
    """The scores of a learner that learnt every label up to a time once."""
    naive = Averages()
    naive.learn(
        np.array([[n % 5, n] for n in range(1, learnt_until + 1)], np.float64).reshape(-1, 2),
        np.array([n % 3 == 0 for n in range(1, learnt_until + 1)], np.float64),
    )
    return [naive.predict_row(row) for row in ROWS]


def known(online: OnlineDeployment) -> tuple[dict[int, list[float]], int]:
    """The sums and counts that a learner keeps, and of how many blocks: averages would hide what was learnt twice."""
    assert isinstance(online._learner, Averages)
    return online._learner.sums, online._learner.blocks


def test_it_predicts_before_it_learns(store: Any) -> None:
    online = deployment(store, every_us=0)
    assert online.predict_row([0.0, 0.0]) == 0.5
    assert online.learn(examples(0, 30), until_us=30) == 30
    assert [online.predict_row(row) for row in ROWS] == scores(30)
    assert online.predict(np.array(ROWS)).tolist() == scores(30)


@given(st.lists(st.integers(0, 60), max_size=12), st.sampled_from([0, 1, 10, 25]), st.randoms(use_true_random=False))
def test_however_it_is_called_and_restarted_each_label_is_learnt_once(
    steps: list[int], every_us: int, rng: random.Random
) -> None:
    """Blocks are learnt when they are over; examples of open blocks and old ones may be brought again."""
    store = MemoryKeyValue()
    online, until = deployment(store, every_us), 0
    for step in steps:
        until += step
        begin = rng.randint(0, max(0, online.saved.until_us))
        online.learn(examples(begin, until), until_us=until)
        if rng.random() < 0.5:
            online = deployment(store, every_us)  # a restart
    learnt = until if every_us == 0 else max(0, (until + 1) // every_us * every_us - 1)
    assert online.saved.examples == (learnt if steps else 0)
    assert [online.predict_row(row) for row in ROWS] == scores(online.saved.examples)


def test_blocks_are_those_of_the_known_at_time_whoever_calls(store: Any) -> None:
    hourly, slow = deployment(store), deployment(MemoryKeyValue())
    for until in range(1, 100):
        hourly.learn(examples(max(0, hourly.saved.until_us), until), until_us=until)
    slow.learn(examples(0, 99), until_us=99)
    assert hourly._learner.state() == slow._learner.state()


def test_a_restart_says_the_same_and_knows_how_far_it_read(store: Any) -> None:
    online = deployment(store)
    online.learn(examples(0, 45), until_us=45, positions={"p0001": 45})
    again = deployment(store)
    assert [again.predict_row(row) for row in ROWS] == [online.predict_row(row) for row in ROWS]
    assert (again.saved.until_us, again.saved.positions, again.saved.examples) == (39, {"p0001": 45}, 39)


class Picky(Averages):
    """A learner that refuses labels other than 0 and 1; broken, it refuses everything."""

    broken = False

    def learn(self, matrix: Any, labels: Any) -> None:
        super().learn(matrix, labels)  # it knows part of it by then, as a learner may that raises in the middle
        if self.broken or not np.isin(labels, (0.0, 1.0)).all():
            raise ValueError("a label is neither 0 nor 1")


def spoilt(begin: int, until: int, bad: set[int]) -> list[Example]:
    return [
        msgspec.structs.replace(e, label=2.0 if e.known_at_us in bad else e.label, request_id=f"r{e.known_at_us}")
        for e in examples(begin, until)
    ]


@given(st.sets(st.integers(2, 60)), st.lists(st.integers(1, 60), min_size=1, max_size=5), st.sampled_from([0, 1, 10]))
def test_what_a_learner_refuses_is_set_aside_and_the_rest_is_learnt_once(
    bad: set[int], calls: list[int], every_us: int
) -> None:
    """Alone in its block or among others, in whatever calls, with a restart before each of them."""
    store = MemoryKeyValue()
    online = OnlineDeployment("late/online", Picky(), store, every_us=every_us)
    online.learn(spoilt(0, 9, set()), until_us=9)  # what shows that it is no broken learner
    bad = {one for one in bad if one > 9}
    for until in sorted(calls):
        if until > 9:
            online = OnlineDeployment("late/online", Picky(), store, every_us=every_us)
            online.learn(spoilt(0, until, bad), until_us=until)
    reached = list(range(1, max(0, online.saved.until_us) + 1))
    aside = [n for n in reached if n in bad]
    good = Averages()
    for n in (one for one in reached if one not in bad):
        good.learn(np.array([[n % 5, n]], np.float64), np.array([n % 3 == 0], np.float64))
    assert known(online)[0] == good.sums
    assert (online.saved.examples, online.saved.set_aside) == (len(reached) - len(aside), len(aside))
    assert [one.request_id for one in online.saved.newest_aside] == [f"r{n}" for n in aside][-20:]
    found = learnt(store, "late/online")
    assert found is not None
    assert (found.set_aside, found.newest_aside) == (online.saved.set_aside, online.saved.newest_aside)


def test_an_example_that_has_a_fault_already_is_set_aside(store: Any) -> None:
    online = deployment(store)
    faulty = [msgspec.structs.replace(e, values=b"", fault="no inputs") if e.label else e for e in examples(0, 9)]
    assert online.learn(faulty, until_us=9) == 6
    assert [(one.known_at_us, one.why) for one in online.saved.newest_aside] == [(n, "no inputs") for n in (3, 6, 9)]


def test_a_broken_learner_loses_no_label(store: Any) -> None:
    online = OnlineDeployment("late/online", Picky(), store, every_us=10)
    online.learn(spoilt(0, 20, {7}), until_us=20)
    Picky.broken = True
    try:
        for _ in range(2):
            with pytest.raises(ValueError, match="neither"):
                online.learn(spoilt(0, 50, {33}), until_us=50)
    finally:
        Picky.broken = False
    assert (online.saved.examples, online.saved.set_aside, online.saved.until_us) == (18, 1, 19)
    assert online.learn(spoilt(0, 50, {33}), until_us=50) == 29
    assert (online.saved.examples, online.saved.set_aside) == (47, 2)


def test_a_first_label_that_is_refused_waits_for_one_that_is_not(store: Any) -> None:
    online = OnlineDeployment("late/online", Picky(), store, every_us=10)
    with pytest.raises(ValueError, match="neither"):
        online.learn(spoilt(0, 1, {1}), until_us=9)
    assert online.learn(spoilt(0, 15, {1}), until_us=19) == 14
    assert online.saved.set_aside == 1


def test_a_state_of_an_earlier_version_goes_on(store: Any) -> None:
    online = deployment(store)
    online.learn(examples(0, 45), until_us=45)
    saved = msgspec.msgpack.decode(store.get(b"online_learner/late/online"))
    store.write({b"online_learner/late/online": msgspec.msgpack.encode(saved[:5])})
    again = deployment(store)
    assert (again.saved.examples, again.saved.set_aside) == (39, 0)
    assert again.learn(examples(0, 55), until_us=55) == 10


def test_what_could_not_be_saved_was_not_learnt(store: Any) -> None:
    class Full(MemoryKeyValue):
        full = False

        def write(self, puts: Mapping[bytes, bytes], deletes: Any = ()) -> None:
            if self.full:
                raise Unavailable("disk full")
            super().write(puts, deletes)

    disk = Full()
    online = deployment(disk)
    for full in (True, False, True, False):
        disk.full = full
        begin = max(0, online.saved.until_us)
        if full:
            with pytest.raises(Unavailable):
                online.learn(examples(begin, begin + 25), until_us=begin + 25)
        else:
            online.learn(examples(begin, begin + 25), until_us=begin + 25)
        assert [online.predict_row(row) for row in ROWS] == scores(online.saved.examples)
    assert online.saved.examples == online.saved.until_us == 39


def test_what_failed_in_a_later_block_was_not_learnt_at_all(store: Any) -> None:
    class Failing(Averages):
        fails = False

        def learn(self, matrix: Any, labels: Any) -> None:
            if self.fails and self.blocks % 3 == 1:
                raise FloatingPointError("overflow")
            super().learn(matrix, labels)

    learner = Failing()
    online = OnlineDeployment("late/online", learner, store, every_us=10)
    for fails in (True, False, True, True, False):
        learner.fails = fails
        begin = max(0, online.saved.until_us)
        if fails:
            with pytest.raises(FloatingPointError):
                online.learn(examples(begin, begin + 35), until_us=begin + 35)
        else:
            assert online.learn(examples(begin, begin + 35), until_us=begin + 35)
        assert [online.predict_row(row) for row in ROWS] == scores(online.saved.examples)
        restarted = deployment(store)
        assert [restarted.predict_row(row) for row in ROWS] == [learner.predict_row(row) for row in ROWS]
    assert online.saved.examples == online.saved.until_us == 59


class Failing(MemoryKeyValue):
    """A store whose disk is full, or cannot be read either."""

    full = unread = False

    def get(self, key: bytes) -> bytes | None:
        if self.unread:
            raise Unavailable("input/output error")
        return super().get(key)

    def write(self, puts: Mapping[bytes, bytes], deletes: Any = ()) -> None:
        if self.full:
            self.unread = True
            raise Unavailable("disk full")
        super().write(puts, deletes)


@pytest.mark.parametrize("saved", [0, 25])
@pytest.mark.parametrize("follows", [False, True])
def test_what_could_neither_be_saved_nor_taken_back_is_learnt_once(saved: int, follows: bool) -> None:
    """The learner in memory has the block; the next call restores the saved state."""
    disk = Failing()
    online = deployment(disk)
    online.learn(examples(0, saved), until_us=saved)
    learnt = online.saved.examples
    disk.full = True
    for _ in range(2):  # the second call finds the learner as the first one left it
        with pytest.raises(Unavailable, match="input/output"):
            online.learn(examples(0, 48), until_us=48)
        assert [online.predict_row(row) for row in ROWS] == scores(learnt)
    with pytest.raises(Unavailable):
        online.follow()
    disk.full = disk.unread = False
    if follows:
        assert online.follow()
        assert not online.follow()
        assert [online._learner.predict_row(row) for row in ROWS] == scores(learnt)
    assert online.learn(examples(0, 48), until_us=48) == 39 - learnt
    assert [online.predict_row(row) for row in ROWS] == scores(39)
    sound = deployment(MemoryKeyValue())
    for until in (saved, 48):
        sound.learn(examples(0, until), until_us=until)
    assert known(online) == known(deployment(disk)) == known(sound)


def test_what_another_process_saved_during_a_failed_save_is_shown(store: Any) -> None:
    class Overtaken(Averages):
        def learn(self, matrix: Any, labels: Any) -> None:
            deployment(store).learn(examples(0, 45), until_us=45)
            raise Conflict("another process writes here")

    online = OnlineDeployment("late/online", Overtaken(), store, every_us=10)
    with pytest.raises(Conflict):
        online.learn(examples(0, 45), until_us=45)
    assert [online.predict_row(row) for row in ROWS] == scores(39)


def test_what_is_taken_over_while_learn_waits_is_not_learnt_again(store: Any) -> None:
    """A thread that follows takes over what another process has learnt, just before this one begins to."""
    following, go_on = threading.Event(), threading.Event()

    class Slow(Averages):
        slow = False

        def restore(self, state: bytes) -> None:
            if self.slow:
                following.set()
                assert go_on.wait(timeout=60)
            super().restore(state)

        def __deepcopy__(self, memo: Any) -> Averages:
            copied = Averages()
            copied.restore(self.state())
            return copied

    learner = Slow()
    online = OnlineDeployment("late/online", learner, store, every_us=10)
    deployment(store).learn(examples(0, 45), until_us=45)
    learner.slow = True
    follows = threading.Thread(target=online.follow)
    follows.start()
    assert following.wait(timeout=60)
    learns = threading.Thread(target=online.learn, args=(examples(0, 65),), kwargs={"until_us": 65})
    learns.start()
    time.sleep(0.05)  # it has looked at its examples and waits
    go_on.set()
    follows.join()
    learns.join()
    assert online.saved.examples == 59
    assert [online.predict_row(row) for row in ROWS] == scores(59)


def test_answers_do_not_wait_for_learning(store: Any) -> None:
    learning, go_on = threading.Event(), threading.Event()

    class Slow(Averages):
        def learn(self, matrix: Any, labels: Any) -> None:
            super().learn(matrix, labels)
            learning.set()
            assert go_on.wait(timeout=60)

        def __deepcopy__(self, memo: Any) -> Averages:
            copied = Averages()
            copied.restore(self.state())
            return copied

    online = OnlineDeployment("late/online", Slow(), store, every_us=0)
    thread = threading.Thread(target=online.learn, args=(examples(0, 30),), kwargs={"until_us": 30})
    thread.start()
    assert learning.wait(timeout=60)
    assert [online.predict_row(row) for row in ROWS] == scores(0)
    assert not online.follow()  # nor does what else the thread that follows looks after
    go_on.set()
    thread.join()
    assert [online.predict_row(row) for row in ROWS] == scores(30)


def test_what_another_process_has_learnt_is_taken_over(store: Any) -> None:
    serving, other = deployment(store), deployment(store)
    assert not serving.follow()
    other.learn(examples(0, 45), until_us=45)
    assert serving.follow()
    assert not serving.follow()
    assert [serving.predict_row(row) for row in ROWS] == scores(39)
    serving.learn(examples(0, 70), until_us=70)
    assert serving.saved.examples == 69


def test_examples_out_of_order_or_from_the_future_are_refused(store: Any) -> None:
    online = deployment(store)
    with pytest.raises(Misuse, match="out of order"):
        online.learn(examples(0, 9)[::-1], until_us=20)
    with pytest.raises(Misuse, match="later call"):
        online.learn(examples(0, 30), until_us=20)
    with pytest.raises(Misuse, match="every_us"):
        deployment(store, every_us=-1)


@pytest.mark.parametrize("stored", [b"\xc1", b"\x95\x01\x00\x81\xa1\xff"])
def test_a_damaged_state_is_named(store: Any, stored: bytes) -> None:
    store.write({b"online_learner/late/online": stored})
    with pytest.raises(Corrupt, match="late/online"):
        deployment(store)


def kills(folder: Path, count: int, seed: int) -> int:
    """Kill a learning process at random times; how many times its state was wrong."""
    rng = random.Random(seed)
    wrong, before = 0, 0
    for _ in range(count):
        command = [sys.executable, str(Path(__file__).with_name("learning_process.py")), str(folder), "30"]
        process = forked.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        with LmdbKeyValue(folder) as store:
            left = deployment(store)
            said = [left.predict_row(row) for row in ROWS]
            wrong += said != scores(left.saved.examples) or left.saved.examples != max(0, left.saved.until_us)
            wrong += left.saved.examples < before
            before = left.saved.examples
    assert before > 0
    return wrong


def test_a_killed_learner_has_learnt_each_label_once(tmp_path: Path) -> None:
    assert kills(tmp_path, 3, seed=1) == 0


@pytest.mark.soak
def test_a_learner_killed_many_times_has_learnt_each_label_once(tmp_path: Path, soak_report: Any) -> None:
    wrong = kills(tmp_path, 50, seed=2)
    soak_report("kill_online_learning", runs=50, failures=wrong)
    assert wrong == 0
