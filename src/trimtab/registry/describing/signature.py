"""Signatures of versions: the schemas of requests, inputs and outputs."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from trimtab.core.shown import Shown
from trimtab.registry.versions import Version
from trimtab.stats.metrics.loss_names import quantile_of
from trimtab.training.definitions import Task
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.fitting.path_choice import RowChoice

FieldType: TypeAlias = Literal["float", "int", "bool", "str", "time", "category"]
_OUTPUTS: dict[str, tuple[str, float | None, float | None]] = {
    "binary": ("the probability of the positive class", 0.0, 1.0),
    "count": ("the expected count", 0.0, None),
    "multiclass": ("the probability of each class", 0.0, 1.0),
    "regression": ("the expected number", None, None),
    "absolute_error": ("the median number", None, None),  # a metric: of a regression, it says more than the task
    "ranking": ("the score that a list is ordered by, the highest first", None, None),
}


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One column."""

    name: str
    # "time": UTC microseconds; "category": one of the texts in `values` (any other text counts as null)
    type: FieldType
    null: bool  # whether the value may be null
    # False: no feature reads this column; for example, it identifies the request, or gives its time
    read: bool = True
    values: tuple[str, ...] = ()  # for a category, the texts that the model knows


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What the model returns for each row."""

    name: str
    task: Task
    meaning: str
    low: float | None  # the smallest possible value; None if any number is possible
    high: float | None
    classes: tuple[str, ...] = ()  # for a model of several classes: the classes in the order of their probabilities


class Signature(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The schemas of one version, as it was stored."""

    format: Literal[1] = 1
    version: str
    request: tuple[Field, ...]  # the columns that a caller sends
    inputs: tuple[Field, ...]  # the estimator's inputs in order; rows for an exported model have these columns
    output: Output


class DescribedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version with its signature, tags, aliases and scoring paths."""

    version: Version
    signature: Signature
    tags: list[str]
    aliases: list[str]  # those that point to it now
    row_calls: list[RowChoice]  # how it scores a single row, by kind of machine


def signature_of(version: Version, artifact: Artifact) -> Signature:
    """Make the signature of a version from its stored parts, so that later changes of the project have no effect."""
    quantile = quantile_of(artifact.metric)
    score = "the score" if quantile is None else f"the {quantile:g} quantile"
    meaning, low, high = _OUTPUTS.get(artifact.metric) or _OUTPUTS.get(artifact.task) or (score, None, None)
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
    features = artifact.features(version.features)
    request, read = features.request, features.request_columns
    return tuple(
        Field(name=name, type=dtype, null=name not in (request.key, request.time), read=name in read)
        for name, dtype in request.columns.items()
    )
