"""Commands that move the loop: train, promote, approve, reject, stages, tick, rollback, arm, freeze, unfreeze."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from trimtab.cli.asking import shown_decisions
from trimtab.cli.exits import FAILED
from trimtab.cli.options import account, command, manner, opened_project, say_which
from trimtab.cli.output import progress, show_json, show_lines
from trimtab.cli.planning import say_first
from trimtab.core.time import format_time

if TYPE_CHECKING:
    from trimtab.app.training.ticking import Ticked
    from trimtab.run import Run
    from trimtab.steering.loop.stages import Stage

_SAFE = "What was decided is in the ledger; a step that was not finished is done again by the next call."


@command("train", safe=_SAFE)
@click.argument("model", required=False)
def train(model: str | None) -> int:
    """Train a candidate now, judge it, promote or refuse it.

    MODEL may be left out when the project's first deployment is meant. The candidate takes over only when it passes
    the gate; exit status 1 says that it was refused. Nothing is done when the version in service is what this data,
    code and seed give. A training that was killed is gone on with: its finished steps are not done again.

    \b
    Example:
      trimtab train late_flight
    """
    from trimtab.app.versions.evaluation_text import evaluation_text
    from trimtab.cli.runs import show_doing

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
        for version in made:  # at the end: what was decided stands, also where there is no room for a page
            page = project.report(version)
            show_lines([] if manner().json else [f"\nevaluation: {page}"])
    return FAILED if decisions and decisions[-1].act == "refuse" else 0


@command("promote", safe=_SAFE)
@click.argument("version")
@click.option("--why", "reason", default="", metavar="TEXT", help="Goes into the ledger and the alias's history.")
@click.option("--dry-run", is_flag=True, help="Only judge it; nothing is moved or written into the ledger.")
@click.option("--seen-until", metavar="TIME", help="Until when an imported version has seen data.")
@click.option("--by", "actor", metavar="NAME", help="Who promotes it; left out, the name of your account.")
def promote(version: str, reason: str, dry_run: bool, seen_until: str | None, actor: str | None) -> int:
    """Judge a registered version, and put it in service when it passes.

    VERSION is one of `trimtab versions`, of a training or an import. The gate is that of every candidate, on the newest
    labelled days that neither it nor the version in service has seen. Exit status 1 says that it was refused; then
    nothing has changed. Where the deployment asks for approval, it waits for `trimtab approve`.

    \b
    Example:
      trimtab promote late_flight@7 --dry-run
      trimtab promote late_flight@7 --why "the model of the other team"
    """
    from trimtab.cli.runs import show_doing

    with opened_project() as project, progress("judging") as meter:
        found = project.promote(
            version,
            why=reason,
            seen_until=seen_until,
            dry_run=dry_run,
            actor=actor or account(),
            watch=lambda run: show_doing(meter, run),
        )
    if manner().json:
        show_json(found)
    else:
        show_lines([*shown_decisions(found.decisions), *found.lines()])
    return FAILED if found.refused else 0


@command("approve", safe=_SAFE)
@click.argument("model", required=False)
@click.option("--why", "reason", default="", metavar="TEXT", help="Goes into the ledger.")
@click.option("--by", "actor", metavar="NAME", help="Who approves it; left out, the name of your account.")
def approve(model: str | None, reason: str, actor: str | None) -> int:
    """Let the candidate that waits for approval take over.

    MODEL may be left out when only one waits.

    \b
    Example:
      trimtab approve late_flight --why "looked at the slices"
    """
    with opened_project() as project, progress("promoting"):
        decisions = project.approve(model, why=reason, actor=actor or account())
    show_json(decisions) if manner().json else show_lines(shown_decisions(decisions))
    return FAILED if decisions and decisions[-1].act == "refuse" else 0


@command("reject")
@click.argument("model", required=False)
@click.option("--why", "reason", required=True, metavar="TEXT", help="Goes into the ledger.")
@click.option("--by", "actor", metavar="NAME", help="Who rejects it; left out, the name of your account.")
def reject(model: str | None, reason: str, actor: str | None) -> None:
    """Drop the candidate that is in a stage of its rollout, or waits for approval.

    MODEL may be left out when only one waits for approval. The cooldown runs as after a refusal.

    \b
    Example:
      trimtab reject late_flight --why "trained on the days of the strike"
    """
    with opened_project() as project:
        decisions = project.reject(model, why=reason, actor=actor or account())
    show_json(decisions) if manner().json else show_lines(shown_decisions(decisions))


@command("stages", safe=_SAFE)
@click.argument("model", required=False)
def stages(model: str | None) -> None:
    """Show the stages of a model's loop: what is done, where it stands, what comes next.

    MODEL may be left out when the project's first deployment is meant.

    \b
    Example:
      trimtab stages late_flight
    """
    with opened_project() as project:
        found = project.stages(model)
    if manner().json:
        for one in found:
            show_json(one)
        return
    show_lines(stage_lines(found))


def stage_lines(found: Sequence[Stage]) -> Iterator[str]:
    """The stages as lines: a mark, the name, its times, and what it waits for."""
    marks = {"done": "+", "now": ">", "next": " "}
    width = max(len(one.name) for one in found)
    for one in found:
        since = "" if one.since_us is None else f"since {format_time(one.since_us)[:16].replace('T', ' ')}"
        until = "" if one.until_us is None else f"until {format_time(one.until_us)[:16].replace('T', ' ')}"
        if one.state == "next":
            until = until.replace("until", "from")
        told = ", ".join(text for text in (since, until) if text)
        yield f"{marks[one.state]} {one.name:{width}}  {told}{'. ' if told and one.said else ''}{one.said}".rstrip()


@command("tick", safe=_SAFE)
def tick() -> None:
    """Look at every deployment once and do what is due.

    For schedulers: call it as often as you like. `trimtab serve` does it by itself. A deployment that another process
    is at work on is left to that, which standard error says.

    \b
    Example:
      */10 * * * *  cd /srv/flights && trimtab tick
    """
    turns: list[Ticked] = []
    try:
        with opened_project() as project, progress("looking at the deployments"):
            project.tick(watch=turns.append)
    finally:  # one that failed hides nothing of the others
        busy = [turn.at_work for turn in turns if turn.at_work is not None]
        decisions = [decision for turn in turns for decision in turn.decisions]
        show_lines(busy, err=True)
        if decisions:
            show_json(decisions) if manner().json else show_lines(shown_decisions(decisions))
    if manner().json and not decisions:
        show_json([])
    elif not decisions and not busy:
        show_lines(["Nothing was due."])


@command("rollback")
@click.argument("model")
@click.option("--why", "reason", default="", metavar="TEXT", help="Goes into the ledger and the alias's history.")
def rollback(model: str, reason: str) -> None:
    """Let the version before answer again, at once.

    A service that runs follows within a second and fails no request. Called again, it goes one version further back.

    \b
    Example:
      trimtab rollback late_flight --why "complaints since noon"
    """
    with opened_project() as project:
        row = project.roll_back(model, why=reason, actor=account())
    show_json(row) if manner().json else show_lines(shown_decisions([row]))


@command("arm")
@click.argument("version")
@click.option("--as", "arm", type=click.Choice(["canary", "shadow"]), required=True, help="What the version is.")
@click.option("--share", type=click.FloatRange(0, 1), required=True, help="Of the requests; 0 ends it.")
@click.option(
    "--why", "reason", default="", metavar="TEXT", help="For the ledger; needed of a canary that passed no gate."
)
def arm(version: str, arm: str, share: float, reason: str) -> None:
    """Let a version answer beside the one in service: as canary or shadow.

    A canary's answers to its share of the requests are what askers get. A shadow answers its share once more, while the
    service has nothing else to do, and nobody sees it. Both are logged under the arm's name. The same entities are
    always in the share.

    \b
    Example:
      trimtab arm late_flight@7 --as canary --share 0.05
      trimtab arm late_flight --as canary --share 0
    """
    with opened_project() as project:
        row = project.set_arm(version, arm, share=share, why=reason, actor=account())
    show_json(row) if manner().json else show_lines(shown_decisions([row]))


@command("freeze")
@click.option("--why", "reason", default="", metavar="TEXT", help="Goes into the ledger.")
def freeze(reason: str) -> None:
    """Stop all automation at once.

    Predictions go on; nothing is trained, promoted or rolled back until `trimtab unfreeze`.

    \b
    Example:
      trimtab freeze --why "strange data since noon"
    """
    with opened_project() as project:
        row = project.freeze(reason, actor=account())
    show_json(row) if manner().json else show_lines(shown_decisions([row]))


@command("unfreeze")
@click.option("--why", "reason", default="", metavar="TEXT", help="Goes into the ledger.")
def unfreeze(reason: str) -> None:
    """Let automation go on.

    \b
    Example:
      trimtab unfreeze --why "data mended"
    """
    with opened_project() as project:
        row = project.unfreeze(reason, actor=account())
    show_json(row) if manner().json else show_lines(shown_decisions([row]))


@command("materialise", safe="What was moved is in the tables; run the same command again for the rest.")
def materialise() -> None:
    """Move new events from the log into one Delta table a source.

    The log stays as it is; training and questions about the past then begin with the tables.

    \b
    Example:
      trimtab materialise
    """
    with opened_project() as project, progress("moving events into tables"):
        moved = project.materialise()
    if manner().json:
        show_json(moved)
    else:
        show_lines(f"{source}: {rows:,} new rows" for source, rows in moved.rows.items())
