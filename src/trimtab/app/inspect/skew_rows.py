"""Recompute the features of logged predictions, with the definitions and the events that each prediction used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.data.logged_requests import decode_requests, request_shape
from trimtab.app.online.history import fits_memory
from trimtab.app.system import System
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Corrupt, Misuse, NotFound, TrimtabError
from trimtab.core.records import Prediction
from trimtab.events.columns.frames import EventFrame
from trimtab.events.tables import recorded
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame
from trimtab.features.offline.as_of import AsOf, evaluate_as_of
from trimtab.features.stored import check_functions
from trimtab.registry.versions import Version
from trimtab.store.log_order import intervals
from trimtab.store.log_places import begin_of
from trimtab.store.ports import LogRecord
from trimtab.training.fitting.artifact import Artifact, decode_artifact

Array = NDArray[Any]
_BATCH = 10_000


class Known(msgspec.Struct, frozen=True, eq=False):
    """A version with its artifact and feature definitions."""

    version: Version
    artifact: Artifact
    features: FeatureSet

    @property
    def encoding(self) -> Encoding:
        return self.artifact.encoding

    def matrix(self, found: FeatureFrame) -> tuple[Array, Array]:
        """Return the model's inputs, float64 (rows, inputs), and their reason codes, uint8 (rows, inputs)."""
        return self.encoding.matrix(found.values), found.codes(self.features.names)


class Rows(msgspec.Struct, frozen=True, eq=False):
    """Predictions of one version, with the inputs that they used and the recomputed inputs."""

    known: Known
    predictions: list[Prediction]
    requests: Columns
    at_us: Array
    used: Array  # float64 (rows, inputs)
    used_reasons: Array  # uint8 (rows, inputs)
    again: Array
    again_reasons: Array
    stale: Array  # bool (rows,): whether events known at `at_us`, but not applied yet, would change the inputs

    @property
    def positions(self) -> list[dict[str, int]]:
        return [p.positions for p in self.predictions]


class Past:
    """Reads the event log as it is now, and computes features as of past times from it."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.frames: dict[str, EventFrame] = {}
        self.positions: dict[str, int] = {}
        self.conflicts: frozenset[str] = frozenset()
        self.failure: str | None = None  # why the history cannot be read; None: it can
        self._blocks: list[Sequence[LogRecord]] | None = None  # all records, if they fit into memory
        try:
            self.frames, self.positions = system.history.frames_at(system.definitions.sources)
            conflicts = system.history.id_conflicts
            self.conflicts = frozenset(name for name, count in conflicts.items() if count)
        except (Misuse, Corrupt) as error:  # some records are neither in the log nor in a table
            self.failure = str(error)

    def as_of(
        self, features: FeatureSet, requests: Columns, at_us: Array, positions: Sequence[Mapping[str, int]]
    ) -> AsOf:
        """Compute the features of each request as of its own time, from the events up to its own log positions."""
        sources = {view.source.name for view in features.views}
        return evaluate_as_of(
            features,
            requests,
            at_us,
            positions,
            {name: self.frames[name] for name in sources},
            conflicts=self.conflicts,
            reread=self.reread,
        )

    def reread(self) -> Iterator[Sequence[LogRecord]]:
        """Yield all records of the log, with those that were moved to the tables of record (the long-term store).

        Callers do this several times, so the records are kept in memory if all fit.
        """
        if self._blocks is not None:
            yield from self._blocks
            return
        kept: list[Sequence[LogRecord]] = []
        fits = fits_memory(self._system.state.events, self._system.config.features.memory_bytes)
        for block in self._read():
            if fits:
                kept.append(block)
            yield block
        self._blocks = kept if fits else None

    def _read(self) -> Iterator[Sequence[LogRecord]]:
        log, ends = self._system.state.events, self.positions
        begins = {name: begin_of(log, name, end) for name, end in ends.items()}
        if any(begins.values()):
            sources = self._system.sources
            for block in recorded(self._system.state.tables(sources, make=False) or {}, sources, {}):
                kept = [r for r in block if r.position <= begins.get(r.partition, r.position)]
                if kept:
                    yield kept
        for parts in intervals(log, begins, ends, batch=_BATCH, gaps=True):
            yield from parts


class Versions:
    """Loads the versions that made predictions, with their feature definitions. Each is loaded once."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._known: dict[str, Known | str] = {}

    def of(self, prediction: Prediction) -> Known | str:
        """Return the version of a prediction with its definitions, or the reason why they cannot be used."""
        if prediction.version not in self._known:
            self._known[prediction.version] = self._look(prediction)
        return self._known[prediction.version]

    def others(self, known: Known) -> list[FeatureSet]:
        """Return other feature definitions with inputs of the same names and types.

        These are from versions that `of` has loaded, and from the project file.
        """
        seen = [one.features for one in self._known.values() if isinstance(one, Known)]
        same = {
            features.hash: features
            for features in [*seen, *(model.features for model in self._system.definitions.models.values())]
            if dict(features.dtypes) == dict(known.encoding.dtypes)
            and features.hash != known.version.features
            and features.request.columns == known.features.request.columns
        }
        return list(same.values())

    def _look(self, prediction: Prediction) -> Known | str:
        try:
            version = self._system.registry.get(prediction.version)
            artifact = decode_artifact(self._system.state.blob.get(version.artifact))
        except NotFound:
            return f"version {prediction.version[:12]} is no longer in the registry"
        except Corrupt as error:
            return f"version {prediction.version[:12]} cannot be read: {error}"
        try:
            features = self._system.live.of(version)
            check_functions(features)
        except (Misuse, Corrupt) as error:
            return f"the definitions that {version.name} was trained with are gone: {error}"
        gone = {view.source.name for view in features.views} - self._system.definitions.sources.keys()
        if gone:
            return (
                f"{version.name} was trained with events of {', '.join(sorted(gone))}, which are not declared any more"
            )
        return Known(version, artifact, features)


