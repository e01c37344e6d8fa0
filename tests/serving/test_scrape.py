"""What is read from a service's metrics: samples of all its processes, growth, quantiles."""

from __future__ import annotations

import random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trimtab.core.errors import Misuse
from trimtab.serving.observe.metrics import SIZE_BUCKETS, Metrics
from trimtab.serving.observe.process_metrics import show_process
from trimtab.serving.observe.scrape import grown, quantiles, read_scrape
from trimtab.serving.workers.overview import overview
from trimtab.serving.workers.worker_metrics import merged

pytestmark = pytest.mark.fast
ODD = 'a"b\\c\nd{e="f"} 1'


def metrics(times: int = 1) -> Metrics:
    made = Metrics()
    counter = made.counter("hits_total", "Hits of \\ and\nlines.", ("what",))
    rows = made.histogram("rows", "Rows.", ("model",), SIZE_BUCKETS)
    made.gauge("odd", "Numbers.", ("n",), lambda: {("inf",): float("inf"), ("half",): 0.5, ("none",): float("nan")})
    counter.add(ODD, by=times)
    for n in range(times):
        rows.of(("m",))(n)
    show_process(made)
    return made


def test_the_parser_of_prometheus_and_ours_read_the_same_of_several_processes() -> None:
    text = merged([("1", metrics(3).text()), ("2", metrics(4).text())])
    theirs = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    ours = {
        (name, labels): value
        for name, series in read_scrape(text, 0.0).samples.items()
        for labels, value in series.items()
    }
    assert {key for key, value in theirs.items() if value == value} == {k for k, v in ours.items() if v == v}
    assert all(ours[key] == value for key, value in theirs.items() if value == value)
    assert read_scrape(text, 0.0).total("hits_total", ("what",)) == {(ODD,): 7.0}
    assert {f.name: f.type for f in text_string_to_metric_families(text)}["hits"] == "counter"


def test_a_counter_that_restarted_grew_by_its_value() -> None:
    before, now = (read_scrape(f'a{{w="1"}} {x}\na{{w="2"}} {y}\n', 0.0) for x, y in ((10, 5), (3, 9)))
    assert grown(before, now, "a") == {(): 7.0}
    assert grown(None, now, "a", ("w",)) == {("1",): 3.0, ("2",): 9.0}


def test_quantiles_lie_in_the_bucket_of_the_true_one() -> None:
    rng = random.Random(1)
    made = Metrics()
    observe = made.histogram("h", "H.").of(())
    before = read_scrape(made.text(), 0.0)
    values = sorted(rng.lognormvariate(-7, 1) for _ in range(2_000))
    for value in values:
        observe(value)
    now = read_scrape(made.text(), 1.0)
    p50, p99 = quantiles(before, now, "h", (0.5, 0.99))
    assert p50 is not None
    assert p99 is not None
    assert 0.4 < p50 / values[1_000] < 2.5
    assert 0.4 < p99 / values[1_980] < 2.5
    assert quantiles(now, now, "h", (0.5,)) == (None,)


def test_a_view_of_a_service_that_says_little_has_its_lines_too() -> None:
    found = overview(None, read_scrape("", 0.0), "http://127.0.0.1:1")
    assert "log ok" in "\n".join(found.lines())
    for other in ("<html>", "Hello World"):
        with pytest.raises(Misuse, match="is not a sample"):
            read_scrape(other, 0.0)


def test_a_view_shows_what_failed_by_whatever_protocol() -> None:
    counted = [
        ("predict", "429", 1), ("predict", "500", 2), ("predict", "gone", 4), ("inference", "200", 8),
        ("inference", "503", 16), ("inference", "429", 32), ("grpc", "OK", 64), ("grpc", "RESOURCE_EXHAUSTED", 128),
        ("grpc", "DEADLINE_EXCEEDED", 256), ("events", "503", 512),
    ]  # fmt: skip
    lines = [
        f'trimtab_requests_total{{route="{route}",model="m",status="{status}"}} {count}'
        for route, status, count in counted
    ]
    found = overview(None, read_scrape("\n".join(lines), 0.0), "http://127.0.0.1:1")
    assert (found.refused.total, found.errors.total) == (161, 274)


def test_a_label_may_contain_line_separators() -> None:
    read = read_scrape('a{b="x\u2028y\x85z"} 2\n', 0.0)
    assert read.total("a", ("b",)) == {("x\u2028y\x85z",): 2.0}
