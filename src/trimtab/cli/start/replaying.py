"""The commands `simulate` and `demo`, which replay history."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from trimtab.cli.options import command, manner, names, opened_project, project_folder, refuse_given, time_given
from trimtab.cli.output import progress, show, show_json, show_lines
from trimtab.core.config import load_config

if TYPE_CHECKING:
    from trimtab.simulation.results import ReplayResult

_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)


@command("simulate", safe="A simulation changes nothing in the project's state.")
@click.option("--line", "lines", multiple=True, metavar="NAME", help="Only this scenario of [demo]; may be repeated.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="POLICY",
    help='Policies, with commas between them: project, never, 30d, alarm, "alarm|30d", "ungated 30d", naive, '
    "FILE.py:FUNCTION (default: the scenarios of [demo], or project and never).",
)
@click.option("--model", metavar="NAME", help="The model whose deployment is replayed (default: the only one).")
@click.option(
    "--stream",
    metavar="WORDS",
    help='Generated events instead of the ingested ones: "days=100 per_day=500 season=0.3 concept=40 prior=60+14".',
)
@click.option("--faults", metavar="FILE", help="CSV of faults: kind, start, end, source, column, size.")
@click.option("--search", is_flag=True, help="Choose a policy on the first half of the days; measure it on the rest.")
@click.option("--html", metavar="FILE", type=_FILE, help="Write a page, too.")
@click.option("--plot", metavar="FILE.svg", type=_FILE, help="Write the plot.")
@click.option(
    "--start", metavar="TIME", help="ISO 8601 (default: [demo] start, or where a first version can be trained)."
)
@click.option("--until", metavar="TIME", help="ISO 8601 (default: [demo] until, or the newest request).")
@click.option("--seed", type=int, help="The seed (default: the setting seed).")
@click.option(
    "--experiment",
    metavar="NAME",
    shell_complete=names("experiment"),
    help="Simulate this experiment on past units, with an effect of --effect, instead of the loop.",
)
@click.option("--effect", type=float, default=0.0, help="How much better the second variant is; 0.05 is 5 %.")
@click.option("--runs", type=click.IntRange(1), default=200, show_default=True, help="How often to run the experiment.")
@click.option("--days", type=click.IntRange(2), default=56, show_default=True, help="How many past days give units.")
@click.option("--units", metavar="SOURCE", help="The source or request whose rows stand for exposures.")
def simulate(
    lines: tuple[str, ...],
    policies: tuple[str, ...],
    model: str | None,
    stream: str | None,
    faults: str | None,
    search: bool,
    html: Path | None,
    plot: Path | None,
    start: str | None,
    until: str | None,
    seed: int | None,
    experiment: str | None,
    **planted: Any,
) -> None:
    """Replay history in virtual time under several policies.

    \b
    Example:
      trimtab simulate --start 2013-03-01 --until 2013-09-01
      trimtab simulate --policy 'never,30d,alarm,alarm|30d'
      trimtab simulate --experiment checkout --effect 0.05
    """
    if experiment is not None:
        loop = ("lines", "policies", "model", "stream", "faults", "search", "html", "plot", "start", "until")
        refuse_given("is about the loop. Leave it out with --experiment.", *loop)
        with opened_project() as project, progress("simulating") as meter:
            runs = project.simulate_experiment(experiment, seed=seed, progress=meter, **planted)
        show(runs, runs.lines())
        return
    refuse_given("needs --experiment.", *planted)
    time_given("--start", start)
    time_given("--until", until)
    chosen: list[Any] = [one.strip() for given in policies for one in given.split(",")]
    if search:
        refuse_given("has no effect on a search of policies. Leave it out with --search.", "lines", "html", "plot")
        if len(chosen) == 1:
            raise click.UsageError(f"--search compares policies: found {chosen[0]} alone, needed two or more.")
    _check_files(html, plot)
    if search and not chosen:
        from trimtab.simulation import grid

        chosen = [one.name for one in grid()]  # names of policies can be sent to other processes, functions cannot
    with opened_project() as project, progress("simulating") as meter:
        result = project.simulate(
            lines=list(lines) or None,
            policies=chosen or None,
            model=model,
            stream=stream,
            faults=faults,
            start=start,
            until=until,
            seed=seed,
            progress=meter,
        )
    from trimtab.app.replay.replay_report import report_document, report_lines, write_report

    if search:
        _show_search(result)
        return
    show(report_document(result), report_lines(result))
    if plot is not None:
        result.plot().save(plot)
    if html is not None:
        write_report(result, f"{next(iter(result.lines))} and others, replayed", html)


def _check_files(html: Path | None, plot: Path | None) -> None:
    """Refuse files that cannot be written, and make their folders, before the replay."""
    if plot is not None and plot.suffix != ".svg":
        raise click.UsageError(f"--plot: found {plot}, needed the name of an SVG file. Use a name that ends in .svg.")
    for file in (html, plot):
        try:
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"{file}: its folder cannot be made: {error.strerror}. Name another one.") from None


def _show_search(result: ReplayResult) -> None:
    from trimtab.app.replay.replay_report import search_lines
    from trimtab.simulation import choose_policy

    found = choose_policy(result)
    show(msgspec.to_builtins(found), search_lines(found))


@command("demo", safe="The demo's own folder may be deleted; the project's state was not touched.")
@click.argument("where", metavar="[PROJECT]", type=click.Path(path_type=Path), required=False)
@click.option("--seed", type=int, default=1, show_default=True)
def demo(where: Path | None, seed: int) -> None:
    """Replay the project's history through the whole loop, and report.

    PROJECT is the project's folder (default: this folder or the nearest above it with trimtab.toml).

    \b
    Example:
      trimtab demo examples/flights
    """
    import os

    from trimtab.app.inspect.doctor import require

    folder = where or project_folder()
    config = load_config(folder, os.environ)
    if config.demo is not None:
        require(config.demo.requires)
    as_json = manner().json
    run_demo = import_module("trimtab.app.start.demo").run_demo
    result = run_demo(folder, seed=seed, show=lambda line: show_lines([line], err=as_json))
    if as_json:
        show_json(import_module("trimtab.app.replay.replay_report").report_document(result))
