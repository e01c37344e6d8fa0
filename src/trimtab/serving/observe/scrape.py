"""Read the metrics of a running service, and compute growth and quantiles from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from trimtab.core.errors import Misuse

Labels: TypeAlias = "tuple[tuple[str, str], ...]"  # pairs of name and value, sorted by name
Series: TypeAlias = "dict[Labels, float]"

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


class Scrape(msgspec.Struct, frozen=True):
    """The samples of all metrics of a service at one time."""

    at_s: float
    samples: dict[str, Series]

    def total(self, name: str, by: tuple[str, ...] = (), **only: str) -> dict[tuple[str, ...], float]:
        """Return the samples of a metric, summed for each combination of values of the labels in `by`.

        If label values are given (`only`), only samples with these values are included.
        """
        return _added(self.samples.get(name, {}), by, only)

    def number(self, name: str, **only: str) -> float:
        """Return the sum of the samples of a metric, of all or of those with the given label values (`only`)."""
        return self.total(name, (), **only).get((), 0.0)


def read_scrape(text: str, at_s: float) -> Scrape:
    """Parse a text in the format of Prometheus.

    Raises:
        Misuse: A line is not a sample.

    >>> read_scrape('# TYPE a counter\\na{b="c"} 2\\na{b="d"} 1\\n', 0.0).number("a")
    3.0
    """
    samples: dict[str, Series] = {}
    for line in text.split("\n"):  # `splitlines` would also split within label values
        if not line or line.startswith("#"):
            continue
        try:
            name, labels, value = _sample(line)
        except ValueError:
            message = f"metrics: {line[:80]!r} is not a sample of a metric. Give the address of a trimtab service."
            raise Misuse(message) from None
        samples.setdefault(name, {})[labels] = value
    return Scrape(at_s, samples)


def growth(before: Scrape | None, now: Scrape, name: str) -> Series:
    """Return how much each series of a counter has grown.

    If the process was restarted or `before` is None, this is the value of the counter.
    """
    earlier = {} if before is None else before.samples.get(name, {})
    found = {}
    for labels, value in now.samples.get(name, {}).items():
        least = earlier.get(labels, 0.0)
        found[labels] = value - least if value >= least else value
    return found


def grown(
    before: Scrape | None, now: Scrape, name: str, by: tuple[str, ...] = (), **only: str
) -> dict[tuple[str, ...], float]:
    """Return how much a counter has grown, summed for each combination of values of the labels in `by`."""
    return _added(growth(before, now, name), by, only)


def quantiles(
    before: Scrape | None, now: Scrape, name: str, shares: tuple[float, ...], **only: str
) -> tuple[float | None, ...]:
    """Return quantiles of the values that a histogram counted between two scrapes.

    They are interpolated within buckets. If nothing was counted, they are None.

    >>> text = 'h_bucket{le="1"} 5\\nh_bucket{le="2"} 10\\nh_bucket{le="+Inf"} 10\\n'
    >>> quantiles(None, read_scrape(text, 0.0), "h", (0.5, 0.9))
    (1.0, 1.8)
    """
    buckets = sorted((float(edge), n) for (edge,), n in grown(before, now, f"{name}_bucket", ("le",), **only).items())
    total = buckets[-1][1] if buckets else 0.0
    return tuple(_quantile(buckets, share * total) if total else None for share in shares)


def _sample(line: str) -> tuple[str, Labels, float]:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(line)
    labels = sorted((name, _ESCAPED.sub(_unescaped, value)) for name, value in _LABEL.findall(match[2] or ""))
    return match[1], tuple(labels), float(match[3])


def _quantile(buckets: list[tuple[float, float]], rank: float) -> float:
    low, below = 0.0, 0.0
    for edge, count in buckets:
        if count >= rank:
            if math.isinf(edge):
                return low
            return low + (edge - low) * ((rank - below) / (count - below) if count > below else 1.0)
        low, below = edge, count
    return low


def _added(series: Series, by: tuple[str, ...], only: Mapping[str, str]) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for labels, value in series.items():
        named = dict(labels)
        if all(named.get(name) == wanted for name, wanted in only.items()):
            key = tuple(named.get(name, "") for name in by)
            found[key] = found.get(key, 0.0) + value
    return found


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
