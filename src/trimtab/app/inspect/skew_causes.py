"""Find out why a recomputed feature value differs from the value that a prediction used."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.app.inspect.skew_rows import Past, Rows, Versions
from trimtab.app.state.retention_needs import sees_removed
from trimtab.app.state.state import kept_from
from trimtab.app.system import System
from trimtab.core.errors import TrimtabError
from trimtab.core.records import Prediction
from trimtab.events.records import ERASED, decode
from trimtab.features.definitions import View
from trimtab.features.feature_set import FeatureSet
from trimtab.features.skew import Cause, Dependencies, Evidence, cause_of, differences
from trimtab.serving.answer.answering import PAST
from trimtab.steering.ledger import FORGET, Ledger
from trimtab.training.environment import current_environment

Array = NDArray[Any]
_ONLINE = ("live", "online")  # answers in these modes read their features from the online store


class Diagnosis:
    """Finds the cause of each difference between a value that was used and its recomputed value."""

    def __init__(self, system: System, past: Past, versions: Versions) -> None:
        self._system = system
        self._past = past
        self._versions = versions
        self._appended: dict[tuple[str, int], int] = {}

    def causes(self, rows: Rows, differ: Array) -> dict[tuple[int, int], Cause]:
        """Return causes by row and input. `differ`: a mask of the values that differ, shape (rows, inputs)."""
        chosen = np.flatnonzero(differ.any(1))
        if not len(chosen):
            return {}
        part = Rows(
            rows.known,
            [rows.predictions[row] for row in chosen.tolist()],
            rows.requests.take(chosen),
            rows.at_us[chosen],
            rows.used[chosen],
            rows.used_reasons[chosen],
            rows.again[chosen],
            rows.again_reasons[chosen],
            rows.stale[chosen],
        )
        depends = Dependencies(part.known.features)
        names = part.known.features.names
        views = {join.name: join.view for join in part.known.features.joins}
        other = self._other_definitions(part)
        steady = self._steady(part.known.features, part)
        moved = self._other_platform(part)
        found: dict[tuple[int, int], Cause] = {}
        for row, of in enumerate(chosen.tolist()):
            prediction = part.predictions[row]
            clock = self._clock_behind(prediction)
            lacking = {name for name, code in zip(names, part.again_reasons[row].tolist(), strict=True) if code}
            for place in np.flatnonzero(differ[of]).tolist():
                name = names[place]
                used, again = float(part.used[row, place]), float(part.again[row, place])
                evidence = Evidence(
                    used=used,
                    again=again,
                    same_reason=bool(part.used_reasons[row, place] == part.again_reasons[row, place]),
                    clock_behind=clock,
                    other_definitions=bool(other[row, place]),
                    history_changed=self._history_changed(prediction, depends.sources(name)),
                    pruned=self._removed(prediction, views, depends.of(name), lacking)
                    and (depends.of(name) != {name} or _may_have_lost(views, name, used, again)),
                    unsteady=depends.runs_code(name) and not steady[row, place],
                    code_alone=depends.runs_code(name) and _inputs_agree(depends.of(name), names, differ[of]),
                    other_platform=moved,
                )
                found[of, place] = cause_of(evidence, platform_sensitive=depends.may_differ_by_platform(name))
        return found

    def _steady(self, features: FeatureSet, part: Rows) -> Array:
        """Compute the values a second time, and return a mask of those that come out the same.

        Another value is only possible if a user's function depends on more than its arguments.
        """
        try:
            found = self._past.as_of(features, part.requests, part.at_us, part.positions)
            values, reasons = part.known.matrix(found.features)
        except TrimtabError:  # a user's function fails now
            return np.zeros(part.again.shape, bool)
        return ~differences(part.again, part.again_reasons, values, reasons)

    def _other_definitions(self, part: Rows) -> Array:
        """Return a mask of the used values that come out with other feature definitions (see `Versions.others`)."""
        found = np.zeros(part.used.shape, bool)
        for features in self._versions.others(part.known):
            try:
                others = self._past.as_of(features, part.requests, part.at_us, part.positions).features
            except TrimtabError:  # definitions that fail give no evidence
                continue
            values, reasons = part.known.matrix(others)
            found |= ~differences(part.used, part.used_reasons, values, reasons)
        return found

    def _other_platform(self, part: Rows) -> bool:
        here, there = current_environment(), part.known.version.environment
        return here.cpu != there.cpu or here.packages.get("numpy") != there.packages.get("numpy")

    def _clock_behind(self, prediction: Prediction) -> bool:
        """Return whether the answer used a record whose append time is later than the answer's as-of time.

        For answers about the present, this happens only if the clock was set back. Others are not checked.
        """
        if prediction.mode not in _ONLINE or PAST in prediction.flags:
            return False
        return any(self._appended_at(*place) > prediction.at_us for place in prediction.positions.items())

    def _appended_at(self, partition: str, position: int) -> int:
        if (partition, position) not in self._appended:
            records = self._system.state.events.read(partition, position - 1, limit=1) if position else []
            there = records[0].appended_at_us if records and records[0].position == position else -(2**62)
            self._appended[partition, position] = there
        return self._appended[partition, position]

    def _history_changed(self, prediction: Prediction, sources: frozenset[str]) -> bool:
        """Return whether records that the prediction may have used are gone.

        Either the log is shorter now, or records of these sources up to the prediction's log positions were erased, or
        anything was erased (`trimtab forget`) after the prediction and the feature reads any source.
        """
        if any(position > self._past.positions.get(name, 0) for name, position in prediction.positions.items()):
            return True
        if any(us >= prediction.made_at_us for us in self._forgotten_at_us) and sources:
            return True
        return any(
            position <= prediction.positions.get(partition, 0)
            for source in sources
            for partition, position in self._erased.get(source, ())
        )

    def _removed(
        self, prediction: Prediction, views: Mapping[str, View], features: Iterable[str], lacking: Collection[str]
    ) -> bool:
        """Return whether one of the features reads events that [retention] has removed."""
        places = [(name, *name.partition(".")[::2]) for name in features]
        return any(
            sees_removed(views[view], one, self._kept_from, prediction.at_us, lacks=name in lacking)
            for name, view, one in places
        )

    @cached_property
    def _kept_from(self) -> Mapping[str, int]:
        return kept_from(self._system.state.catalog)

    @cached_property
    def _forgotten_at_us(self) -> list[int]:
        return [row.at_us for row in Ledger(self._system.state.catalog).rows() if row.act == FORGET]

    @cached_property
    def _erased(self) -> Mapping[str, list[tuple[str, int]]]:
        """The partitions and positions of erased records, by source."""
        found: dict[str, list[tuple[str, int]]] = {}
        for block in self._past.reread():
            for record in block:
                if len(record.payload) < 200 and (event := decode(record.payload)).source == ERASED and event.values:
                    found.setdefault(str(event.values[0]), []).append((record.partition, record.position))
        return found


def _may_have_lost(views: Mapping[str, View], name: str, used: float, again: float) -> bool:
    """Return whether the removal of events can have changed a view's feature from `used` to `again`."""
    view, _, feature = name.partition(".")
    aggregate = views[view].features[feature]
    if aggregate.of is not None and aggregate.of.is_category:  # the values are indices, which cannot be compared
        return True
    return aggregate.explains_loss(used, again)


def _inputs_agree(needed: frozenset[str], names: Sequence[str], differ: Array) -> bool:
    """Return whether all view features from which a feature is computed are model inputs that do not differ."""
    return all(name in names and not differ[names.index(name)] for name in needed)
