"""Count the requests of the inference protocol and their times, by version, over all processes of a service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.observe.scrape import read_scrape

ROWS, LAST = "trimtab_inference_rows_total", "trimtab_inference_last_seconds"
COUNTS, SECONDS = "trimtab_inference_parts_total", "trimtab_inference_part_seconds_total"
_OF_VERSION = ("model", "version")
_OF_PART = (*_OF_VERSION, "part")
_PARTS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
_SHOWN = (ROWS, LAST, COUNTS, SECONDS)


class Duration(msgspec.Struct):
    """How often something was done, and the total time that it took."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * 1e9)

    def plus(self, other: Duration) -> Duration:
        return Duration(self.count + other.count, self.ns + other.ns)


class InferStatistics(msgspec.Struct):
    """Counts and times of requests and of their parts."""

    success: Duration = msgspec.field(default_factory=Duration)
    fail: Duration = msgspec.field(default_factory=Duration)
    queue: Duration = msgspec.field(default_factory=Duration)  # always 0, because waits in the queue are not counted
    compute_input: Duration = msgspec.field(default_factory=Duration)  # converting tensors to rows
    compute_infer: Duration = msgspec.field(default_factory=Duration)  # features, model and log
    compute_output: Duration = msgspec.field(default_factory=Duration)  # converting answers to tensors
    cache_hit: Duration = msgspec.field(default_factory=Duration)  # always 0, like the next field; clients expect both
    cache_miss: Duration = msgspec.field(default_factory=Duration)


class ModelStatistics(msgspec.Struct):
    """The statistics of one version since the process began."""

    name: str
    version: str
    last_inference: int = 0  # the time of the last answer, in milliseconds since 1970
    inference_count: int = 0  # the number of rows
    execution_count: int = 0  # the number of answered requests
    inference_stats: InferStatistics = msgspec.field(default_factory=InferStatistics)
    batch_stats: tuple[()] = ()  # always empty, like the next two fields, but clients expect them
    response_stats: dict[str, Duration] = {}
    memory_usage: tuple[()] = ()

    def answered(self, rows: int, started: float, decoded: float, inferred: float, ended: float) -> None:
        """Count an answered request, given when it began and when each of its parts ended."""
        self.last_inference = time.time_ns() // 1_000_000
        self.inference_count += rows
        self.execution_count += 1
        stats = self.inference_stats
        stats.success.add(ended - started)
        stats.compute_input.add(decoded - started)
        stats.compute_infer.add(inferred - decoded)
        stats.compute_output.add(ended - inferred)

    def plus(self, other: ModelStatistics) -> ModelStatistics:
        """Return the sum of the statistics of two processes."""
        mine, theirs = self.inference_stats, other.inference_stats
        return ModelStatistics(
            name=self.name,
            version=self.version,
            last_inference=max(self.last_inference, other.last_inference),
            inference_count=self.inference_count + other.inference_count,
            execution_count=self.execution_count + other.execution_count,
            inference_stats=InferStatistics(*map(Duration.plus, _parts(mine).values(), _parts(theirs).values())),
        )

    def failed(self, seconds: float) -> None:
        """Count a request that failed."""
        self.inference_stats.fail.add(seconds)


def show_statistics(metrics: Metrics, figures: Callable[[], Iterable[ModelStatistics]]) -> None:
    """Register metrics with the statistics of this process, for Prometheus and for the other processes."""
    metrics.counted(
        ROWS,
        "Rows answered by the Open Inference Protocol.",
        _OF_VERSION,
        lambda: {(one.name, one.version): one.inference_count for one in figures()},
    )
    metrics.counted(
        COUNTS,
        "How often each part of the model's Open Inference Protocol requests was done.",
        _OF_PART,
        lambda: {(one.name, one.version, part): took.count for one in figures() for part, took in _of(one)},
    )
    metrics.counted(
        SECONDS,
        "Seconds spent in each part of the model's Open Inference Protocol requests.",
        _OF_PART,
        lambda: {(one.name, one.version, part): took.ns / 1e9 for one in figures() for part, took in _of(one)},
    )
    metrics.gauge(
        LAST,
        "When the newest Open Inference Protocol request of the model was answered, in seconds since 1970.",
        _OF_VERSION,
        lambda: {(one.name, one.version): one.last_inference / 1e3 for one in figures() if one.last_inference},
    )


def statistics_told(text: str) -> dict[tuple[str, str], ModelStatistics]:
    """Return the statistics of other processes by model and version, summed over these processes.

    Args:
        text: The metrics of the other processes in the format of Prometheus. Each sample has its process as a label.
    """
    told = read_scrape("\n".join(line for line in text.split("\n") if line.startswith(_SHOWN)), 0.0)
    found: dict[tuple[str, str], ModelStatistics] = {}
    for (model, version), rows in told.total(ROWS, _OF_VERSION).items():
        found[model, version] = ModelStatistics(model, version, inference_count=int(rows))
    seconds = told.total(SECONDS, _OF_PART)
    for (model, version, part), count in told.total(COUNTS, _OF_PART).items():
        if (model, version) in found and part in _PARTS:
            took = Duration(int(count), round(seconds.get((model, version, part), 0.0) * 1e9))
            setattr(found[model, version].inference_stats, part, took)
    for one in found.values():
        one.execution_count = one.inference_stats.success.count
        last = [at_s for labels, at_s in told.samples.get(LAST, {}).items() if _names(labels, one)]
        one.last_inference = round(1e3 * max(last, default=0.0))
    return found


def _names(labels: Iterable[tuple[str, str]], one: ModelStatistics) -> bool:
    named = dict(labels)
    return (named["model"], named["version"]) == (one.name, one.version)


def _parts(stats: InferStatistics) -> dict[str, Duration]:
    return {part: getattr(stats, part) for part in _PARTS}


def _of(one: ModelStatistics) -> Iterable[tuple[str, Duration]]:
    return _parts(one.inference_stats).items()
