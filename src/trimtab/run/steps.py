"""Steps: work that is finished once is never done again, even after a crash."""

from __future__ import annotations

import time
from collections.abc import Callable
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
    """The result of a step, and whether it was computed now."""

    result: bytes
    cached: bool  # True if the step was finished earlier and not computed again
    attempts: int


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Retries of a step that raised `Unavailable`: their number, and the first pause, which doubles with each retry."""

    times: int = 3
    first_pause_s: float = 0.1

    def __post_init__(self) -> None:
        if self.times < 0 or self.first_pause_s <= 0:
            raise Misuse(f"retry: {self}: give times >= 0 and first_pause_s above 0.")


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
) -> Done:
    """Return the result of `function`, computed once for these inputs.

    The result is stored before the step is recorded as finished, so a crash leaves either nothing or a finished step.
    The caller holds a lease that keeps other processes away, or has the catalogue to itself.

    Args:
        catalog: The catalogue that holds finished steps.
        blob: The blob store that holds results.
        name: The step's name, e.g. "train".
        inputs_hash: The content address of all that the result depends on, including the code.
        function: A pure function of those inputs. It may run again after a crash.
        clock: Gives the time of the record.
        retry: The retries. If left out, three.
        sleep: Called to wait between retries.

    Raises:
        Unavailable: The function still raised `Unavailable` at the last retry.
        Conflict: Another process finished these inputs with another result.
    """
    done = _done(catalog, blob, name, inputs_hash)
    if done is not None:
        return done
    if finished(catalog, name, inputs_hash) is not None:  # the result of the step is gone
        forget_step(catalog, name, inputs_hash)
    result, attempts = _attempts(function, retry or Retry(), sleep)
    _record(catalog, name, inputs_hash, blob.put(result), attempts, clock)
    return Done(result=result, cached=False, attempts=attempts)


def finished(catalog: Catalog, name: str, inputs_hash: str) -> Step | None:
    """Return the record of a finished step, or None while there is no record."""
    record = catalog.get(KIND, f"{name}/{inputs_hash}")
    return None if record is None else msgspec.json.decode(record.body, type=Step)


def forget_step(catalog: Catalog, name: str, inputs_hash: str) -> None:
    """Forget that a step was finished, so that it runs again. Does nothing if the step was not finished."""
    catalog.write([Remove(KIND, f"{name}/{inputs_hash}")])


def _done(catalog: Catalog, blob: Blob, name: str, inputs_hash: str) -> Done | None:
    """Return the result of a finished step.

    Returns None if the step is not finished, or if its result was removed or damaged since.
    """
    found = finished(catalog, name, inputs_hash)
    if found is None:
        return None
    try:
        return Done(result=blob.get(found.result), cached=True, attempts=found.attempts)
    except (NotFound, Corrupt):
        return None


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
                f"step {name!r}: another process finished these inputs with another result. Make the step a pure "
                "function of its inputs."
            ) from None
