"""The table of addresses: one row for each method and path, for routing, access rights and OpenAPI.

`SERVICE` lists the addresses of every service, and `PROJECT` those that a project's service has in addition. The
addresses of the Open Inference Protocol are in `serving/inference`. To add an address, add a row here and write its
handler.
"""

from __future__ import annotations

from trimtab.experiments.assignment import Assignment
from trimtab.experiments.reading.results import Reading
from trimtab.experiments.records import ExperimentStatus
from trimtab.registry.versions import AliasMove
from trimtab.serving.http.routes import project_routes as project
from trimtab.serving.http.routes import service_routes as service
from trimtab.serving.http.routes.address import Address, Listed
from trimtab.serving.http.routes.operations import (
    AliasShown,
    AskRepair,
    AssignUnit,
    EntityFeatures,
    ExposedUnits,
    ExposeUnits,
    Labelled,
    LabelRow,
    ModelShown,
    Move,
    RepairAsked,
    RollBack,
    StageShown,
    VersionShown,
)
from trimtab.serving.log.prediction_record import LoggedPrediction

_MODEL = "/v1/models/{model}"
_ALIAS = f"{_MODEL}/aliases/{{alias}}"
_EXPERIMENT = "/v1/experiments/{experiment}"
_PREDICTION = "/v1/predictions/{prediction}"

SERVICE = (
    Address(
        "POST", f"{_MODEL}/predict", "predict", service.predict, "predict", "Predict with {}; answers are logged",
        "predict", headers=("X-Timeout-Ms",), query=None, each="model", route="predict",
    ),
    Address(
        "POST", "/v1/events/{source}", "write", service.events, "push", "Push events of {}", "events and labels",
        query=("wait",), headers=("X-Timeout-Ms",), each="source", route="events",
    ),
    Address("GET", _PREDICTION, "read", service.prediction, query=None, route="prediction"),
    Address(
        "GET", "/health/live", None, service.live, "live", "Check whether the process answers", "service", "Status",
        query=None, route="live",
    ),
    Address(
        "GET", "/health/ready", None, service.ready, "ready", "Check whether the service is ready", "service", "Status",
        query=None, route="ready",
    ),
    Address(
        "GET", "/metrics", "read", service.metrics, "metrics", "Metrics for Prometheus", "service", "text/plain",
        query=None, route="metrics",
    ),
)  # fmt: skip

PROJECT = (
    Address(
        "GET", "/", "read", project.paged("start_page"), "start_page", "The state of the project as a page", "service",
        "text/html",
    ),
    Address(
        "GET", "/v1/status", "read", project.shown("status"), "status",
        "The state of the project, as `trimtab status --json` prints it", "service", {"type": "object"},
    ),
    Address(
        "GET", "/v1/models", "read", project.listed("models"), "models", "The deployed models", "models",
        Listed("models", ModelShown),
    ),
    Address("GET", _MODEL, "read", project.model, "model", "A deployed model", "models", ModelShown),
    Address(
        "GET", f"{_MODEL}/page", "read", project.paged("page"), "page", "The quality of a model as a page", "models",
        "text/html",
    ),
    Address(
        "GET", f"{_MODEL}/stages", "read", project.listed("stages"), "stages",
        "The stages of a model's loop: done, current and next", "models",
        Listed("stages", StageShown),
    ),
    Address(
        "GET", f"{_MODEL}/versions", "read", project.listed("versions"), "versions",
        "The registered versions of a model, oldest first", "models", Listed("versions", VersionShown),
    ),
    Address(
        "GET", f"{_MODEL}/versions/{{version}}", "read", project.shown("version"), "version",
        "One version with its signature", "models", VersionShown,
    ),
    Address(
        "GET", f"{_MODEL}/aliases", "read", project.listed("aliases"), "aliases", "The aliases of a model", "models",
        Listed("aliases", AliasShown),
    ),
    Address("GET", _ALIAS, "read", project.alias, "alias", "The version that an alias points to", "models", AliasShown),
    Address(
        "PUT", _ALIAS, "admin", project.changed("move", Move), "move_alias",
        "Point an alias to a version, if it still points to the expected one", "administration", AliasMove, Move,
    ),
    Address(
        "POST", _ALIAS, "admin", project.changed("move", Move), "move_alias_too",
        "Point an alias to a version, if it still points to the expected one; the same as PUT", "administration",
        AliasMove, Move,
    ),
    Address(
        "POST", f"{_ALIAS}/rollback", "admin", project.changed("roll_back", RollBack), "roll_back",
        "Let the previous version answer again, if the alias still points to the expected one", "administration",
        AliasMove, RollBack,
    ),
    Address(
        "POST", f"{_MODEL}/repairs", "admin", project.changed("ask_repair", AskRepair), "ask_repair",
        "Make and judge a candidate at the loop's next tick", "administration", RepairAsked, AskRepair,
    ),
    Address(
        "GET", "/v1/experiments", "read", project.listed("experiments"), "experiments", "The experiments",
        "experiments", Listed("experiments", ExperimentStatus),
    ),
    Address(
        "GET", _EXPERIMENT, "read", project.shown("experiment"), "experiment", "An experiment as it is now",
        "experiments", ExperimentStatus,
    ),
    Address(
        "GET", f"{_EXPERIMENT}/report", "read", project.shown("experiment_report"), "experiment_report",
        "What an experiment says, from its closed days", "experiments", Reading,
    ),
    Address(
        "GET", f"{_EXPERIMENT}/page", "read", project.paged("experiment_page"), "experiment_page",
        "What an experiment says, as a page", "experiments", "text/html",
    ),
    Address(
        "POST", f"{_EXPERIMENT}/assign", "predict", project.changed("assign", AssignUnit), "assign",
        "The variant of a unit; with expose, its exposure is logged", "experiments", Assignment, AssignUnit,
    ),
    Address(
        "POST", f"{_EXPERIMENT}/expose", "predict", project.changed("expose", ExposeUnits), "expose",
        "Log that units were exposed to their variants: all units are logged, or none", "experiments", ExposedUnits,
        ExposeUnits,
    ),
    Address(
        "POST", "/v1/labels/{model}", "write", project.label, "label",
        "Send labels of requests, by prediction or by key", "events and labels", Labelled, list[LabelRow],
        query=("wait",), headers=("X-Timeout-Ms",),
    ),
    Address(
        "GET", _PREDICTION, "read", project.prediction, "prediction",
        "A prediction as it was logged; with ?why, everything that led to it", "predictions and features",
        (LoggedPrediction, "Explanation"),
        query=("why",), headers=("X-Timeout-Ms",), route="prediction",
    ),
    Address(
        "GET", "/v1/entities/{entity}/{key*}/features", "read", project.features, "features",
        "The current online features of one {}", "predictions and features", EntityFeatures,
        query=("model",), each="entity",
    ),
    Address(
        "GET", "/openapi.json", "read", project.openapi, "openapi", "This document", "service", {"type": "object"},
    ),
    Address(
        "GET", "/docs", None, project.docs, "docs", "This document as a page with forms", "service", "text/html",
        query=None,
    ),
)  # fmt: skip
