"""The commands `train`, `tick` and `stages`, which run and show the training loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from trimtab.cli.ask.asking import shown_decisions
from trimtab.cli.exits import FAILED
from trimtab.cli.loop.planning import say_first
from trimtab.cli.loop.runs import show_doing
from trimtab.cli.options import account, command, manner, names, opened_project, say_which
from trimtab.cli.output import progress, show, show_each, show_json, show_lines
from trimtab.core.time import format_time

if TYPE_CHECKING:
    from trimtab.app.training.ticking import Ticked
    from trimtab.run import Run
    from trimtab.steering.loop.stages import Stage

_SAFE = "Decisions are in the ledger; the next call repeats a step that was not finished."


@command("train", safe=_SAFE)
@click.argument("model", required=False, shell_complete=names("model"))
def train(model: str | None) -> int:
    """Train a candidate now, judge it, and promote or refuse it.

    The candidate takes over only if it passes the gate. Exit status 1: it was refused. Nothing is done if the present
    data, code and seed would give the version in service again. A killed training is resumed: its finished steps are
    not repeated. Without MODEL, the project's first deployment is meant.

    \b
    Example:
      trimtab train late_flight
    """
    from trimtab.app.versions.evaluation_page import evaluation_text

    ran: list[Run] = []

    def watch(run: Run) -> None:
        ran[:] = [run]
        show_doing(meter, run)

    with opened_project() as project:
        with progress("training") as meter:
            say_first(project)
            model = say_which(project, model, "train")
            decisions = project.train(model, actor=account(), watch=watch)
        outcome = project.run(ran[0].id).outcome if ran else ""
        made = [d.version for d in decisions if d.act == "train" and d.version is not None]
        if manner().json:
            show_json(decisions)
        else:
            gates = [project.registry.get_gate(str(d.evidence["gate"])) for d in decisions if d.act == "gate"]
            show_lines(shown_decisions(decisions) or [outcome or "Nothing was decided."])
            show_lines(f"      {line}" for gate in gates for line in gate.lines())
            show_lines(f"\n{evaluation_text(project.evaluation(version))}" for version in made)
        for version in made:  # last, because an error here (such as a full disk) must not hide the decisions
            page = project.report(version)
            show_lines([] if manner().json else [f"\nevaluation: {page}"])
    return FAILED if decisions and decisions[-1].act == "refuse" else 0


@command("tick", safe=_SAFE)
def tick() -> None:
    """Look at every deployment once, and do what is due.

    For schedulers: call it as often as you like. Once a day it also checks a sample of the new predictions for skew,
    and removes what [retention] does not keep. `trimtab serve` does all that by itself. A deployment that another
    process is working on is skipped, with a line on standard error.

    \b
    Example:
      */10 * * * *  cd /srv/flights && trimtab tick
    """
    turns: list[Ticked] = []
    try:
        with opened_project() as project, progress("looking at the deployments"):
            project.tick(watch=turns.append)
            frozen = [row for row in project.ledger() if row.act in ("freeze", "unfreeze")][-1:]
    finally:  # one deployment's error must not hide the results of others
        busy = [turn.at_work for turn in turns if turn.at_work is not None]
        decisions = [decision for turn in turns for decision in turn.decisions]
        show_lines(busy, err=True)
        if decisions:
            show(decisions, shown_decisions(decisions))
    if manner().json and not decisions:
        show_json([])
    elif not decisions and not busy:
        since = [f"{format_time(row.at_us)[:16]}: {row.cause}" for row in frozen if row.act == "freeze"]
        show_lines([f"Nothing was done: automation is frozen since {one}" for one in since] or ["Nothing was due."])


@command("stages", safe=_SAFE)
@click.argument("model", required=False, shell_complete=names("model"))
def stages(model: str | None) -> None:
    """Show the stages of a model's loop: done, current and next.

    Without MODEL, the project's first deployment is meant.

    \b
    Example:
      trimtab runs stages late_flight
    """
    with opened_project() as project:
        found = project.stages(model)
    show_each(found, stage_lines(found))


def stage_lines(found: Sequence[Stage]) -> Iterator[str]:
    """Yield a line of text for each stage: a mark, its name, its times, and what it waits for."""
    marks = {"done": "+", "now": ">", "next": " "}
    width = max(len(one.name) for one in found)
    for one in found:
        since = "" if one.since_us is None else f"since {format_time(one.since_us)[:16].replace('T', ' ')}"
        until = "" if one.until_us is None else f"until {format_time(one.until_us)[:16].replace('T', ' ')}"
        if one.state == "next":
            until = until.replace("until", "from")
        told = ", ".join(text for text in (since, until) if text)
        yield f"{marks[one.state]} {one.name:{width}}  {told}{'. ' if told and one.said else ''}{one.said}".rstrip()
