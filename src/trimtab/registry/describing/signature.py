"""What a version is given and what it gives: the schemas that its callers and its exports are held to."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from trimtab.core.errors import Misuse
from trimtab.registry.versions import Version
from trimtab.training.definitions import Task
from trimtab.training.fitting.artifact import Artifact

FieldType: TypeAlias = Literal["float", "int", "bool", "str", "time", "category"]
_OUTPUTS: dict[str, tuple[str, float | None, float | None]] = {
    "binary": ("the chance of the positive class", 0.0, 1.0),
    "count": ("the count to expect", 0.0, None),
    "multiclass": ("the chance of each class", 0.0, 1.0),
    "regression": ("the number to expect", None, None),
    "quantile": ("the quantile", None, None),
    "ranking": ("the score that a list is ordered by, the highest first", None, None),
}


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One column."""

    name: str
    type: FieldType  # "time": UTC microseconds inside; "category": a text of a vocabulary, any other counts as null
    null: bool  # whether it may be null
    read: bool = True  # of a request: whether the features read it; the key and the time only tell requests apart
    values: tuple[str, ...] = ()  # the vocabulary of a category


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What there is for each row."""

    name: str
    task: Task
    meaning: str
    low: float | None  # None: any number
    high: float | None
    classes: tuple[str, ...] = ()  # what the chances of a row stand for, in order


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """The schemas of one version, as it was stored."""

    format: Literal[1] = 1
    version: str
    request: tuple[Field, ...]  # what a caller sends; empty of a version of an earlier trimtab
    inputs: tuple[Field, ...]  # what the estimator reads, in order: what a row of an exported model holds
    output: Output


def signature_of(version: Version, artifact: Artifact) -> Signature:
    """The signature of a version, from what is stored with it: a change of the project file does not change it."""
    meaning, low, high = _OUTPUTS.get(artifact.task, ("the score", None, None))
    return Signature(
        version=version.name,
        request=_request(version, artifact),
        inputs=tuple(_input(artifact, name) for name in artifact.inputs),
        output=Output(
            name="score", task=artifact.task, meaning=meaning, low=low, high=high, classes=artifact.class_names
        ),
    )


def _input(artifact: Artifact, name: str) -> Field:
    values = artifact.encoding.vocabularies.get(name)
    if values is not None:
        return Field(name=name, type="category", null=True, values=values)
    return Field(name=name, type=artifact.encoding.dtypes[name], null=True)


def _request(version: Version, artifact: Artifact) -> tuple[Field, ...]:
    try:
        features = artifact.features(version.features)
    except Misuse:  # stored without them, by an earlier trimtab
        return ()
    asked, read = features.request, features.request_columns
    return tuple(
        Field(name=name, type=dtype, null=name not in (asked.key, asked.time), read=name in read)
        for name, dtype in asked.columns.items()
    )
