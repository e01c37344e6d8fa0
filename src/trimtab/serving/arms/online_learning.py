"""An online learner behind a deployment: it predicts first, and learns from each label when the label arrives."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.time import format_time
from trimtab.serving.answer.served import RowScorer
from trimtab.store.ports import KeyValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
_NAMED = 20  # the saved state lists at most this many examples that were set aside, the newest ones
_PROBES = 100  # at most this many new examples are tried to find out whether a learner refuses everything
_LONGEST_WHY = 300
_logger = logging.getLogger(__name__)


class Learner(RowScorer, Protocol):
    """A model that learns from a few rows at a time, and whose state can be saved and restored.

    A `copy.deepcopy` of a learner must be independent of the learner.
    """

    def learn(self, matrix: NDArray[Any], labels: NDArray[Any], /) -> None:
        """Learn from some rows together: float64 inputs (rows, inputs) and float64 labels (rows,), in order."""
        ...

    def state(self) -> bytes: ...

    def restore(self, state: bytes, /) -> None: ...


class Example(msgspec.Struct, frozen=True, gc=False):
    """The inputs of a prediction, with its label and the time at which the label became known."""

    values: bytes  # the model inputs as in the prediction log: little-endian float64
    label: float
    known_at_us: int
    request_id: str = ""
    fault: str = ""  # a reason, known to the caller, why the example cannot be learnt from


class SetAside(msgspec.Struct, frozen=True):
    """An example that the learner refused to learn from."""

    request_id: str
    label: float
    known_at_us: int
    why: str


class Learnt(msgspec.Struct, frozen=True):
    """The saved progress of a learner: what it has learnt and set aside so far."""

    until_us: int  # examples that became known up to this time were learnt or set aside
    examples: int  # how many were learnt
    set_aside: int
    newest_aside: list[SetAside]


class LearnerState(msgspec.Struct, frozen=True, array_like=True):
    """A learner's saved state together with its progress."""

    format: int
    until_us: int
    positions: dict[str, int]
    examples: int
    state: bytes
    set_aside: int = 0
    newest_aside: list[SetAside] = []
    last: Example | None = None  # the newest example that was learnt


def learner_name(model: str, version: str) -> str:
    """Return the name under which the learner that started from a version is stored."""
    return f"{model}/{version[:16]}"


def learnt(store: KeyValue, name: str) -> Learnt | None:
    """Read the saved progress of a learner. The result is None if it has not saved anything yet.

    Raises:
        Corrupt: The saved state is damaged.
    """
    stored = store.get(_key(name))
    if stored is None:
        return None
    saved = _read(name, stored)
    return Learnt(saved.until_us, saved.examples, saved.set_aside, saved.newest_aside)


def positions_learnt(store: KeyValue) -> dict[str, dict[str, int]]:
    """Return for each saved learner the positions up to which it has read the event log.

    Raises:
        Corrupt: A saved state is damaged.
    """
    begin = _key("")
    named = ((key.removeprefix(begin).decode(), stored) for key, stored in store.scan(begin))
    return {name: _read(name, stored).positions for name, stored in named}


