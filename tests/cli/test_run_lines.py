"""A run under way, as people see it."""

from __future__ import annotations

import msgspec
import pytest

from trimtab.cli.loop.runs import run_lines, show_doing
from trimtab.run import Run, RunStep

SECOND_US = 1_000_000


def running(progress: float | None) -> Run:
    fit = RunStep(name="fit", inputs_hash="a" * 64, state="running", began_us=5 * SECOND_US, progress=progress)
    snapshot = msgspec.structs.replace(fit, name="snapshot", state="done", ended_us=7 * SECOND_US, progress=None)
    who = {"kind": "train", "model": "late", "actor": "Ada", "holder": "process 1 on here"}
    return Run(id="run_1", state="running", began_us=0, steps=(snapshot, fit), **who)


@pytest.mark.fast
@pytest.mark.parametrize(("progress", "said"), [(None, "fit"), (0.354, "fit 35%"), (1.0, "fit 100%, finishing")])
def test_a_step_says_how_far_it_is_and_how_long_it_takes_so_far(progress: float | None, said: str) -> None:
    run = running(progress)
    lines = list(run_lines(run, 65 * SECOND_US))
    assert lines[0] == "run_1: train late, running"
    snapshot, fit = lines[-1].splitlines()[-2:]
    assert " done " in snapshot
    assert " 2.0 s " in snapshot
    assert " 60 s so far " in fit
    assert said.replace("fit", "running") in fit
    assert "so far" not in "".join(run_lines(run))


class Shown:
    """What a meter was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float | None]] = []

    def say(self, what: str, share: float | None = None) -> None:
        self.told.append((what, share))


@pytest.mark.fast
def test_a_meter_shows_the_share_of_the_step_and_of_steps_within_each_other_that_of_the_outer_one() -> None:
    meter, run = Shown(), running(0.354)
    (snapshot, fit) = run.steps
    outer = msgspec.structs.replace(fit, name="evaluate", progress=0.25)
    for shown in (
        msgspec.structs.replace(run, steps=()),
        running(None),
        run,
        running(1.0),
        msgspec.structs.replace(run, steps=(snapshot, outer, msgspec.structs.replace(fit, name="partial"))),
        msgspec.structs.replace(run, kind="promote", steps=(snapshot,)),
    ):
        show_doing(meter, shown)  # type: ignore[arg-type]  # it has what is asked of a meter
    assert meter.told == [
        ("training late", None),
        ("training late: fit", None),
        ("training late: fit", 0.354),
        ("training late: fit, finishing", None),
        ("training late: evaluate", 0.25),
        ("judging late: snapshot", None),
    ]
