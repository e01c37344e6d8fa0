"""The entry point of a child process that carries out training tasks."""

from __future__ import annotations

from contextlib import ExitStack

import msgspec

from trimtab.app.training.loops import Loops
from trimtab.app.training.training_work import TrainingArguments, TrainingResult, Worker
from trimtab.run import Workplace


def work(argument: bytes, place: Workplace) -> bytes:
    """Carry out one task. If this process has no open project to use, open one."""
    task = msgspec.msgpack.decode(argument, type=TrainingArguments)
    worker: Worker = place.keep("loop", lambda stack: _opened(task, stack))
    if worker.deployment_hash != task.deployment:
        return msgspec.msgpack.encode(TrainingResult(changed=True))
    return msgspec.msgpack.encode(worker.work(task, place))


def _opened(task: TrainingArguments, stack: ExitStack) -> Worker:
    loop = stack.enter_context(task.project.open()).part(Loops).loop(task.model)
    loop.catch_up()
    return loop
