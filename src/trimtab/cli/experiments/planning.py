"""The commands `plan` and `power` of experiments."""

from __future__ import annotations

import click

from trimtab.cli.options import command, names, opened_project
from trimtab.cli.output import progress, show, show_each

_EFFECT = click.option(
    "--effect", "effects", type=float, multiple=True, default=(0.02, 0.05, 0.1), help="An effect to find; 0.05 is 5 %."
)


@command("plan")
@click.argument("name", shell_complete=names("experiment"))
@_EFFECT
@click.option("--days", type=click.IntRange(3), default=56, show_default=True, help="The past days to learn from.")
@click.option("--units", metavar="SOURCE", help="The source or request whose rows stand for exposures.")
def plan(name: str, effects: tuple[float, ...], days: int, units: str | None) -> None:
    """Show how long an experiment takes, and which effects it can show.

    How many units there are, and how much their values vary, comes from the project's own history. For a guardrail, the
    plan shows after how many days it can be proven that the metric stays within its margin.

    \b
    Example:
      trimtab experiment plan checkout
      trimtab experiment plan checkout --effect 0.03 --units visits
    """
    with opened_project() as project, progress("planning"):
        found = project.experiment_plan(name, effects=effects, days=days, units=units)
    show(found, found.lines())


@command("power")
@click.option("--mean", type=float, required=True, help="The control's mean; for a proportion, its share.")
@click.option("--sd", type=float, help="The standard deviation of a unit's value (default: that of a proportion).")
@click.option("--units-a-day", type=float, required=True, help="New units a day, of both variants together.")
@_EFFECT
@click.option("--day-sd", type=float, default=0.0, help="How much the effect itself varies from day to day.")
@click.option("--explained", type=float, default=0.0, help="The share of the variance that a covariate explains.")
@click.option("--level", type=float, default=0.95, show_default=True, help="The confidence level.")
def power(
    mean: float,
    sd: float | None,
    units_a_day: float,
    effects: tuple[float, ...],
    day_sd: float,
    explained: float,
    level: float,
) -> None:
    """Show which effects each rule can find, from numbers that you give, without a project.

    \b
    Example:
      trimtab experiment power --mean 0.1 --units-a-day 2000
      trimtab experiment power --mean 41.5 --sd 90 --units-a-day 2000 --effect 0.03
    """
    from trimtab.core.errors import Misuse
    from trimtab.experiments.reading.plan import POWER, plan_rules, rules_table, what_is_found
    from trimtab.report.tables import terminal_table
    from trimtab.stats.ab.power import Design

    if sd is None and not 0.0 < mean < 1.0:
        raise Misuse(f"--mean {mean} is no proportion. Give --sd as well.")
    if sd is None and any(mean * (1.0 + one) >= 1.0 for one in effects):
        raise Misuse(f"--effect {max(effects)} would raise a proportion of {mean} to 1 or more. Give a smaller effect.")
    design = Design(
        units_per_day=units_a_day,
        sd=(mean * (1.0 - mean)) ** 0.5 if sd is None else sd,
        day_sd=day_sd,
        explained=explained,
        level=level,
    )
    found = plan_rules(design, mean, effects)
    said = f"{what_is_found(POWER)} Intervals are two-sided, with a confidence of {level:.4g}."
    show_each(found, [terminal_table(rules_table(found)), "", said])
