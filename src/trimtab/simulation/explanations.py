"""Find the shift or fault that explains an alarm of a replay, by what the alarm is about and by its onset."""

from __future__ import annotations

from collections.abc import Sequence, Set

import msgspec

from trimtab.core.records import Decision, Signal
from trimtab.core.time import DAY_US
from trimtab.monitoring.quality.loss_estimates import SIGNAL as ESTIMATED
from trimtab.simulation.faults import OF_DATA, OF_LABELS, Fault
from trimtab.simulation.generating.streams import Shift
from trimtab.training.definitions import Model

_EXPLAINS_US = 60 * DAY_US  # a change explains alarms that are raised until this long after it is complete
# it also explains later alarms whose `onset_us` lies in that time, or up to this long before the change
_EARLY_US = 7 * DAY_US
_AFTER_US = 2 * DAY_US  # a fault is complete this long after its end, and a shift when it has its full size
# kinds of input signals that any change of the data can cause
_VALUES = frozenset(("new_values", "constant", "range", "units", "swapped", "shape", "label_shift", "one_class"))
_GAPS = ("outage", "late_feed", "label_stop")  # faults that can cause every other kind, too
_ALSO = {"null_column": ("nulls", "joint_nulls", "labels_missing"), "stuck_feed": ("nulls", "feed_stuck", "duplicates")}


class Origins(msgspec.Struct, frozen=True, kw_only=True):
    """The columns, as "source.column", from which the inputs of a model and its label come."""

    request: str
    label_source: str
    # for each input and each column of the request, the columns from which it is computed; for each source of a view,
    # those by which it is looked up; for "", those of all inputs, and the source of the label
    columns: dict[str, frozenset[str]]

    @staticmethod
    def of(model: Model) -> Origins:
        """Return the origins of a model's inputs and label."""
        request, features = model.request, model.features
        joins = {one.name: one for one in features.joins}

        def read(name: str, *, feature: bool = False) -> frozenset[str]:
            if name in features.transforms and (feature or name not in request.columns):
                return frozenset[str]().union(*map(read, features.transforms[name].columns()))
            join = joins.get(name.partition(".")[0])
            if name in request.columns or join is None:
                return frozenset({f"{request.name}.{name}"})
            source = join.view.source
            own = {f"{source.name}.{one}" for one in (*join.view.columns_read, source.time)}
            return frozenset(own).union(*map(read, join.by))

        label = model.label.source.name
        columns = {one.view.source.name: frozenset[str]().union(*map(read, one.by)) for one in joins.values()}
        columns |= {name: read(name) | read(name, feature=True) for name in (*request.columns, *features.names)}
        columns[""] = frozenset({f"{label}."}).union(*(read(name, feature=True) for name in features.names))
        return Origins(request=request.name, label_source=label, columns=columns)

    def about(self, subject: str) -> set[str]:
        """Return the columns that the subject of an input signal is about; "source." stands for a whole source."""
        kind, _, name = subject.partition(",")[0].partition(" ")
        if kind in ("source", "column", "columns"):
            names = name.split(" and ")
            own = {f"{name}."} if kind == "source" else {*names}
            return own.union(*(self.columns.get(one, ()) for one in names))
        return {f"{self.label_source if kind == 'labels' else self.request}."}


class Change(msgspec.Struct, frozen=True):
    """A change that a scenario meets: a shift of generated data, or a simulated fault."""

    kind: str
    said: str
    start_us: int
    until_us: int  # the change explains alarms up to this time
    touches: tuple[tuple[str, str | None], ...] = ()  # the sources and columns that it changes; None: all columns

    def explains(self, signal: Signal, origins: Origins | None, *, inputs: bool) -> bool:
        """Return whether a change of this kind can cause a signal (about inputs, or about quality) of this time."""
        in_time = self.start_us <= signal.raised_at_us < self.until_us
        if not in_time and not self.start_us - _EARLY_US <= signal.onset_us < self.until_us <= signal.raised_at_us:
            return False
        if self.said.startswith("end of ") and signal.onset_us < self.start_us:
            return False
        if inputs and signal.kind != ESTIMATED:
            kinds = signal.kind in _VALUES or self.kind in _GAPS or signal.kind in _ALSO.get(self.kind, ())
            return kinds and bool(self.touches) and (origins is None or self._touches(origins.about(signal.subject)))
        if signal.kind == "no_labels":
            return self.kind in _GAPS and (origins is None or self._touches({f"{origins.label_source}."}))
        return origins is None or self.kind not in OF_DATA or self._touches(origins.columns[""])

    def _touches(self, names: Set[str]) -> bool:
        whole = {f"{source}." for source, _ in self.touches}
        columns = {f"{source}.{column}" for source, column in self.touches if column is not None}
        all_of = tuple(f"{source}." for source, column in self.touches if column is None)
        return bool(names & (whole | columns)) or any(name.startswith(all_of) for name in names)


def changes_of(
    faults: Sequence[Fault],
    shifts: Sequence[Shift],
    start_us: int,
    decisions: Sequence[Decision],
    origins: Origins | None,
) -> list[Change]:
    """Return the changes that a scenario meets.

    Faults of the loop explain no alarm, except a sabotage: it begins with each promotion of a version that was fitted
    meanwhile. The end of a fault is a change, too, if a version was promoted while the fault lasted.
    """
    request, labels = ("", "") if origins is None else (origins.request, origins.label_source)
    fitted_us = 0
    promoted: list[tuple[int, int]] = []  # for each promotion its time, and that of the newest training before it
    for row in decisions:
        fitted_us = row.at_us if row.act == "train" else fitted_us
        promoted += [(row.at_us, fitted_us)] if row.act == "promote" else []
    found = []
    for one in faults:
        until_us = one.end_us + _AFTER_US + _EXPLAINS_US
        begins = [(one.said, one.start_us)] if one.kind in OF_DATA else []
        if any(one.covers(at_us) for at_us, _ in promoted):
            begins += [(f"end of {one.said}", one.end_us) for _ in begins]
        if one.kind == "sabotaged_refit":
            begins = [(one.said, at_us) for at_us, fitted_us in promoted if one.covers(fitted_us)]
        touches = ((one.source or (labels if one.kind in OF_LABELS else request), one.column),)
        found += [
            Change(one.kind, said, at_us, max(until_us, at_us + _EXPLAINS_US), touches if one.kind in OF_DATA else ())
            for said, at_us in begins
        ]
    for shift in shifts:
        at_us = start_us + round(shift.day * DAY_US)
        moved = ((request, shift.column),) if shift.kind == "covariate" else ()
        until_us = at_us + shift.over_us + _EXPLAINS_US
        found.append(Change(shift.kind, shift.said, at_us, until_us, ((labels, None), *moved)))
    return found


def explanation(signal: Signal, changes: Sequence[Change], origins: Origins | None, *, inputs: bool) -> Change | None:
    """Return, of the changes that can cause a signal, the one whose beginning is nearest to the signal's onset."""
    told = [one for one in changes if one.explains(signal, origins, inputs=inputs)]
    return min(told, key=lambda one: (abs(signal.onset_us - one.start_us), -one.start_us), default=None)
