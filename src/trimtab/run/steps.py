"""Steps: work that is finished once is never done again, also after a crash."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable
from trimtab.store.ports import Blob, Catalog, Put, Remove

KIND = "step"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a finished step in the catalogue."""

    format: Literal[1] = 1
    name: str
    inputs_hash: str
    result: str  # the blob that holds the result
    finished_at_us: int
    attempts: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a step, and whether it was computed."""

    result: bytes
    cached: bool  # finished before, not computed again
    attempts: int


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Retries of a step that raised `Unavailable`: their number and first pause, which doubles each time."""

    times: int = 3
    first_pause_s: float = 0.1
    lease_s: float = 30.0  # how long others wait for a crashed holder
    poll_s: float = 0.05

    def __post_init__(self) -> None:
        if self.times < 0 or min(self.first_pause_s, self.lease_s, self.poll_s) <= 0:
            raise Misuse(f"retry: {self}: give times >= 0 and pauses above 0 s.")


def step(
    catalog: Catalog,
    blob: Blob,
    name: str,
    inputs_hash: str,
    function: Callable[[], bytes],
    *,
    clock: Clock,
    retry: Retry | None = None,
    sleep: Callable[[float], None] = time.sleep,
    alone: bool = False,
) -> Done:
    """The result of `function`, computed at most once for these inputs by all processes together.

    The result is stored before the step is recorded as finished, so a crash leaves either nothing or a finished step.
    While one process works, others wait for it; if it dies they take over when its lease has run out.

    Args:
        catalog: Holds finished steps and leases.
        blob: Holds results.
        name: The step's name, e.g. "train".
        inputs_hash: The content address of all that the result depends on, code included.
        function: A pure function of those inputs; may run again after a crash.
        clock: Stamps the record.
        retry: Retries, and the lease's length; left out, three retries and 30 s.
        sleep: Called to wait.
        alone: The caller holds a lease that keeps other processes away, so none is taken here.

    Raises:
        Unavailable: It was still unavailable at the last retry.
        Conflict: The lease was lost to another process, which finished with another result.
    """
    retry = retry or Retry()
    lease, holder = f"{KIND}/{name}/{inputs_hash}", f"{os.getpid()}-{os.urandom(8).hex()}"
    while True:
        done = _done(catalog, blob, name, inputs_hash)
        if done is not None:
            return done
        if alone:
            return _finish(catalog, blob, name, inputs_hash, function, clock, retry, sleep)
        if catalog.acquire(lease, holder, retry.lease_s):
            break
        sleep(retry.poll_s)
    try:
        done = _done(catalog, blob, name, inputs_hash)  # by the process that held the lease until now
        if done is not None:
            return done
        with _renewed(catalog, lease, holder, retry.lease_s):
            return _finish(catalog, blob, name, inputs_hash, function, clock, retry, sleep)
    finally:
        catalog.release(lease, holder)


def finished(catalog: Catalog, name: str, inputs_hash: str) -> Step | None:
    """The record of a finished step; None while there is none."""
    record = catalog.get(KIND, f"{name}/{inputs_hash}")
    return None if record is None else msgspec.json.decode(record.body, type=Step)


def forget_step(catalog: Catalog, name: str, inputs_hash: str) -> None:
    """Forget that a step was finished, so that it runs again; does nothing if it was not."""
    catalog.write([Remove(KIND, f"{name}/{inputs_hash}")])


def _done(catalog: Catalog, blob: Blob, name: str, inputs_hash: str) -> Done | None:
    """The result of a finished step; None if there is none, or if its result was removed or damaged since."""
    found = finished(catalog, name, inputs_hash)
    if found is None:
        return None
    try:
        return Done(result=blob.get(found.result), cached=True, attempts=found.attempts)
    except (NotFound, Corrupt):
        return None


def _finish(
    catalog: Catalog,
    blob: Blob,
    name: str,
    inputs_hash: str,
    function: Callable[[], bytes],
    clock: Clock,
    retry: Retry,
    sleep: Callable[[float], None],
) -> Done:
    if finished(catalog, name, inputs_hash) is not None:  # its result is gone
        forget_step(catalog, name, inputs_hash)
    result, attempts = _attempts(function, retry, sleep)
    digest = blob.put(result)
    _record(catalog, name, inputs_hash, digest, attempts, clock)
    return Done(result=result, cached=False, attempts=attempts)


def _attempts(function: Callable[[], bytes], retry: Retry, sleep: Callable[[float], None]) -> tuple[bytes, int]:
    for attempt in range(retry.times):
        try:
            return function(), attempt + 1
        except Unavailable:
            sleep(retry.first_pause_s * 2**attempt)
    return function(), retry.times + 1


def _record(catalog: Catalog, name: str, inputs_hash: str, digest: str, attempts: int, clock: Clock) -> None:
    made = Step(name=name, inputs_hash=inputs_hash, result=digest, finished_at_us=clock.now_us(), attempts=attempts)
    try:
        catalog.write([Put(KIND, f"{name}/{inputs_hash}", msgspec.json.encode(made), expected=0)])
    except Conflict:
        other = finished(catalog, name, inputs_hash)
        if other is None or other.result != digest:
            raise Conflict(
                f"step {name!r}: the lease ran out and another process finished these inputs with another result. "
                "Make the step a pure function of its inputs, or give it a longer lease."
            ) from None


@contextmanager
def _renewed(catalog: Catalog, lease: str, holder: str, ttl_s: float) -> Iterator[None]:
    """Keep the lease while the body runs; a renewal that fails is tried again until the lease has run out."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(ttl_s / 3):
            try:
                if not catalog.acquire(lease, holder, ttl_s):
                    return  # lost: the record's own check decides who was first
            except Unavailable:
                continue

    thread = threading.Thread(target=renew, name=f"lease {lease}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
