"""Compute model inputs from features, with equal bits online (as of now) and offline (as of past times)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_rows import RowFunction, compile_row
from trimtab.core.expressions.failed import failures
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FAILED, NO_VIEW, UNAVAILABLE
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.served import ModelInputs
from trimtab.serving.observe.log_throttle import ThrottledLogger

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.events.columns.frames import EventFrame
    from trimtab.features.online.read.request_plan import RequestPlan

_logger = logging.getLogger(__name__)
Snapshot: TypeAlias = "tuple[Mapping[str, EventFrame], Mapping[str, int]]"  # events by source, and log positions


class OnlineInputs:
    """Reads model inputs from online features, according to a request plan and a version's encoding.

    Args:
        plan: Reads the features of a request.
        encoding: Turns features into numbers.
        of_others: Whether rows were checked for the champion, whose request may have other columns, because this
            version is a canary or a shadow.

    Raises:
        Misuse: The encoding was fitted on other features. `read` also raises `Misuse`: if a row of the champion's
            request lacks a column of this version's request, or has it with another type.
    """

    def __init__(self, plan: RequestPlan, encoding: Encoding, *, of_others: bool = False) -> None:
        _check_same(plan.features, encoding)
        self._read = plan.read if of_others else plan.read_checked
        self._encode = encoding.row
        self._transforms = [n for n, name in enumerate(plan.names) if name in plan.features.transforms]
        self._marks = sum(NO_VIEW << 8 * place for place in self._transforms)
        self._codes = self._marked if self._transforms else bytes
        self._what = f"features of request {plan.features.request.name!r}"
        self._throttled = ThrottledLogger(_logger)

    def read(self, rows: Sequence[Row], now_us: int) -> ModelInputs:
        """Return the inputs of checked rows as of `now_us`, or as of the latest applied event if that is later."""
        found = self._read(rows, now_us)
        values, reasons = found.values, found.reasons
        if len(rows) == 1:  # faster here than `map`
            return ModelInputs([self._encode(values[0])], [self._codes(reasons[0])], found.at_us, found.positions)
        return ModelInputs([*map(self._encode, values)], [*map(self._codes, reasons)], found.at_us, found.positions)

    def _marked(self, reasons: Sequence[int]) -> bytes:
        """Return reason codes with `NO_VIEW` (all bits are 1) for each transform that did not fail."""
        codes, marks = bytes(reasons), self._marks
        if FAILED in codes:
            for place in self._transforms:
                if codes[place] == FAILED:
                    self._throttled.warning(self._what, Misuse(failures.error))
                    marks &= ~(NO_VIEW << 8 * place)
        return (int.from_bytes(codes, "little") | marks).to_bytes(len(codes), "little")


class BareInputs:
    """Computes model inputs from the request alone, without online features, for degraded responses.

    Features of views are null with the reason `unavailable`. Transforms that use them are null without a reason.
    """

    def __init__(self, features: FeatureSet, encoding: Encoding) -> None:
        _check_same(features, encoding)
        self._encode = encoding.row
        self._names = features.names
        self._joined = {name for name in features.names if name not in features.transforms}
        self._columns = frozenset(features.request.columns)
        own = set(self._columns)
        self._transforms: list[tuple[str, RowFunction]] = []
        for stage in features.stages:  # stages are in an order in which each transform comes after those that it uses
            for name, expression in stage.transforms.items():
                if expression.columns() <= own:
                    own.add(name)
                    self._transforms.append((name, compile_row(expression, features.known, f"feature {name!r}")))
        self._reasons = bytes(UNAVAILABLE if name in self._joined else NO_VIEW for name in features.names)

    def read(self, rows: Sequence[Row], now_us: int) -> ModelInputs:
        """Return the inputs of checked rows without reading online features."""
        encoded, reasons = [], []
        for row in rows:
            known, own, codes = dict(row), dict.fromkeys(self._names), bytearray(self._reasons)
            for name, compute in self._transforms:
                before = failures.count
                own[name] = value = compute(known)
                if value is None and failures.count != before:
                    codes[self._names.index(name)] = FAILED
                if name not in self._columns:  # a feature that is itself a column of the request has a value already
                    known[name] = value
            encoded.append(self._encode([own[name] for name in self._names]))
            reasons.append(bytes(codes))
        return ModelInputs(encoded, reasons, now_us, {})


class OfflineInputs:
    """Computes model inputs of many requests, each as of its own time, from the history of the sources.

    For each request, only events that were known at its time are used. This class is also a `PastReader`.

    Args:
        snapshot: Returns the events of every source, and the positions of the event log that they reach. It is called
            with the positions up to which to read, or with None for all events.
    """

    def __init__(
        self, features: FeatureSet, encoding: Encoding, snapshot: Callable[[Mapping[str, int] | None], Snapshot]
    ) -> None:
        _check_same(features, encoding)
        self.features = features
        self.encoding = encoding
        self.snapshot = snapshot

    def compute(
        self, requests: Columns, at_us: NDArray[Any], frames: Mapping[str, EventFrame]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the model inputs, float64 (rows, inputs), and their reason codes, uint8 (rows, inputs)."""
        from trimtab.features.offline.evaluation import evaluate

        found = evaluate(self.features, requests, at_us, frames)
        return self.encoding.matrix(found.values), found.codes(self.features.names)

    def read(self, rows: Sequence[Row], at_us: int) -> ModelInputs:
        """Return the inputs of checked rows as of `at_us`."""
        import numpy as np

        frames, positions = self.snapshot(None)
        columns = self.features.request.columns
        requests = Columns.of({name: (dtype, [row[name] for row in rows]) for name, dtype in columns.items()})
        matrix, reasons = self.compute(requests, np.full(len(rows), at_us, np.int64), frames)
        return ModelInputs(matrix.tolist(), [row.tobytes() for row in reasons], at_us, dict(positions))


def _check_same(features: FeatureSet, encoding: Encoding) -> None:
    if dict(features.dtypes) != dict(encoding.dtypes) or features.names != encoding.names:
        now, then = (
            ", ".join(f"{name} ({each[name]})" for name in each) for each in (features.dtypes, encoding.dtypes)
        )
        raise Misuse(
            f"inputs of request {features.request.name!r}: the features are {now}, but the version was trained on "
            f"{then}. Train again, or bring the old definitions back."
        )
