"""Carry out requests about models, versions, aliases, features, labels and predictions for the HTTP routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from trimtab.app.data.given_labels import LabelEvents, key_value
from trimtab.app.experiments.assigning import assign, experiment_status, experiments, expose
from trimtab.app.inspect.explain import Explanation, explain_found
from trimtab.app.inspect.status import project_status
from trimtab.app.inspect.status_text import Status
from trimtab.app.system import System
from trimtab.app.training.loops import stages_of
from trimtab.app.versions.alias_moves import Ledgered
from trimtab.app.versions.arms import ARMS, LedgeredArm, check_not_split
from trimtab.app.versions.search import search_versions, version_signature
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.records import Prediction
from trimtab.core.time import format_time
from trimtab.experiments.assignment import Assignment
from trimtab.experiments.reading.document import experiment_document
from trimtab.experiments.reading.results import Reading
from trimtab.experiments.records import ExperimentStatus
from trimtab.features.definitions import View
from trimtab.features.online.read.entity_read import read_entity
from trimtab.registry import AliasMove, Version
from trimtab.registry.evidence import check_ungated
from trimtab.registry.protection import CHAMPION, check_reason
from trimtab.registry.searching import Found
from trimtab.serving.http.routes.operations import (
    AliasShown,
    AskRepair,
    AssignUnit,
    EntityFeatures,
    ExposedUnits,
    ExposeUnits,
    GivenLabels,
    LabelRow,
    ModelShown,
    Move,
    RepairAsked,
    RollBack,
    Serving,
    StageShown,
    VersionShown,
)
from trimtab.serving.problems import InvalidField
from trimtab.steering.loop_state import REQUEST, Requested
from trimtab.store.ports import Put


class ProjectModels:
    """Carries out the requests of the routes about models (`ModelOperations`), for one project."""

    def __init__(self, system: System) -> None:
        self._system = system

    def models(self) -> list[ModelShown]:
        """Return all deployments of the project."""
        return [self._model(name) for name in self._system.definitions.deployments]

    def versions(self, model: str) -> list[VersionShown]:
        """Return all versions of a model, oldest first."""
        self._known(model)
        return [_version(found) for found in search_versions(self._system, model)]

    def version(self, model: str, reference: str) -> VersionShown:
        """Return a version. Its signature is included if its artifact still exists."""
        wanted = self._version(model, reference)
        found = next(one for one in search_versions(self._system, model) if one.version.id == wanted.id)
        return _version(found, signature=None if found.removed else version_signature(self._system, wanted.id))

    def status(self) -> Status:
        """Return the state of the whole project."""
        return project_status(self._system)

    def start_page(self) -> str:
        """Return an HTML page about the whole project."""
        from trimtab.app.inspect.pages.start_page import start_page

        return start_page(self._system)

    def page(self, model: str) -> str:
        """Return an HTML page about the quality of a model."""
        from trimtab.app.inspect.pages.quality_page import quality_page

        return quality_page(self._system, model, home=True)

    def stages(self, model: str) -> list[StageShown]:
        """Return the finished, current and next stages of a model's training loop."""
        self._known(model)

        def at(at_us: int | None) -> str | None:
            return None if at_us is None else format_time(at_us)

        return [
            StageShown(name=one.name, state=one.state, since=at(one.since_us), until=at(one.until_us), said=one.said)
            for one in stages_of(self._system, model)
        ]

    def aliases(self, model: str) -> list[AliasShown]:
        """Return the aliases of a model, sorted by name."""
        self._known(model)
        registry = self._system.registry
        needs = registry.needs(model)
        return [
            AliasShown(
                alias=alias,
                version=registry.get(move.version).name,
                address=move.version,
                since_us=move.at_us,
                actor=move.actor,
                why=move.why,
                needs=needs[alias],
                gated=registry.passed_gate(registry.get(move.version)) is not None,
            )
            for alias, move in sorted(registry.aliases(model).items())
        ]

    def move(self, model: str, alias: str, move: Move, *, actor: str) -> AliasMove:
        """Move an alias. If the alias decides which version answers, this is recorded in the ledger of decisions."""
        self._known(model)
        expected = None if move.expected is None else self._version(model, move.expected, "expected").id
        version, registry = self._version(model, move.version, "version"), self._system.registry
        if alias != CHAMPION:  # a reason can replace a passed gate, except for the champion
            check_ungated(f"alias {model}@{alias} to {version.name}", registry.passed_gate(version), move.why)
        return registry.move(
            model,
            alias,
            version,
            why=move.why,
            gate=move.gate,
            expected_previous=expected,
            actor=actor,
            together=self._ledgered(model, alias, "promote"),
        )

    def roll_back(self, model: str, alias: str, back: RollBack, *, actor: str) -> AliasMove:
        """Move an alias back to its previous version, unless it no longer points to the expected version."""
        self._known(model)
        return self._system.registry.roll_back(
            model,
            alias,
            why=back.why,
            expected_previous=self._version(model, back.expected, "expected").id,
            actor=actor,
            together=self._ledgered(model, alias, "roll_back"),
        )

    def ask_repair(self, model: str, wanted: AskRepair, *, actor: str) -> RepairAsked:
        """Request a new candidate in the next tick of the training loop. A newer request replaces an older one."""
        self._known(model)
        check_reason(f"repair of {model!r}", wanted.why)
        at_us = self._system.clock.now_us()
        requested = Requested(at_us=at_us, actor=actor, why=wanted.why.strip())
        self._system.state.catalog.write([Put(REQUEST, model, msgspec.json.encode(requested))])
        return RepairAsked(model=model, at_us=at_us, actor=actor, why=requested.why)

    def experiments(self) -> list[ExperimentStatus]:
        """Return all experiments of the project."""
        return experiments(self._system)

    def experiment(self, name: str) -> ExperimentStatus:
        """Return an experiment as it is now."""
        return experiment_status(self._system, name)

    def experiment_report(self, name: str) -> Reading:
        """Return what an experiment says, from the days that are closed already."""
        from trimtab.app.experiments.report import experiment_report

        return experiment_report(self._system, name, close=False)

    def experiment_page(self, name: str) -> str:
        """Return an HTML page about an experiment, from the days that are closed already."""
        from trimtab.report import html_page

        return html_page(experiment_document(self.experiment_report(name)), home=True)

    def assign(self, experiment: str, wanted: AssignUnit, *, actor: str) -> Assignment:
        """Return the variant of a unit, and log its exposure if that is wanted."""
        if not wanted.expose:
            return assign(self._system, experiment, wanted.attributes)
        return expose(self._system, experiment, [wanted.attributes], not_shown=wanted.not_shown)[0]

    def expose(self, experiment: str, wanted: ExposeUnits, *, actor: str) -> ExposedUnits:
        """Return the variants of units, after all their exposures were logged."""
        found = expose(self._system, experiment, wanted.units, not_shown=wanted.not_shown, at=wanted.at)
        return ExposedUnits(assignments=found)

    def _ledgered(self, model: str, alias: str, act: str) -> Ledgered | LedgeredArm | None:
        """Return an object that records the move in the ledger, or None if the alias affects no answers.  # D85"""
        if alias in ARMS:
            check_not_split(self._system, model, alias)
            return LedgeredArm(self._system)
        return Ledgered(self._system, act) if alias == CHAMPION else None

    def _model(self, name: str) -> ModelShown:
        system, registry = self._system, self._system.registry
        deployment, served = system.definitions.deployments[name], system.served(name).endpoint.serving
        return ModelShown(
            name=name,
            request=deployment.model.request.name,
            learns=deployment.learn,
            metric=str(deployment.model.metric),
            versions=len(registry.versions(name)),
            serving=None if served is None else Serving(version=served.label, address=served.version, arm=served.arm),
            aliases={alias: registry.get(move.version).name for alias, move in registry.aliases(name).items()},
        )

    def _known(self, model: str) -> None:
        self._system.definitions.deployment(model)

    def _version(self, model: str, reference: str | int, field: str = "version") -> Version:
        """Return the version of a model with a given number, name, alias or id."""
        text = str(reference)
        self._known(model)
        if text.isdecimal() and len(text) < 10:
            text = f"{model}@{int(text)}"
        try:
            found = self._system.registry.get(text)
        except Misuse as error:
            raise InvalidField(str(error), field=field, pointer=f"$.{field}") from error
        if found.model != model:
            raise NotFound(
                f"{field} {text!r} is {found.name}, a version of another model. Give a version of {model!r}."
            )
        return found


