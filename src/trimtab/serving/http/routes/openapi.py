"""Make the OpenAPI 3.1 document of a service, with schemas for each model's rows and predictions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.events.definitions import Source
from trimtab.features.definitions import Request
from trimtab.serving.answer.served import Answer
from trimtab.serving.http.routes.address import Address, Listed
from trimtab.serving.problems import Problem

Schema = dict[str, Any]

_JSON, _PROBLEM = "application/json", "application/problem+json"
_ARROW = "application/vnd.apache.arrow.stream"
_REF = "#/components/schemas/{name}"
_NAMES = re.compile(r"\{(\w+)\*?\}")
_INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}
_TIME: Schema = {
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
    "time": _TIME,
}


class ModelSchema(msgspec.Struct, frozen=True):
    """A deployed model in the document."""

    name: str
    request: Request
    classes: tuple[str, ...] = ()


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a project that the document describes."""

    title: str
    version: str
    models: Sequence[ModelSchema]
    sources: Sequence[Source]
    entities: Mapping[str, int] = {}  # by name of the entity: the number of values in its key
    key_required: bool = False
    explanation: type[msgspec.Struct] = Problem  # the type of the response to `?why`


def openapi(described: Described, addresses: Sequence[Address]) -> Schema:
    """Return the OpenAPI document for these addresses, ready to be encoded as JSON."""
    addresses = [address for address in addresses if address.operation]
    _, schemas = msgspec.json.schema_components(
        [Answer, Problem, described.explanation, *_kinds(addresses)], ref_template=_REF
    )
    schemas["LoggedPrediction"]["properties"]["values"]["items"] = {"type": ["number", "null"]}  # null stands for NaN
    for model in described.models:
        schemas[_row_name(model)] = _row_schema(model.request)
        schemas[f"{model.name}.answer"] = _answer_schema(model, schemas["Answer"])
    for source in described.sources:
        schemas[f"{source.name}.event"] = _event_schema(source)
    schemas |= {"Pushed": _PUSHED, "Status": _object({"status": {"type": "string"}}, ["status"])}
    paths: dict[str, Schema] = {}
    for address in addresses:
        for path, operation in _operations(address, described):
            paths.setdefault(path, {})[address.method.lower()] = operation
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
    """Return the schema of a row of a predict request.

    A row may lack a column for which a constant is declared, and a key that is made of other columns, because the
    service fills these in. A row must have all other columns. Key and time may only be null if they are filled in.
    """
    reading = request.source.reading
    made = {*reading.constants, *([request.key] if reading.key_of else [])}
    columns: dict[str, Schema] = {}
    for name, dtype in request.columns.items():
        schema = dict(_TYPES[dtype])
        if name == request.key and dtype == "str":
            schema["minLength"] = 1
        columns[name] = schema if name in {request.key, request.time} - made else _nullable(schema)
    return _object(columns, [name for name in columns if name not in made])


def _event_schema(source: Source) -> Schema:
    """Return the schema of an event: its time, its key, its other columns, and `_id`, `_known_at` and `_op`.

    A deletion needs no time.
    """
    columns = source.declared if source.hidden else source.columns
    needed = [source.time] + ([source.key] if source.key and source.key != source.time else [])
    schemas = {name: _written(source, name) or dict(_TYPES[dtype]) for name, dtype in columns.items()}
    time = schemas[source.time]
    properties = {name: schema if name in needed else _nullable(schema) for name, schema in schemas.items()}
    properties |= {
        "_id": _nullable({"type": "string"}),
        "_known_at": _nullable(_TIME),
        "_op": {"enum": ["upsert", None, *(["delete"] if source.key else [])]},
    }
    if source.key is None:
        return _object(properties, needed)
    dated = {"required": [source.time], "properties": {source.time: time}}
    deleted = {"required": ["_op"], "properties": {"_op": {"const": "delete"}}}
    properties[source.time] = _nullable(time)
    return _object(properties, [source.key]) | {"anyOf": [dated, deleted]}


