"""Do a step of work only once for the same inputs. A step during which the process crashed is done again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Corrupt, NotFound, Unavailable
from trimtab.store.ports import Blob, Catalog, Put, Remove, read_record

KIND = "step"
_RETRIES, _FIRST_PAUSE_S = 3, 0.1  # after `Unavailable`; the pause doubles with each attempt


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a finished step in the catalogue."""

    format: Literal[1] = 1
    name: str
    inputs_hash: str
    result: str  # the hash of the blob with the result
    finished_at_us: int
    attempts: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a step, and whether it was computed now or read from the cache."""

    result: bytes
    cached: bool  # whether the result was computed earlier
    attempts: int


def step(
    catalog: Catalog,
    blob: Blob,
    name: str,
    inputs_hash: str,
    function: Callable[[], bytes],
    *,
    clock: Clock,
    sleep: Callable[[float], None] = time.sleep,
) -> Done:
    """Return the result of a function. For the same inputs, it is computed only once.

    The result is stored before the step is recorded as finished, so each recorded step has its result, even after a
    crash. No other process may do the step at the same time: the caller must hold a lease, or be the only user of the
    catalogue.

    Args:
        catalog: The catalogue with the records of finished steps.
        blob: The blob store with their results.
        name: The name of the step, e.g. "train".
        inputs_hash: A hash of everything that determines the result, including the code.
        function: A function that depends only on these inputs. It may be called again after a crash.
        sleep: Called to wait between two attempts.

    Raises:
        Unavailable: The function raised `Unavailable` in the last attempt as well.
        Conflict: Another process has finished this step with another result.
    """
    done = _done(catalog, blob, name, inputs_hash)
    if done is not None:
        return done
    if finished(catalog, name, inputs_hash) is not None:  # the step is finished, but its result is lost
        forget_step(catalog, name, inputs_hash)
    result, attempts = _attempts(function, sleep)
    _record(catalog, name, inputs_hash, blob.put(result), attempts, clock)
    return Done(result=result, cached=False, attempts=attempts)


def finished(catalog: Catalog, name: str, inputs_hash: str) -> Step | None:
    """Return the record of a finished step, or None while there is no record."""
    return read_record(catalog, KIND, f"{name}/{inputs_hash}", Step)


def forget_step(catalog: Catalog, name: str, inputs_hash: str) -> None:
    """Delete the record of a finished step, so that it is computed again."""
    catalog.write([Remove(KIND, f"{name}/{inputs_hash}")])


def _done(catalog: Catalog, blob: Blob, name: str, inputs_hash: str) -> Done | None:
    """Return the stored result of a finished step.

    Return None if the step is not finished, or if its result was removed or damaged.
    """
    found = finished(catalog, name, inputs_hash)
    if found is None:
        return None
    try:
        return Done(result=blob.get(found.result), cached=True, attempts=found.attempts)
    except (NotFound, Corrupt):
        return None


def _attempts(function: Callable[[], bytes], sleep: Callable[[float], None]) -> tuple[bytes, int]:
    for attempt in range(_RETRIES):
        try:
            return function(), attempt + 1
        except Unavailable:
            sleep(_FIRST_PAUSE_S * 2**attempt)
    return function(), _RETRIES + 1


def _record(catalog: Catalog, name: str, inputs_hash: str, digest: str, attempts: int, clock: Clock) -> None:
    made = Step(name=name, inputs_hash=inputs_hash, result=digest, finished_at_us=clock.now_us(), attempts=attempts)
    try:
        catalog.write([Put(KIND, f"{name}/{inputs_hash}", msgspec.json.encode(made), expected=0)])
    except Conflict:
        other = finished(catalog, name, inputs_hash)
        if other is None or other.result != digest:
            raise Conflict(
                f"step {name!r}: another process finished this step for the same inputs with another result. Make the "
                "step a pure function of its inputs."
            ) from None
