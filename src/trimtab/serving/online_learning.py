"""A deployment that predicts first and learns when the label arrives."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.time import format_moment
from trimtab.store.ports import KeyValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1


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


def learner_name(model: str, version: str) -> str:
    """Under which name the learner that began from `version` is kept."""
    return f"{model}/{version[:16]}"


class OnlineDeployment:
    """A learner and how far it has learnt; both are saved in one write, so each label is learnt exactly once.

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
        self._learner = learner
        self._store = store
        self._key = b"online_learner/" + name.encode()
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
            positions: How far the label log was read to make `examples`; kept beside the state.

        Whatever fails, nothing of the call was learnt: it can be made again.

        Raises:
            Misuse: The examples are out of order, or lie after `until_us`.
        """
        times = [e.known_at_us for e in examples]
        if times != sorted(times):
            raise Misuse(f"online deployment {self.name!r}: examples are out of order. Sort them by known_at_us.")
        if times and times[-1] > until_us:
            raise Misuse(
                f"online deployment {self.name!r}: an example became known at {format_moment(times[-1])}, after "
                f"until={format_moment(until_us)}. Leave it for a later call."
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
                for _, block in groupby(new, key=lambda e: e.known_at_us // every_us if every_us else 0):
                    self._learn_block(list(block))
                shown = copy.deepcopy(self._learner) if new else self._shown
                self._save(reached_us, positions or {}, self.examples + len(new))
                self._shown = shown
                self._dirty = False
            except BaseException:
                self._restore()  # what is in memory must not run ahead of what is saved, or a label would count twice
                raise
        return len(new)

    def _learn_block(self, block: list[Example]) -> None:
        import numpy as np

        matrix = np.frombuffer(b"".join(e.values for e in block), "<f8").reshape(len(block), -1)
        self._learner.learn(matrix, np.array([e.label for e in block], np.float64))

    def _save(self, reached_us: int, positions: Mapping[str, int], examples: int) -> None:
        saved = msgspec.msgpack.encode(_Saved(FORMAT, reached_us, dict(positions), examples, self._learner.state()))
        self._store.write({self._key: saved})
        self._stored = saved
        self.learnt_until_us, self.positions, self.examples = reached_us, dict(positions), examples

    def _restore(self) -> None:
        """Know and show what is saved; if that fails, the next call begins with it."""
        stored = self._store.get(self._key)
        saved = None if stored is None else self._read(stored)
        self._dirty = True
        self._learner.restore(self._untaught if saved is None else saved.state)
        self._shown = copy.deepcopy(self._learner)
        self._stored = stored
        if saved is not None:
            self.learnt_until_us, self.positions, self.examples = saved.until_us, saved.positions, saved.examples
        self._dirty = False

    def _read(self, stored: bytes) -> _Saved:
        try:
            saved = msgspec.msgpack.decode(stored, type=_Saved)
        except msgspec.MsgspecError as error:
            raise Corrupt(f"online deployment {self.name!r}: its saved state cannot be read ({error}).") from error
        if saved.format != FORMAT:
            raise Corrupt(f"online deployment {self.name!r}: state format {saved.format}, this trimtab reads {FORMAT}.")
        return saved


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    format: int
    until_us: int
    positions: dict[str, int]
    examples: int
    state: bytes