def fits(known: Known, prediction: Prediction) -> str | None:
    """Return why a prediction cannot be compared with its version's definitions; None if it can."""
    width = len(known.features.names)
    if len(prediction.values) != 8 * width or len(prediction.reasons) != width:
        return f"the prediction does not have the inputs of {known.version.name}"
    if not request_shape(known.features.request)(prediction.request):
        return f"the request does not have the columns that {known.version.name} was trained with"
    return None


def compute(
    past: Past,
    groups: Mapping[str, tuple[Known, list[Prediction]]],
    failed: Callable[[Sequence[Prediction], str], object],
) -> Iterator[Rows]:
    """Recompute the features of predictions, and yield the result for each version.

    `failed` is called with the predictions that cannot be recomputed, and with the reason.
    """
    by_features: dict[str, list[tuple[Known, list[Prediction]]]] = {}
    for known, predictions in groups.values():
        by_features.setdefault(known.features.hash, []).append((known, predictions))
    for alike in by_features.values():
        features = alike[0][0].features
        together = [p for _, predictions in alike for p in predictions]
        requests = decode_requests(features.request, [p.request for p in together])
        at_us = np.array([p.at_us for p in together], np.int64)
        try:
            found = past.as_of(features, requests, at_us, [p.positions for p in together])
        except TrimtabError as error:
            failed(together, f"its features cannot be computed: {error}")
            continue
        start = 0
        for known, predictions in alike:
            part = slice(start, start + len(predictions))
            start = part.stop
            mine = AsOf(found.features.take(part), found.newest.take(part), found.apart[part])
            yield _rows(known, predictions, requests.take(part), at_us[part], mine)


def _rows(known: Known, predictions: list[Prediction], requests: Columns, at_us: Array, found: AsOf) -> Rows:
    width = len(known.features.names)
    again, again_reasons = known.matrix(found.features)
    newest, newest_reasons = known.matrix(found.newest)
    other = ~((again == newest) | (np.isnan(again) & np.isnan(newest))) | (again_reasons != newest_reasons)
    return Rows(
        known=known,
        predictions=predictions,
        requests=requests,
        at_us=at_us,
        used=np.frombuffer(b"".join(p.values for p in predictions), "<f8").reshape(-1, width),
        used_reasons=np.frombuffer(b"".join(p.reasons for p in predictions), np.uint8).reshape(-1, width),
        again=again,
        again_reasons=again_reasons,
        stale=found.apart & other.any(1),
    )
