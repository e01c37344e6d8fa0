"""Descriptions of the server and its models, with the field names of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import msgspec

from trimtab.features.definitions import Request
from trimtab.serving.answer.served import ServedVersion
from trimtab.serving.inference.request_columns import DATATYPE_OF
from trimtab.serving.inference.tensors import BYTES

PLATFORM = "trimtab"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "statistics")
SCORE, PREDICTION, ID, VERSION, REASONS, FLAGS = "score", "prediction", "id", "version", "reasons", "flags"
ANY = -1  # stands for the number of rows in shapes


class ServerMetadata(msgspec.Struct, frozen=True):
    """The name, version and extensions of the server."""

    name: str
    version: str
    extensions: tuple[str, ...] = EXTENSIONS


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or output of a model. A dimension of -1 stands for the number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """The inputs and outputs of a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ConfiguredInput(msgspec.Struct, frozen=True):
    """An input tensor in a `ModelConfig`."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool


class ConfiguredOutput(msgspec.Struct, frozen=True):
    """An output tensor in a `ModelConfig`."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class ConfigParameter(msgspec.Struct, frozen=True):
    """The value of a parameter in a `ModelConfig`."""

    string_value: str


class ModelConfig(msgspec.Struct, frozen=True):
    """The metadata of a model as a configuration, with additional parameters."""

    name: str
    platform: str
    backend: str
    max_batch_size: int  # always 0, which means that shapes include the number of rows
    input: tuple[ConfiguredInput, ...]
    output: tuple[ConfiguredOutput, ...]
    parameters: Mapping[str, ConfigParameter]


class ModelIndex(msgspec.Struct, frozen=True):
    """An entry in the index of models."""

    name: str
    version: str
    state: str
    reason: str


def version_number(served: ServedVersion) -> str:
    """Return the number of a version, such as "7" of "late_flight@7"."""
    return served.label.rpartition("@")[2]


@cache
def described_outputs(several: int) -> tuple[TensorMetadata, ...]:
    """Return the output tensors of a version with this number of classes (0: it gives a single number), in order."""
    out = [TensorMetadata(SCORE, "FP64", (ANY, several) if several else (ANY,))]
    if several:
        out.append(TensorMetadata(PREDICTION, BYTES, (ANY,)))
    return (*out, *(TensorMetadata(name, BYTES, (ANY,)) for name in (ID, VERSION, REASONS, FLAGS)))


def metadata(served: ServedVersion, request: Request) -> ModelMetadata:
    """Return the metadata of a version."""
    return ModelMetadata(
        name=served.model,
        versions=(version_number(served),),
        platform=PLATFORM,
        inputs=tuple(TensorMetadata(name, DATATYPE_OF[dtype], (ANY,)) for name, dtype in request.columns.items()),
        outputs=described_outputs(len(served.classes)),
    )


def config(served: ServedVersion, request: Request) -> ModelConfig:
    """Return the configuration of a version."""
    described = metadata(served, request)
    needed = (request.key, request.time)
    parameters = {
        "version": ConfigParameter(served.label),
        "address": ConfigParameter(served.version),
        "arm": ConfigParameter(served.arm),
        "key": ConfigParameter(request.key),
        "time": ConfigParameter(request.time),
    }
    if served.classes:
        parameters["classes"] = ConfigParameter(msgspec.json.encode(served.classes).decode())
    return ModelConfig(
        name=served.model,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=0,
        input=tuple(
            ConfiguredInput(t.name, _data_type(t.datatype), t.shape, t.name not in needed) for t in described.inputs
        ),
        output=tuple(ConfiguredOutput(t.name, _data_type(t.datatype), t.shape) for t in described.outputs),
        parameters=parameters,
    )


def _data_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"
