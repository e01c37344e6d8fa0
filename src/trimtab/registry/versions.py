"""What the registry keeps: versions, and each move of an alias."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.core.hashing import content_hash
from trimtab.training.environment import Environment
from trimtab.training.runtimes.ports import Trust

Act = Literal["first", "move", "roll_back"]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One fitted model for good: what it is (its address), where it came from, where it was made."""

    format: Literal[1] = 1
    id: str  # `version_id` of the fields up to `refit_of`
    model: str
    number: int  # `model@number`: 1, 2, ... for distinct addresses
    artifact: str  # the blob that holds all that scoring needs
    recipe: str  # hash of the model's definition, the estimator's code included
    features: str  # hash of the feature definitions
    runtime: str
    trust: Trust | None  # "pickle": loading it runs code; somebody allowed that
    training_set: str  # the blob that holds the training set's manifest
    refit_of: str | None  # the version whose gate record speaks for this one's recipe
    metric: str
    cut_us: int  # only what was known by then was seen
    positions: dict[str, int]  # P: the log positions that were seen
    rows: int  # training rows with a label
    evaluation: str | None  # the blob that holds its evaluation
    decision: int | None  # the ledger row that asked for it
    made_at_us: int
    actor: str
    environment: Environment

    @property
    def name(self) -> str:
        return f"{self.model}@{self.number}"


class AliasMove(msgspec.Struct, frozen=True, kw_only=True):
    """One row of an alias's history; the newest one says where it points."""

    format: Literal[1] = 1
    sequence: int  # 1, 2, ... within the alias's history
    model: str
    alias: str
    version: str  # the address it points to from now on
    previous: str | None  # where it pointed before
    act: Act
    gate: str | None  # the gate record that allowed it
    at_us: int  # never decreases within a history
    actor: str
    why: str


def version_id(
    *,
    model: str,
    artifact: str,
    recipe: str,
    features: str,
    runtime: str,
    trust: Trust | None,
    training_set: str,
    refit_of: str | None,
) -> str:
    """The content address of a version: equal training gives the same one, on every machine and at any time."""
    return content_hash(["version", 1, model, artifact, recipe, features, runtime, trust, training_set, refit_of])


def address_of(version: Version) -> str:
    """What a version's address must be by its own fields."""
    return version_id(
        model=version.model,
        artifact=version.artifact,
        recipe=version.recipe,
        features=version.features,
        runtime=version.runtime,
        trust=version.trust,
        training_set=version.training_set,
        refit_of=version.refit_of,
    )
