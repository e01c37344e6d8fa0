"""Red windows: times in which inputs or labels were faulty. No fit, gate or reference uses rows of these times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from trimtab.core.errors import Misuse, NotFound
from trimtab.core.expressions.nodes import Expression
from trimtab.core.records import Signal
from trimtab.core.shown import Shown
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.feedback.blocks import BlockSums, merged
from trimtab.monitoring.inputs.checks.file_loads import FILES
from trimtab.monitoring.inputs.checks.findings import KINDS
from trimtab.monitoring.inputs.input_state import WatchStore
from trimtab.monitoring.quality.quality_days import stored_sums
from trimtab.store.ports import Append, Catalog, Put, Record, Remove
from trimtab.training.data.sets import LABEL_FAULTS, TOO_NEW, LeftOut
from trimtab.training.definitions import Model

KIND = "red_window"
JOURNAL = "red_windows"  # the journal of all releases
_OF_DAYS = frozenset(LABEL_FAULTS)  # signals that are found when a day of labels is closed
_OF_LATE_LABELS = frozenset(("labels_missing", "one_class"))  # labels that come late may repair these faults
_OF_FEEDS = frozenset(("feed_stopped", "feed_late", "feed_clock"))
_SILENT = frozenset(("feed_stopped", "feed_late"))  # the events that came are right, and the missing may still come
_ROWLESS = frozenset(("traffic_stopped",))  # there are no rows to leave out
FOUND_WITHIN_US = DAY_US  # the time within which a fault of inputs gives a red signal


class RedWindow(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """A time in which inputs or labels were faulty, according to a red signal. It is kept after the signal's end."""

    id: str
    model: str
    kind: str
    subject: str
    start_us: int  # times are those of the requests that the fault concerns
    end_us: int | None  # None: the fault goes on
    released_why: str | None = None  # why a person released it, so that its rows count again; None: not released
    released_by: str | None = None
    released_at_us: int | None = None

    def covers(self, at_us: int) -> bool:
        """Return whether a time is in this window."""
        return self.start_us <= at_us and (self.end_us is None or at_us < self.end_us)


def red_windows(catalog: Catalog, model: str, *, released: bool = False) -> list[RedWindow]:
    """Return the red windows of a model, oldest first. Released windows are included only with `released`."""
    records = catalog.find(KIND, f"{model}/")
    found = [msgspec.json.decode(record.body, type=RedWindow) for record in records]
    kept = [one for one in found if released or one.released_why is None]
    return sorted(kept, key=lambda one: (one.start_us, one.id))


def left_out(catalog: Catalog, model: Model, cut_us: int) -> list[LeftOut]:
    """Return the times whose rows are used neither for training nor for judging at a cut (the time of a training).

    These are the red windows that were not released, and the time of the newest requests, which may still prove to be
    faulty. A fault of inputs is found within a day. A fault of labels is found when the day on which they came is
    closed. So requests whose labels may have come on a day that is still open are left out, too: those of the last day
    before the end of the closed days (or of the wait for labels, if that is shorter). # D0185
    """
    found = [
        LeftOut(
            start_us=one.start_us, end_us=one.end_us, why=f"{one.kind} of {one.subject}" if one.subject else one.kind
        )
        for one in red_windows(catalog, model.name)
    ]
    watch, _ = WatchStore(catalog, model.name).watch()
    if watch.traffic:
        labelled_us = model.label.closed_until(cut_us) - min(model.label.final_at(0), DAY_US)
        early_us = max(min(labelled_us, cut_us - FOUND_WITHIN_US), min(watch.traffic) * HOUR_US)
        found.append(LeftOut(start_us=early_us, end_us=None, why=TOO_NEW))
    return found


def not_used_yet_us(catalog: Catalog, model: Model) -> int:
    """Return for how long the newest closed days are not used yet, because they are too new: a day or 0. # D0185"""
    return DAY_US if model.label.final_at(0) >= DAY_US and WatchStore(catalog, model.name).watch()[0].traffic else 0


def released_since(catalog: Catalog, model: str, since_us: int) -> bool:
    """Return whether a red window of a model was released at or after a time."""
    return any((one.released_at_us or 0) >= since_us for one in red_windows(catalog, model, released=True))