class ProjectRecords:
    """Carries out the requests of the routes about features, labels and predictions (`RecordOperations`).

    Args:
        find: Finds a prediction by its id. It stops searching at a deadline.
    """

    def __init__(self, system: System, find: Callable[[str, float | None], Prediction]) -> None:
        self._system = system
        self._find = find
        self._labels = LabelEvents(system, find)

    def features(self, entity: str, key: Sequence[str], model: str | None) -> EntityFeatures:
        """Return the current online features of an entity, from all views or from those of a model."""
        system = self._system
        if model is None:
            views = system.live.views()
        else:
            views = list(system.definitions.deployment(model).model.features.views)
        declared = {view.hash for view in system.definitions.views.values()}
        by_name = {view.name: view for view in sorted(views, key=lambda view: view.hash in declared)}
        found = [view for view in by_name.values() if view.entity == entity]
        if not found:
            there = ", ".join(sorted({view.entity for view in by_name.values()})) or "none"
            raise NotFound(f"no view has the entity {entity!r}. Entities of views: {there}.")
        values = _values(found[0], key)
        now = read_entity(system.state.online, found, values, system.clock.now_us())
        return EntityFeatures(
            entity=entity,
            key=dict(zip(found[0].by, values, strict=True)),
            at_us=now.at_us,
            positions=now.positions,
            views=now.views,
        )

    def label_events(self, model: str, rows: Sequence[LabelRow], until_s: float | None = None) -> GivenLabels:
        """Return the given labels as events of the source from which the model takes its labels, one for each label."""
        return self._labels.all(model, rows, until_s)

    def find(self, prediction_id: str, until_s: float | None = None) -> Prediction:
        """Return the prediction with an id. The search ends at `until_s` (a time of `perf_counter`)."""
        return self._find(prediction_id, until_s)

    def why(self, prediction: Prediction) -> Explanation:
        """Return everything that led to a prediction: see `Explanation`."""
        return explain_found(self._system, prediction)


def _version(found: Found, **more: Any) -> VersionShown:
    version = found.version
    return VersionShown(
        name=version.name,
        number=version.number,
        address=version.id,
        made_at_us=version.made_at_us,
        actor=version.actor,
        runtime=version.runtime,
        training_rows=version.rows,
        metric=found.metric,
        value=found.value,
        aliases=found.aliases,
        tags=found.tags,
        refit_of=version.refit_of,
        removed=found.removed,
        **more,
    )


def _values(view: View, key: Sequence[str]) -> list[str | int]:
    if len(key) != len(view.by):
        raise Misuse(
            f"entity {view.entity!r} is known by {', '.join(view.by)}; the address has {len(key)} values. Give "
            f"/v1/entities/{view.entity}/{'/'.join(name.upper() for name in view.by)}/features."
        )
    return [key_value(text, view.source.columns[name], name) for name, text in zip(view.by, key, strict=True)]
