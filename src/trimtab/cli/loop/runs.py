"""The commands `runs list`, `runs show` and `runs cancel`, which list, show and cancel training runs."""

from __future__ import annotations

from collections.abc import Iterator

import click

from trimtab.cli.options import account, command, names, opened_project
from trimtab.cli.output import Meter, show, show_each
from trimtab.core.time import format_time
from trimtab.run import Run, RunStep


@command("list")
@click.option("--model", metavar="NAME", shell_complete=names("model"), help="Only runs of this model.")
@click.option("--last", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="The newest N.")
def runs(model: str | None, last: int) -> None:
    """List the runs: trainings with their outcomes, and those that still run.

    \b
    Example:
      trimtab runs list --last 5
    """
    with opened_project() as project:
        found, now_us = project.runs(model)[-last:], project.clock.now_us()
    from trimtab.report.tables import text_table

    rows = [[r.id, r.kind, r.model, r.state, _shown_time(r.began_us), _took(r, now_us), _short(r)] for r in found]
    table = text_table(["id", "kind", "model", "state", "started", "took", "outcome"], rows)
    show_each(found, [table if rows else f"No run yet. Train: trimtab train {model or ''}".rstrip()])


@command("show")
@click.argument("run_id", metavar="ID", shell_complete=names("run"))
def show_one(run_id: str) -> None:
    """Show a run with its steps, and what it printed.

    ID is an id of `trimtab runs list`, or its beginning.

    \b
    Example:
      trimtab runs show run_01jd3q8z
    """
    with opened_project() as project:
        found, now_us = project.run(run_id), project.clock.now_us()
    show(found, run_lines(found, now_us))


@command("cancel")
@click.argument("run_id", metavar="ID", shell_complete=names("run"))
def cancel(run_id: str) -> None:
    """Cancel a run in any process. Its finished steps stay.

    \b
    Example:
      trimtab runs cancel run_01jd3q8z
    """
    with opened_project() as project:
        found = project.cancel_run(run_id, actor=account())
    show(found, [f"{found.id}: its cancellation was requested. See: trimtab runs show {found.id}"])


def run_lines(run: Run, now_us: int | None = None) -> Iterator[str]:
    """Yield lines of text about a run. With `now_us`, the present time, they tell how long a running step has taken."""
    from trimtab.report.tables import text_table

    yield f"{run.id}: {run.kind} {run.model}, {run.state}"
    took = f"; took {_took(run, now_us)}" if run.ended_us is not None else ""
    yield f"started {_shown_time(run.began_us)} by {run.actor}, {run.holder}{took}"
    if run.resumes is not None:
        yield f"resumes {run.resumes}, which was interrupted"
    if run.outcome:
        yield _said(run)
    if run.steps:
        yield ""
        headers = ["step", "state", "took", "attempts", "inputs"]
        yield text_table(
            headers,
            [[s.name, _state(s), _took(s, now_us), s.attempts or "", (s.inputs_hash or "")[:12]] for s in run.steps],
        )
    if run.lines:
        yield ""
        yield from run.lines


def show_doing(meter: Meter, run: Run) -> None:
    """Show the current step of a run, and how much of it is done, with a progress meter."""
    verb = {"train": "training", "promote": "judging"}.get(run.kind, run.kind)
    if not run.steps:
        meter.say(f"{verb} {run.model}")
        return
    step = _step(run)
    over = step.progress is not None and step.progress >= 1.0
    meter.say(f"{verb} {run.model}: {step.name}" + ", finishing" * over, None if over else step.progress)


def _said(run: Run) -> str:
    """Return the kind of error of a run, unless it was cancelled, and its outcome without the id."""
    told = run.outcome.removeprefix(f"run {run.id}: ")
    return f"{run.error}: {told}" if run.error and run.state != "cancelled" else told


def _short(run: Run) -> str:
    said = _said(run)
    if not said and run.steps:
        said = f"at {_at(run)}"
    return said if len(said) <= 70 else f"{said[:67]}..."


def _at(run: Run) -> str:
    """Return the current step of a run and, if known, how much of it is done."""
    step = _step(run)
    return f"{step.name} {_far(step)}".rstrip()


def _step(run: Run) -> RunStep:
    """Return the first running step of a run that has steps, or else the last step.

    Of nested steps that are running, the first is the outermost, whose progress includes that of the others.
    """
    return next((step for step in run.steps if step.state == "running"), run.steps[-1])


def _state(step: RunStep) -> str:
    if step.cached:
        return "cached"
    return f"{step.state} {_far(step)}".rstrip() if step.state == "running" else step.state


def _far(step: RunStep) -> str:
    """Return how much of a step is done.

    Only the longest part of a step reports progress, so a step may continue for a while after 100 %.
    """
    if step.progress is None:
        return ""
    return f"{step.progress:.0%}" if step.progress < 1.0 else "100%, finishing"


def _shown_time(at_us: int) -> str:
    return format_time(at_us)[:19].replace("T", " ")


def _took(work: Run | RunStep, now_us: int | None) -> str:
    """Return how long a run or step took, or has taken so far; "" if its end is unknown."""
    if work.ended_us is not None:
        return f"{(work.ended_us - work.began_us) / 1e6:.1f} s"
    if now_us is None or work.state != "running":
        return ""
    return f"{(now_us - work.began_us) / 1e6:.0f} s so far"