def released(
    catalog: Catalog, model: str, window: str, *, why: str, actor: str, now_us: int
) -> tuple[RedWindow, list[Put | Append]]:
    """Return a red window after its release, and the writes that store it. Its rows count again for fits and gates.

    Args:
        catalog: Stores the window.
        window: The id of the window.
        why: What the person knows about the rows.
        actor: The person who releases the window.

    Raises:
        NotFound: There is no such window.
        Misuse: No reason is given, or the window was released before.
    """
    if not why.strip():
        raise Misuse(
            f"release {window!r}: needed a reason, found none. Say why the rows of this window may be used: --why TEXT."
        )
    record = catalog.get(KIND, f"{model}/{window}")
    if record is None:
        there = ", ".join(one.id for one in red_windows(catalog, model)) or "none"
        raise NotFound(f"release {window!r}: not found. The red windows of {model!r}: {there}.")
    found = msgspec.json.decode(record.body, type=RedWindow)
    if found.released_why is not None:
        raise Misuse(f"release {window!r}: {found.released_by} released it already: {found.released_why}")
    freed = msgspec.structs.replace(found, released_why=why, released_by=actor, released_at_us=now_us)
    body = msgspec.json.encode(freed)
    return freed, [Put(KIND, record.key, body, expected=record.revision), Append(JOURNAL, now_us, body)]


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to compute, from a signal, the times of the requests that its fault may concern."""

    label_wait_us: int
    label_source: str
    label_columns: frozenset[str] = frozenset()  # "column SOURCE.NAME" for each column that the label is computed from
    # labels of requests that are made at the same time come within this time of each other; None: `label_wait_us`
    label_span_us: int | None = None
    complete: bool = True  # whether days are checked for missing labels
    logged: bool = False  # whether training uses the feature values that were logged with the predictions
    sources: dict[str, int]  # for each source of features: how long features go on reading an event, at most a day
    unread: frozenset[str] = frozenset()  # columns of the request that no fit uses, so their faults spoil no row

    @staticmethod
    def of(model: Model) -> Reach:
        """Return the reach of a model's signals."""
        sources: dict[str, int] = {}
        for view in model.features.views:
            reaches = (one.reach_us for one in view.features.values())
            longest_us = max((DAY_US if us is None else us for us in reaches), default=0)
            sources[view.source.name] = min(max(sources.get(view.source.name, 0), longest_us), DAY_US)
        label, wait_us = model.label, model.label.final_at(0)
        return Reach(
            label_wait_us=wait_us,
            label_source=label.source.name,
            label_columns=frozenset(f"column {label.source.name}.{name}" for name in label.value.columns()),
            # labels with the time of their request become known between `delay_us` and `wait_us` after the request
            label_span_us=max(wait_us - label.source.delay_us, 0) if label.dated_by_request else None,
            complete=model.task != "ranking",
            logged=model.rows == "logged",
            sources=sources,
            unread=frozenset(model.request.columns) - _read(model),
        )

    @property
    def back_us(self) -> int:
        """The labels that came on a faulty day belong to requests made at most this long before that day."""
        return max(self.label_wait_us if self.label_span_us is None else self.label_span_us, DAY_US)

    def excludes(self, signal: Signal) -> bool:
        """Return whether requests are left out because of a signal.

        If the source of labels is silent, the labels that came are right. Requests without a label are not learnt from,
        and if labels of a day are still missing after the wait, this gives a signal of its own. So the
        signal of the silence excludes nothing, unless features read the source, too, or days are not checked
        (`complete`). # D0185 If only the labels of one class are silent, requests may get the other one. # D0233

        Signals about a column of the request that no fit uses exclude nothing, either. For example, a new shop has a
        name that training never saw, but the model reads no names.
        """
        if signal.kind not in KINDS or signal.kind in _ROWLESS or signal.severity != "red":
            return False
        if signal.subject in {f"column {name}" for name in self.unread}:
            return False
        source = self._source_of(signal)
        silent = signal.kind in _SILENT and signal.subject == f"source {self.label_source}" and self.complete
        return not silent or source in self.sources

    def span(self, signal: Signal) -> tuple[int, int | None]:
        """Return from when requests are left out, and from when they count again (None: not yet). # D0185

        A fault is assumed to have begun a day before its signal was raised. If the evidence (from onset to signal) is
        longer than half a day, twice its length is taken instead of the day. If a feed stopped, the fault began with
        the last event. Labels that came during the fault may belong to requests that are older by the wait for labels.
        The time ends with the signal or, if features read the source, when they no longer read events from before the
        signal's end (`sources`). For a signal about a day of labels, the time begins `back_us` before that day, and
        ends earlier than the signal by the wait, because the signal only ends after the wait.
        """
        wait_us, ended_us = self.label_wait_us, signal.ended_at_us
        if signal.kind in _OF_DAYS:
            start_us = signal.onset_us - self.back_us
            return start_us, None if ended_us is None else max(ended_us - wait_us, signal.onset_us)
        evidence_us = signal.raised_at_us - signal.onset_us
        if signal.kind == "feed_stopped":
            start_us = signal.onset_us // HOUR_US * HOUR_US
        else:
            start_us = (signal.raised_at_us - max(FOUND_WITHIN_US, 2 * evidence_us)) // HOUR_US * HOUR_US
        source = self._source_of(signal)
        late = _OF_FEEDS - _SILENT if self.complete else _OF_FEEDS
        if source == self.label_source and (signal.kind in late or _outcome(signal.subject)):
            start_us = min(start_us, signal.onset_us - wait_us)
        if signal.subject in self.label_columns:
            start_us = min(start_us, signal.onset_us - self.back_us)
        return start_us, None if ended_us is None else ended_us + self.sources.get(source, 0)

    def _source_of(self, signal: Signal) -> str:
        """Return A if the signal is about `source A`, labels of it or `column A.B` (of a source or view); else ""."""
        what, _, name = signal.subject.partition(",")[0].partition(" ")
        return name if what == "source" else name.rpartition(".")[0]


