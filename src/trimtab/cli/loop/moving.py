"""Commands that change which version answers (such as `promote` and `rollback`), or that stop automation."""

from __future__ import annotations

import click

from trimtab.cli.ask.asking import shown_decisions
from trimtab.cli.exits import FAILED
from trimtab.cli.loop.runs import show_doing
from trimtab.cli.options import account, command, names, opened_project
from trimtab.cli.output import progress, show

_SAFE = "Decisions are in the ledger; the next call repeats a step that was not finished."
_SHARE = click.option(
    "--share", type=click.FloatRange(0, 1), required=True, help="The version's share of the requests; 0 withdraws it."
)


@command("promote", safe=_SAFE)
@click.argument("version", shell_complete=names("version"))
@click.option("--why", "reason", default="", metavar="TEXT", help="The reason, for the ledger and the alias's history.")
@click.option("--dry-run", is_flag=True, help="Only judge it; nothing is moved or written into the ledger.")
@click.option("--seen-until", metavar="TIME", help="The end of an imported version's training data.")
@click.option("--by", "actor", metavar="NAME", help="Who promotes the version (default: your account).")
def promote(version: str, reason: str, dry_run: bool, seen_until: str | None, actor: str | None) -> int:
    """Judge a registered version, and if it passes, put it in service.

    VERSION is one of `trimtab versions list`, trained or imported. It is judged by the gate for candidates, on the
    newest labelled days that neither it nor the version in service has seen. If it passes and the deployment declares
    an approval, it waits for `trimtab approve`. Exit status 1: the version was refused, and nothing has changed.

    \b
    Example:
      trimtab promote late_flight@7 --dry-run
      trimtab promote late_flight@7 --why "the model of the other team"
    """
    with opened_project() as project, progress("judging") as meter:
        found = project.promote(
            version,
            why=reason,
            seen_until=seen_until,
            dry_run=dry_run,
            actor=actor or account(),
            watch=lambda run: show_doing(meter, run),
        )
    show(found, [*shown_decisions(found.decisions), *found.lines()])
    return FAILED if found.refused else 0


@command("approve", safe=_SAFE)
@click.argument("model", required=False, shell_complete=names("model"))
@click.option("--why", "reason", default="", metavar="TEXT", help="The reason, for the ledger.")
@click.option("--by", "actor", metavar="NAME", help="Who approves it (default: your account).")
def approve(model: str | None, reason: str, actor: str | None) -> int:
    """Let the candidate that waits for approval take over.

    MODEL may be left out if only one candidate waits.

    \b
    Example:
      trimtab approve late_flight --why "looked at the slices"
    """
    with opened_project() as project, progress("promoting"):
        decisions = project.approve(model, why=reason, actor=actor or account())
    show(decisions, shown_decisions(decisions))
    return FAILED if decisions and decisions[-1].act == "refuse" else 0


@command("reject")
@click.argument("model", required=False, shell_complete=names("model"))
@click.option("--why", "reason", required=True, metavar="TEXT", help="The reason, for the ledger.")
@click.option("--by", "actor", metavar="NAME", help="Who rejects it (default: your account).")
def reject(model: str | None, reason: str, actor: str | None) -> None:
    """Drop a candidate that is in its rollout, or waits for approval.

    MODEL may be left out if only one candidate waits for approval. The cooldown begins, as after a refusal.

    \b
    Example:
      trimtab reject late_flight --why "trained on the days of the strike"
    """
    with opened_project() as project:
        decisions = project.reject(model, why=reason, actor=actor or account())
    show(decisions, shown_decisions(decisions))


@command("rollback")
@click.argument("model", shell_complete=names("model"))
@click.option("--why", "reason", default="", metavar="TEXT", help="The reason, for the ledger and the alias's history.")
def rollback(model: str, reason: str) -> None:
    """Let the previous version answer again, at once.

    A running service follows within a second and fails no request. A second call goes one more version back.

    \b
    Example:
      trimtab rollback late_flight --why "complaints since noon"
    """
    with opened_project() as project:
        row = project.roll_back(model, why=reason, actor=account())
    show(row, shown_decisions([row]))


@command("canary")
@click.argument("version", shell_complete=names("version"))
@_SHARE
@click.option(
    "--why",
    "reason",
    default="",
    metavar="TEXT",
    help="The reason, for the ledger; required for a version that passed no gate.",
)
def canary(version: str, share: float, reason: str) -> None:
    """Let a version answer a share of the requests, next to the version in service.

    Its answers are logged as those of the canary. It always answers for the same entities. After each closed day, both
    versions are compared on the same requests: see trimtab status.

    \b
    Example:
      trimtab canary late_flight@7 --share 0.05
      trimtab canary late_flight --share 0
    """
    _arm(version, "canary", share, reason)


@command("shadow")
@click.argument("version", shell_complete=names("version"))
@_SHARE
@click.option("--why", "reason", default="", metavar="TEXT", help="The reason, for the ledger.")
def shadow(version: str, share: float, reason: str) -> None:
    """Let a version also score a share of the requests, for the log only.

    It scores them when the service has nothing else to do, and no client sees its answers. It always scores the
    requests of the same entities. After each closed day, both versions are compared on the same requests: see trimtab
    status.

    \b
    Example:
      trimtab shadow late_flight@7 --share 0.5
    """
    _arm(version, "shadow", share, reason)


def _arm(version: str, arm: str, share: float, reason: str) -> None:
    with opened_project() as project:
        row = project.set_arm(version, arm, share=share, why=reason, actor=account())
    show(row, shown_decisions([row]))


@command("freeze")
@click.option("--why", "reason", default="", metavar="TEXT", help="The reason, for the ledger.")
def freeze(reason: str) -> None:
    """Stop all automation at once.

    Predictions go on. Until `trimtab unfreeze`, nothing is trained or promoted, and only a person can roll back.

    \b
    Example:
      trimtab freeze --why "strange data since noon"
    """
    with opened_project() as project:
        row = project.freeze(reason, actor=account())
    show(row, shown_decisions([row]))


@command("unfreeze")
@click.option("--why", "reason", default="", metavar="TEXT", help="The reason, for the ledger.")
def unfreeze(reason: str) -> None:
    """Let automation go on.

    \b
    Example:
      trimtab unfreeze --why "data repaired"
    """
    with opened_project() as project:
        row = project.unfreeze(reason, actor=account())
    show(row, shown_decisions([row]))
