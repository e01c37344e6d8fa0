"""Steps whose results are computed once for the same inputs, runs made of steps, and executors of tasks."""

from trimtab.run.events import Cancelled, Event, Line, Progress, StepBegan, StepEnded
from trimtab.run.executors import Executor, ProcessExecutor, Task, TaskFailed, ThreadExecutor, Workplace
from trimtab.run.orphaned import orphaned_steps
from trimtab.run.pipeline import AtOnce, Codec, Recorded, Steps
from trimtab.run.runs import Run, Runs, RunStep, Tracked
from trimtab.run.steps import Done, Step, finished, forget_step, step

__all__ = [
    "AtOnce",
    "Cancelled",
    "Codec",
    "Done",
    "Event",
    "Executor",
    "Line",
    "ProcessExecutor",
    "Progress",
    "Recorded",
    "Run",
    "RunStep",
    "Runs",
    "Step",
    "StepBegan",
    "StepEnded",
    "Steps",
    "Task",
    "TaskFailed",
    "ThreadExecutor",
    "Tracked",
    "Workplace",
    "finished",
    "forget_step",
    "orphaned_steps",
    "step",
]
