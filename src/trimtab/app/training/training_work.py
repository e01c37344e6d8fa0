"""Training tasks: their arguments and results, for the executor."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from trimtab.app.features.project_spec import ProjectSpec
from trimtab.registry import Version
from trimtab.run import Task, Workplace
from trimtab.steering.candidates.ports import Stored
from trimtab.steering.loop_state import Changes, Repair

What = Literal["same", "blocked", "repair", "judge"]


class TrainingArguments(msgspec.Struct, frozen=True, kw_only=True):
    """What a task is to do."""

    what: What
    cut_us: int
    actor: str  # who trains: recorded on the versions
    model: str
    deployment: str  # the hash of the caller's definitions
    project: ProjectSpec
    changes: Changes = Changes()
    stored: Stored | None = None  # the version to judge,
    keep: bool = True  # and whether to keep the record


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    changed: bool = False  # the project file differs from the caller's: nothing was done
    lack: str | None = None
    same: Version | None = None
    put_back: bool = False  # its lost artifact was restored
    repair: Repair | None = None


class Worker(Protocol):
    """Does the tasks; a `DeploymentLoop`."""

    def work(self, arguments: TrainingArguments, place: Workplace) -> TrainingResult: ...

    @property
    def deployment_hash(self) -> str: ...


def task(arguments: TrainingArguments) -> Task:
    """The executor's task for some arguments."""
    about = f"training of model {arguments.model!r}"
    return Task(
        "trimtab.app.training.training_child:work",
        msgspec.msgpack.encode(arguments),
        about=about,
        native="the estimator's library",
    )


def answer(task_result: bytes) -> TrainingResult:
    """The decoded result of a task."""
    return msgspec.msgpack.decode(task_result, type=TrainingResult)
