"""Version records and their ids (hashes of their content), and rows in the history of an alias."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.core.hashing import content_hash
from trimtab.core.shown import Shown
from trimtab.core.time import format_time
from trimtab.training.environment import Environment
from trimtab.training.runtimes.ports import Trust
from trimtab.training.search import Chosen

Act = Literal["first", "move", "roll_back"]


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """The source of an imported version."""

    file: str  # the name of the file or folder
    sha256: str  # the SHA-256 of the model file's bytes
    kind: str  # for example "LightGBM text" or "MLflow folder, xgboost"
    inputs_named: bool  # False: the file has no names of inputs, so only their number was checked
    golden: str  # the rows with which the model was checked: "12 golden rows", "the 413 labelled rows from ..."
    window_us: int | None = None  # the length of the window of labelled rows that the model was scored on


class Version(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The record of one registered model: its id, what it was made from, and its environment."""

    format: Literal[1] = 1
    id: str  # the hash of `model` and of the fields from `artifact` to `refit_of`; see `version_id`
    model: str
    number: int  # 1, 2, ... in the order of registration; "model@3" names the version
    artifact: str  # the hash of the artifact's blob
    # the hash of the model's definition, including the estimator's code; for an imported version, of the model file
    recipe: str
    features: str  # the hash of the feature definitions
    runtime: str
    trust: Trust | None  # "pickle": loading the version runs code, which the user allowed
    training_set: str  # the hash of the blob with the training set's manifest
    # the id of the version whose definition was fitted again on more data; None: this is no refit
    refit_of: str | None
    metric: str
    cut_us: int  # the training cut: the training only used what was known at this time
    positions: dict[str, int]  # for each log, the position up to which the training read
    rows: int  # the number of training rows with a label
    evaluation: str | None  # the hash of the blob with the version's evaluation
    made_at_us: int
    actor: str
    environment: Environment
    chosen: Chosen | None = None  # the parameters of the fit, and the search that found them
    imported: Imported | None = None  # None: the version was trained here
    half_life_us: int | None = None  # a row of this age had half the weight of the newest; None: age did not matter

    @property
    def name(self) -> str:
        return f"{self.model}@{self.number}"


class AliasMove(msgspec.Struct, frozen=True, kw_only=True):
    """One row of an alias's history. The alias points to the version in the newest row."""

    format: Literal[1] = 1
    sequence: int  # 1, 2, ... within the alias's history
    model: str
    alias: str
    version: str  # the id of the version that the alias points to after this move
    previous: str | None  # the id of the version that the alias pointed to before this move
    act: Act
    gate: str | None  # the id of the gate record (a stored judgement) that was the evidence for the move
    at_us: int  # times never decrease within a history
    actor: str
    why: str


def possibly_seen(version: Version, start_us: int) -> str:
    """Return a warning if an imported version may have been trained on rows from `start_us` on; otherwise ""."""
    if version.imported is None or version.cut_us < start_us:
        return ""
    return (
        f"The version was imported, and may have been trained on any rows until {format_time(version.cut_us)[:19]}. "
        "It may have seen these rows, so its metrics may be too good."
    )


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
    """Return the id of a version: the hash of its content. Equal trainings give equal ids on all machines."""
    return content_hash(["version", 1, model, artifact, recipe, features, runtime, trust, training_set, refit_of])


def id_of(version: Version) -> str:
    """Return the id that a version must have according to its fields."""
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
