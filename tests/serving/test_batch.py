"""Batch scoring: the answers that serving would have given, each logged once however often it is resumed."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from processes import eventually
from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.records import Prediction
from trimtab.serving.answer.batch import Manifest, batch_manifest, batch_predictions, score_table
from trimtab.serving.failures import ModelFailed
from trimtab.serving.log.prediction_ids import batch_prediction_ids
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import encode
from trimtab.store.ports import Catalog
from trimtab.store.sqlite.log import SqliteLog

Shop = Any  # from conftest


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made: Catalog = store.open(f"sqlite://{tmp_path}/catalog.db", "catalog")
    yield made
    made.close()


def table_of(rows: list[dict[str, Any]], shop: Shop) -> Columns:
    return Columns.of({name: (dtype, [r[name] for r in rows]) for name, dtype in shop.checkout.columns.items()})


def score(shop: Shop, catalog: Catalog, table: Columns, at_us: Any, **options: Any) -> Manifest:
    options = {"log": shop.log, "scorer": shop.scorer, **options}
    served = options.pop("served", shop.answerer().served)
    return score_table(served, table, at_us, inputs=shop.inputs, catalog=catalog, clock=shop.clock, **options)


def logged(shop: Shop, manifest: Manifest) -> list[Any]:
    return [p for part in batch_predictions(manifest, shop.log) for p in part]


def questions(shop: Shop, count: int) -> tuple[Columns, Any, list[Any]]:
    """Questions that were asked while payments came in, and the live answers to them."""
    rows, live = [], []
    for n in range(count):
        shop.pay(f"u{n % 5}", 0.7 * n, after_s=97.3)
        shop.wait(3)
        rows.append(shop.ask(f"u{n % 7}", id=f"c{n}", basket=None if n % 9 == 0 else 0.3 * n))
        live += shop.endpoint.answer(rows[-1:])
    return table_of(rows, shop), np.array([a.at_us for a in live]), [shop.log.find(a.id) for a in live]


def test_a_batch_answers_as_serving_did(shop: Shop, catalog: Catalog) -> None:
    table, at_us, live = questions(shop, 60)
    seen: list[tuple[int, int]] = []
    manifest = score(shop, catalog, table, at_us, part_rows=25, progress=lambda done, of: seen.append((done, of)))
    batch = logged(shop, manifest)
    assert manifest.complete
    assert seen[-1] == (60, 60)
    assert {*seen} <= {(25, 60), (50, 60), (60, 60)}
    assert [p.request_id for p in batch] == [p.request_id for p in live]
    assert [p.score for p in batch] == [p.score for p in live]
    assert [p.values for p in batch] == [p.values for p in live]
    assert [p.reasons for p in batch] == [p.reasons for p in live]
    assert [p.request for p in batch] == [p.request for p in live]
    assert {p.mode for p in batch} == {"batch"}
    assert shop.log.find(batch[30].id) == batch[30]


def test_scoring_again_adds_nothing(shop: Shop, catalog: Catalog) -> None:
    table, at_us, live = questions(shop, 20)
    first = score(shop, catalog, table, at_us)
    shop.pay("u1", 1e6)
    shop.wait(100)
    assert score(shop, catalog, table, at_us) == first == batch_manifest(catalog, first.id)
    assert len(shop.log.read()[0]) == 20 + len(live)


class _Interrupted(PredictionLog):
    """A log whose process ends before or after an append."""

    def __init__(self, log: PredictionLog, *, appends: int, after: bool) -> None:
        super().__init__(log.log)
        self.left = appends
        self.after = after

    def append_packs(self, packs: Any, *, at_us: Any = None) -> range:
        self.left -= 1
        if self.left < 0 and not self.after:
            raise KeyboardInterrupt
        positions = super().append_packs(packs, at_us=at_us)
        if self.left < 0:
            raise KeyboardInterrupt
        return positions


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("appends", [0, 1, 3])
def test_a_batch_that_was_interrupted_goes_on_where_it_was(
    shop: Shop, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, appends: int, after: bool
) -> None:
    """Also between the append of a part and the word of it in the manifest."""
    monkeypatch.setattr("trimtab.serving.answer.batch._AHEAD", 1)  # so that parts are logged one by one
    table, at_us, live = questions(shop, 40)
    with pytest.raises(KeyboardInterrupt):
        score(shop, catalog, table, at_us, part_rows=10, log=_Interrupted(shop.log, appends=appends, after=after))
    shop.pay("u1", 1e6)  # what came since does not change the rest of the batch
    manifest = score(shop, catalog, table, at_us, part_rows=7)
    batch = logged(shop, manifest)
    assert [p.score for p in batch] == [p.score for p in live]
    assert len({p.id for p in batch}) == 40
    assert len(shop.log.read()[0]) == 80


def test_parts_that_were_logged_together_are_found_again(shop: Shop, catalog: Catalog) -> None:
    """The process ends between their append and the word of them in the manifest."""
    table, at_us, live = questions(shop, 40)
    scored, lengths = threading.Semaphore(0), list[int]()

    class Model:
        def predict(self, matrix: Any) -> Any:
            found = shop.scorer.predict(matrix)
            scored.release(len(matrix))
            return found

    class Log(_Interrupted):
        def append_packs(self, packs: Any, *, at_us: Any = None) -> range:
            if not lengths:
                assert all(scored.acquire(timeout=30) for _ in range(40))  # what is left is scored meanwhile
            lengths.append(len(packs))
            return super().append_packs(packs, at_us=at_us)

    log = Log(shop.log, appends=1, after=True)
    with pytest.raises(KeyboardInterrupt):
        score(shop, catalog, table, at_us, part_rows=10, log=log, scorer=Model())
    assert lengths == [1, 3]
    manifest = score(shop, catalog, table, at_us, part_rows=10)
    assert [p.score for p in logged(shop, manifest)] == [p.score for p in live]
    assert len(shop.log.read()[0]) == 80


def test_a_part_is_logged_once_though_the_clock_was_set_back_in_between(shop: Shop, catalog: Catalog) -> None:
    """Two processes die between the append of a part and the word of it, the second one an hour before the first."""
    table, at_us, live = questions(shop, 30)
    asked_us = shop.clock.now_us()
    shop.wait(3_600)
    with pytest.raises(KeyboardInterrupt):
        score(shop, catalog, table, at_us, part_rows=10, log=_Interrupted(shop.log, appends=0, after=True))
    shop.clock = VirtualClock(asked_us)
    with SqliteLog(shop.log.log.directory, mode="relaxed", clock=shop.clock) as store_of_other:
        other = PredictionLog(store_of_other)
        with pytest.raises(KeyboardInterrupt):
            score(shop, catalog, table, at_us, part_rows=10, log=_Interrupted(other, appends=0, after=True))
        manifest = score(shop, catalog, table, at_us, part_rows=10, log=other)
        batch = [p for part in batch_predictions(manifest, other) for p in part]
        assert [p.score for p in batch] == [p.score for p in live]
        assert [other.find(p.id) for p in batch] == batch
        assert len(other.read()[0]) == 30 + len(live)


def test_a_name_belongs_to_one_table_and_version(shop: Shop, catalog: Catalog) -> None:
    table, at_us, _ = questions(shop, 5)
    score(shop, catalog, table, at_us, batch_id="monday")
    with pytest.raises(Conflict, match="another table"):
        score(shop, catalog, table.take(slice(0, 4)), at_us[:4], batch_id="monday")
    with pytest.raises(Conflict, match="another version"):
        score(shop, catalog, table, at_us, batch_id="monday", served=shop.answerer(number=2).served)


def test_a_batch_is_scored_by_one_process_at_a_time(shop: Shop, catalog: Catalog) -> None:
    table, at_us, _ = questions(shop, 5)
    assert catalog.acquire("batch/monday", "another process", 60.0)
    with pytest.raises(Conflict, match="another process"):
        score(shop, catalog, table, at_us, batch_id="monday")
    catalog.release("batch/monday", "another process")
    assert score(shop, catalog, table, at_us, batch_id="monday").complete


def test_a_paused_process_logs_nothing_after_another_finished_the_batch(shop: Shop, catalog: Catalog) -> None:
    """Its lease ran out after the first part, and is free again by the time it goes on."""
    table, at_us, live = questions(shop, 20)

    def stand_still(done: int, of: int) -> None:
        catalog.release("batch/monday", "one")
        assert score(shop, catalog, table, at_us, batch_id="monday", holder="another").complete

    with pytest.raises(Conflict, match=r"paused for .* run the batch again"):
        score(shop, catalog, table, at_us, part_rows=6, batch_id="monday", holder="one", progress=stand_still)
    assert len(shop.log.read()[0]) == 20 + len(live)


def test_a_paused_process_finds_the_part_that_a_killed_one_appended(
    shop: Shop, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest did not hear of the part, and says nothing of who had the lease."""
    monkeypatch.setattr("trimtab.serving.answer.batch.LEASE_S", 0.1)
    table, at_us, live = questions(shop, 20)

    def stand_still(done: int, of: int) -> None:
        if done == 6:
            catalog.release("batch/monday", "one")
            time.sleep(0.15)
            with pytest.raises(KeyboardInterrupt):
                score(
                    shop, catalog, table, at_us, batch_id="monday", holder="another",
                    log=_Interrupted(shop.log, appends=0, after=True),
                )  # fmt: skip

    manifest = score(shop, catalog, table, at_us, part_rows=6, batch_id="monday", holder="one", progress=stand_still)
    assert manifest.complete
    assert [p.score for p in logged(shop, manifest)] == [p.score for p in live]
    assert len(shop.log.read()[0]) == 20 + len(live)


