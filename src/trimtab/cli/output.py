"""Print results as lines or JSON on standard output, and progress on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from trimtab.cli.exits import Manner, printable

if TYPE_CHECKING:
    from rich.progress import Progress

_QUICK_S = 1.0  # on a terminal, shorter work shows no progress
_EVERY_S = 10.0  # without a terminal, the time until the first line of progress, and between two lines


def show(document: Any, lines: Iterable[str]) -> None:
    """With `--json`, print `document` as JSON; otherwise, print the lines."""
    show_json(document) if _is_json() else show_lines(lines)


def show_each(documents: Iterable[Any], lines: Iterable[str]) -> None:
    """With `--json`, print one JSON document per line; otherwise, print the lines."""
    if not _is_json():
        show_lines(lines)
        return
    for document in documents:
        show_json(document)


def _is_json() -> bool:
    return click.get_current_context().ensure_object(Manner).json


def show_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines, with control characters escaped. With `err`, print them on standard error."""
    for line in lines:
        click.echo("\n".join(printable(part) for part in line.split("\n")), err=err)


def show_json(document: Any) -> None:
    """Print a document as JSON on a single line, so that several documents form NDJSON."""
    click.echo(msgspec.json.encode(document, enc_hook=_plain).decode())


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")  # msgspec expects a hook to raise this error


@contextmanager
def progress(what: str) -> Iterator[Meter]:
    """Show the progress of the work `what` if it is slow (see `Meter`), and the share that is done if it is known."""
    meter = Meter(what)
    try:
        yield meter
    finally:
        meter.close()


class Meter:
    """Shows the progress of work: a bar on a terminal (after a second), otherwise a line after ten seconds.

    Call this object with the amount that is done and the total amount. Without a terminal, such a call prints another
    line if the newest one is ten seconds old.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.RLock()  # needed because another thread starts the bar
        self._told_at = time.monotonic()
        self._share: float | None = None  # the share of the work that is done; None if unknown
        self._bar: Progress | None = None
        self._closed = False
        self._terminal = sys.stderr.isatty()
        # starts the display even if the work never reports progress
        self._timer = threading.Timer(_QUICK_S if self._terminal else _EVERY_S, self._show)
        self._timer.daemon = True
        self._timer.start()

    def __call__(self, done: float, total: float) -> None:
        with self._lock:
            self._share = min(1.0, done / total) if total else 1.0
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self._share, total=1.0)
            elif not self._terminal and time.monotonic() - self._told_at >= _EVERY_S:
                self._show()

    def say(self, what: str, share: float | None = None) -> None:
        """From now on, show another activity, with the share of it that is done (None: unknown)."""
        with self._lock:
            self._what, self._share = what, share
            if self._bar is not None:
                task = self._bar.task_ids[0]
                if share is None:
                    self._bar.tasks[0].total = None  # makes the bar pulse again, which `update` cannot do
                self._bar.update(task, description=what, completed=share or 0.0, total=None if share is None else 1.0)

    def close(self) -> None:
        """Stop the progress bar and restore the terminal."""
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._bar is not None:
                self._bar.stop()

    def _show(self) -> None:
        with self._lock:
            if self._closed:
                return
            if self._terminal:
                self._bar = self._started_bar()
                return
            self._told_at = time.monotonic()
            far = "..." if self._share is None else f"{self._share:.0%}"
            print(f"{self._what}: {far}", file=sys.stderr, flush=True)

    def _started_bar(self) -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn("{task.percentage:>3.0f}%"),  # empty while the share is unknown
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = bar.add_task(self._what, total=None if self._share is None else 1.0)
        bar.update(task, completed=self._share or 0.0)
        bar.start()
        return bar
