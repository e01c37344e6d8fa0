"""Lines of a replay that share no features with the others, replayed by a process of their own beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trimtab.app.replay.scenarios import DEMO_LOOKS_US, scenarios_of
from trimtab.app.state.definitions import load_definitions
from trimtab.core.config import load_config
from trimtab.core.errors import Unavailable
from trimtab.core.records import Decision, Signal
from trimtab.core.time import format_time, parse_time_us
from trimtab.events import read_file
from trimtab.simulation.replay import Progress, Replay
from trimtab.simulation.results import ScenarioResult
from trimtab.simulation.scenarios.world import Scenario

_SCORES, _RECORDS = "scores.npz", "records.json"


class Job(msgspec.Struct, frozen=True):
    """What the process is told."""

    project: str
    files: dict[str, str]  # recorded events by source
    folder: str  # its own state, and where it leaves what it found
    lines: list[str]
    seed: int


class Records(msgspec.Struct, frozen=True):
    """What one line decided and noticed."""

    decisions: list[Decision]
    signals: list[Signal]
    input_signals: list[Signal]
    metric: str
    fits: int
    fitted_rows: int
    cpu_s: float


def split(lines: Sequence[Scenario]) -> tuple[list[Scenario], list[Scenario]]:
    """Lines to replay here, with the first one's features or the project's own state, and lines that can go apart."""
    here = [n for n in lines if n.main or n.deployment.model.features.hash == lines[0].deployment.model.features.hash]
    return here, [line for line in lines if line not in here]


class LinesApart:
    """Starts the process, passes its words on, and takes over what it found."""

    def __init__(self, job: Job, show: Callable[[str], object]) -> None:
        self._job = job
        self._process: subprocess.Popen[str] | None = None
        if job.lines:
            command = [sys.executable, "-m", "trimtab.app.replay.scenario_process"]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                process_group=0,  # Ctrl-C is for this process, which ends the other
            )
            assert self._process.stdin is not None  # it was started with pipes
            self._process.stdin.write(msgspec.json.encode(job).decode())
            self._process.stdin.close()
            self._words = threading.Thread(target=self._pass_on, args=(show,), daemon=True)
            self._words.start()

    def results(self, like: ScenarioResult) -> dict[str, ScenarioResult]:
        """What each line did; the questions are those of a line that was replayed here.

        Raises:
            Unavailable: The process failed; its own error is on standard error.
        """
        if self._process is None:
            return {}
        self._words.join()
        status = self._process.wait()
        self._process = None
        if status:
            raise Unavailable(f"replay: the process for {', '.join(self._job.lines)} ended with status {status}.")
        folder = Path(self._job.folder)
        records = msgspec.json.decode((folder / _RECORDS).read_bytes(), type=dict[str, Records])
        with np.load(folder / _SCORES) as scores:
            return {
                name: ScenarioResult(
                    name=name,
                    at_us=like.at_us,
                    scores=scores[str(number)],
                    labels=scores[f"labels {number}"],
                    decisions=records[name].decisions,
                    signals=records[name].signals,
                    input_signals=records[name].input_signals,
                    metric=records[name].metric,
                    versions=scores[f"versions {number}"].astype(object),
                    fits=records[name].fits,
                    fitted_rows=records[name].fitted_rows,
                    cpu_s=records[name].cpu_s,
                    lists=scores.get(f"lists {number}"),
                )
                for number, name in enumerate(self._job.lines)
            }

    def close(self) -> None:
        """End the process when it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._words.join()

    def _pass_on(self, show: Callable[[str], object]) -> None:
        assert self._process is not None  # started before this thread
        assert self._process.stdout is not None  # it was started with pipes
        with self._process.stdout as words:
            for line in words:
                show(line.rstrip("\n"))


def shown_decisions(at: Progress) -> list[str]:
    """A line for each decision of a stretch."""
    return [
        f"  {format_time(at.now_us)[:10]} {line:12} {d.act:8} {(d.version or '')[:8]:8} {d.cause}"
        for line, d in at.decisions
    ]


def main() -> None:
    """Replay the lines that standard input names."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    config = load_config(Path(job.project), os.environ)
    definitions = load_definitions(config.project_file)
    assert config.demo is not None  # whoever sent the job has read it
    lines = [line for line in scenarios_of(definitions, config.demo.lines) if line.name in job.lines]
    tables = {source: read_file(path, definitions.source(source)).columns for source, path in job.files.items()}
    folder = Path(job.folder)
    folder.mkdir(parents=True)

    def show(at: Progress) -> None:
        for text in shown_decisions(at):
            print(text, flush=True)

    with Replay(
        lines,
        tables,
        list(definitions.sources.values()),
        folder,
        start_us=parse_time_us(config.demo.start),
        until_us=parse_time_us(config.demo.until),
        seed=job.seed,
        look_every_us=DEMO_LOOKS_US,
        progress=show,
    ) as replay:
        found = replay.run().lines
    scores: dict[str, Any] = {}
    for number, name in enumerate(job.lines):
        line = found[name]
        scores |= {str(number): line.scores, f"labels {number}": line.labels}
        scores |= {} if line.versions is None else {f"versions {number}": line.versions.astype(str)}
        scores |= {} if line.lists is None else {f"lists {number}": line.lists}
    np.savez(folder / _SCORES, **scores)
    fields = Records.__struct_fields__
    records = {name: Records(**{field: getattr(line, field) for field in fields}) for name, line in found.items()}
    (folder / _RECORDS).write_bytes(msgspec.json.encode(records))


if __name__ == "__main__":
    main()
