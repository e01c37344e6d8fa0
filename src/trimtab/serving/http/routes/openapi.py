"""The OpenAPI 3.1 document of a service: every address, and the schema of each model's rows and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.events.definitions import Source
from trimtab.features.definitions import Request
from trimtab.registry.versions import AliasMove
from trimtab.serving import Answer, LoggedPrediction
from trimtab.serving.http.requests.access import right_of
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
from trimtab.serving.problems import Problem

Schema = dict[str, Any]

_JSON, _PROBLEM = "application/json", "application/problem+json"
_ARROW = "application/vnd.apache.arrow.stream"
_REF = "#/components/schemas/{name}"
_SHOWN = (
    Answer,
    LoggedPrediction,
    ModelShown,
    VersionShown,
    AliasShown,
    StageShown,
    AskRepair,
    AliasMove,
    Move,
    RepairAsked,
    RollBack,
    EntityFeatures,
    LabelRow,
    Labelled,
    Problem,
)
_INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}
_MOMENT: Schema = {
    "description": "ISO 8601 text, or UTC microseconds since 1970",
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "integer", "minimum": -62_135_596_800_000_000, "maximum": 253_402_300_799_999_999},
    ],
}
_TYPES: dict[Dtype, Schema] = {
    "float": {"type": "number", "minimum": -1e150, "maximum": 1e150},
    "int": {"type": "integer", **_INT64},
    "bool": {"type": "boolean"},
    "str": {"type": "string"},
    "time": _MOMENT,
}


class ModelSchema(msgspec.Struct, frozen=True):
    """What the document needs to know about a deployed model."""

    name: str
    request: Request
    classes: tuple[str, ...] = ()


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What a document is made of."""

    title: str
    version: str
    models: Sequence[ModelSchema]
    sources: Sequence[Source]
    entities: Mapping[str, int] = {}  # by name: how many values its key has
    key_required: bool = False
    explanation: type[msgspec.Struct] = Problem  # what `?why` gives


def openapi(described: Described) -> Schema:
    """The document, to be encoded as JSON."""
    kinds = [*_SHOWN, *([described.explanation] if described.explanation not in _SHOWN else [])]
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    _allow_nan(schemas["LoggedPrediction"]["properties"]["values"])
    paths: dict[str, Schema] = {}
    for model in described.models:
        schemas[_row_name(model)] = _row_schema(model.request)
        schemas[f"{model.name}.answer"] = _answer_schema(model, schemas["Answer"])
        paths[f"/v1/models/{model.name}/predict"] = {"post": _predict(model)}
    for source in described.sources:
        schemas[f"{source.name}.event"] = _event_schema(source)
        paths[f"/v1/events/{source.name}"] = {"post": _events(source)}
    paths |= _about_models(described) | _about_records(described) | _about_service()
    paths |= _inference([model.name for model in described.models])
    schemas |= {"Pushed": _PUSHED, "Status": _object({"status": {"type": "string"}}, ["status"])}
    _guard(paths, required=described.key_required)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": described.title,
            "version": described.version,
            "description": "Every error is a problem detail (RFC 9457). Page for people: /docs",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Problem": {
                    "description": "What is wrong, in which field, and what to do",
                    "content": {_PROBLEM: {"schema": _ref("Problem")}},
                },
                "InferenceError": {
                    "description": "What is wrong, and what to do",
                    "content": {_JSON: {"schema": _object({"error": {"type": "string"}}, ["error"])}},
                },
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key made by `trimtab keys add`"},
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


# -- schemas --------------------------------------------------------------------------------------------------------


def _row_schema(request: Request) -> Schema:
    """A row of a predict request: every column, null allowed but for the key and the time."""
    columns: dict[str, Schema] = {}
    for name, dtype in request.columns.items():
        schema = dict(_TYPES[dtype])
        if name == request.key and dtype == "str":
            schema["minLength"] = 1
        columns[name] = schema if name in (request.key, request.time) else _nullable(schema)
    return _object(columns, list(columns))


def _event_schema(source: Source) -> Schema:
    """An event: time and key, whatever columns there are, and what `_id`, `_known_at` and `_op` say of it.

    A deletion needs no time.
    """
    columns = source.declared if source.hidden else source.columns
    needed = [source.time] + ([source.key] if source.key and source.key != source.time else [])
    schemas = {name: _written(source, name) or dict(_TYPES[dtype]) for name, dtype in columns.items()}
    moment = schemas[source.time]
    properties = {name: schema if name in needed else _nullable(schema) for name, schema in schemas.items()}
    properties |= {
        "_id": _nullable({"type": "string"}),
        "_known_at": _nullable(_MOMENT),
        "_op": {"enum": ["upsert", None, *(["delete"] if source.key else [])]},
    }
    if source.key is None:
        return _object(properties, needed)
    dated = {"required": [source.time], "properties": {source.time: moment}}
    deleted = {"required": ["_op"], "properties": {"_op": {"const": "delete"}}}
    properties[source.time] = _nullable(moment)
    return _object(properties, [source.key]) | {"anyOf": [dated, deleted]}


