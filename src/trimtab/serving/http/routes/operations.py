"""Protocols of the operations that the routes of a project need, and the Structs that these take and return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from trimtab.core.records import Prediction
from trimtab.experiments.assignment import Assignment
from trimtab.experiments.reading.results import Reading
from trimtab.experiments.records import ExperimentStatus
from trimtab.features.online.read.entity_read import ViewNow
from trimtab.registry.describing.signature import Signature
from trimtab.registry.versions import AliasMove

Needs: TypeAlias = Literal["nothing", "reason", "gate"]


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """A version that answers."""

    version: str  # "late_flight@7"
    address: str  # the id of the version
    arm: str  # its role, such as "champion"


class ModelShown(msgspec.Struct, frozen=True, kw_only=True):
    """A deployed model."""

    name: str
    request: str  # the name of the request definition, which declares the columns of predict requests
    learns: str  # "batch" or "online"
    metric: str
    versions: int  # the number of registered versions
    serving: Serving | None  # None: there is no version yet, or the next request will load it
    aliases: dict[str, str]  # by alias: the version to which it points, such as "late_flight@7"


class VersionShown(msgspec.Struct, frozen=True, kw_only=True):
    """A registered version."""

    name: str
    number: int
    address: str  # the id of the version
    made_at_us: int
    actor: str
    runtime: str
    training_rows: int
    metric: str
    value: float | None  # the value of that metric, if the version was evaluated
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    refit_of: str | None
    removed: bool  # whether its artifact was deleted
    signature: Signature | None = None  # inputs and outputs; only for a single version whose artifact exists


class AliasShown(msgspec.Struct, frozen=True, kw_only=True):
    """The version that an alias points to, and what is needed to move the alias."""

    alias: str
    version: str
    address: str  # the id of the version
    since_us: int
    actor: str
    why: str
    needs: Needs  # what is needed to move the alias: nothing, a reason, or the record of passed tests (the gate)
    gated: bool  # whether the version has passed its tests (the gate)


class Move(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to move an alias."""

    version: str | int  # the version to point to: its name "late_flight@7", its number, or its id
    expected: str | int | None  # the version to which the alias points now, in the form of `version`; null: none
    why: str
    gate: str | None = None  # the id of the version's gate record


class RollBack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to move an alias back to its previous version."""

    expected: str | int  # the version to which the alias points now
    why: str


class AskRepair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to make and judge a candidate, with the reason."""

    why: str


