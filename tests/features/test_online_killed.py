"""The state machine of the online features on LMDB, whose process is killed by SIGKILL anywhere, against the oracle."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter_ns
from typing import Any, BinaryIO, ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import rule, run_state_machine_as_test
from strategies import BASE_US, UNIT_US
from test_online_machine import Online, nows

from trimtab.features.online.store import POSITIONS_KEY
from trimtab.store.lmdb.kv import LmdbKeyValue

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what works is a fork of the test's process")
PHASES = [Phase.generate]  # what is found is not made smaller: no kill can be repeated
writes = st.integers(0, 6)
delays_ns = st.integers(0, 60).map(lambda n: 10 * n**3)  # up to 2 ms, mostly less: as long as a synced write
calls = st.one_of(st.none(), st.integers(0, 100))  # none: killed from outside after the delay
work = st.sampled_from(["apply", "apply", "fill", "compact", "all"])


class ReportingKeyValue(LmdbKeyValue):
    """A store that tells of each write before it and after it, with the log positions that it brings."""

    report: Callable[[str], None] | None = None
    left = 0  # writes before the one that its process dies in
    calls: int | None = None  # calls of functions, those of C too, from the beginning of that write to its death

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        if self.report is None:
            super().write(puts, deletes)
            return
        self.report(f"begun {puts.get(POSITIONS_KEY, b'').hex()}")
        if self.left == 0 and self.calls is not None:
            sys.setprofile(self._die)
        self.left -= 1
        super().write(puts, deletes)
        self.report("done")

    def _die(self, *_: object) -> None:
        assert self.calls is not None
        self.calls -= 1
        if self.calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)


class OnDisk(Online):
    """One store on disk; some of the work is done by a child process, which never ends but by SIGKILL."""

    counts: ClassVar[Counter[str]] = Counter()
    failed: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="trimtab-killed-"))

    def teardown(self) -> None:
        if hasattr(self, "kv"):
            self.kv.close()
        shutil.rmtree(self.folder)

    def open_store(self) -> Any:
        return ReportingKeyValue(self.folder)

    @rule(kills=st.lists(st.tuples(writes, delays_ns, calls, work), min_size=1, max_size=4), now_us=nows)
    def be_killed(self, kills: list[tuple[int, int, int | None, str]], now_us: int) -> None:
        try:
            for left, after_ns, calls, what in kills:
                self.append(4)  # something to apply
                self._be_killed(left, after_ns, calls, what)
                for parse_time_us in (now_us, BASE_US + 20 * UNIT_US, BASE_US + 10**9 // 10 * UNIT_US):
                    self.ask(parse_time_us)
        except BaseException:
            self.failed.append(traceback.format_exc())
            raise

    def _work(self, what: str) -> None:
        if what in ("apply", "all"):
            for _ in range(6):
                self._apply(1)
        super()._work(what)

    def _be_killed(self, left: int, after_ns: int, calls: int | None, what: str) -> None:
        """Kill the child in a write, after a time or some calls, or once it has nothing left to do; open the store."""
        before = self.kv.get(POSITIONS_KEY) or b""
        self.kv.close()
        reading, writing = os.pipe()
        parent = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks next to native threads
            child = os.fork()
        if child == 0:
            self.open()
            self.restart()
            self.kv.left, self.kv.calls = left, calls
            self._work_in_child(what, writing, parent)
        os.close(writing)
        try:
            with open(reading, "rb") as said:
                possible = _watched(said, child, before, left if calls is None else 1_000, after_ns)
        finally:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        self.open()
        self.restart()
        found = self.kv.get(POSITIONS_KEY) or b""
        assert found in possible, "a write that was acknowledged is lost, or one is half there"
        self.counts["killed"] += 1
        self.counts["in a write"] += len(possible) > 1
        self.kv.check()

    def _work_in_child(self, what: str, told: int, parent: int) -> None:
        try:
            self.kv.report = lambda line: os.write(told, line.encode() + b"\n")
            self._work(what)
            self.kv.report("nothing left")
            while os.getppid() == parent:
                time.sleep(0.05)
        except BaseException:
            os.write(told, b"failed " + traceback.format_exc().encode().hex().encode() + b"\n")
        finally:
            os._exit(1)


def _watched(said: BinaryIO, child: int, before: bytes, left: int, after_ns: int) -> list[bytes]:
    """Kill the child in its time; the positions that may be stored then: the acknowledged, and those on their way."""
    possible, killed = [before], False
    for line in said:
        word, _, rest = line.decode().strip().partition(" ")
        assert word != "failed", bytes.fromhex(rest).decode()
        if word == "begun":
            possible = [possible[0], bytes.fromhex(rest) or possible[0]]
            left -= 1
        elif word == "done":
            possible = possible[1:]
        if not killed and (left < 0 or word == "nothing"):
            until_ns = perf_counter_ns() + after_ns
            while perf_counter_ns() < until_ns:
                pass
            os.kill(child, signal.SIGKILL)
            killed = True
    return possible


def campaign(examples: int, steps: int, *, least: int = 0) -> Counter[str]:
    """Run the machine; how many processes were killed, and how many of them within a write.

    At most three times the examples are run, until `least` processes were killed, one of them within a write.

    What a kill leaves differs each time, and with it what the next steps may be: Hypothesis, which takes equal choices
    for equal runs, then gives up. It begins again; failures are kept apart, so that none is lost by that.
    """
    OnDisk.counts.clear()
    OnDisk.failed.clear()
    for number in range(3 * examples // 10 if least else examples // 10):
        if number >= examples // 10 and OnDisk.counts["killed"] >= least and OnDisk.counts["in a write"]:
            break
        given = settings(max_examples=10, stateful_step_count=steps, deadline=None, phases=PHASES, database=None)
        with suppress(FlakyStrategyDefinition):
            run_state_machine_as_test(OnDisk, settings=given)
        assert OnDisk.failed == []
    return OnDisk.counts


@pytest.mark.slow
def test_after_sigkill_features_on_disk_equal_the_oracle() -> None:
    counts = campaign(10, 20, least=10)
    assert counts["killed"] >= 10
    assert counts["in a write"] > 0


@pytest.mark.soak
def test_after_thousands_of_sigkills_features_on_disk_equal_the_oracle(soak_report: Callable[..., None]) -> None:
    counts = campaign(1_500, 40)
    soak_report("kill_online_machine", runs=counts["killed"], failures=0, in_a_write=counts["in a write"])
    assert counts["killed"] >= 2_000
    assert counts["in a write"] >= 500
