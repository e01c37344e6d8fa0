"""Training tasks: the arguments that an executor gets and the results that it returns."""

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
    """What a training task should do."""

    what: What
    cut_us: int
    actor: str  # who trains, which is recorded on the versions
    model: str
    deployment: str  # the hash of the deployment as the caller declares it
    project: ProjectSpec
    changes: Changes = Changes()
    stored: Stored | None = None  # the stored version to judge, if any
    keep: bool = True  # whether to keep the record of its judgement


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a training task found or made."""

    changed: bool = False  # whether nothing was done, as the project file differs from the caller's
    lack: str | None = None
    same: Version | None = None
    put_back: bool = False  # whether the lost artifact of the version was restored
    repair: Repair | None = None


class Worker(Protocol):
    """Does training tasks, as a `DeploymentLoop` does."""

    def work(self, arguments: TrainingArguments, place: Workplace) -> TrainingResult: ...

    @property
    def deployment_hash(self) -> str: ...


def task(arguments: TrainingArguments) -> Task:
    """Return the executor's task for the arguments."""
    about = f"training of model {arguments.model!r}"
    return Task(
        "trimtab.app.training.training_child:work",
        msgspec.msgpack.encode(arguments),
        about=about,
        native="the estimator's library",
    )


def answer(task_result: bytes) -> TrainingResult:
    """Return the decoded result of a task."""
    return msgspec.msgpack.decode(task_result, type=TrainingResult)