class RepairAsked(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a candidate, which the loop makes and judges at its next tick."""

    model: str
    at_us: int
    actor: str
    why: str


class EntityFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """The online features of one entity, as of a time t and positions P of the event log."""

    entity: str
    key: dict[str, str | int]  # the value of each column of the entity's key
    at_us: int  # t: the time as of which the features were read
    positions: dict[str, int]  # P: by partition of the event log, the last position that was applied
    views: list[ViewNow]


class LabelRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The true outcome of one request, which is named by its prediction or by its key."""

    prediction: str | None = None  # the id of the prediction, as in its answer
    request: str | int | None = None  # or the key of the request
    value: Any = msgspec.UNSET  # true or false (the outcome), or the value of the column that the label reads
    columns: dict[str, Any] = {}  # by name: values of columns of the label's source, in addition to `value` or alone
    # the time of the label's event; by default, the time of the request if the label's source has the same time column
    # as the request, and otherwise now
    at: str | int | None = None


class LabelProblem(msgspec.Struct, frozen=True):
    """Why one label went to quarantine."""

    row: int
    field: str
    reason: str
    found: str


class Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of labels. Accepted labels are safe in the log."""

    source: str
    accepted: int
    quarantined: int
    problems: tuple[LabelProblem, ...]  # the first hundred problems
    absent: tuple[str, ...] = ()  # columns of the source that some labels lack; they are null there
    late: int = 0  # labels that came after their waiting time had passed; they do not change closed days


class GivenLabels(NamedTuple):
    """Labels as events of their source."""

    source: str  # the source of the model's labels
    events: list[dict[str, object]]  # one event for each label
    late: int  # how many came after their waiting time had passed


class StageShown(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a model's loop."""

    name: str  # "shadow", "canary 5%", "watch", ...
    state: Literal["done", "now", "next"]
    since: str | None = None
    until: str | None = None  # when the stage ends; for the next stage: when it begins
    said: str = ""  # what the stage waits for, or what it has found


class AssignUnit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A unit that is to get a variant of an experiment."""

    # the values of the columns that identify the unit and of those that the experiment reads, by name; if there is only
    # one such column, this may also be its value
    attributes: dict[str, Any] | str | int
    expose: bool = False  # whether the unit is exposed to its variant now, which is logged
    not_shown: str = ""  # together with `expose`: why the unit did not get its variant


class ExposeUnits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Units that were exposed to their variants. Either all are logged, or none."""

    units: list[dict[str, Any] | str | int]  # each as `attributes` in `AssignUnit`
    not_shown: str = ""  # why these units did not get their variants
    # when the units were exposed to their variants, if not now: one time for all, or one for each; ISO 8601, or
    # microseconds since 1970
    at: str | int | list[str | int] | None = None


class ExposedUnits(msgspec.Struct, frozen=True, kw_only=True):
    """The variants of units, in the order of the request. Those that take part are logged."""

    assignments: list[Assignment]


class ModelOperations(Protocol):
    """Read and change models, versions and aliases. Read experiments, and assign and expose their units."""

    def models(self) -> list[ModelShown]: ...

    def versions(self, model: str) -> list[VersionShown]: ...

    def version(self, model: str, reference: str) -> VersionShown: ...

    def aliases(self, model: str) -> list[AliasShown]: ...

    def status(self) -> msgspec.Struct:
        """Return the state of the whole project."""
        ...

    def start_page(self) -> str:
        """Return an HTML page about the whole project."""
        ...

    def page(self, model: str) -> str:
        """Return an HTML page about the quality of a model."""
        ...

    def stages(self, model: str) -> list[StageShown]:
        """Return the finished, current and next stages of a model's training loop."""
        ...

    def experiments(self) -> list[ExperimentStatus]: ...

    def experiment(self, name: str) -> ExperimentStatus: ...

    def experiment_report(self, name: str) -> Reading: ...

    def experiment_page(self, name: str) -> str:
        """Return an HTML page about an experiment."""
        ...

    def assign(self, experiment: str, wanted: AssignUnit, *, actor: str) -> Assignment:
        """Return the variant of a unit. If `wanted.expose`, log its exposure."""
        ...

    def expose(self, experiment: str, wanted: ExposeUnits, *, actor: str) -> ExposedUnits:
        """Return the variants of units, after all their exposures were logged."""
        ...

    def move(self, model: str, alias: str, move: Move, *, actor: str) -> AliasMove:
        """Move an alias to a version, if it still points to the expected one and the evidence is sufficient."""
        ...

    def roll_back(self, model: str, alias: str, back: RollBack, *, actor: str) -> AliasMove:
        """Move an alias back to its previous version."""
        ...

    def ask_repair(self, model: str, request: AskRepair, /, *, actor: str) -> RepairAsked:
        """Request that the training loop makes and judges a candidate at its next tick."""
        ...


class RecordOperations(Protocol):
    """Read features and predictions, and prepare labels."""

    def features(self, entity: str, key: Sequence[str], model: str | None) -> EntityFeatures: ...

    def label_events(self, model: str, rows: Sequence[LabelRow], until_s: float | None = None) -> GivenLabels:
        """Return the labels as events of the source that the model takes labels from, one event for each label.

        Columns that a label lacks are taken from the request of the prediction that the label names. The search for
        this prediction ends at `until_s` (a time of `perf_counter`).
        """
        ...

    def find(self, prediction_id: str, until_s: float | None = None) -> Prediction:
        """Return the prediction with an id. The search ends at `until_s` (a time of `perf_counter`)."""
        ...

    def why(self, prediction: Prediction) -> msgspec.Struct:
        """Return everything that led to a prediction."""
        ...