def _written(source: Source, column: str) -> Schema | None:
    """Return the schema of a time column with a declared format, or None for any other column."""
    written = source.declared_formats.get(column)
    if written is None:
        return None
    about = f"A time in the format {written}, or RFC 3339 in full"
    return {"description": about, "anyOf": [{"type": "string"}, {"type": "number"}]}


def _answer_schema(model: ModelSchema, answer: Schema) -> Schema:
    """Return the schema of a model's predictions. For several classes, it has a probability for each class."""
    properties = {name: dict(schema) for name, schema in answer["properties"].items()}
    required = list(answer["required"])
    properties["model"] = {"const": model.name}
    if model.classes:
        probabilities = {name: {"type": "number"} for name in model.classes}
        properties["prediction"] = {"enum": list(model.classes)}
        properties["scores"] = _object(probabilities, list(probabilities))
        required += ["prediction", "scores"]
    else:
        del properties["prediction"], properties["scores"]
    return _object(properties, required)


def _object(properties: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": list(required), "additionalProperties": False}


def _nullable(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def _ref(name: str) -> Schema:
    return {"$ref": _REF.format(name=name)}


def _row_name(model: ModelSchema) -> str:
    return f"{model.name}.row"


# -- operations -----------------------------------------------------------------------------------------------------


def _operations(address: Address, described: Described) -> Iterator[tuple[str, Schema]]:
    """Yield the paths of an address in the document, each with the description of its operation."""
    if address.each == "model":
        for model in described.models:
            yield _bare(address.path, model.name), _predict(address, model, described)
    elif address.each == "source":
        for source in described.sources:
            event = _ref(f"{source.name}.event")
            operation = _operation(address, described, (), _ref("Pushed"), source.name)
            operation["requestBody"] = _takes(event, {"type": "array", "items": event}, arrow=True, lines=True)
            yield _bare(address.path, source.name), operation
    elif address.each == "entity":
        for entity, parts in described.entities.items():
            names = [f"key{n + 1}" if parts > 1 else "key" for n in range(parts)]
            path = address.path.replace("{entity}", entity).replace("{key*}", "/".join(f"{{{name}}}" for name in names))
            yield path, _operation(address, described, names, _gives(address.gives), entity)
    else:
        path = re.sub(r"\[.*?\]", "", address.path)
        yield path, _operation(address, described, _NAMES.findall(path), _gives(address.gives))


def _bare(path: str, name: str) -> str:
    return _NAMES.sub(name, path)


def _operation(address: Address, described: Described, names: Sequence[str], gives: Schema, one: str = "") -> Schema:
    """Return the description of one address in the document.

    `names` are the names in the path. `one` is the model, source or entity for which the address is described.
    """
    media = address.gives if isinstance(address.gives, str) and "/" in address.gives else _JSON
    problem = {"$ref": f"#/components/responses/{address.errors}"}
    operation: Schema = {
        "summary": address.summary.format(one),
        "tags": [address.tag],
        "operationId": f"{address.operation}_{one}" if one else address.operation,
        "responses": {
            "200": {"description": "Done", "content": gives if _JSON in gives else {media: {"schema": gives}}},
            **dict.fromkeys(("4XX", "500", "503", "504"), problem),
        },
        "security": [],
    }
    models = [model.name for model in described.models]
    if parameters := [
        *(_parameter("path", name, models) for name in names),
        *(_parameter("query", name, models) for name in address.query or ()),
        *(_parameter("header", name, models) for name in address.headers),
    ]:
        operation["parameters"] = parameters
    if isinstance(address.takes, dict):
        operation["requestBody"] = address.takes
    elif address.takes is not None:
        kind = (get_args(address.takes) or (address.takes,))[0]
        row = _ref(kind.__name__)
        operation["requestBody"] = (
            _takes(row) if kind is address.takes else _takes(row, {"type": "array", "items": row})
        )
    if address.right is not None:
        open_to_all: list[Schema] = [] if described.key_required else [{}]
        operation["security"] = [{"bearer": [address.right]}, {"key": [address.right]}, *open_to_all]
        operation["description"] = f"Role: {address.right}."
    return operation


def _gives(gives: Any) -> Schema:
    """Return the schema of the response of an address."""
    if isinstance(gives, dict):
        return gives
    if isinstance(gives, tuple):
        return {"anyOf": [_gives(one) for one in gives]}
    if isinstance(gives, Listed):
        return _object({gives.name: {"type": "array", "items": _ref(gives.kind.__name__)}}, [gives.name])
    if isinstance(gives, str):
        return {"type": "string"} if "/" in gives else _ref(gives)
    return _ref(gives.__name__)


def _kinds(addresses: Sequence[Address]) -> set[type[msgspec.Struct]]:
    """Return all Structs that occur in the requests and responses of these addresses."""
    found: list[Any] = []
    for address in addresses:
        found += address.gives if isinstance(address.gives, tuple) else [address.gives]
        found += get_args(address.takes) or [address.takes]
    kinds = [one.kind if isinstance(one, Listed) else one for one in found]
    return {one for one in kinds if isinstance(one, type)}


def _takes(*schemas: Schema, arrow: bool = False, lines: bool = False) -> Schema:
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
    content: Schema = {_JSON: {"schema": schema}}
    if lines:
        content["application/x-ndjson"] = {"schema": {"type": "string", "description": "One JSON object per line"}}
    if arrow:
        content[_ARROW] = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "content": content}


def _parameter(where: str, name: str, models: Sequence[str]) -> Schema:
    about, schema = _PARAMETERS.get((where, name), ("A value of the key", {"type": "string", "minLength": 1}))
    if name == "model":
        schema = {"type": "string", "enum": list(models)} if models else {"type": "string", "minLength": 1}
    made = {"name": name, "in": where, "required": where == "path", "schema": schema, "description": about}
    return made | {"allowEmptyValue": True} if name == "why" else made


def _predict(address: Address, model: ModelSchema, described: Described) -> Schema:
    row, answer = _ref(_row_name(model)), _ref(f"{model.name}.answer")
    at = {"at": {**_TIME, "description": "Answer as of this time in the past, from history"}}
    many = _object({"predictions": {"type": "array", "items": answer}}, ["predictions"])
    operation = _operation(address, described, (), {"anyOf": [answer, many]}, model.name)
    operation["requestBody"] = _takes(
        _object({"request": row, **at}, ["request"]),
        _object({"rows": {"type": "array", "items": row}, **at}, ["rows"]),
        arrow=True,
    )
    answered = operation["responses"]["200"]
    answered["content"][_ARROW] = {"schema": {"type": "string", "format": "binary"}}
    answered["links"] = {"Logged": {"operationId": "prediction", "parameters": {"prediction": "$response.body#/id"}}}
    return operation


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
_TEXT: Schema = {"type": "string", "minLength": 1}
_PARAMETERS: dict[tuple[str, str], tuple[str, Schema]] = {
    ("path", "model"): ("A deployed model", _TEXT),
    ("path", "alias"): ("champion, or another alias", _TEXT),
    ("path", "version"): ("The version's number, name, alias or address", _TEXT),
    ("path", "prediction"): ("The id of an answer", _TEXT),
    ("query", "model"): ("Only the features that this model reads", _TEXT),
    ("query", "wait"): ("Answer once the events are in the online features", {"const": "applied"}),
    ("query", "why"): ("Explain the prediction", {"enum": ["", "true", "1"]}),
    ("header", "X-Timeout-Ms"): (
        "Milliseconds from the arrival of the request within which the answer is needed",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 600_000},
    ),
}