@pytest.mark.parametrize("slow", ["model", "disk", "features"])
def test_the_lease_is_kept_while_something_is_slow(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """It runs out by the test's clock: after three moves of it without a renewal."""
    monkeypatch.setattr("trimtab.serving.answer.batch.LEASE_S", 0.3)
    clock, kept, taken = VirtualClock(0), [], []

    def take_long() -> None:
        for _ in range(6):
            clock.advance_to(clock.now_us() + 100_000)
            seen = len(kept)
            eventually(lambda seen=seen: len(kept) >= seen + 2)  # the first of them may have begun before
        taken.append(acquire("batch/monday", "another process", 60.0))

    def slowly(name: str, step: Any) -> Any:
        def slow_step(*given: Any, **more: Any) -> Any:
            take_long()
            return step(*given, **more)

        return slow_step if slow == name else step

    class Model:
        predict = staticmethod(slowly("model", shop.scorer.predict))

    table, at_us, live = questions(shop, 5)
    monkeypatch.setattr(shop.log, "append_packs", slowly("disk", shop.log.append_packs))
    monkeypatch.setattr(shop.inputs, "compute", slowly("features", shop.inputs.compute))
    catalog = store.open(f"sqlite://{tmp_path}/leases.db", "catalog", clock=clock)
    acquire = catalog.acquire

    def counted(lease: str, holder: str, ttl_s: float) -> bool:
        held = acquire(lease, holder, ttl_s)
        kept.append(held)
        return held

    monkeypatch.setattr(catalog, "acquire", counted)
    manifest = score(shop, catalog, table, at_us, batch_id="monday", scorer=Model())
    assert taken == [False]
    assert [p.score for p in logged(shop, manifest)] == [p.score for p in live]
    assert len(shop.log.read()[0]) == 5 + len(live)
    catalog.close()


class _Stalled(PredictionLog):
    """A log whose first append waits for `go`."""

    def __init__(self, log: PredictionLog, *, interrupts: int) -> None:
        super().__init__(log.log)
        self.left = interrupts
        self.stalls, self.go = threading.Event(), threading.Event()

    def append_packs(self, packs: Any, *, at_us: Any = None) -> range:
        if not self.stalls.is_set():
            self.stalls.set()
            assert self.go.wait(30)
        return super().append_packs(packs, at_us=at_us)

    def wait(self, ends: Any, timeout: float) -> Any:
        """Wait for something, until Ctrl-C, because the append hangs."""
        if self.left and self.stalls.is_set():
            self.left -= 1
            raise KeyboardInterrupt
        return wait(ends, min(timeout, 0.01 if self.left else timeout))


def scores_once(shop: Shop, log: _Stalled) -> Any:
    """A model that has its second part scored once the first one is being appended."""

    class Model:
        calls = 0

        def predict(self, matrix: Any) -> Any:
            self.calls += 1
            assert self.calls == 1 or log.stalls.wait(30)
            return shop.scorer.predict(matrix)

    return Model()


class _InterruptedThreads(ThreadPoolExecutor):
    """Threads whose end cannot be waited for, as Ctrl-C is pressed again and again."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        raise KeyboardInterrupt


def test_a_batch_is_not_resumed_while_a_part_may_still_be_logged(
    shop: Shop, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was ended twice while the disk stood still."""
    table, at_us, live = questions(shop, 30)
    log = _Stalled(shop.log, interrupts=2)
    scorer = scores_once(shop, log)
    with monkeypatch.context() as patch:
        patch.setattr("trimtab.serving.answer.batch.ThreadPoolExecutor", _InterruptedThreads)
        patch.setattr("trimtab.serving.answer.batch.wait", log.wait)
        with pytest.raises(KeyboardInterrupt):
            score(shop, catalog, table, at_us, log=log, scorer=scorer, part_rows=10, batch_id="monday", holder="one")
    with pytest.raises(Conflict, match="another process is scoring this batch"):
        score(shop, catalog, table, at_us, batch_id="monday")
    log.go.set()
    eventually(lambda: len(shop.log.read()[0]) == 10 + len(live))
    catalog.release("batch/monday", "one")  # as if it had run out
    manifest = score(shop, catalog, table, at_us, batch_id="monday")
    assert [p.score for p in logged(shop, manifest)] == [p.score for p in live]
    assert len(shop.log.read()[0]) == 30 + len(live)


def test_an_interrupted_batch_keeps_its_lease_until_its_part_is_logged(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first Ctrl-C waits for a slow disk."""
    monkeypatch.setattr("trimtab.serving.answer.batch.LEASE_S", 0.3)
    clock, kept = VirtualClock(0), []
    catalog = store.open(f"sqlite://{tmp_path}/leases.db", "catalog", clock=clock)
    acquire = catalog.acquire
    table, at_us, live = questions(shop, 30)
    log = _Stalled(shop.log, interrupts=1)
    scorer = scores_once(shop, log)

    def counted(lease: str, holder: str, ttl_s: float) -> bool:
        kept.append(acquire(lease, holder, ttl_s))
        return kept[-1]

    def ended() -> None:
        eventually(lambda: not log.left)
        for _ in range(6):
            clock.advance_to(clock.now_us() + 100_000)
            seen = len(kept)
            eventually(lambda seen=seen: len(kept) >= seen + 2)
        taken.append(acquire("batch/monday", "another process", 60.0))

    taken: list[bool] = []
    monkeypatch.setattr(catalog, "acquire", counted)
    monkeypatch.setattr("trimtab.serving.answer.batch.wait", log.wait)
    with ThreadPoolExecutor(1) as other:
        watching = other.submit(ended)
        watching.add_done_callback(lambda _: log.go.set())
        with pytest.raises(KeyboardInterrupt):
            score(shop, catalog, table, at_us, log=log, scorer=scorer, part_rows=10, batch_id="monday")
        watching.result()
    assert taken == [False]
    assert len(shop.log.read()[0]) == 10 + len(live)
    assert score(shop, catalog, table, at_us, batch_id="monday").complete  # it is free again
    assert len(shop.log.read()[0]) == 30 + len(live)
    catalog.close()


def test_a_process_paused_before_an_append_checks_whether_another_made_it(
    shop: Shop, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was stopped between the last look at its lease and the append, for longer than the lease lasts."""
    table, at_us, live = questions(shop, 20)
    now_s = [0.0]

    class Stopped(ThreadPoolExecutor):
        def submit(self, step: Any, /, *given: Any, **more: Any) -> Any:
            if step.__name__ == "append" and not now_s[0]:
                now_s[0] = 70.0
                catalog.release("batch/monday", "one")
                with pytest.raises(KeyboardInterrupt):
                    score(
                        shop, catalog, table, at_us, batch_id="monday", holder="another",
                        log=_Interrupted(shop.log, appends=0, after=True),
                    )  # fmt: skip
            return super().submit(step, *given, **more)

    monkeypatch.setattr("trimtab.serving.answer.batch.monotonic", lambda: now_s[0])
    monkeypatch.setattr("trimtab.serving.answer.batch.ThreadPoolExecutor", Stopped)
    manifest = score(shop, catalog, table, at_us, part_rows=6, batch_id="monday", holder="one")
    assert [p.score for p in logged(shop, manifest)] == [p.score for p in live]
    assert len(shop.log.read()[0]) == 20 + len(live)


def test_a_batch_goes_on_and_can_be_asked_for_after_the_clock_was_set_back(
    shop: Shop, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.serving.answer.batch._AHEAD", 1)  # so that parts are logged one by one
    table, at_us, live = questions(shop, 20)
    begun_us = shop.clock.now_us()
    at_us[-1] = begun_us
    with pytest.raises(KeyboardInterrupt):
        score(shop, catalog, table, at_us, part_rows=10, log=_Interrupted(shop.log, appends=1, after=False))
    shop.clock = VirtualClock(begun_us - 3_600_000_000)
    for _ in range(2):
        manifest = score(shop, catalog, table, at_us)
        assert [p.score for p in logged(shop, manifest)][:-1] == [p.score for p in live][:-1]
        assert len(shop.log.read()[0]) == 20 + len(live)
    at_us[-1] = begun_us + 1
    with pytest.raises(Misuse, match=r"time of row 19, .*, is in the future"):
        score(shop, catalog, table, at_us, batch_id=manifest.id)


def test_parts_that_stand_together_in_the_log_are_one_in_the_manifest(
    shop: Shop, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are still read as many at once as they were scored; what was logged between two of them parts them."""
    monkeypatch.setattr("trimtab.serving.answer.batch._AHEAD", 1)  # so that parts are logged one by one
    table, at_us, live = questions(shop, 40)

    def answer_another(done: int, of: int) -> None:
        if done == 12:
            shop.endpoint.answer([shop.ask("ann", id="between")])

    manifest = score(shop, catalog, table, at_us, part_rows=6, progress=answer_another)
    assert [part.rows for part in manifest.parts] == [12, 28]
    assert manifest == batch_manifest(catalog, manifest.id)
    assert [len(part) for part in batch_predictions(manifest, shop.log)][:2] == [6, 6]
    assert [p.score for p in logged(shop, manifest)] == [p.score for p in live]
    alone = score(shop, catalog, table, at_us, part_rows=6, batch_id="alone")
    ((partition, last),) = shop.log.log.positions().items()
    assert [(part.partition, part.first, part.rows) for part in alone.parts] == [(partition, last - 39, 40)]
    assert [len(part) for part in batch_predictions(alone, shop.log)] == [6, 6, 6, 6, 6, 6, 4]


def raises(scores: Any) -> Any:
    raise ZeroDivisionError("by nothing")


def no_number(scores: Any) -> Any:
    return np.where(np.arange(len(scores)) == 3, np.inf, scores)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (raises, "the model raised ZeroDivisionError: by nothing"),
        (no_number, "the model gave no finite number for row 15."),
        (lambda scores: scores[1:], r"the model gave scores of shape \(5,\), needed \(6,\)"),
        (lambda scores: scores.astype(str), "the model gave no finite number."),
    ],
)
def test_a_part_that_cannot_be_scored_leaves_those_before_it_logged(
    shop: Shop, catalog: Catalog, spoil: Any, said: str
) -> None:
    table, at_us, live = questions(shop, 20)

    class Failing:
        calls = 0

        def predict(self, matrix: Any) -> Any:
            self.calls += 1
            scores = shop.scorer.predict(matrix)
            return spoil(scores) if self.calls > 2 else scores

    with pytest.raises(ModelFailed, match=said):
        score(shop, catalog, table, at_us, part_rows=6, batch_id="monday", scorer=Failing())
    begun = batch_manifest(catalog, "monday")
    assert begun is not None
    assert [p.score for p in logged(shop, begun)] == [p.score for p in live[:12]]
    assert [p.score for p in logged(shop, score(shop, catalog, table, at_us, batch_id="monday"))] == [
        p.score for p in live
    ]
    assert len(shop.log.read()[0]) == 20 + len(live)


@pytest.mark.parametrize("classes", [(), ("none", "some", "all")])
def test_the_log_holds_what_the_predictions_written_one_by_one_would_be(
    shop: Shop, catalog: Catalog, classes: tuple[str, ...]
) -> None:
    """Byte for byte, across parts, with nulls in the requests and in the features."""
    table, at_us, _ = questions(shop, 50)
    before = shop.log.log.positions()

    class Scorer:
        def predict(self, matrix: Any) -> Any:
            scores = shop.scorer.predict(matrix)
            return np.column_stack([scores, -scores, scores % 1.0]) if classes else scores

    served = msgspec.structs.replace(shop.answerer().served, classes=classes)
    manifest = score(shop, catalog, table, at_us, scorer=Scorer(), served=served, part_rows=17)
    matrix, reasons = shop.inputs.compute(table, at_us, shop.snapshot(None)[0])
    expected = []
    for n, row in enumerate(table.to_rows()):
        scores = Scorer().predict(matrix[n : n + 1])[0]
        made = Prediction(
            id=batch_prediction_ids(manifest.id, manifest.made_at_us, range(n, n + 1))[0],
            request_id=row["id"],
            model=served.model,
            version=served.version,
            arm=served.arm,
            mode="batch",
            made_at_us=manifest.made_at_us,
            at_us=int(at_us[n]),
            positions=manifest.positions,
            score=float(np.max(scores)),
            request=msgspec.msgpack.encode(list(row.values())),
            values=b"".join(struct.pack("<d", value) for value in matrix[n]),
            reasons=bytes(reasons[n].tolist()),
            scores={name: float(of_class) for name, of_class in zip(classes, scores, strict=True)} if classes else None,
        )
        expected.append(encode(made))
    ((partition, after),) = before.items()
    assert [record.payload for record in shop.log.log.read(partition, after)] == expected


def test_one_time_for_all_rows(shop: Shop, catalog: Catalog) -> None:
    shop.pay("ann", 10.0)
    shop.wait(1)
    table = table_of([shop.ask(id="a"), shop.ask("bob", id="b")], shop)
    manifest = score(shop, catalog, table, shop.clock.now_us(), mode="precomputed")
    live = shop.endpoint.answer([shop.ask(id="a"), shop.ask("bob", id="b")])
    batch = logged(shop, manifest)
    assert [p.score for p in batch] == [a.score for a in live]
    assert {p.mode for p in batch} == {"precomputed"}


def test_an_empty_table_is_a_finished_batch(shop: Shop, catalog: Catalog) -> None:
    shop.pay("ann", 1.0)
    assert score(shop, catalog, table_of([], shop), 0).complete


def test_a_table_that_is_not_as_declared_is_refused(shop: Shop, catalog: Catalog) -> None:
    shop.pay("ann", 1.0)
    table = table_of([shop.ask()], shop)
    at_us = shop.clock.now_us()
    cases: list[tuple[Columns, Any, str]] = [
        (table.select(["id", "user"]), at_us, "'basket' of float"),
        (
            Columns.of({"basket": ("str", ["1"])}).replace({n: table[n] for n in ("id", "user", "kind", "at")}),
            0,
            "must be float",
        ),
        (table.replace({"more": table["basket"]}), at_us, "'more' is not declared"),
        (table, np.zeros(2, np.int64), "1 rows, but 2 times"),
        (table_of([shop.ask(id=None)], shop), at_us, "row 0 has no 'id'"),
        (table, at_us + 1, "in the future"),
    ]
    for wrong, moments, message in cases:
        with pytest.raises(Misuse, match=message):
            score(shop, catalog, wrong, moments)
    assert shop.log.read()[0] == []