def _written(source: Source, column: str) -> Schema | None:
    """A time of a declared format."""
    written = source.declared_formats.get(column)
    if written is None:
        return None
    said = f"A time in the format {written}, or RFC 3339 in full"
    return {"description": said, "anyOf": [{"type": "string"}, {"type": "number"}]}


def _answer_schema(model: ModelSchema, answer: Schema) -> Schema:
    """The answers of one model: of several classes with their chances."""
    properties = {name: dict(schema) for name, schema in answer["properties"].items()}
    required = list(answer["required"])
    properties["model"] = {"const": model.name}
    if model.classes:
        chances = {name: {"type": "number"} for name in model.classes}
        properties["prediction"] = {"enum": list(model.classes)}
        properties["scores"] = _object(chances, list(chances))
        required += ["prediction", "scores"]
    else:
        del properties["prediction"], properties["scores"]
    return _object(properties, required)


def _object(properties: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _nullable(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def _allow_nan(schema: Schema) -> None:
    """A list of numbers in which NaN is written as null."""
    schema["items"] = {"type": ["number", "null"]}


def _ref(name: str) -> Schema:
    return {"$ref": _REF.format(name=name)}


def _row_name(model: ModelSchema) -> str:
    return f"{model.name}.row"


# -- addresses ------------------------------------------------------------------------------------------------------


def _operation(summary: str, tag: str, gives: Schema, **more: Any) -> Schema:
    return {
        "summary": summary,
        "tags": [tag],
        **more,
        "responses": {"200": {"description": "Done", "content": {_JSON: {"schema": gives}}}, **_problems()},
    }


def _html(summary: str, tag: str, **more: Any) -> Schema:
    """An operation that gives a page."""
    operation = _operation(summary, tag, {}, **more)
    operation["responses"]["200"]["content"] = {"text/html": {"schema": {"type": "string"}}}
    return operation


def _problems(name: str = "Problem") -> Schema:
    reference = {"$ref": f"#/components/responses/{name}"}
    return {"4XX": reference, "500": reference, "503": reference, "504": reference}


def _takes(*schemas: Schema, arrow: bool = False, lines: bool = False) -> Schema:
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
    content: Schema = {_JSON: {"schema": schema}}
    if lines:
        content["application/x-ndjson"] = {"schema": {"type": "string", "description": "One JSON object a line"}}
    if arrow:
        content[_ARROW] = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "content": content}


def _parameter(name: str, where: str, schema: Schema, about: str) -> Schema:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": about}


def _text(among: Sequence[str] = ()) -> Schema:
    return {"type": "string", "enum": list(among)} if among else {"type": "string", "minLength": 1}


def _predict(model: ModelSchema) -> Schema:
    row, answer = _ref(_row_name(model)), _ref(f"{model.name}.answer")
    at = {"at": {**_MOMENT, "description": "Answer as of this moment in the past, from history"}}
    many = _object({"predictions": {"type": "array", "items": answer}}, ["predictions"])
    operation = _operation(
        f"Answers of {model.name}, each logged",
        "predict",
        {"anyOf": [answer, many]},
        operationId=f"predict_{model.name}",
        parameters=[_TIMEOUT],
        requestBody=_takes(
            _object({"request": row, **at}, ["request"]),
            _object({"rows": {"type": "array", "items": row}, **at}, ["rows"]),
            arrow=True,
        ),
    )
    answered = operation["responses"]["200"]
    answered["content"][_ARROW] = {"schema": {"type": "string", "format": "binary"}}
    answered["links"] = {
        "Logged": {"operationId": "prediction", "parameters": {"prediction": "$response.body#/id"}},
    }
    return operation


def _events(source: Source) -> Schema:
    event = _ref(f"{source.name}.event")
    return _operation(
        f"Push events of {source.name}",
        "events and labels",
        _ref("Pushed"),
        operationId=f"push_{source.name}",
        parameters=[_WAIT, _TIMEOUT],
        requestBody=_takes(event, {"type": "array", "items": event}, arrow=True, lines=True),
    )


def _about_models(described: Described) -> dict[str, Schema]:
    named = _parameter("model", "path", _text([model.name for model in described.models]), "A deployed model")
    alias = _parameter("alias", "path", _text(), "champion, or another alias")
    version = _parameter("version", "path", _text(), "Its number, name, alias or address")
    one, tag = "/v1/models/{model}", "models"
    move = {"parameters": [named, alias], "requestBody": _takes(_ref("Move"))}
    point = "Point an alias to a version, if it points now to what is expected"
    kinds = {"models": "ModelShown", "versions": "VersionShown", "aliases": "AliasShown", "stages": "StageShown"}
    listed = {name: _object({name: {"type": "array", "items": _ref(kind)}}, [name]) for name, kind in kinds.items()}
    return {
        "/v1/models": {"get": _operation("The deployed models", tag, listed["models"], operationId="models")},
        one: {"get": _operation("One model", tag, _ref("ModelShown"), operationId="model", parameters=[named])},
        f"{one}/page": {"get": _html("Its quality as a page", tag, operationId="page", parameters=[named])},
        f"{one}/stages": {
            "get": _operation(
                "The stages of its loop: what is done, where it stands, what comes next",
                tag,
                listed["stages"],
                operationId="stages",
                parameters=[named],
            )
        },
        f"{one}/versions": {
            "get": _operation(
                "Its registered versions, oldest first",
                tag,
                listed["versions"],
                operationId="versions",
                parameters=[named],
            )
        },
        f"{one}/versions/{{version}}": {
            "get": _operation(
                "One version with its signature",
                tag,
                _ref("VersionShown"),
                operationId="version",
                parameters=[named, version],
            )
        },
        f"{one}/aliases": {
            "get": _operation("Its aliases", tag, listed["aliases"], operationId="aliases", parameters=[named])
        },
        f"{one}/aliases/{{alias}}": {
            "get": _operation(
                "Where an alias points", tag, _ref("AliasShown"), operationId="alias", parameters=[named, alias]
            ),
            "put": _operation(point, "administration", _ref("AliasMove"), operationId="move_alias", **move),
            "post": _operation(
                f"{point}; the same as PUT", "administration", _ref("AliasMove"), operationId="move_alias_too", **move
            ),
        },
        f"{one}/aliases/{{alias}}/rollback": {
            "post": _operation(
                "Let the version before answer again, if the alias points now to what is expected",
                "administration",
                _ref("AliasMove"),
                operationId="roll_back",
                parameters=[named, alias],
                requestBody=_takes(_ref("RollBack")),
            )
        },
        f"{one}/repairs": {
            "post": _operation(
                "Make and judge a candidate at the loop's next tick",
                "administration",
                _ref("RepairAsked"),
                operationId="ask_repair",
                parameters=[named],
                requestBody=_takes(_ref("AskRepair")),
            )
        },
    }


def _about_records(described: Described) -> dict[str, Schema]:
    models = [model.name for model in described.models]
    named = _parameter("model", "path", _text(models), "A deployed model")
    label, records = _ref("LabelRow"), "predictions and features"
    prediction = _parameter("prediction", "path", _text(), "The id of an answer")
    paths: dict[str, Schema] = {
        "/v1/labels/{model}": {
            "post": _operation(
                "Tell what became of requests, by prediction or by key",
                "events and labels",
                _ref("Labelled"),
                operationId="label",
                parameters=[named, _WAIT, _TIMEOUT],
                requestBody=_takes(label, {"type": "array", "items": label}),
            )
        },
        "/v1/predictions/{prediction}": {
            "get": _operation(
                "A prediction as it was logged; with ?why all that led to it",
                records,
                {"anyOf": [_ref("LoggedPrediction"), _ref(described.explanation.__name__)]},
                operationId="prediction",
                parameters=[
                    prediction,
                    _parameter("why", "query", {"enum": ["", "true", "1"]}, "Explain it") | {"allowEmptyValue": True},
                    _TIMEOUT,
                ],
            )
        },
    }
    for entity, parts in described.entities.items():
        names = [f"key{n + 1}" if parts > 1 else "key" for n in range(parts)]
        address = "/".join(f"{{{name}}}" for name in names)
        paths[f"/v1/entities/{entity}/{address}/features"] = {
            "get": _operation(
                f"The features of one {entity} as they stand online",
                records,
                _ref("EntityFeatures"),
                operationId=f"features_{entity}",
                parameters=[
                    *(_parameter(name, "path", _text(), "A value that names it") for name in names),
                    _parameter("model", "query", _text(models), "Only those that this model reads"),
                ],
            )
        }
    return paths


def _about_service() -> dict[str, Schema]:
    def plain(summary: str, kind: str, name: str) -> Schema:
        content = {kind: {"schema": {"type": "string"}}}
        operation = _operation(summary, "service", {}, operationId=name)
        operation["responses"]["200"] = {"description": "Done", "content": content}
        return {"get": operation}

    return {
        "/health/live": {
            "get": _operation("Whether the process answers", "service", _ref("Status"), operationId="live")
        },
        "/health/ready": {
            "get": _operation("Whether it can answer as it should", "service", _ref("Status"), operationId="ready")
        },
        "/metrics": plain("Figures for Prometheus", "text/plain", "metrics"),
        "/openapi.json": {"get": _operation("This document", "service", {"type": "object"}, operationId="openapi")},
        "/docs": plain("The page for people", "text/html", "docs"),
    }


def _inference(models: Sequence[str]) -> dict[str, Schema]:
    """The Open Inference Protocol, whose own documents define its messages."""
    anything: Schema = {"type": "object"}
    named = _parameter("model", "path", _text(models), "A deployed model")

    def operation(summary: str, name: str, *parameters: Schema, gives: Schema | None = None, **more: Any) -> Schema:
        given = {"parameters": list(parameters)} if parameters else {}
        made = _operation(summary, "open inference protocol", gives or anything, operationId=name, **given, **more)
        made["responses"] |= _problems("InferenceError")
        return made

    one = "/v2/models/{model}"
    infer = operation(
        "Answers, each logged: request columns as tensors",
        "v2_infer",
        named,
        _TIMEOUT,
        requestBody={
            "required": True,
            "content": {
                _JSON: {"schema": _INFER},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
    )
    infer["responses"]["200"]["content"]["application/octet-stream"] = {
        "schema": {"type": "string", "format": "binary"}
    }
    index = operation(
        "The models there are",
        "v2_index",
        gives={"type": "array", "items": anything},
        requestBody={"required": False, "content": {_JSON: {"schema": _INDEX}}},
    )
    return {
        "/v2": {"get": operation("About the server", "v2_server")},
        "/v2/health/live": {"get": operation("Whether the process answers", "v2_live")},
        "/v2/health/ready": {"get": operation("Whether it can answer as it should", "v2_ready")},
        "/v2/models/stats": {"get": operation("The figures of all models", "v2_all_stats")},
        one: {"get": operation("What a model takes and gives", "v2_model", named)},
        f"{one}/ready": {"get": operation("Whether it answers", "v2_model_ready", named)},
        f"{one}/config": {"get": operation("How it is set up", "v2_config", named)},
        f"{one}/stats": {"get": operation("Its figures", "v2_stats", named)},
        f"{one}/infer": {"post": infer},
        "/v2/repository/index": {"post": index},
    }


def _guard(paths: Mapping[str, Schema], *, required: bool) -> None:
    """Say of each operation which role it needs."""
    for path, operations in paths.items():
        example = path.replace("{", "").replace("}", "")
        for method, operation in operations.items():
            role = right_of(method.upper(), example)
            if role is None:
                operation["security"] = []
                continue
            operation["security"] = [{"bearer": [role]}, {"key": [role]}, *([] if required else [{}])]
            operation["description"] = f"Role: {role}."


_PUSHED = _object(
    {
        "accepted": {"type": "integer"},
        "quarantined": {"type": "integer"},
        "partition": {"type": "string"},
        "position": {"type": "integer"},
        "problems": {
            "type": "array",
            "items": _object(
                {
                    "row": {"type": "integer"},
                    "field": {"type": "string"},
                    "reason": {"type": "string"},
                    "found": {"type": "string"},
                },
                ["row", "field", "reason", "found"],
            ),
        },
        "absent": {"type": "array", "items": {"type": "string"}},
    },
    ["accepted", "quarantined"],
)
_TENSOR: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"enum": ["BOOL", "INT64", "FP64", "BYTES", "INT32", "FP32"]},
        "parameters": {"type": "object"},
        "data": {"type": "array"},
    },
    "required": ["name", "shape", "datatype"],
}
_INFER: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["inputs"],
}
_INDEX: Schema = {"type": "object", "properties": {"ready": {"type": "boolean"}}}  # further fields say nothing
_TIMEOUT = _parameter(
    "X-Timeout-Ms",
    "header",
    {"type": "number", "exclusiveMinimum": 0, "maximum": 600_000},
    "Milliseconds from its arrival in which an answer is of use",
)
_WAIT = _parameter("wait", "query", {"const": "applied"}, "Answer once the online features have the events")
