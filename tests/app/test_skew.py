"""Skew checks: nothing differs in a healthy project, and each cause is found when it is planted."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shop

from trimtab.app.inspect import skew_sample
from trimtab.app.inspect.skew_report import SkewReport
from trimtab.app.inspect.skew_sample import draw
from trimtab.app.project import Project, open_project
from trimtab.app.serve.skew_watch import SkewWatch
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.expressions import functions
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.features.frames import REASONS
from trimtab.monitoring.signals import standing_signals
from trimtab.serving.observe.metrics import Metrics
from trimtab.store import Put


def ask(project: Project, key: str, model: str = "buyer", **columns: Any) -> str:
    """The id of a new answer."""
    row = shop.visit(key, project.clock.now_us(), **columns)
    return project.predict(model, [row])[0].id


def push(project: Project, level: float, site: str = "north", *, back_us: int = 60_000_000) -> None:
    project.push("readings", [{"site": site, "level": level, "read_at": project.clock.now_us() - back_us}])


def again(project: Project, prediction_id: str, **changed: Any) -> Prediction:
    """Log another prediction, like one that is there but for some fields."""
    found = project.predictions.find(prediction_id)
    other = msgspec.structs.replace(found, id=project.state.prediction_ids(), **changed)
    project.predictions.append([other])
    return other


def changed_value(prediction: Prediction, place: int, value: float) -> bytes:
    values = list(struct.unpack(f"<{len(prediction.values) // 8}d", prediction.values))
    values[place] = value
    return struct.pack(f"<{len(values)}d", *values)


def causes(report: SkewReport, model: str = "buyer") -> dict[str, dict[str, int]]:
    return next(one.causes for one in report.models if one.model == model)


@pytest.fixture
def project(trained: Path) -> Any:
    with shop.opened(trained) as project:
        yield project


@pytest.mark.fast
def test_a_healthy_project_has_no_skew(project: Project) -> None:
    for n in range(6):
        push(project, 10.0 + n, back_us=n * HOUR_US)
        ask(project, f"a{n}")
        ask(project, f"b{n}", "learner", site="south")
        shop.move(project, HOUR_US)
    report = project.skew(sample=None)
    assert (report.rows, report.mismatches, report.is_red) == (12, 0, False)
    assert report.values == 12 * 4
    assert "no value differs for a cause that needs action" in report.lines()
    assert [c.rows for c in project.skew_checks()] == [12]
    assert project.signals() == []
    status = project.status()
    assert "0 values differ" in status.skew["buyer"]
    assert not [line for line in status.red if "skew" in line]


def test_no_prediction_is_no_evidence(project: Project) -> None:
    report = project.skew()
    assert report.is_red
    assert report.lines()[-1].startswith("RED  no prediction was checked")
    assert project.status().skew["buyer"].endswith("there was no prediction to check, so nothing is known")
    with shop.opened(project.config.folder) as other:
        ask(other, "a")
    assert not project.skew().is_red
    shop.move(project, HOUR_US)
    assert project.skew(since=project.clock.now_us()).is_red
    assert "1 prediction, 0 values differ" in project.status().skew["buyer"]  # what was found before still holds


def test_answers_about_the_past_and_of_batches_are_checked_too(project: Project) -> None:
    push(project, 50.0)
    project.predict("buyer", [shop.visit("past", shop.NOW_US)], at=shop.NOW_US - 5 * DAY_US)
    table = shop.Columns.of({
        "visit_id": ("str", ["t1", "t2"]), "site": ("str", ["north", "south"]),
        "at": ("time", [shop.NOW_US - DAY_US] * 2), "x": ("float", [0.1, None]),
    })  # fmt: skip
    project.predict_table("buyer", table)
    project.predict_table("buyer", table, at=shop.NOW_US - HOUR_US, mode="precomputed")
    push(project, 70.0)
    report = project.skew("buyer", sample=None, scores=True)
    assert report.models[0].modes == {"live": 1, "batch": 2, "precomputed": 2}
    assert (report.mismatches, report.models[0].scores) == (0, 5)


def test_makeshift_answers_are_no_evidence(project: Project) -> None:
    push(project, 50.0)
    found = project.predictions.find(ask(project, "a"))
    nothing = bytes([REASONS.index("unavailable")]) * len(found.reasons)
    bare = struct.pack("<4d", *[float("nan")] * 4)
    for flags in (("late", "null_features"), ("features_failed", "last_answer"), ("features_failed", "rule")):
        again(project, found.id, values=bare, reasons=nothing, positions={}, flags=flags)
    report = project.skew(sample=None, scores=True)
    assert (report.rows, report.mismatches, report.is_red) == (1, 0, False)
    again(project, found.id, values=bare, reasons=nothing, flags=("features_failed", "fallback_version"))
    assert project.skew(sample=None).rows == 2  # that version's own answer


def test_a_sample_is_drawn_again_by_its_seed_and_has_some_of_every_model(project: Project) -> None:
    for n in range(30):
        ask(project, f"a{n}")
    ask(project, "rare", "learner")
    first, second = project.skew(sample=8, seed=3), project.skew(sample=8, seed=3)
    assert first.rows == 8
    assert {one.model: one.rows for one in first.models}["learner"] == 1
    assert [m.arms for m in first.models] == [m.arms for m in second.models]
    shop.move(project, DAY_US)
    ask(project, "late")
    assert project.skew(sample=None, since=project.clock.now_us() - HOUR_US).rows == 1


def test_a_sample_of_a_truncated_log_is_as_large_as_asked_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skew_sample, "_FEW", 10)  # else, the whole log would be read
    rows = [shop.visit(f"v{n}", project.clock.now_us()) for n in range(200)]
    project.predict("buyer", rows)
    log = project.state.predictions
    (partition,) = log.positions()
    log.truncate(partition, log.positions()[partition] - 25)
    found = draw(project.predictions, lambda one: True, count=5, after={}, seed=3)
    assert len({one.id for one in found}) == 5
    assert {one.request_id for one in found} <= {f"v{n}" for n in range(175, 200)}


def test_nonsense_is_refused(project: Project) -> None:
    with pytest.raises(Misuse, match="sample=0"):
        project.skew(sample=0)
    with pytest.raises(Misuse, match="sample='5'"):
        project.skew(sample="5")  # type: ignore[arg-type]  # as from a setting
    with pytest.raises(Misuse, match="seed='7'"):
        project.skew(seed="7")  # type: ignore[arg-type]  # as from a setting
    assert project.skew_checks() == []
    with pytest.raises(NotFound, match="nobody"):
        project.skew("nobody")


def test_a_record_that_was_not_applied_yet_is_staleness_and_no_mismatch(project: Project) -> None:
    push(project, 1.0)
    first = ask(project, "a")
    shop.move(project, 1_000)
    push(project, 99.0, back_us=1_000_000)  # in the log, not applied
    shop.move(project, 1_000)
    again(project, first, at_us=project.clock.now_us(), made_at_us=project.clock.now_us())
    report = project.skew("buyer", sample=None)
    assert report.mismatches == 0
    assert report.models[0].stale_rows == 1
    assert any("late_view" in line for line in report.lines())


def test_a_wrong_online_state_is_found(project: Project) -> None:
    push(project, 5.0)
    ask(project, "right")
    kv = project.state.online
    for key, value in list(kv.scan(b"")):
        if struct.pack(">d", 5.0) in value or struct.pack("<d", 5.0) in value:
            bad = value.replace(struct.pack(">d", 5.0), struct.pack(">d", 6.0))
            kv.write({key: bad.replace(struct.pack("<d", 5.0), struct.pack("<d", 6.0))})
    wrong = ask(project, "wrong")
    report = project.skew("buyer", sample=None)
    assert {c for of in causes(report).values() for c in of} == {"unknown"}
    assert "site.level" in causes(report)
    assert report.is_red
    assert report.examples[0].prediction == wrong
    (signal,) = project.signals()
    assert (signal.kind, signal.severity, signal.model) == ("skew", "red", "buyer")
    project.skew("buyer", sample=None)
    assert len(project.signals()) == 1  # nothing new
    assert any("skew" in line and "unknown" in line for line in project.status().red)


def test_a_declared_skew_begins_a_repair(trained: Path) -> None:
    declared = shop.PROJECT.replace('buyer("buyer", batch)', 'buyer("buyer", batch, retrain=tt.on_skew())')
    (trained / "project.py").write_text(declared)
    with shop.opened(trained) as project:
        shop.move(project, 8 * DAY_US)  # the quiet time after the promotion is over
        push(project, 5.0)
        project.tick()
        assert not [one for one in project.ledger() if one.act == "trigger" and one.cause.startswith("Skew")]
        found = project.predictions.find(ask(project, "a"))
        again(project, found.id, values=changed_value(found, 0, 123.0), reasons=found.reasons)
        project.skew("buyer", sample=None)
        (trigger, *_) = project.tick()
        assert trigger.act == "trigger"
        assert trigger.cause.startswith("Skew, cause unknown: ")


def test_a_difference_stands_until_enough_newer_predictions_agree(project: Project) -> None:
    def wrong(name: str) -> None:
        found = project.predictions.find(ask(project, name))
        again(project, found.id, values=changed_value(found, 0, 123.0), reasons=found.reasons)

    def newest(count: int) -> list[str | None]:
        """Ask so many times, and check that; how each signal of skew ended."""
        begin_us = shop.move(project, HOUR_US)
        for n in range(count):
            ask(project, f"{begin_us}-{n}")
        project.skew("buyer", sample=None, since=begin_us)
        return [one.ended_because for one in project.signals()]

    push(project, 5.0)
    wrong("a")
    project.skew("buyer", sample=None)
    (signal,) = standing_signals(project.state.catalog)
    assert (signal.subject, signal.evidence["mismatches"]) == ("cause unknown", 1.0)
    assert len([line for line in project.status().red if "differ when computed again" in line]) == 1
    assert newest(2) == [None]  # of as many values it might have been missed
    assert len([line for line in project.status().red if "differ when computed again" in line]) == 1
    assert newest(1) == [None]
    assert newest(4) == ["newer predictions agree again, or the version no longer makes predictions"]
    assert standing_signals(project.state.catalog) == []
    project.skew("buyer", sample=None)  # the same predictions once more
    assert len(project.signals()) == 1
    shop.move(project, HOUR_US)
    wrong("b")
    project.skew("buyer", sample=None)
    assert [one.ended_at_us is None for one in project.signals()] == [False, True]


def test_a_difference_of_a_version_that_makes_no_predictions_ends_after_a_day(project: Project) -> None:
    push(project, 5.0)
    found = project.predictions.find(ask(project, "a"))
    again(project, found.id, values=changed_value(found, 0, 123.0), reasons=found.reasons)
    project.skew("buyer", sample=None)
    for hours, standing in ((23, 1), (1, 0)):
        now_us = shop.move(project, hours * HOUR_US)
        project.skew("buyer", sample=None, since=now_us)
        assert len(standing_signals(project.state.catalog)) == standing


def test_a_moment_below_what_was_applied_is_the_clock(project: Project) -> None:
    push(project, 5.0)
    first = ask(project, "a")
    again(project, first, at_us=shop.NOW_US - 2 * DAY_US)
    assert {c for of in causes(project.skew("buyer", sample=None)).values() for c in of} == {"clock"}


def test_a_value_that_nothing_explains_is_unknown_and_red(project: Project) -> None:
    push(project, 5.0)
    found = project.predictions.find(ask(project, "a"))
    again(project, found.id, values=changed_value(found, 0, 123.0), reasons=found.reasons)
    report = project.skew("buyer", sample=None)
    assert report.is_red
    assert sum(n for of in causes(report).values() for n in of.values()) == 1
    (example,) = report.examples
    assert (example.used, example.again) == (123.0, 0.5)
    assert f"trimtab why {example.prediction}" in "\n".join(report.lines())


def test_the_log_is_read_twice_at_most(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    push(project, 5.0)
    wrong = again(project, ask(project, "a"), values=changed_value(project.predictions.find(ask(project, "b")), 2, 7.0))
    project.push("readings", [{"site": "north", "level": 6.0, "read_at": wrong.at_us}])  # known at its moment, behind P
    log, count = project.state.events, 0
    read = type(log).read

    def counted(self: Any, partition: str, after: int, *, limit: int = 10_000) -> Any:
        nonlocal count
        found = read(self, partition, after, limit=limit)
        count += len(found) if self is log and limit > 1 else 0
        return found

    monkeypatch.setattr(type(log), "read", counted)
    with shop.opened(project.config.folder) as fresh:
        log = fresh.state.events
        report = fresh.skew("buyer", sample=None)
        assert (report.is_red, report.models[0].rows) == (True, 3)
        assert count == 2 * sum(log.positions().values())
        fresh.skew("buyer", sample=None)  # the history is there
        assert count == 3 * sum(log.positions().values())


def test_an_answer_that_its_version_does_not_give_again_is_found(project: Project) -> None:
    found = project.predictions.find(ask(project, "a"))
    again(project, found.id, score=found.score / 2)
    assert causes(project.skew("buyer", sample=None)) == {}
    assert causes(project.skew("buyer", sample=None, scores=True)) == {"(score)": {"unknown": 1}}


def test_an_erased_event_is_history_that_changed_and_not_red(project: Project) -> None:
    push(project, 5.0)
    ask(project, "a")
    log = project.state.events
    from trimtab.events.records import erased

    log.erase(log.partition, {log.positions()[log.partition]: erased("readings")})
    with shop.opened(project.config.folder, project.clock.now_us() + 1) as fresh:
        report = fresh.skew("buyer", sample=None)
        assert {c for of in causes(report).values() for c in of} == {"history_changed"}
        assert not report.is_red


def test_a_log_that_is_in_tables_alone_is_read_from_them(project: Project) -> None:
    push(project, 1.0)
    first = ask(project, "a")
    shop.move(project, 1_000)
    push(project, 99.0, back_us=1_000_000)  # in the log, not applied
    shop.move(project, 1_000)
    found = again(project, first, at_us=project.clock.now_us())
    again(project, found.id, values=changed_value(found, 2, 7.0), at_us=project.clock.now_us())
    ask(project, "b")
    assert sum(project.retain().truncated.values()) > 0
    with shop.opened(project.config.folder, project.clock.now_us() + 1) as fresh:
        (partition, last), *_ = fresh.state.events.positions().items()
        assert fresh.state.events.read(partition, 0) == []
        report = fresh.skew("buyer", sample=None)
    assert (report.rows, report.mismatches, report.models[0].stale_rows) == (4, 1, 1)
    assert last > 0


def test_somebody_who_was_forgotten_leaves_no_red_skew(project: Project) -> None:
    push(project, 5.0)
    push(project, 6.0, "south")
    ask(project, "a")
    ask(project, "b", site="south")
    shop.move(project, HOUR_US)
    project.forget("site", "north", why="asked to")
    report = project.skew("buyer", sample=None)
    assert not report.is_red
    assert {c for of in causes(report).values() for c in of} <= {"history_changed"}
    assert report.rows >= 1


def test_events_that_retention_removed_explain_only_features_that_look_so_far_back(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path, settings='[retention]\nevents = "25d"\n')
    file = folder / "project.py"
    more = '"level_1d": tt.mean("level", over="1d"), "newest": tt.latest("level"), "ever": tt.count(), '
    more += '"highest": tt.max("level"), "kinds": tt.count_distinct("level", k=16)'
    file.write_text(file.read_text().replace('"level_1d": tt.mean("level", over="1d")', more))
    with shop.opened(folder) as project:
        shop.load(project)
        project.train("buyer")
        push(project, 5.0)
        found = project.predictions.find(ask(project, "a"))
        assert project.retain().expired["readings"] > 0
        names = project.definitions.models["buyer"].features.names
        for name in ("site.level_1d", "site.newest"):
            again(project, found.id, values=changed_value(found, names.index(name), 123.0))
        for name, value in (("site.ever", 1.0), ("site.highest", 0.5), ("site.kinds", 2.0)):
            again(project, found.id, values=changed_value(found, names.index(name), value))
    with shop.opened(folder) as project:
        report = project.skew("buyer", sample=None)
        found_causes = causes(report)
        kinds = found_causes.pop("site.kinds")  # at times the same values came again
        assert kinds["unknown"] == 1
        assert kinds.keys() <= {"unknown", "pruned"}
        assert found_causes.pop("site.highest")["unknown"] == 1
        assert found_causes == {
            # counted online before they went, but for one that is less than what is left
            "site.ever": {"pruned": 5, "unknown": 1},
            "site.level_1d": {"unknown": 1},
            "site.newest": {"unknown": 1},
        }
        (line,) = (line for line in report.lines() if "pruned" in line)
        assert "site.ever 5" in line
        assert line.startswith("    pruned: site.")
        assert "these read events that [retention] has removed since" in line
        assert report.is_red


def test_another_platform_explains_the_last_bits_of_a_logarithm(tmp_path: Path) -> None:
    with edited(tmp_path, 'tt.col("x")', '(tt.col("x") * tt.col("x")).log1p()') as project:
        found = project.predictions.find(ask(project, "a", x=0.7))
        value = struct.unpack("<d", found.values[:8])[0]
        again(project, found.id, values=changed_value(found, 0, value * (1 + 2**-52)))
        assert causes(project.skew("buyer", sample=None)) != {"x": {"platform": 1}}
        as_if_made(project, found.version, lambda e: msgspec.structs.replace(e, cpu="quantum"))
        report = project.skew("buyer", sample=None)
        assert causes(report) == {"x": {"platform": 1}}
        assert not report.is_red
        again(project, found.id, values=changed_value(found, 0, value * 1.01))
        assert "unknown" in causes(project.skew("buyer", sample=None))["x"] or project.skew(sample=None).is_red


def test_a_function_that_is_none_of_its_arguments_alone_is_the_code(tmp_path: Path) -> None:
    impure = "tt.transform(lambda x: x + time.perf_counter(), returns=float)(tt.col('x'))"
    with edited(tmp_path, 'tt.col("x")', impure, before="import time\n") as project:
        ask(project, "a")
        ask(project, "b")
        report = project.skew("buyer", sample=None)
        assert causes(report) == {"x": {"code": 2}}
        assert report.is_red


def test_a_function_that_fails_now_differs_by_its_code(tmp_path: Path) -> None:
    plain = "tt.transform(lambda x: x + 1.5, returns=float)(tt.col('x'))"
    with edited(tmp_path, 'tt.col("x")', plain) as project:
        ask(project, "a")
        known = dict(functions._KNOWN)
        functions._KNOWN.update(dict.fromkeys(known, _failing))  # as if it read a file that is gone
        try:
            report = project.skew("buyer", sample=None)
        finally:
            functions._KNOWN.update(known)
    assert report.is_red
    assert causes(report) == {"x": {"code": 1}}
    (differs,) = report.examples
    assert (differs.used, differs.again, differs.again_reason) == (2.0, None, "failed")


def _failing(x: float) -> float:
    raise ValueError(x)


def test_inputs_that_other_definitions_give_are_the_definition(tmp_path: Path) -> None:
    more = """
