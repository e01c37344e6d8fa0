"""The demo (`trimtab demo`): replay the recorded year of a project through the loop, then serve the result."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

from trimtab.app.inspect.doctor import require
from trimtab.app.project import Project
from trimtab.app.replay.replay_report import quality_picture, report_lines, write_report
from trimtab.app.replay.scenario_process import ScenarioSource, divide_by_features, replay_side_by_side, shown_decisions
from trimtab.app.replay.scenarios import DEMO_LOOKS_US
from trimtab.app.state.definitions import Definitions, load_definitions
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.config import Config, DemoSettings, load_config
from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.time import format_time, parse_time_us
from trimtab.events import read_file
from trimtab.simulation.replay import Progress, Recording, ReplaySettings
from trimtab.simulation.results import ReplayResult, month_of

Show = Callable[[str], object]
_REQUESTS = 3
_START_S = 60


def run_demo(folder: Path, *, seed: int, show: Show) -> ReplayResult:
    """Run the `[demo]` of the project in `folder`.

    The state is written to the folder `demo/` in the state folder; an old `demo/` is deleted first. The report is
    written to `report.html` next to `trimtab.toml`.

    Args:
        seed: The same seed gives the same ledger.
        show: Called with each line of output.

    Raises:
        Misuse: The project has no `[demo]`, its loader is not found, or a library that it needs is not installed.
        Unavailable: A system library is missing, or the service did not start.
    """
    config = load_config(folder, os.environ)
    if config.demo is None:
        raise Misuse(
            f"{folder}/trimtab.toml: found no [demo], needed loader, start, until and lines. Add it (docs/settings.md)."
        )
    require(config.demo.requires)
    definitions = load_definitions(config.project_file)
    state = config.state_folder / "demo"
    shutil.rmtree(state, ignore_errors=True)
    started = perf_counter()
    files = _load(config, config.demo, state)
    tables = {source: read_file(path, definitions.source(source)).columns for source, path in files.items()}
    counts = ", ".join(f"{table.rows:,} {name}" for name, table in tables.items())
    show(f"{counts}: read in {perf_counter() - started:.1f} s")
    started = perf_counter()
    result = _replay(config, config.demo, definitions, tables, seed, show)
    seconds = perf_counter() - started
    shutil.rmtree(state / "data")
    total = sum(len(scenario.scores) for scenario in result.lines.values())
    show(f"\nreplayed in {seconds:.1f} s: {total:,} predictions logged")
    with Project(config, definitions, clock=VirtualClock(result.until_us), state=state) as project:
        show(f"\nledger: {project.verify_ledger()} decisions, each chained to the one before")
        for model in definitions.deployments:
            version = project.registry.alias(model, "champion")
            if version is not None:
                show(f"{model}: {version.name} ({version.id[:12]}) is in service")
    _serve(config, state, result.until_us, _newest_requests(definitions, tables, result.until_us), show)
    report = folder / "report.html"
    write_report(result, f"{definitions.deployment(None).name}: a year of the loop", report)
    report.with_name("quality.svg").write_text(str(quality_picture(result)), "utf-8")
    show("")
    for line in report_lines(result):
        show(line)
    show(f"\nreport: {report} (picture: {report.with_name('quality.svg').name})")
    return result


def _load(config: Config, demo: DemoSettings, state: Path) -> dict[str, Path]:
    """Let the project's loader write a file of recorded events for each source."""
    name, colon, function = demo.loader.partition(":")
    file = config.folder / name
    if not colon or not file.is_file():
        raise Misuse(f'[demo] loader={demo.loader!r}: needed FILE.py:FUNCTION, such as "load.py:load". Correct it.')
    spec = spec_from_file_location("trimtab_demo_loader", file)
    assert spec is not None  # a .py file always has a spec
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    data = state / "data"
    data.mkdir(parents=True)
    files: dict[str, Path] = getattr(module, function)(data)
    return files


