"""The work of a training, as tasks that another process can do: it opens the project again and uses its workshop."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from trimtab.app.features.project_spec import ProjectSpec
from trimtab.registry import Version
from trimtab.run import Task, Workplace
from trimtab.steering.candidates.ports import Stored
from trimtab.steering.loop_state import Changes, Repair

What = Literal["same", "blocked", "repair", "judge"]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a task is to do."""

    what: What
    cut_us: int
    actor: str  # who asked for the training: versions that it registers say so
    model: str
    deployment: str  # the hash of the definitions that the asking process has
    project: ProjectSpec
    changes: Changes = Changes()
    stored: Stored | None = None  # to judge: which version,
    keep: bool = True  # and whether the record is kept


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    changed: bool = False  # the project file is not what the asking process has: nothing was done
    lack: str | None = None
    same: Version | None = None
    put_back: bool = False  # its artifact was lost, and is there again
    repair: Repair | None = None


class Worker(Protocol):
    """Does the work; a `DeploymentLoop`."""

    def work(self, asked: Asked, place: Workplace) -> Answered: ...

    @property
    def deployment_hash(self) -> str: ...


def task(asked: Asked) -> Task:
    """The task that does what is asked."""
    about = f"training of model {asked.model!r}"
    return Task(
        "trimtab.app.training.training_child:work",
        msgspec.msgpack.encode(asked),
        about=about,
        native="the estimator's library",
    )


def answer(task_result: bytes) -> Answered:
    """What a task gave."""
    return msgspec.msgpack.decode(task_result, type=Answered)
