"""A deployment that predicts first and learns when the label arrives."""

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
from trimtab.store.ports import KeyValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
_NAMED = 20  # of the examples that were set aside, the newest
_PROBES = 100  # rows by which a learner shows that it still learns
_LONGEST_WHY = 300
_logger = logging.getLogger(__name__)


class Learner(Protocol):
    """A model that learns from a few rows at a time and can say and take back all that it knows.

    `copy.deepcopy` of it must be of its own: what one learns, the other does not.
    """

    def predict(self, matrix: NDArray[Any], /) -> NDArray[Any]: ...

    def predict_row(self, row: list[float], /) -> float | list[float]: ...

    def learn(self, matrix: NDArray[Any], labels: NDArray[Any], /) -> None:
        """Learn rows together, in order: float64 matrix (rows, inputs), float64 labels (rows,)."""
        ...

    def state(self) -> bytes: ...

    def restore(self, state: bytes, /) -> None: ...


class Example(msgspec.Struct, frozen=True, gc=False):
    """What was predicted from, the truth about it, and when that became known."""

    values: bytes  # the model's input row as in the prediction log: little-endian float64
    label: float
    known_at_us: int
    request_id: str = ""
    fault: str = ""  # why nothing can be learnt from it, where that is known before


class SetAside(msgspec.Struct, frozen=True):
    """An example that nothing could be learnt from."""

    request_id: str
    label: float
    known_at_us: int
    why: str


class Learnt(msgspec.Struct, frozen=True):
    """The saved progress of a learner."""

    until_us: int
    examples: int
    set_aside: int
    newest_aside: list[SetAside]


def learner_name(model: str, version: str) -> str:
    """Under which name the learner that began from `version` is kept."""
    return f"{model}/{version[:16]}"


def learnt(store: KeyValue, name: str) -> Learnt | None:
    """Read the saved progress of the learner `name`; None: it has saved nothing yet.

    Raises:
        Corrupt: The saved state is damaged.
    """
    stored = store.get(_key(name))
    if stored is None:
        return None
    saved = _read(name, stored)
    return Learnt(saved.until_us, saved.examples, saved.set_aside, saved.newest_aside)


def positions_learnt(store: KeyValue) -> dict[str, dict[str, int]]:
    """How far the event log was read for each learner that has saved something, by its name.

    Raises:
        Corrupt: A saved state is damaged.
    """
    begin = _key("")
    named = ((key.removeprefix(begin).decode(), stored) for key, stored in store.scan(begin))
    return {name: _read(name, stored).positions for name, stored in named}


