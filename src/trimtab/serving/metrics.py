"""Counters, gauges and latency histograms of a serving process, as Prometheus text."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping

from trimtab.core.errors import Misuse

LATENCY_BUCKETS_S = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
_Labels = tuple[str, ...]


class Counter:
    """Figures that only grow, one for each combination of label values."""

    kind = "counter"

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = labels
        self.values: dict[_Labels, float] = {}

    def add(self, *labels: str, by: float = 1) -> None:
        """Count one more (or `by` more)."""
        self.values[labels] = self.values.get(labels, 0) + by

    def lines(self) -> list[str]:
        """The sample lines."""
        return [f"{self.name}{_braces(self.labels, key)} {_number(v)}" for key, v in sorted(self.values.items())]


class Gauge(Counter):
    """Figures that are read when somebody asks: `read` gives one for each combination of label values."""

    kind = "gauge"

    def __init__(
        self, name: str, help_text: str, labels: tuple[str, ...], read: Callable[[], Mapping[_Labels, float]]
    ) -> None:
        super().__init__(name, help_text, labels)
        self._read = read

    def lines(self) -> list[str]:
        self.values = dict(self._read())
        return super().lines()


class Histogram:
    """How often a duration in seconds fell into each bucket, for each combination of label values."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = labels
        self._series: dict[_Labels, _Series] = {}

    def of(self, labels: _Labels) -> Callable[[float], None]:
        """A function that counts one duration under `labels`."""
        series = self._series.get(labels)
        if series is None:
            series = self._series.setdefault(labels, _Series())
        return series.observe

    def lines(self) -> list[str]:
        """The sample lines: cumulative buckets, sum and count."""
        out = []
        for key, series in sorted(self._series.items()):
            total = 0
            for edge, n in zip((*map(repr, LATENCY_BUCKETS_S), "+Inf"), series.counts, strict=True):
                total += n
                out.append(f"{self.name}_bucket{_braces((*self.labels, 'le'), (*key, edge))} {total}")
            out.append(f"{self.name}_sum{_braces(self.labels, key)} {series.total!r}")
            out.append(f"{self.name}_count{_braces(self.labels, key)} {total}")
        return out


class _Series:
    """One line of buckets."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        self.total += seconds


class Metrics:
    """All metrics of one process, in the order in which they were made.

    >>> metrics = Metrics()
    >>> requests = metrics.counter("requests_total", "Requests.", ("status",))
    >>> requests.add("200")
    >>> print(metrics.text())
    # HELP requests_total Requests.
    # TYPE requests_total counter
    requests_total{status="200"} 1
    <BLANKLINE>
    """

    def __init__(self) -> None:
        self._metrics: dict[str, Counter | Histogram] = {}
        self._lock = threading.Lock()

    def counter(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        """A new counter."""
        made = Counter(name, help_text, labels)
        self._add(made)
        return made

    def gauge(
        self, name: str, help_text: str, labels: tuple[str, ...], read: Callable[[], Mapping[_Labels, float]]
    ) -> None:
        """A figure that `read` gives at each scrape."""
        self._add(Gauge(name, help_text, labels, read))

    def histogram(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Histogram:
        """A new histogram of seconds."""
        made = Histogram(name, help_text, labels)
        self._add(made)
        return made

    def text(self) -> str:
        """Everything in the text format of Prometheus (version 0.0.4)."""
        lines = []
        for metric in list(self._metrics.values()):
            lines += [f"# HELP {metric.name} {metric.help_text}", f"# TYPE {metric.name} {metric.kind}"]
            lines += metric.lines()
        return "\n".join(lines) + "\n"

    def _add(self, metric: Counter | Histogram) -> None:
        with self._lock:
            if metric.name in self._metrics:
                raise Misuse(f"metric {metric.name!r} exists already. Give each metric a name of its own.")
            self._metrics[metric.name] = metric


def _braces(names: tuple[str, ...], values: _Labels) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{n}="{_escaped(v)}"' for n, v in zip(names, values, strict=True)) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
