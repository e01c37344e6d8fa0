"""The commands that change an experiment, and the one that assigns a unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.ask.asking import shown_decisions
from trimtab.cli.options import account, command, names, opened_project
from trimtab.cli.output import show

if TYPE_CHECKING:
    from trimtab.app.project import Project
    from trimtab.core.records import Decision

_NAME = click.argument("name", shell_complete=names("experiment"))
_WHY = click.option("--why", "reason", required=True, metavar="TEXT", help="The reason, for the ledger.")
_BY = click.option("--by", "actor", metavar="NAME", help="Who does it (default: your account).")


_SAID = {"not closed": "Lost", "not counted": "Not counted", "call instead": "Call instead", "also": "Also"}


def _changed(change: Callable[[Project], Decision]) -> None:
    with opened_project() as project:
        decision = change(project)
    found, lines = decision.evidence, shown_decisions([decision])
    lines += [f"{what}: {found[of]}." for of, what in _SAID.items() if of in found]
    if "promotion" in found:
        reason = found.get("promotion reason")
        lines.append(f"Promotion of {found['winner']}: {found['promotion']}{f'. {reason}' if reason else ''}")
    show(decision, lines)


def _verb(verb: str, summary: str, example: str) -> click.Command:
    """Make a command that only takes the experiment and a reason."""

    def change(name: str, reason: str, actor: str | None) -> None:
        method = f"{verb}_experiment"
        _changed(lambda project: getattr(project, method)(name, why=reason, actor=actor or account()))

    change.__doc__ = f'{summary}\n\n\b\nExample:\n  trimtab experiment {verb} checkout --why "{example}"\n'
    return command(verb)(_NAME(_WHY(_BY(change))))


@command("start")
@_NAME
@click.option("--again", is_flag=True, help="Start it even if it was concluded; units no longer all get the winner.")
@_WHY
@_BY
def start(name: str, again: bool, reason: str, actor: str | None) -> None:
    """Start an experiment as it is declared now.

    Metrics, margins and the rule cannot change while it runs: a changed definition takes effect with the next start,
    which assigns the units again. In an experiment over versions, the first that is not the control becomes the canary.

    \b
    Example:
      trimtab experiment start checkout --why "a shorter form loses fewer customers"
    """
    _changed(lambda project: project.start_experiment(name, why=reason, actor=actor or account(), again=again))


pause = _verb("pause", "Give all units the control until the experiment is resumed.", "the payment service is down")
resume = _verb(
    "resume", "Go on after a pause: same units and variants, but no more steps of a ramp.", "payment works again"
)
stop = _verb(
    "stop", "End an experiment without a winner: all units get the control.", "latency is worse than its margin"
)


@command("ramp")
@_NAME
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), help="The share of the units that take part.")
@click.option("--weight", "weights", multiple=True, metavar="VARIANT=SHARE", help="New weights; give all of them.")
@_WHY
@_BY
def ramp(name: str, share: float | None, weights: tuple[str, ...], reason: str, actor: str | None) -> None:
    """Change the share of the units that take part, or the weights of the variants.

    A larger share keeps all units in their variants, and new weights move only as many units as necessary. If the
    experiment declares a ramp, the ramp ends.

    \b
    Example:
      trimtab experiment ramp checkout --share 0.5 --why "no complaints on the first day"
      trimtab experiment ramp checkout --weight blue=0.4 --weight green=0.6 --why "more data for green"
    """
    given = {one.partition("=")[0]: _number(one) for one in weights} or None
    _changed(
        lambda project: project.ramp_experiment(name, share=share, weights=given, why=reason, actor=actor or account())
    )


@command("conclude")
@_NAME
@click.argument("winner")
@_WHY
@_BY
def conclude(name: str, winner: str, reason: str, actor: str | None) -> None:
    """End an experiment with a winner, which all units get, except those of the global holdout.

    WINNER is a variant. Name the control if nothing shall change. A version that won is judged by the gate, and put in
    service only if it passes.

    \b
    Example:
      trimtab experiment conclude checkout green --why "revenue +3.1 %, all guardrails within their margins"
    """
    _changed(lambda project: project.conclude_experiment(name, winner, why=reason, actor=actor or account()))


@command("assign")
@_NAME
@click.argument("unit")
@click.option("--expose", is_flag=True, help="Log that the unit is exposed to its variant now, so that it counts.")
def assign(name: str, unit: str, expose: bool) -> None:
    """Show the variant of a unit.

    UNIT is the value of the only column that identifies it, or a JSON object with all columns and attributes.

    \b
    Example:
      trimtab experiment assign checkout 4711
      trimtab experiment assign checkout '{"customer": "4711", "country": "DE"}' --expose
    """
    with opened_project() as project:
        found = project.assign(name, _unit(unit), expose=expose)
    show(found, [f"{found.variant}: {found.value!r} ({found.reason})"])


def _unit(text: str) -> Any:
    import msgspec

    if text.lstrip().startswith("{"):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise click.UsageError(f"UNIT {text[:60]!r} is no JSON: {error}") from error
    return text


def _number(text: str) -> float:
    try:
        return float(text.partition("=")[2])
    except ValueError:
        raise click.UsageError(f"--weight {text!r}: write VARIANT=SHARE, such as green=0.6.") from None
