"""The table of addresses: one row for each method and path, for routing, access rights and OpenAPI.

`SERVICE` lists the addresses that every service has, and `PROJECT` those that the service of a project has as well. The
addresses of the Open Inference Protocol are in `serving/inference`. To add an address, add a row here and write its
handler.
"""

from __future__ import annotations

from trimtab.registry.versions import AliasMove
from trimtab.serving.http.routes import project_routes as project
from trimtab.serving.http.routes import service_routes as service
from trimtab.serving.http.routes.address import Address, Listed
from trimtab.serving.http.routes.operations import (
    AliasShown,
    AskRepair,
    EntityFeatures,
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
_PREDICTION = "/v1/predictions/{prediction}"

SERVICE = (
    Address(
        "POST", f"{_MODEL}/predict", "predict", service.predict, "predict", "Answers of {}, each logged", "predict",
        headers=("X-Timeout-Ms",), query=None, each="model", route="predict",
    ),
    Address(
        "POST", "/v1/events/{source}", "write", service.events, "push", "Push events of {}", "events and labels",
        query=("wait",), headers=("X-Timeout-Ms",), each="source", route="events",
    ),
    Address("GET", _PREDICTION, "read", service.prediction, query=None, route="prediction"),
    Address(
        "GET", "/health/live", None, service.live, "live", "Whether the process answers", "service", "Status",
        query=None, route="live",
    ),
    Address(
        "GET", "/health/ready", None, service.ready, "ready", "Whether it can answer as it should", "service", "Status",
        query=None, route="ready",
    ),
    Address(
        "GET", "/metrics", "read", service.metrics, "metrics", "Metrics for Prometheus", "service", "text/plain",
        query=None, route="metrics",
    ),
)  # fmt: skip

PROJECT = (
    Address(
        "GET", "/", "read", project.start_page, "start_page", "The state of the project as a page", "service",
        "text/html",
    ),
    Address(
        "GET", "/v1/models", "read", project.listed("models"), "models", "The deployed models", "models",
        Listed("models", ModelShown),
    ),
    Address("GET", _MODEL, "read", project.model, "model", "One model", "models", ModelShown),
    Address("GET", f"{_MODEL}/page", "read", project.page, "page", "Its quality as a page", "models", "text/html"),
    Address(
        "GET", f"{_MODEL}/stages", "read", project.listed("stages"), "stages",
        "The stages of its loop: what is done, where it stands, what comes next", "models",
        Listed("stages", StageShown),
    ),
    Address(
        "GET", f"{_MODEL}/versions", "read", project.listed("versions"), "versions",
        "Its registered versions, oldest first", "models", Listed("versions", VersionShown),
    ),
    Address(
        "GET", f"{_MODEL}/versions/{{version}}", "read", project.shown("version"), "version",
        "One version with its signature", "models", VersionShown,
    ),
    Address(
        "GET", f"{_MODEL}/aliases", "read", project.listed("aliases"), "aliases", "Its aliases", "models",
        Listed("aliases", AliasShown),
    ),
    Address("GET", _ALIAS, "read", project.alias, "alias", "Where an alias points", "models", AliasShown),
    Address(
        "PUT", _ALIAS, "admin", project.changed("move", Move), "move_alias",
        "Point an alias to a version, if it points now to what is expected", "administration", AliasMove, Move,
    ),
    Address(
        "POST", _ALIAS, "admin", project.changed("move", Move), "move_alias_too",
        "Point an alias to a version, if it points now to what is expected; the same as PUT", "administration",
        AliasMove, Move,
    ),
    Address(
        "POST", f"{_ALIAS}/rollback", "admin", project.changed("roll_back", RollBack), "roll_back",
        "Let the version before answer again, if the alias points now to what is expected", "administration",
        AliasMove, RollBack,
    ),
    Address(
        "POST", f"{_MODEL}/repairs", "admin", project.changed("ask_repair", AskRepair), "ask_repair",
        "Make and judge a candidate at the loop's next tick", "administration", RepairAsked, AskRepair,
    ),
    Address(
        "POST", "/v1/labels/{model}", "write", project.label, "label",
        "Tell what became of requests, by prediction or by key", "events and labels", Labelled, list[LabelRow],
        query=("wait",), headers=("X-Timeout-Ms",),
    ),
    Address(
        "GET", _PREDICTION, "read", project.prediction, "prediction",
        "A prediction as it was logged; with ?why all that led to it", "predictions and features",
        (LoggedPrediction, "Explanation"),
        query=("why",), headers=("X-Timeout-Ms",), route="prediction",
    ),
    Address(
        "GET", "/v1/entities/{entity}/{key*}/features", "read", project.features, "features",
        "The features of one {} as they stand online", "predictions and features", EntityFeatures,
        query=("model",), each="entity",
    ),
    Address(
        "GET", "/openapi.json", "read", project.openapi, "openapi", "This document", "service", {"type": "object"},
    ),
    Address("GET", "/docs", None, project.docs, "docs", "The page for people", "service", "text/html", query=None),
)  # fmt: skip
