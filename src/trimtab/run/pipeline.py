"""Divide work into steps, which are recorded (so that each is done only once) or simply run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Corrupt, NotFound
from trimtab.core.hashing import content_hash
from trimtab.run.events import Cancelled, Event, Progress, StepBegan, StepEnded
from trimtab.run.progress import listening
from trimtab.run.steps import forget_step, step
from trimtab.store.ports import Blob, Catalog

T = TypeVar("T")


class Codec(msgspec.Struct, Generic[T], frozen=True):
    """Converts the result of a step to bytes and back."""

    encode: Callable[[T], bytes]
    # if something that the result refers to is lost, this raises NotFound or Corrupt, and the step is run again
    decode: Callable[[bytes], T]


class Steps(Protocol):
    """Runs the steps of some work."""

    def do(self, name: str, inputs: Callable[[], object] | None, work: Callable[[], T], codec: Codec[T]) -> T:
        """Return the result of a step, which is computed now or was computed earlier.

        Args:
            name: The name of the step, e.g. "fit".
            inputs: Returns everything that determines the result, including the code, as JSON values. None: the step is
                never cached.
            work: A function that depends only on these inputs. It may be called again after a crash.
            codec: Converts the result to bytes and back.
        """
        ...


class AtOnce:
    """Runs steps without recording them, for a replay with its thousands of steps."""

    def do(self, name: str, inputs: Callable[[], object] | None, work: Callable[[], T], codec: Codec[T]) -> T:
        return work()


class Recorded:
    """Runs steps and records them by a hash of their inputs. For the same inputs, a finished step is not run again.

    Steps without inputs are always run. The caller must hold a lease, so that no other process does this work at the
    same time.

    Args:
        pipeline: The prefix of the names of steps in the catalogue, e.g. "train".
        catalog: The catalogue with the records of finished steps.
        blob: The blob store with the results of steps.
    """

    def __init__(self, pipeline: str, catalog: Catalog, blob: Blob, *, clock: Clock) -> None:
        self.on_event: Callable[[Event], None] = lambda event: None
        self._pipeline = pipeline
        self._catalog = catalog
        self._blob = blob
        self._clock = clock

    def do(self, name: str, inputs: Callable[[], object] | None, work: Callable[[], T], codec: Codec[T]) -> T:
        inputs_hash = None if inputs is None else content_hash(inputs())
        self.on_event(StepBegan(name, inputs_hash))
        attempts = 0

        def counted() -> T:
            nonlocal attempts
            attempts += 1
            return work()

        try:
            value, ended = self._done(name, inputs_hash, counted, codec)
        except Cancelled:  # the whole run was cancelled
            raise
        except Exception:  # the run may continue without this step, for example without one point of a learning curve
            self.on_event(StepEnded(name, cached=False, attempts=attempts, failed=True))
            raise
        self.on_event(ended)
        return value

    def _done(self, name: str, inputs_hash: str | None, work: Callable[[], T], codec: Codec[T]) -> tuple[T, StepEnded]:
        if inputs_hash is None:
            return self._run(work), StepEnded(name, cached=False, attempts=1)
        made: list[T] = []

        def function() -> bytes:
            made[:] = [self._run(work)]
            return codec.encode(made[0])

        key = f"{self._pipeline}.{name}"
        while True:
            done = step(self._catalog, self._blob, key, inputs_hash, function, clock=self._clock)
            try:
                value = made[0] if made else codec.decode(done.result)
            except (NotFound, Corrupt):
                forget_step(self._catalog, key, inputs_hash)
                continue
            return value, StepEnded(name, cached=done.cached, attempts=done.attempts)

    def _run(self, work: Callable[[], T]) -> T:
        with listening(lambda done, total: self.on_event(Progress(done, total))):
            return work()
