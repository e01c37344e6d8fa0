"""Red windows: times in which inputs or labels were faulty; their rows are for no fit, no gate and no reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from trimtab.core.errors import Misuse, NotFound
from trimtab.core.records import Signal
from trimtab.monitoring.findings import KINDS
from trimtab.store.ports import Append, Catalog, Put

if TYPE_CHECKING:
    from trimtab.training.sets import LeftOut

KIND = "red_window"
JOURNAL = "red_windows"  # every release, in order
_OF_LABELS = frozenset(("labels_missing", "one_class", "label_shift"))
_HARMLESS = frozenset(("traffic_stopped", "traffic_doubled"))  # there are no rows, or more of the same


class RedWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which something was red for the quality of data; kept when its signal has ended."""

    id: str
    model: str
    kind: str
    subject: str
    start_us: int  # of the requests concerned, by when they were made
    end_us: int | None  # None: it goes on
    released_why: str | None = None  # a person gave it free: its rows count again
    released_by: str | None = None
    released_at_us: int | None = None

    def covers(self, at_us: int) -> bool:
        """Whether a time lies in it."""
        return self.start_us <= at_us and (self.end_us is None or at_us < self.end_us)


def red_windows(catalog: Catalog, model: str, *, released: bool = False) -> list[RedWindow]:
    """The red windows of a model, the oldest first; those that were given free only if asked for."""
    records = catalog.find(KIND, f"{model}/")
    found = [msgspec.json.decode(record.body, type=RedWindow) for record in records]
    kept = [one for one in found if released or one.released_why is None]
    return sorted(kept, key=lambda one: (one.start_us, one.id))


def left_out(catalog: Catalog, model: str) -> list[LeftOut]:
    """The times whose rows no fit learns from and nothing is judged by: the red windows that were not given free."""
    from trimtab.training.sets import LeftOut  # here: it loads NumPy

    return [
        LeftOut(
            start_us=one.start_us, end_us=one.end_us, why=f"{one.kind} of {one.subject}" if one.subject else one.kind
        )
        for one in red_windows(catalog, model)
    ]


def released(
    catalog: Catalog, model: str, window: str, *, why: str, actor: str, now_us: int
) -> tuple[RedWindow, list[Put | Append]]:
    """A red window given free, and the writes that store it: its rows count again, for fits, gates and references.

    Args:
        catalog: Where it is.
        model: Whose.
        window: Its id.
        why: What a person knows of the rows.
        actor: Who says so.
        now_us: When.

    Raises:
        NotFound: There is no such window.
        Misuse: No reason is given.
    """
    if not why.strip():
        raise Misuse(f"release {window!r}: no reason was given, needed is one. Say why its rows may count: --why TEXT.")
    record = catalog.get(KIND, f"{model}/{window}")
    if record is None:
        there = ", ".join(one.id for one in red_windows(catalog, model)) or "none"
        raise NotFound(f"release {window!r}: no such red window of {model!r}; there is {there}.")
    found = msgspec.json.decode(record.body, type=RedWindow)
    freed = msgspec.structs.replace(found, released_why=why, released_by=actor, released_at_us=now_us)
    body = msgspec.json.encode(freed)
    return freed, [Put(KIND, record.key, body, expected=record.revision), Append(JOURNAL, now_us, body)]


def window_changes(
    catalog: Catalog, begun: Sequence[Signal], ended: Sequence[Signal], *, label_wait_us: int
) -> list[Put]:
    """The writes that open and close the windows of signals.

    Labels are looked at when their wait is over: what is said of them is said of requests that long ago.
    """
    changes = []
    for signal in (*begun, *ended):
        if signal.kind not in KINDS or signal.kind in _HARMLESS or signal.severity != "red":
            continue
        lag_us = label_wait_us if signal.kind in _OF_LABELS else 0
        end_us = None if signal.ended_at_us is None else max(signal.ended_at_us - lag_us, signal.onset_us)
        key = f"{signal.model}/{signal.id}"
        record = catalog.get(KIND, key)
        window = RedWindow(
            id=signal.id,
            model=signal.model,
            kind=signal.kind,
            subject=signal.subject,
            start_us=signal.onset_us,
            end_us=end_us,
        )
        if record is not None:
            before = msgspec.json.decode(record.body, type=RedWindow)
            start_us = min(before.start_us, window.start_us)
            window = msgspec.structs.replace(before, start_us=start_us, end_us=end_us)
        changes.append(Put(KIND, key, msgspec.json.encode(window)))
    return changes
