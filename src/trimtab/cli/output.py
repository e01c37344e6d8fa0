"""Lines and JSON on standard output; progress on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.exits import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.status import Status

_QUICK_S = 1.0  # work that is done by then shows no progress
_EVERY_S = 10.0  # between two lines where no terminal is


def show_lines(lines: Iterable[str]) -> None:
    """Print lines; control characters in them are shown, not obeyed."""
    for line in lines:
        click.echo("\n".join(printable(part) for part in line.split("\n")))


def show_json(document: Any) -> None:
    """Print one JSON document on one line, so that NDJSON comes of several."""
    import msgspec

    click.echo(msgspec.json.encode(document).decode())


@contextmanager
def progress(what: str) -> Iterator[Meter]:
    """A function of (done, total) that shows how far `what` is, once it takes longer than a second."""
    meter = Meter(what)
    try:
        yield meter
    finally:
        meter.close()


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that `what` goes on, where nobody can say how far it is, once it takes longer than a second."""
    lock, done = threading.Lock(), threading.Event()
    shown: list[Status] = []

    def show() -> None:
        with lock:
            if done.is_set():
                return
            if sys.stderr.isatty():
                from rich.console import Console
                from rich.markup import escape

                shown.append(Console(stderr=True).status(escape(what)))
                shown[0].start()
            else:
                print(f"{what} ...", file=sys.stderr, flush=True)

    timer = threading.Timer(_QUICK_S if sys.stderr.isatty() else _EVERY_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        done.set()
        timer.cancel()
        with lock:
            for status in shown:
                status.stop()


class Meter:
    """A bar on a terminal, now and then a line elsewhere, and nothing for quick work."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = self._told = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, done: float, total: float) -> None:
        now = time.monotonic()
        if now - self._started < _QUICK_S:
            return
        if sys.stderr.isatty():
            self._draw(done, total)
        elif now - self._told >= _EVERY_S:
            self._told = now
            print(f"{self._what}: {done:,.0f} of {total:,.0f}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self, done: float, total: float) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        assert self._task is not None  # set together with the bar
        self._bar.update(self._task, completed=done, total=total)