class OnlineDeployment:
    """A learner that is saved together with its progress in one write, so that each label is learnt exactly once.

    If the learner raises an error for a block of examples, some new examples and the newest learnt example are tried
    one by one, each on a copy of the learner. If all of them fail, the learner itself is broken: nothing is set aside,
    and its error is raised. Otherwise the block is learnt without those examples that fail even when they are learnt
    alone. They are set aside, and named in the saved state.

    This object is also a `RowScorer`. It scores with a copy of the learner as it was last saved, so answers do not wait
    for learning, and none comes from a learner that has learnt only a part of a block.

    Args:
        name: The name under which the state is stored, e.g. "late_flight/online".
        learner: The learner to start from. If a saved state exists, it replaces the learner's state.
        every_us: The length of a block, such as `HOUR_US`. Examples whose labels became known in the same block of time
            are learnt together when the block is over. With 0, all examples of a call are learnt together.
    """

    def __init__(self, name: str, learner: Learner, store: KeyValue, *, every_us: int) -> None:
        if every_us < 0:
            raise Misuse(f"online deployment {name!r}: every_us={every_us} is negative. Give 0 or a duration.")
        self.name = name
        self.every_us = every_us
        self._learner = learner
        self._store = store
        self._key = _key(name)
        self._lock = threading.Lock()
        self._initial = LearnerState(FORMAT, -(2**63), {}, 0, learner.state())
        self._stored: bytes | None = None
        self.saved = self._initial
        self._shown: Learner  # the copy of the learner that answers
        self._dirty = False  # whether the learner's state may differ from `saved`
        self._restore()

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Return the scores of rows."""
        return self._shown.predict(matrix)

    def predict_row(self, row: list[float]) -> float | list[float]:
        """Return the score of one row."""
        return self._shown.predict_row(row)

    def follow(self) -> bool:
        """If another process has saved a state, or `learn` failed, load the saved state. Return whether it was loaded.

        While another thread is learning, return False, because that thread will save a newer state.

        Raises:
            Corrupt: The saved state is damaged. The previous state continues to answer.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            behind = self._dirty or self._store.get(self._key) != self._stored
            if behind:
                self._restore()
            return behind
        finally:
            self._lock.release()

    def learn(self, examples: Sequence[Example], *, until_us: int, positions: Mapping[str, int] | None = None) -> int:
        """Learn from the examples that became known after `saved.until_us` and up to `until_us`, and save the state.

        Returns the number of learnt examples. If the call fails, nothing was learnt, and it can be repeated.

        Args:
            examples: All examples that became known between these times, oldest first. Older ones are skipped.
                Examples of an unfinished block must be given again in a later call.
            until_us: A time. No further label can become known at this time or earlier.
            positions: The positions up to which the event log was read. They are saved with the state.

        Raises:
            Misuse: The examples are out of order, or became known after `until_us`.
            Exception: The learner's own error: it is broken, or it refuses examples together that it accepts alone.
        """
        times = [e.known_at_us for e in examples]
        if times != sorted(times):
            raise Misuse(f"online deployment {self.name!r}: examples are out of order. Sort them by known_at_us.")
        if times and times[-1] > until_us:
            raise Misuse(
                f"online deployment {self.name!r}: an example became known at {format_time(times[-1])}, after "
                f"until={format_time(until_us)}. Leave it for a later call."
            )
        every_us = self.every_us
        # without blocks `until_us`, and otherwise the end of the last block that is over
        reached_us = until_us if not every_us else (until_us + 1) // every_us * every_us - 1
        with self._lock:
            if self._dirty:
                self._restore()
            if reached_us <= self.saved.until_us:
                return 0
            new = [e for e in examples if self.saved.until_us < e.known_at_us <= reached_us]
            self._dirty = True
            try:
                aside = self._learn_blocks(new)
                shown = copy.deepcopy(self._learner) if new else self._shown
                self._save(reached_us, positions or {}, new, aside)
                self._shown = shown
                self._dirty = False
            except BaseException:
                self._restore()  # otherwise the learner would be ahead of its saved state, and learn labels twice
                raise
        for one in aside:
            _logger.warning("learner %s: %s", self.name, described(one))
        return len(new) - len(aside)

    def _learn_blocks(self, new: list[Example]) -> list[SetAside]:
        """Learn from examples block by block, and return the examples that were set aside."""
        every_us = self.every_us
        blocks = [list(block) for _, block in groupby(new, key=lambda e: e.known_at_us // every_us if every_us else 0)]
        if not any(e.fault for e in new):
            try:
                for block in blocks:
                    _learn(self._learner, block)
                return []
            except Exception:  # start again from the saved state, and find the faulty examples
                self._restore()
                self._dirty = True
        return [one for block in blocks for one in self._learn_carefully(block, new)]

    def _learn_carefully(self, block: list[Example], new: list[Example]) -> list[SetAside]:
        """Learn from a block. Return the examples that were set aside.

        An example is set aside if it has a `fault`, or if the learner fails when it learns from this example alone.
        """
        before = copy.deepcopy(self._learner)
        faults = {id(e): e.fault for e in block if e.fault}
        rest = [e for e in block if not e.fault]
        try:
            _learn(self._learner, rest)
        except Exception as error:
            usable = [e for e in new if not e.fault]
            probes = [*([] if self.saved.last is None else [self.saved.last]), *usable[:: 1 + len(usable) // _PROBES]]
            if isinstance(error, MemoryError) or all(_refusal(before, [one]) for one in probes):
                raise  # the learner is at fault, and not the examples
            found = _refused(before, rest)
            faults |= found
            rest = [e for e in rest if id(e) not in found]
            self._learner = before
            _learn(self._learner, rest)
        return [SetAside(e.request_id, e.label, e.known_at_us, faults[id(e)]) for e in block if id(e) in faults]

    def _save(self, reached_us: int, positions: Mapping[str, int], new: list[Example], aside: list[SetAside]) -> None:
        refused = {(one.request_id, one.known_at_us) for one in aside}
        last = next((e for e in reversed(new) if (e.request_id, e.known_at_us) not in refused), self.saved.last)
        saved = LearnerState(
            FORMAT,
            reached_us,
            dict(positions),
            self.saved.examples + len(new) - len(aside),
            self._learner.state(),
            self.saved.set_aside + len(aside),
            [*self.saved.newest_aside, *aside][-_NAMED:],
            last,
        )
        stored = msgspec.msgpack.encode(saved)
        self._store.write({self._key: stored})
        self._stored, self.saved = stored, saved

    def _restore(self) -> None:
        """Load the saved state. If this fails, the next call of `learn` or `follow` first tries again."""
        stored = self._store.get(self._key)
        saved = self._initial if stored is None else _read(self.name, stored)
        self._dirty = True
        self._learner.restore(saved.state)
        self._shown = copy.deepcopy(self._learner)
        self._stored, self.saved = stored, saved
        self._dirty = False


def described(one: SetAside) -> str:
    """Describe in one sentence an example that was set aside."""
    return f"the label {one.label:g} of request {one.request_id!r} was set aside: {one.why}"


def _key(name: str) -> bytes:
    return b"online_learner/" + name.encode()


def _read(name: str, stored: bytes) -> LearnerState:
    try:
        saved = msgspec.msgpack.decode(stored, type=LearnerState)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"online deployment {name!r}: its saved state cannot be read ({error}).") from error
    if saved.format != FORMAT:
        raise Corrupt(
            f"online deployment {name!r}: its saved state has format {saved.format}, but this trimtab reads {FORMAT}."
        )
    return saved


def _learn(learner: Learner, rows: Sequence[Example]) -> None:
    import numpy as np

    if rows:
        matrix = np.frombuffer(b"".join(e.values for e in rows), "<f8").reshape(len(rows), -1)
        learner.learn(matrix, np.array([e.label for e in rows], np.float64))


def _refusal(learner: Learner, rows: Sequence[Example]) -> str:
    """Return the learner's error for some rows, or "" if it accepts them, without changing the learner."""
    try:
        _learn(copy.deepcopy(learner), rows)
    except MemoryError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:_LONGEST_WHY]
    return ""


def _refused(learner: Learner, rows: Sequence[Example]) -> dict[int, str]:
    """Return the rows that a learner refuses alone: for each its `id()` and the error.

    Rows that are refused together are divided into two halves, which are tried in the same way. `learner` stays as is.
    """
    why = _refusal(learner, rows)
    if not why:
        return {}
    if len(rows) == 1:
        return {id(rows[0]): why}
    half = len(rows) // 2
    return _refused(learner, rows[:half]) | _refused(learner, rows[half:])
