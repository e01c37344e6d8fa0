"""Checks of the sources of a model: when their events arrive, and the values of the newest events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from trimtab.core.time import DAY_US
from trimtab.events.columns.frames import EventFrame
from trimtab.events.definitions import Source
from trimtab.monitoring.inputs.checks.event_values import NEWEST_US, Faulty, value_findings
from trimtab.monitoring.inputs.checks.feeds import Arrivals, feed_findings
from trimtab.monitoring.inputs.checks.findings import Finding, Known, found_once
from trimtab.monitoring.inputs.checks.outcomes import Outcomes, stopped_outcomes
from trimtab.monitoring.inputs.checks.repeated_values import repeat_findings
from trimtab.monitoring.inputs.red_windows import RedWindow
from trimtab.training.definitions import Model

_COUNTS = ("count", "count_distinct", "top")  # aggregates that only ask which values are equal, not how large they are


class SourceChecks:
    """Checks the sources of features and labels of one model.

    Args:
        frame_of: Returns the events of the source with a given name.
        known: Findings that models share; see `found_once`.
    """

    def __init__(self, model: Model, frame_of: Callable[[str], EventFrame], known: Known | None) -> None:
        self._model = model
        self._views = model.features.views
        self._frame_of = frame_of
        self._known = known
        self._feeds: dict[str, Arrivals] = {}
        self._outcomes: Outcomes | None = None

    def findings(self, now_us: int, checked_us: int, *, stopped: bool, windows: Sequence[RedWindow]) -> list[Finding]:
        """Return findings about the sources of features and, unless the requests have stopped, about that of labels.

        Args:
            windows: The red windows of the model. Values of a time at which they were extreme do not count as normal.
            checked_us: The time of the previous check. Values of events that became known since then are checked, but
                at least those of the last two hours (`NEWEST_US`), and at most those of the last day.
            stopped: Whether the requests have stopped.
        """
        sources = {view.source.name: view.source for view in self._views}
        label = self._model.label.source
        checked = sources if stopped else {**sources, label.name: label}
        found: list[Finding] = []
        for name, source in sorted(checked.items()):
            found += found_once(self._known, (name, now_us), partial(self._of_feed, source, now_us))
        if self._model.task == "binary" and not stopped:
            key = (self._model.label.hash, now_us)
            found += found_once(self._known, key, lambda: stopped_outcomes(self._labels(), now_us))
        since_us = min(now_us - NEWEST_US, max(checked_us, now_us - DAY_US))
        for name in sorted(checked):
            skipped = self._identifiers(checked[name])
            if name not in sources:  # only the values of labels are used
                skipped |= checked[name].columns.keys() - self._model.label.value.columns()
            entities = tuple(sorted({view.by for view in self._views if view.source.name == name}))
            faulty = tuple(
                (one.subject.removeprefix(f"column {name}."), one.start_us, one.end_us)
                for one in windows
                if one.kind == "range" and one.subject.startswith(f"column {name}.")
            )
            find = partial(self._of_values, name, since_us, now_us, skipped, entities, faulty)
            found += found_once(self._known, (name, since_us, now_us, skipped, entities, faulty), find)
        return found

    def _identifiers(self, source: Source) -> frozenset[str]:
        """Return the columns to skip: keys, columns that are not numeric, integers that nothing but `_COUNTS` reads."""
        features = [one for view in self._views if view.source.name == source.name for one in view.features.values()]
        measures = [one.where for one in features] + [one.of for one in features if one.kind not in _COUNTS]
        measures += [self._model.label.value] if source.name == self._model.label.source.name else []
        measured = set[str]().union(*(read.columns() for read in measures if read is not None))
        keys = {key for view in self._views for key in view.by} | {source.key or "", self._model.request.key}
        others = {name for name, dtype in source.declared.items() if dtype not in ("int", "float")}
        return frozenset(keys | others | {name for name, dtype in source.declared.items() if dtype == "int"} - measured)

    def _of_feed(self, source: Source, now_us: int) -> list[Finding]:
        found = feed_findings(self._arrivals(source.name), now_us)
        if source.reading.only_final:  # its files leave out rows that are not final, so the newest event is always old
            found = [one for one in found if one.kind != "feed_late"]
        return found

    def caught_up(self, now_us: int, outcome: str, since_us: int, until_us: int) -> bool:
        """Return whether labels of a class that did not come between two times have come later."""
        return self._labels().caught_up(outcome, since_us, until_us, now_us)

    def _labels(self) -> Outcomes:
        arrivals = self._arrivals(self._model.label.source.name)
        if self._outcomes is None or self._outcomes.arrivals is not arrivals:
            self._outcomes = Outcomes(self._model.label, arrivals)
        return self._outcomes

    def _of_values(
        self,
        name: str,
        since_us: int,
        now_us: int,
        skipped: frozenset[str],
        entities: tuple[tuple[str, ...], ...],
        faulty: Sequence[Faulty],
    ) -> list[Finding]:
        arrivals = self._arrivals(name)
        found = value_findings(arrivals, since_us, now_us, skipped, faulty)
        return found + (repeat_findings(arrivals, now_us, entities, skipped) if entities else [])

    def _arrivals(self, source: str) -> Arrivals:
        frame, before = self._frame_of(source), self._feeds.get(source)
        if before is None or before.frame is not frame:
            before = self._feeds[source] = Arrivals(frame)
        return before
