"""The child process of `SpotCheck`: it reads sampled requests as a service would, and compares their features."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from bisect import bisect_right
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec

from trimtab import store
from trimtab.core.errors import Misuse
from trimtab.core.urls import store_url
from trimtab.features.frames import REASONS
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.run.executors import Workplace
from trimtab.simulation.spot_check import Job, Question, Setup, Verdict
from trimtab.store.log_order import append_order
from trimtab.store.ports import Log, LogRecord

_BATCH = 5_000


class Follower:
    """Applies an event log to online state, up to any given time.

    Args:
        log: The event log. It is only read.
    """

    def __init__(self, log: Log, online: OnlineStore) -> None:
        self._log = log
        self._online = online
        # for each partition, the records that were read, but were appended too late to be applied yet
        self._waiting: dict[str, list[LogRecord]] = {}
        self._read: dict[str, int] = {}

    def apply_until(self, at_us: int) -> None:
        """Apply all records appended up to `at_us`. At equal times, events come before requests."""
        ready = [record for partition in self._log.positions() for record in self._due(partition, at_us)]
        ready.sort(key=append_order)
        for start in range(0, len(ready), _BATCH):
            self._online.apply(ready[start : start + _BATCH])

    def _due(self, partition: str, at_us: int) -> list[LogRecord]:
        """Return a partition's records up to a time, after reading more of them if needed."""
        waiting = self._waiting.setdefault(partition, [])
        while not waiting or waiting[-1].appended_at_us <= at_us:
            records = self._log.read(partition, self._read.get(partition, 0), limit=_BATCH)
            if not records:
                break
            waiting += records
            self._read[partition] = records[-1].position
        end = bisect_right(waiting, at_us, key=lambda r: r.appended_at_us)
        due = waiting[:end]
        del waiting[:end]
        return due


def load_code(code: dict[str, str]) -> None:
    """Run the files that define Python functions used in features, so that this process knows the functions."""
    for file, name in code.items():
        found = None if name in ("", "__main__") or name in sys.modules else importlib.util.find_spec(name)
        if found is not None and found.origin == file:
            importlib.import_module(name)
        else:  # a project file is not importable by name, so its code is run
            _run(Path(file))


def _run(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"trimtab_project_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise Misuse(f"{file} is no Python file, but features need functions that it defines.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))


class Reader:
    """Reads the features of requests from the stores in a folder.

    Args:
        setup: What the replay sent with the first job.
        opened: Closes the stores at the end.
    """

    def __init__(self, setup: Setup, opened: ExitStack) -> None:
        load_code(setup.code)
        kv = opened.enter_context(closing(store.open(store_url("lmdb", Path(setup.folder) / "online"), "kv")))
        log = opened.enter_context(
            closing(store.open(store_url("sqlite", Path(setup.folder) / "log" / "events"), "log"))
        )
        self.follower = Follower(log, OnlineStore(kv, setup.features.views))
        self._plan = RequestPlan(setup.features, kv)

    def compare(self, question: Question) -> Verdict:
        """Read the features of a request as of its time, and compare them with those of the replay."""
        self.follower.apply_until(question.at_us)
        read = self._plan.read([question.request], question.at_us)
        different = []
        for name, online, code, expected, reason in zip(
            read.names, read.values[0], read.reasons[0], question.values, question.reasons, strict=True
        ):
            if not (type(online) is type(expected) and repr(online) == repr(expected) and reason in (None, code)):
                found = f"{online!r} ({REASONS[code]}) online, {expected!r} offline"
                different.append(f"{name} at {question.at_us}: {found}")
        count = len(read.names)
        return Verdict(rows=1, values=count, mismatches=len(different), first=next(iter(different), ""))


def check(argument: bytes, place: Workplace) -> bytes:
    """Compare the requests of a `Job`, and return a `Verdict`; both are encoded."""
    job = msgspec.msgpack.decode(argument, type=Job)
    reader = place.keep("reader", lambda opened: Reader(_first(job), opened))
    found = sum(map(reader.compare, job.questions), Verdict())
    if job.last:
        reader.follower.apply_until(2**63 - 1)
    return msgspec.msgpack.encode(found)


def _first(job: Job) -> Setup:
    assert job.setup is not None  # the first job always has it
    return job.setup
