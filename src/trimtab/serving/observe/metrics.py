"""Counters, gauges and histograms of a serving process, in the text format of Prometheus.  # D203"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from trimtab.core.errors import Misuse

LATENCY_BUCKETS_S = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
SIZE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
_Labels: TypeAlias = tuple[str, ...]
Read: TypeAlias = "Callable[[], Mapping[_Labels, float]]"


class Counter:
    """A counter with one value for each combination of label values."""

    def __init__(self) -> None:
        self.values: dict[_Labels, float] = {}

    def add(self, *labels: str, by: float = 1) -> None:
        """Add one, or `by`, to the counter with these labels."""
        self.values[labels] = self.values.get(labels, 0) + by


class Histogram:
    """Counts of values in buckets, for each combination of label values."""

    def __init__(self, buckets: Sequence[float] = LATENCY_BUCKETS_S) -> None:
        self.buckets = tuple(buckets)
        self._series: dict[_Labels, _Series] = {}

    def of(self, labels: _Labels) -> Callable[[float], None]:
        """Return a function that adds one value to the histogram with these labels."""
        series = self._series.get(labels)
        if series is None:
            series = self._series.setdefault(labels, _Series(self.buckets))
        return series.observe

    def lines(self, name: str, labels: tuple[str, ...]) -> list[str]:
        """Return the samples as lines: cumulative buckets, sum and count."""
        out = []
        edges = (*map(_number, self.buckets), "+Inf")
        for key, series in sorted(self._series.items()):
            total = 0
            for edge, n in zip(edges, list(series.counts), strict=True):
                total += n
                out.append(f"{name}_bucket{_braces((*labels, 'le'), (*key, edge))} {total}")
            out.append(f"{name}_sum{_braces(labels, key)} {_number(series.total)}")
            out.append(f"{name}_count{_braces(labels, key)} {total}")
        return out


class _Series:
    """The buckets for one combination of label values."""

    __slots__ = ("buckets", "counts", "total")

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.buckets, value)] += 1
        self.total += value


class _Family(msgspec.Struct, frozen=True):
    name: str
    help_text: str
    kind: Literal["counter", "gauge", "histogram"]
    lines: Callable[[], list[str]]


class Metrics:
    """All metrics of one process, in the order in which they were registered.

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
        self._families: dict[str, _Family] = {}
        self._lock = threading.Lock()

    def counter(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        """Register a new counter."""
        made = Counter()
        self.counted(name, help_text, labels, made.values.copy)
        return made

    def counted(self, name: str, help_text: str, labels: tuple[str, ...], read: Read) -> None:
        """Register a new counter whose values are returned by `read` at each scrape."""
        self._add(_Family(name, help_text, "counter", lambda: _samples(name, labels, read())))

    def gauge(self, name: str, help_text: str, labels: tuple[str, ...], read: Read) -> None:
        """Register a new gauge whose values are returned by `read` at each scrape."""
        self._add(_Family(name, help_text, "gauge", lambda: _samples(name, labels, read())))

    def histogram(
        self, name: str, help_text: str, labels: tuple[str, ...] = (), buckets: Sequence[float] = LATENCY_BUCKETS_S
    ) -> Histogram:
        """Register a new histogram. By default, its buckets are in seconds."""
        made = Histogram(buckets)
        self._add(_Family(name, help_text, "histogram", lambda: made.lines(name, labels)))
        return made

    def text(self) -> str:
        """Return all metrics in the text format of Prometheus (version 0.0.4)."""
        lines = []
        for one in list(self._families.values()):
            lines += [f"# HELP {one.name} {_one_line(one.help_text)}", f"# TYPE {one.name} {one.kind}", *one.lines()]
        return "\n".join(lines) + "\n"

    def others(self) -> str:
        """Return the metrics of the other processes of this service as text; "" in this class, which knows of none."""
        return ""

    def _add(self, family: _Family) -> None:
        with self._lock:
            if family.name in self._families:
                raise Misuse(f"metric {family.name!r}: exists already. Give each metric its own name.")
            self._families[family.name] = family


def _samples(name: str, labels: tuple[str, ...], values: Mapping[_Labels, float]) -> list[str]:
    return [f"{name}{_braces(labels, key)} {_number(value)}" for key, value in sorted(values.items())]


def _braces(names: tuple[str, ...], values: _Labels) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{n}="{_escaped(v)}"' for n, v in zip(names, values, strict=True)) + "}"


def _escaped(value: str) -> str:
    return _one_line(value).replace('"', '\\"')


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