other = tt.model(
    "other", request=visit, features=[{"x": tt.col("x") * 2, "site": tt.col("site").category()}, site],
    label=tt.label(sales, key="visit_id", value="bought", wait="2d"), estimator=batch, metric="log_loss")
"""
    with edited(tmp_path, "", "", after=more) as project:
        push(project, 5.0)
        found = project.predictions.find(ask(project, "a", x=0.7))
        again(project, found.id, values=changed_value(found, 0, 1.4))
        assert causes(project.skew("buyer", sample=None)) == {"x": {"definition": 1}}


def test_a_version_is_checked_by_its_own_definitions_whatever_the_project_says_by_now(trained: Path) -> None:
    with shop.opened(trained) as project:
        push(project, 5.0)
        ask(project, "a")
    file = trained / "project.py"
    before = file.read_text()
    file.write_text(before.replace('over="1d"', 'over="2d"'))
    with shop.opened(trained) as project:
        report = project.skew("buyer")
        assert (report.rows, report.mismatches) == (1, 0)
    file.write_text(before.replace('"readings"', '"meters"'))
    with shop.opened(trained) as project:
        report = project.skew("buyer")
        assert report.is_red
        assert "events of readings, which are not declared any more" in "\n".join(report.lines())
        assert any("no prediction could be checked" in line for line in project.status().red)


def test_predictions_that_no_check_looked_at_for_a_day_are_red(project: Project) -> None:
    assert not [line for line in project.status().red if "skew" in line]
    ask(project, "a")
    assert not [line for line in project.status().red if "skew" in line]
    shop.move(project, 2 * DAY_US)
    assert any("not been checked for skew for 2d" in line for line in project.status().red)
    project.skew()
    assert not [line for line in project.status().red if "skew" in line]


def test_a_tick_checks_new_predictions_once_a_day(project: Project) -> None:
    project.tick()
    assert not project.skew_checks()  # nothing was predicted
    ask(project, "a")
    shop.move(project, 1)
    project.tick()
    ask(project, "a")
    project.tick()
    shop.move(project, DAY_US)
    project.tick()
    shop.move(project, 2 * DAY_US)  # with no new prediction
    project.tick()
    assert [(report.by, report.rows) for report in project.skew_checks()] == [("tick", 1), ("tick", 1)]
    assert not [line for line in project.status().red if "skew" in line]


def test_a_service_checks_what_is_new_and_shows_it(project: Project) -> None:
    watch, metrics = SkewWatch(project, every_s=0.0), Metrics()
    watch.show(metrics)
    watch._due_s = 0.0
    assert watch.check() is None  # nothing was predicted
    push(project, 5.0)
    found = project.predictions.find(ask(project, "a"))
    again(project, found.id, values=changed_value(found, 0, 9.0))
    report = watch.check()
    assert report is not None
    assert (report.rows, report.by) == (2, "service")
    watch._due_s = 0.0
    assert watch.check() is None
    text = metrics.text()
    assert "trimtab_skew_checked_total 2" in text
    assert 'trimtab_skew_mismatches_total{feature="buyer:x",cause="' in text
    assert f"trimtab_skew_last_check_timestamp_seconds {report.at_us // 1_000_000}" in text


class edited:  # noqa: N801  # reads as a word in `with`
    """A trained project whose file was changed first."""

    def __init__(self, folder: Path, old: str, new: str, *, before: str = "", after: str = "") -> None:
        self._folder = shop.write_project(folder / "edited")
        file = self._folder / "project.py"
        text = file.read_text()
        file.write_text(before + (text.replace(old, new, 1) if old else text) + after)

    def __enter__(self) -> Project:
        self._project = open_project(self._folder, clock=shop.VirtualClock(shop.NOW_US), environment={})
        shop.load(self._project)
        assert self._project.train("buyer")[-1].act == "promote"
        return self._project

    def __exit__(self, *_: object) -> None:
        self._project.close()


def as_if_made(project: Project, version: str, change: Callable[[Any], Any]) -> None:
    """Write another environment into a version's record."""
    found = project.registry.get(version)
    other = msgspec.structs.replace(found, environment=change(found.environment))
    project.state.catalog.write([Put("version", found.id, msgspec.json.encode(other))])
    project.registry._records._read.clear()