class OnlineDeployment:
    """A learner and how far it has learnt; both are saved in one write, so each label is learnt exactly once.

    An example that the learner refuses, alone or among others, is set aside in that same write: counted, named, and
    learning goes on. A learner that refuses also what it could learn before is broken: nothing is set aside then.

    It is a `RowScorer`: answers come from a copy of what was learnt and saved last, so they never wait for learning
    and never show the middle of it.

    Args:
        name: Its line in the store, e.g. "late_flight/online".
        learner: As it starts; a saved state replaces what it knows.
        store: Where the state is kept.
        every_us: Examples are learnt in blocks of this length of known-at time, each once it is over (`HOUR_US`);
            0: all of a call together.
    """

    def __init__(self, name: str, learner: Learner, store: KeyValue, *, every_us: int) -> None:
        if every_us < 0:
            raise Misuse(f"online deployment {name!r}: every_us={every_us} is negative. Give 0 or a duration.")
        self.name = name
        self.every_us = every_us
        self.learnt_until_us = -(2**63)
        self.positions: dict[str, int] = {}
        self.examples = 0
        self.set_aside = 0
        self.newest_aside: list[SetAside] = []
        self._last: Example | None = None  # the last one that was learnt
        self._learner = learner
        self._store = store
        self._key = _key(name)
        self._lock = threading.Lock()
        self._untaught = learner.state()
        self._stored: bytes | None = None
        self._shown: Learner
        self._dirty = False  # with the lock held: the learner may know something else than what is saved
        self._restore()

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Scores of rows by what has been learnt so far."""
        return self._shown.predict(matrix)

    def predict_row(self, row: list[float]) -> float | list[float]:
        """The score of one row by what has been learnt so far."""
        return self._shown.predict_row(row)

    def follow(self) -> bool:
        """Take over what is saved, if another process saved it or a failed `learn` left it; whether there was anything.

        False while another thread learns, too: that ends with what is saved, and is not waited for.

        Raises:
            Corrupt: The saved state is damaged; answers go on as before.
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
        """Learn what became known after `learnt_until_us` and up to `until_us`, save, and say how many that was.

        Args:
            examples: All of that time, in the order in which they became known; older ones are passed over, and those
                of a block that is not over yet are left for a later call, which must bring them again.
            until_us: Nothing more can become known at or before this moment.
            positions: How far the event log was read to make `examples`; kept beside the state.

        Whatever fails, nothing of the call was learnt: it can be made again.

        Raises:
            Misuse: The examples are out of order, or lie after `until_us`.
            Exception: What the learner raised that learns nothing any more.
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
        reached_us = until_us if not every_us else (until_us + 1) // every_us * every_us - 1
        with self._lock:
            if self._dirty:
                self._restore()
            if reached_us <= self.learnt_until_us:
                return 0
            new = [e for e in examples if self.learnt_until_us < e.known_at_us <= reached_us]
            self._dirty = True
            try:
                aside = self._learn_blocks(new)
                shown = copy.deepcopy(self._learner) if new else self._shown
                self._save(reached_us, positions or {}, new, aside)
                self._shown = shown
                self._dirty = False
            except BaseException:
                self._restore()  # what is in memory must not run ahead of what is saved, or a label would count twice
                raise
        for one in aside:
            _logger.warning("learner %s: %s", self.name, described(one))
        return len(new) - len(aside)

    def _learn_blocks(self, new: list[Example]) -> list[SetAside]:
        """Learn blocks, and return what was set aside."""
        every_us = self.every_us
        blocks = [list(block) for _, block in groupby(new, key=lambda e: e.known_at_us // every_us if every_us else 0)]
        if not any(e.fault for e in new):
            try:
                for block in blocks:
                    _learn(self._learner, block)
                return []
            except Exception:  # one of them is to be found, from what is saved on
                self._restore()
                self._dirty = True
        return [one for block in blocks for one in self._learn_carefully(block, new)]

    def _learn_carefully(self, block: list[Example], new: list[Example]) -> list[SetAside]:
        """Learn a block without what the learner refuses of it, and return that."""
        before = copy.deepcopy(self._learner)
        faults = {id(e): e.fault for e in block if e.fault}
        rest = [e for e in block if not e.fault]
        try:
            _learn(self._learner, rest)
        except Exception as error:
            usable = [e for e in new if not e.fault]
            probes = [*([] if self._last is None else [self._last]), *usable[:: 1 + len(usable) // _PROBES]]
            if isinstance(error, MemoryError) or all(_refusal(before, [one]) for one in probes):
                raise
            found = _refused(before, rest)
            faults |= found
            rest = [e for e in rest if id(e) not in found]
            self._learner = before
            _learn(self._learner, rest)
        return [SetAside(e.request_id, e.label, e.known_at_us, faults[id(e)]) for e in block if id(e) in faults]

    def _save(self, reached_us: int, positions: Mapping[str, int], new: list[Example], aside: list[SetAside]) -> None:
        refused = {(one.request_id, one.known_at_us) for one in aside}
        last = next((e for e in reversed(new) if (e.request_id, e.known_at_us) not in refused), self._last)
        saved = _Saved(
            FORMAT,
            reached_us,
            dict(positions),
            self.examples + len(new) - len(aside),
            self._learner.state(),
            self.set_aside + len(aside),
            [*self.newest_aside, *aside][-_NAMED:],
            last,
        )
        stored = msgspec.msgpack.encode(saved)
        self._store.write({self._key: stored})
        self._stored = stored
        self._take_over(saved)

    def _take_over(self, saved: _Saved) -> None:
        self.learnt_until_us, self.positions, self.examples = saved.until_us, saved.positions, saved.examples
        self.set_aside, self.newest_aside, self._last = saved.set_aside, saved.newest_aside, saved.last

    def _restore(self) -> None:
        """Know and show what is saved; if that fails, the next call begins with it."""
        stored = self._store.get(self._key)
        saved = None if stored is None else _read(self.name, stored)
        self._dirty = True
        self._learner.restore(self._untaught if saved is None else saved.state)
        self._shown = copy.deepcopy(self._learner)
        self._stored = stored
        if saved is not None:
            self._take_over(saved)
        self._dirty = False


def described(one: SetAside) -> str:
    """A sentence about an example that was set aside."""
    return f"the label {one.label:g} of request {one.request_id!r} was set aside: {one.why}"


def _key(name: str) -> bytes:
    return b"online_learner/" + name.encode()


def _read(name: str, stored: bytes) -> _Saved:
    try:
        saved = msgspec.msgpack.decode(stored, type=_Saved)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"online deployment {name!r}: its saved state cannot be read ({error}).") from error
    if saved.format != FORMAT:
        raise Corrupt(f"online deployment {name!r}: state format {saved.format}, this trimtab reads {FORMAT}.")
    return saved


def _learn(learner: Learner, rows: Sequence[Example]) -> None:
    import numpy as np

    if rows:
        matrix = np.frombuffer(b"".join(e.values for e in rows), "<f8").reshape(len(rows), -1)
        learner.learn(matrix, np.array([e.label for e in rows], np.float64))


def _refusal(learner: Learner, rows: Sequence[Example]) -> str:
    """Return why a learner does not learn some rows, "" if it does; it knows no more than before."""
    try:
        _learn(copy.deepcopy(learner), rows)
    except MemoryError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:_LONGEST_WHY]
    return ""


def _refused(learner: Learner, rows: Sequence[Example]) -> dict[int, str]:
    """The rows that a learner refuses, each alone, by `id`, with why: found by halving."""
    why = _refusal(learner, rows)
    if not why:
        return {}
    if len(rows) == 1:
        return {id(rows[0]): why}
    half = len(rows) // 2
    return _refused(learner, rows[:half]) | _refused(learner, rows[half:])


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    format: int
    until_us: int
    positions: dict[str, int]
    examples: int
    state: bytes
    set_aside: int = 0
    newest_aside: list[SetAside] = []
    last: Example | None = None
