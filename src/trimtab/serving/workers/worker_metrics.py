"""The metrics of all processes of a service. Each of the processes can return them.

Each process writes its metrics to a file about once a second. A process that must return all metrics writes its own
file at once, and then adds the files of the others. So if a scraper reaches another process next time, it gets at least
what this process has counted, and no counter goes down. Files of another start of the service are ignored, because a
worker left from a killed service goes on writing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.observe.scrape import Scrape, read_scrape
from trimtab.serving.workers.states import read_state

_logger = logging.getLogger(__name__)
_EVERY_S = 1.0
_SUFFIX = ".prom"
_FILE = re.compile(r"(?:(?P<start>\w+)\.)?(?P<name>\w+)-(?P<pid>\d+)\.(?:prom|new)")


class SharedMetrics(Metrics):
    """The metrics of one of several processes.

    As text, they include the metrics of all processes, with the label `worker`.

    Args:
        folder: The folder in which the processes of one service write their metrics.
        start: An id of the service's start, which all of its processes share.
    """

    def __init__(self, folder: Path, name: str, start: str = "") -> None:
        super().__init__()
        self.start = start
        self._folder = folder
        own = f"{name}-{os.getpid()}{_SUFFIX}"
        self._path = folder / (f"{start}.{own}" if start else own)
        self._name = name
        self._mutex = threading.Lock()
        self._written: str | None = None

    def text(self) -> str:
        """Return the metrics of all processes in the text format of Prometheus, with the label `worker`."""
        with self._mutex:
            own = super().text()
            if self._written is not None:
                try:
                    self._write(own)
                # other processes see what was last written, so return the same; the writer thread logs the error
                except OSError:
                    own = self._written
        return merged([(self._name, own), *_texts(self._folder, self.start, but=self._name)])

    def others(self) -> str:
        """Return only the metrics of the other processes."""
        return merged(_texts(self._folder, self.start, but=self._name))

    def write(self) -> None:
        """Write this process's metrics to its file, for the other processes.

        Raises:
            OSError: The file cannot be written.
        """
        with self._mutex:
            self._write(super().text())

    def remove(self) -> None:
        """Remove this process's file, because the process is ending."""
        with self._mutex:
            self._written = None
            self._path.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(text, "utf-8")
        new.replace(self._path)
        self._written = text


class MetricsWriter:
    """A thread that writes a process's metrics to its file about once a second."""

    def __init__(self, metrics: SharedMetrics) -> None:
        self._metrics = metrics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-metrics", daemon=True)

    def __enter__(self) -> MetricsWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._metrics.remove()

    def _run(self) -> None:
        failed = False
        while True:
            try:
                self._metrics.write()
                failed = False
            except Exception as error:  # for example a full disk, or a metric that cannot be read now
                if not failed:
                    _logger.warning("metrics of this process cannot be written for the other processes: %s", error)
                failed = True
            if self._stop.wait(_EVERY_S):
                return


def shared_scrape(folder: Path) -> Scrape:
    """Return the last written metrics of a service's processes, for a process outside the service."""
    state = read_state(folder)
    return read_scrape(merged(_texts(folder, "" if state is None else state.start)), time.time())


def _texts(folder: Path, start: str, *, but: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names and metrics of all processes of one start of a service, except the process `but`."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        match = _FILE.fullmatch(path.name)
        if match and (match["start"] or "") == start and match["name"] != but:
            with contextlib.suppress(FileNotFoundError):  # the process that wrote the file has just ended
                yield match["name"], path.read_text("utf-8")


def merged(texts: Iterable[tuple[str, str]]) -> str:
    """Return the metrics of several processes as one text.

    Each metric family occurs once. Each sample gets the label `worker` with the name of its process.

    >>> texts = "# HELP a A.\\n# TYPE a counter\\na 2\\n", '# HELP a A.\\n# TYPE a counter\\na{b="c"} 1\\n'
    >>> print(merged(zip("12", texts)), end="")
    # HELP a A.
    # TYPE a counter
    a{worker="1"} 2
    a{worker="2",b="c"} 1
    """
    families: dict[str, list[str]] = {}
    for worker, text in texts:
        for family in f"\n{text}".split("\n# HELP ")[1:]:  # `splitlines` would also split within label values
            about, kind, *samples = family.rstrip("\n").split("\n")
            lines = families.setdefault(about.partition(" ")[0], [f"# HELP {about}", kind])
            lines += [_labelled(line, worker) for line in samples]
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


def _labelled(line: str, worker: str) -> str:
    name, brace, rest = line.partition("{")
    if brace and " " not in name:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = line.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'


def clear(folder: Path, name: str | None = None, pid: int | None = None) -> None:
    """Remove files of metrics: all of them, or those of one process that has ended."""
    for path in folder.glob("*"):
        match = _FILE.fullmatch(path.name)
        its = match is not None and (match["name"], match["pid"]) == (name, str(pid))
        if its or (name is None and path.suffix in (_SUFFIX, ".new")):
            path.unlink(missing_ok=True)
