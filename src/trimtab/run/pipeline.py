"""Pipelines: how code says that a part of its work is a step, whether steps are recorded or simply done."""

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
    """How the result of a step becomes bytes and is read again."""

    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]  # raises NotFound or Corrupt where what it refers to is gone: the step is done again


class Steps(Protocol):
    """Does the steps of a pipeline."""

    def do(self, name: str, inputs: Callable[[], object] | None, work: Callable[[], T], codec: Codec[T]) -> T:
        """The result of a step.

        Args:
            name: What the step is called, e.g. "fit".
            inputs: Gives all that the result depends on, code included, as JSON values; None: it is always done.
            work: A function of those inputs alone; it may run again after a crash.
            codec: How its result is stored.
        """
        ...


class AtOnce:
    """Steps that are done and not recorded: a replay does thousands."""

    def do(self, name: str, inputs: Callable[[], object] | None, work: Callable[[], T], codec: Codec[T]) -> T:
        return work()


class Recorded:
    """Steps that are recorded by the content of their inputs, so that none is done twice.

    Whoever does them keeps others from the same pipeline by a lease of its own.

    Args:
        pipeline: Stands before each step's name in the catalogue, e.g. "train".
        catalog: Where finished steps are.
        blob: Where their results are.
        clock: Stamps them.
    """

    def __init__(self, pipeline: str, catalog: Catalog, blob: Blob, *, clock: Clock) -> None:
        self.tell: Callable[[Event], None] = lambda event: None  # who hears of each step
        self._pipeline = pipeline
        self._catalog = catalog
        self._blob = blob
        self._clock = clock

    def do(self, name: str, inputs: Callable[[], object] | None, work: Callable[[], T], codec: Codec[T]) -> T:
        inputs_hash = None if inputs is None else content_hash(inputs())
        self.tell(StepBegan(name, inputs_hash))
        try:
            value, ended = self._did(name, inputs_hash, work, codec)
        except Cancelled:  # as the run itself
            raise
        except Exception:  # whatever it is part of may go on: a fit of a learning curve that cannot be made
            self.tell(StepEnded(name, cached=False, attempts=1, failed=True))
            raise
        self.tell(ended)
        return value

    def _did(self, name: str, inputs_hash: str | None, work: Callable[[], T], codec: Codec[T]) -> tuple[T, StepEnded]:
        if inputs_hash is None:
            return self._worked(work), StepEnded(name, cached=False, attempts=1)
        made: list[T] = []

        def function() -> bytes:
            made[:] = [self._worked(work)]
            return codec.encode(made[0])

        key = f"{self._pipeline}.{name}"
        while True:
            done = step(self._catalog, self._blob, key, inputs_hash, function, clock=self._clock, alone=True)
            try:
                value = made[0] if made else codec.decode(done.result)
            except (NotFound, Corrupt):
                forget_step(self._catalog, key, inputs_hash)
                continue
            return value, StepEnded(name, cached=done.cached, attempts=done.attempts)

    def _worked(self, work: Callable[[], T]) -> T:
        with listening(lambda done, total: self.tell(Progress(done, total))):
            return work()
