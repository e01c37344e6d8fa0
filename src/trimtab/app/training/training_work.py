"""The arguments and results of training tasks, as they are passed to and from the process that does them."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from trimtab.app.features.project_spec import ProjectSpec
from trimtab.registry import Version
from trimtab.run import Task, Workplace
from trimtab.steering.candidates.ports import Stored
from trimtab.steering.loop_state import Changes, Repair

# "same": would training give the deployed version again? "blocked": why can no candidate be trained?
# "repair": train a candidate and evaluate it. "judge": evaluate a stored version.
What = Literal["same", "blocked", "repair", "judge"]


class TrainingArguments(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of a training task."""

    what: What
    cut_us: int
    actor: str  # who started the training, to be recorded with the version
    model: str
    deployment: str  # the hash of the deployment in the calling process; a worker in which it differs does nothing
    project: ProjectSpec
    changes: Changes = Changes()
    stored: Stored | None = None  # the stored version to judge, if any
    keep: bool = True  # whether to store the evaluation of the stored version


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a training task."""

    changed: bool = False  # nothing was done, because the project file has changed since the caller read it
    lack: str | None = None  # why no candidate can be trained
    same: Version | None = None  # the deployed version, if training would give it again
    put_back: bool = False  # whether a lost artifact of the version was restored
    repair: Repair | None = None  # the candidate or stored version, with its evaluation


class Worker(Protocol):
    """An object that does training tasks, as a `DeploymentLoop` does."""

    def work(self, arguments: TrainingArguments, place: Workplace) -> TrainingResult: ...

    @property
    def deployment_hash(self) -> str: ...


def task(arguments: TrainingArguments) -> Task:
    """Return a task for an executor, with these arguments."""
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
