"""The units of an experiment over versions or deployments: the unit and variant of each logged prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.records import FALLBACK_VERSION, LAST_ANSWER, NULL_FEATURES, RULE, Prediction
from trimtab.experiments.assignment import (
    ELIGIBLE,
    FALLBACKS,
    FEATURE_MISSING,
    ROUTED,
    Assigner,
    PastAssignments,
    share_was_lowered,
)
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.exposures import ExposureBlock, Intake
from trimtab.experiments.records import ExperimentState, Exposure
from trimtab.features.definitions import Request
from trimtab.serving.answer.answering import PAST
from trimtab.serving.arms.arms import SHADOW
from trimtab.serving.arms.endpoint import CANARY_FAILED
from trimtab.serving.log.prediction_record import ERASED, decode

if TYPE_CHECKING:
    from trimtab.app.system import System

OTHER_DEPLOYMENT = "other deployment"  # the control's deployment answered, because the variant's was not loaded
OTHER_VERSION = "other version"  # another version than the variant's answered, such as a new champion
_OWN_TIME = ("live", "online", "replay")  # answers in these modes were given at the time of their requests
_SERVED_OTHERWISE = (CANARY_FAILED, FALLBACK_VERSION, LAST_ANSWER, RULE, NULL_FEATURES)
_encode = msgspec.msgpack.Encoder().encode


class LoggedUnits:
    """Reads the units of an experiment from the prediction log.

    The assignment is computed again from the unit, as of the time of the answer. So a unit counts for the variant that
    it was assigned to, whichever version has answered. If that was not the variant's version, the exposure says why.

    Args:
        definition: The definition that the experiment was started with.
        request: The request of the model, as declared now.
    """

    def __init__(self, system: System, definition: Experiment, state: ExperimentState, request: Request) -> None:
        self._log = system.predictions.log
        self._request_of = system.live.request_of
        self._request = request
        self._definition = definition
        self._state = state
        declared = system.definitions.experiments.get(definition.name, definition)
        holdout = system.config.experiments.holdout if state.holdout is None else state.holdout
        # features are not read again: the flags of the predictions say which units were eligible then
        judged = definition if not definition.features else msgspec.structs.replace(definition, where=None)
        self._assignments = PastAssignments(judged, state, holdout=holdout, overrides=declared.overrides)
        self._naming = Assigner(definition, None)
        self._attributes = list(dict.fromkeys((*definition.attributes, *definition.slices)))
        self._columns: dict[str, list[str]] = {}  # by version: the columns of its requests

    def exposures(self, intake: Intake) -> Iterator[ExposureBlock]:
        """Yield the exposures that may be the first of their units on a day (see `Intake`), in blocks."""
        codes = {name: code for code, name in enumerate(self._definition.variants)}
        for number, found in self.predictions(intake):
            rows = []
            for position, prediction, row in found:
                exposure = self._exposure(prediction, row)
                if exposure is not None:
                    rows.append((position, exposure))
            if rows:
                yield intake.block(number, rows, codes)

    def missing(self, intake: Intake) -> Iterator[ExposureBlock]:
        """Yield the units that took no part on a day because a feature was missing, in blocks."""
        for number, found in self.predictions(intake):
            rows = [
                (position, self._exposed(one, row, "", self._lacking(one)))
                for position, one, row in found
                if FEATURE_MISSING in one.flags and self._assignments.at(row, one.made_at_us).reason == "assigned"
            ]
            if rows:
                yield intake.block(number, rows, {"": 0})

    def not_eligible(self, intake: Intake) -> Iterator[ExposureBlock]:
        """Yield the units that got the control because of a pause, a lower share, or `where`, in blocks."""
        by_flag = bool(self._definition.features)
        reasons = [one for one in FALLBACKS if one != "not in share" or share_was_lowered(self._state)]
        for number, found in self.predictions(intake):
            rows = []
            for position, one, row in found:
                # if the experiment reads features, `_assignments` does not evaluate `where`, and the flags decide
                reason = self._assignments.at(row, one.made_at_us).reason
                unflagged = reason == "assigned" and not {ELIGIBLE, FEATURE_MISSING} & {*one.flags}
                if reason in reasons or (by_flag and unflagged):
                    rows.append((position, self._exposed(one, row, "", "not eligible")))
            if rows:
                yield intake.block(number, rows, {"": 0})

    def predictions(self, intake: Intake) -> Iterator[tuple[int, list[tuple[int, Prediction, dict[str, Any]]]]]:
        """Yield the predictions that clients got from `intake.from_us` until `intake.until_us`, in blocks.

        A block has the number of a partition and a list: position in the log, prediction, columns of its request.
        """
        models = self._definition.models
        names = [_encode(model) for model in models]
        for number, records in intake.records(self._log):
            found = []
            for record in records:
                if not any(name in record.payload for name in names) or record.payload.startswith(ERASED):
                    continue
                one = decode(record.payload, record.partition, record.position)
                # the flag is also set if the control answered because the other deployment was not loaded
                routed = ROUTED in one.flags
                own = one.model == models[0] and (not routed or self._definition.deployments)
                mine = own or (one.model in models and routed and self._definition.deployments)
                given = mine and one.mode in _OWN_TIME and one.arm != SHADOW
                if given and PAST not in one.flags and intake.holds(one.made_at_us, record.appended_at_us):
                    row = self._row(one)
                    if row is not None:
                        found.append((record.position, one, row))
            yield number, found

    def unit(self, prediction: Prediction, row: dict[str, Any]) -> tuple[str, str]:
        """Return the unit of a prediction and, for a switchback (which assigns times), its block of time, as text."""
        return self._naming.unit(row), self._naming.block(row, prediction.made_at_us)

    def _exposure(self, prediction: Prediction, row: dict[str, Any]) -> Exposure | None:
        assignment = self._assignments.at(row, prediction.made_at_us)
        if not assignment.takes_part:
            return None
        tester = assignment.reason == "override"
        if self._definition.features and not tester and ELIGIBLE not in prediction.flags:
            return None
        reason = self._reason(prediction, assignment.variant)
        return self._exposed(prediction, row, assignment.variant, reason, tester=tester)

    def _exposed(
        self, prediction: Prediction, row: dict[str, Any], variant: str, reason: str, *, tester: bool = False
    ) -> Exposure:
        unit, block = self.unit(prediction, row)
        attributes = {name: row[name] for name in self._attributes if name in row}
        return Exposure(
            experiment=self._definition.name,
            generation=self._state.generation,
            unit=unit,
            block=block,
            variant=variant,
            at_us=prediction.made_at_us,
            reason=reason,
            override=tester,
            attributes=_encode(attributes) if attributes else b"",
        )

    def _reason(self, prediction: Prediction, variant: str) -> str:
        """Return why a unit did not get an ordinary answer by the version of its variant; empty if it did."""
        flags: Sequence[str] = prediction.flags
        for flag in _SERVED_OTHERWISE:
            if flag in flags:
                return flag
        if self._definition.deployments:
            return "" if prediction.model == self._definition.variants[variant] else OTHER_DEPLOYMENT
        return "" if prediction.version == self._state.versions.get(variant) else OTHER_VERSION

    def _lacking(self, prediction: Prediction) -> str:
        """Return which features were missing, and why."""
        names = self._definition.feature_types
        found = [flag for flag in prediction.flags if flag.partition(" (")[0] in names]
        return ", ".join(found) or "feature missing"  # older answers do not name them

    def _row(self, prediction: Prediction) -> dict[str, Any] | None:
        """Return the columns of a logged request; None if it does not fit the columns, or has no unit."""
        names = self._columns.get(prediction.version)
        if names is None:
            request = self._request_of(prediction.version) or self._request
            names = self._columns[prediction.version] = list(request.columns)
        values = msgspec.msgpack.decode(prediction.request)
        if not isinstance(values, list) or len(values) != len(names):
            return None
        row = dict(zip(names, values, strict=True))
        return row if row.keys() >= {*self._definition.unit} else None