def _replay(
    config: Config, demo: DemoSettings, definitions: Definitions, tables: dict[str, Columns], seed: int, show: Show
) -> ReplayResult:
    """Replay all scenarios. Scenarios with features of their own are replayed in a child process."""
    state = config.state_folder / "demo"
    start_us, until_us = parse_time_us(demo.start), parse_time_us(demo.until)
    source = ScenarioSource(str(config.project_file), lines=demo.lines)
    scenarios = source.scenarios(definitions)
    names = [one.name for one in scenarios]
    show(f"replay from {format_time(start_us)} to {format_time(until_us)}: {', '.join(names)}")
    settings = ReplaySettings(
        start_us=start_us, until_us=until_us, seed=seed, sampled_rows=demo.sampled_rows, look_every_us=DEMO_LOOKS_US
    )
    recording, parts = Recording(tables, list(definitions.sources.values())), divide_by_features(scenarios)
    result = replay_side_by_side(parts, source, recording, state, settings, progress=_Shown(show, start_us), show=show)
    return msgspec.structs.replace(result, lines={name: result.lines[name] for name in names})


class _Shown:
    """Shows each decision as a line, and a line for each month."""

    def __init__(self, show: Show, start_us: int) -> None:
        self._show = show
        self._month = month_of(start_us)

    def __call__(self, at: Progress) -> None:
        month = month_of(at.now_us - 1)
        if month != self._month:
            self._show(f"{self._month} over: {at.entered:,} events, {at.predictions:,} predictions in all scenarios")
            self._month = month
        for text in shown_decisions(at):
            self._show(text)


def _newest_requests(definitions: Definitions, tables: dict[str, Columns], until_us: int) -> list[dict[str, Any]]:
    """Return the newest requests, in the form in which a client sends them."""
    request = definitions.deployment(None).model.request
    table = tables[request.name].select(request.columns)
    times = table[request.time].values
    newest = times.argsort(kind="stable")[(times < until_us).sum() - _REQUESTS : (times < until_us).sum()]
    rows = table.take(newest).to_rows()
    times_of = [name for name, dtype in request.columns.items() if dtype == "time"]
    return [{k: format_time(v) if k in times_of and v is not None else v for k, v in row.items()} for row in rows]


def _serve(config: Config, state: Path, now_us: int, rows: list[dict[str, Any]], show: Show) -> None:
    """Start `trimtab serve` on the final state, as of the end of the replay, send requests, and stop it."""
    name = config.folder
    command = [sys.executable, "-m", "trimtab.cli", "--project", str(name), "serve", "--port", "0"]
    command += ["--as-of", format_time(now_us)]
    environment = {**os.environ, "TRIMTAB_PROJECT_STATE": str(state)}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        url = _url(server)
        show(f"\ntrimtab serve --as-of {format_time(now_us)} answers on {url}")
        model = load_definitions(config.project_file).deployment(None).name
        answers = _post(f"{url}/v1/models/{model}/predict", {"rows": rows})["predictions"]
        for answer in answers:
            show(f"  {answer['request_id']}: {answer['score']:.4f} by {answer['version']}, id {answer['id']}")
        show("  stopped again")
    finally:
        server.terminate()
        server.communicate(timeout=30)  # also closes its output
    definitions = load_definitions(config.project_file)
    with Project(config, definitions, clock=VirtualClock(now_us), state=state) as project:
        show(f"\ntrimtab why {answers[0]['id']}")
        for line in project.why(answers[0]["id"]).lines():
            show("  " + line)


def _url(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None  # the server was started with a pipe
    for line in server.stdout:
        found = re.search(r"http://\S+", line)
        if found:
            return found[0]
    raise Unavailable(f"demo: the service ended with status {server.wait(_START_S)} before it answered.")


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=_START_S) as response:
        answer: dict[str, Any] = json.load(response)
    return answer