def _outcome(subject: str) -> str:
    """Return the class if a signal is about labels of one class, as in "source sales, positive labels"; else ""."""
    return subject.partition(", ")[2].removesuffix(" labels") if subject.startswith("source ") else ""


def _read(model: Model) -> set[str]:
    """Return the columns of the request on which the rows of a training set depend."""
    own = model.weights.columns() if isinstance(model.weights, Expression) else frozenset()
    return {model.request.key, model.request.time, model.group or ""} | model.features.request_columns | own


def window_changes(
    catalog: Catalog, begun: Sequence[Signal], ended: Sequence[Signal], *, reach: Reach
) -> list[Put | Remove]:
    """Return the changes that open and close the red windows that belong to signals.

    An event from a file counts as known from the time at which it would have become known if it had been sent. So once
    an overdue file is loaded, features are computed as if it had been on time, and its red window is removed (unless
    training uses logged features).
    """
    changes: list[Put | Remove] = []
    for signal in (*begun, *ended):
        if not reach.excludes(signal):
            continue
        start_us, end_us = reach.span(signal)
        key = f"{signal.model}/{signal.id}"
        record = catalog.get(KIND, key)
        window = RedWindow(
            id=signal.id, model=signal.model, kind=signal.kind, subject=signal.subject, start_us=start_us, end_us=end_us
        )
        if signal.ended_at_us is not None and FILES in signal.evidence and not reach.logged:
            changes += [] if record is None else [Remove(KIND, key, expected=record.revision)]
            continue
        if record is not None:
            before = msgspec.json.decode(record.body, type=RedWindow)
            window = msgspec.structs.replace(before, start_us=min(before.start_us, start_us), end_us=end_us)
        changes.append(Put(KIND, key, msgspec.json.encode(window)))
    return changes


def with_late_labels(
    catalog: Catalog,
    model: str,
    lacking_of: Callable[[str, Mapping[int, BlockSums]], list[int]],
    caught_up: Callable[[str, int, int], bool],
    *,
    reach: Reach,
) -> list[Put | Remove]:
    """Return the changes that shorten or remove red windows of labels, if labels that came late repair them. # D0185

    `lacking_of` gets the kind of a window, and a mapping from the beginning of each of its days to the day's sums. It
    returns the days that still have the fault. `caught_up` says whether labels of a class that did not come between two
    times have come later.
    """
    changes: list[Put | Remove] = []
    for window, record in _not_released(catalog, model):
        if window.end_us is not None and (outcome := _outcome(window.subject)):
            end_us = window.end_us - reach.sources.get(reach.label_source, 0)
            if caught_up(outcome, window.start_us + reach.label_wait_us, end_us):
                changes.append(Remove(KIND, record.key, expected=record.revision))
    for window, record in _missing_labels(catalog, model):
        if window.end_us is None:
            continue
        parts: dict[int, list[BlockSums]] = {}
        for one in stored_sums(catalog, model, range(window.start_us // DAY_US * DAY_US, window.end_us, DAY_US)):
            parts.setdefault(one.day_us, []).append(one.amended or one.whole)
        days = {day_us: merged(blocks) for day_us, blocks in sorted(parts.items())}
        lacking = lacking_of(window.kind, days)
        if not lacking and days:
            changes.append(Remove(KIND, record.key, expected=record.revision))
        elif lacking:
            start_us = max(window.start_us, lacking[0] - reach.back_us)
            end_us = min(window.end_us, max(lacking[-1] + DAY_US, start_us))
            shorter = msgspec.structs.replace(window, start_us=start_us, end_us=end_us)
            if shorter != window:
                changes.append(Put(KIND, record.key, msgspec.json.encode(shorter), expected=record.revision))
    return changes


def days_with_missing_labels(catalog: Catalog, model: str, *, since_us: int, until_us: int) -> list[int]:
    """Return the days between two times that are left out because labels were missing or all of one class."""
    found: set[int] = set()
    for one, _ in _missing_labels(catalog, model):
        end_us = until_us if one.end_us is None else min(one.end_us, until_us)
        found.update(range(max(one.start_us, since_us) // DAY_US * DAY_US, end_us, DAY_US))
    return sorted(found)


def _missing_labels(catalog: Catalog, model: str) -> list[tuple[RedWindow, Record]]:
    """Return the red windows of days without labels that were not released, with their records."""
    return [one for one in _not_released(catalog, model) if one[0].kind in _OF_LATE_LABELS]


def _not_released(catalog: Catalog, model: str) -> list[tuple[RedWindow, Record]]:
    found = [(msgspec.json.decode(one.body, type=RedWindow), one) for one in catalog.find(KIND, f"{model}/")]
    return [one for one in found if one[0].released_why is None]
