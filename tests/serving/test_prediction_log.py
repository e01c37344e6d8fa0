"""The prediction log keeps what was answered, finds it by its id, and names what is damaged."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.clock import SystemClock, VirtualClock
from trimtab.core.columns.packs import packed_rows, unpack
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.records import Prediction
from trimtab.serving.log.prediction_ids import PredictionIds, batch_prediction_ids, id_time_us
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import (
    CLASSES,
    ERASED,
    FORMAT,
    decode,
    encode,
    pack_all,
    payload_writer,
    prediction_columns,
)
from trimtab.store.sqlite.log import SqliteLog
from trimtab.testing import MemoryLog
from trimtab.testing.builders import a_prediction

HOUR_US = 3_600_000_000


def prediction(prediction_id: str, **changes: object) -> Prediction:
    made = a_prediction(
        id=prediction_id,
        request_id="r1",
        model="late",
        version="a" * 64,
        made_at_us=5,
        at_us=4,
        positions={"p0001": 7},
        score=0.25,
        request=msgspec.msgpack.encode(["r1", 4]),
        values=np.array([1.5, np.nan]).astype("<f8").tobytes(),
        reasons=bytes([0, 4]),
    )
    return msgspec.structs.replace(made, **changes)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    with SqliteLog(tmp_path, mode="relaxed") as store:
        yield PredictionLog(store)


@pytest.mark.fast
@given(
    st.builds(
        prediction,
        st.text(max_size=300),
        request_id=st.text(max_size=300),
        model=st.text(max_size=40),
        version=st.text(max_size=70),
        arm=st.text(max_size=40),
        made_at_us=st.integers(-(2**62), 2**62),
        at_us=st.integers(-(2**62), 2**62),
        positions=st.dictionaries(st.text(max_size=5), st.integers(0, 2**62), max_size=40),
        score=st.floats(),
        request=st.binary(max_size=300),
        values=st.binary(max_size=300),
        reasons=st.binary(max_size=300),
    ),
    st.lists(st.sampled_from(Prediction.__struct_fields__[:-1]), unique=True),
)
def test_a_payload_is_the_same_however_it_is_written(made: Prediction, given: list[str]) -> None:
    fields = msgspec.structs.asdict(made)
    write = payload_writer(given, {name: value for name, value in fields.items() if name not in (*given, "scores")})
    assert write(*(fields[name] for name in given)) == encode(made)


@pytest.mark.fast
@given(
    st.builds(
        prediction,
        st.text(max_size=40),
        request_id=st.text(),
        score=st.floats(allow_nan=False),
        positions=st.dictionaries(st.text(max_size=5), st.integers(0, 2**62)),
        mode=st.sampled_from(["live", "batch", "precomputed", "online", "replay"]),
        at_us=st.integers(-(2**62), 2**62),
        values=st.binary(),
        flags=st.lists(st.text()).map(tuple),
    )
)
def test_a_prediction_survives_the_log(made: Prediction) -> None:
    assert decode(encode(made), "p", 1) == made


def test_every_field_of_a_prediction_is_stored() -> None:
    one = encode(prediction("p_1", flags=("x",)))
    assert len(msgspec.msgpack.decode(one[1:])) == len(Prediction.__struct_fields__) - 1  # all but `scores`
    assert decode(one, "p", 1).flags == ("x",)


@pytest.mark.fast
def test_scores_of_several_classes_are_stored_in_a_format_of_their_own_and_old_records_stay_as_they_were() -> None:
    plain = prediction("p_1")
    several = msgspec.structs.replace(plain, scores={"on_time": 0.25, "late": 0.75})
    assert (encode(plain)[:1], encode(several)[:1]) == (FORMAT, CLASSES)
    assert decode(encode(several), "p", 1) == several
    assert several.prediction == "late"
    assert plain.prediction is None
    found = prediction_columns([several, plain], ["on_time", "late", "cancelled"])
    assert found["scores.cancelled"].to_list() == [None, None]
    assert found["prediction"].to_list() == ["late", None]
    # what an earlier trimtab wrote, byte for byte
    old = bytes.fromhex(
        "019ea161a162a46c617465a176a86368616d70696f6ea46c697665010281a17803cb3fd0000000000000c40172c40176c4010091a470617374"
    )
    read = decode(old, "p", 1)
    assert (read.id, read.score, read.flags, read.scores) == ("a", 0.25, ("past",), None)
    assert encode(read) == old


@st.composite
def columns(draw: st.DrawFn) -> dict[str, list[object]]:
    """Some fields of a few predictions, and always their identifiers."""
    of_field: dict[str, st.SearchStrategy[object]] = {
        "request_id": st.text(),
        "mode": st.sampled_from(["live", "batch"]),
        "at_us": st.integers(-(2**63), 2**63 - 1),
        "positions": st.dictionaries(st.text(max_size=3), st.integers(0, 2**62), max_size=2),
        "score": st.floats(allow_nan=False),
        "values": st.binary(max_size=300),
        "flags": st.lists(st.text(max_size=3), max_size=2).map(tuple),
        "scores": st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=3),
    }
    names = draw(st.sets(st.sampled_from(sorted(of_field))))
    count = draw(st.integers(0, 4))
    made = {name: draw(st.lists(of_field[name], min_size=count, max_size=count)) for name in sorted(names)}
    return made | {"id": [f"p_{n}" for n in range(count)]}


@pytest.mark.fast
@given(columns(), st.sampled_from([None, {"late": 0.5}]), st.sampled_from([(), ("id", "score", "at_us")]))
def test_predictions_that_are_encoded_together_have_the_bytes_of_each_alone(
    given_columns: dict[str, list[object]], scores: dict[str, float] | None, arrays: tuple[str, ...]
) -> None:
    common = prediction("p", scores=scores)
    each = [
        encode(msgspec.structs.replace(common, **dict(zip(given_columns, row, strict=True))))
        for row in zip(*given_columns.values(), strict=True)
    ]
    kinds = {"id": "S", "score": float, "at_us": np.int64}
    as_arrays = {name: np.array(given_columns[name], kinds[name]) for name in arrays if name in given_columns}
    assert unpack(pack_all(common, given_columns | as_arrays)) == each


@pytest.mark.fast
@pytest.mark.parametrize("width", [1, 3, 31, 32, 300])
def test_a_matrix_is_a_column_of_bytes(width: int) -> None:
    matrix, numbers = np.arange(2 * width, dtype=np.uint8).reshape(2, -1), np.arange(2.0 * width).reshape(2, -1)
    packed = pack_all(prediction("p"), {"reasons": matrix, "values": numbers, "at_us": np.array([5, 1 << 40])})
    each = [
        prediction("p", reasons=bytes(row), values=more.tobytes(), at_us=at_us)
        for row, more, at_us in zip(matrix, numbers, (5, 1 << 40), strict=True)
    ]
    assert unpack(packed) == [encode(one) for one in each]
    assert packed_rows(packed) == 2


@pytest.mark.fast
@pytest.mark.parametrize("wrong", [{}, {"id": ["a"], "score": []}, {"identifier": ["a"]}])
def test_columns_that_make_no_predictions_are_refused(wrong: dict[str, list[object]]) -> None:
    with pytest.raises(Misuse, match="predictions: found columns"):
        pack_all(prediction("p"), wrong)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x03abc", CLASSES, FORMAT, FORMAT + b"\x93\x01\x02\x03", FORMAT + b"\xc1", FORMAT + b"\x9d\xa1\xff"],
)
def test_damage_and_unknown_formats_are_named(payload: bytes) -> None:
    with pytest.raises(Corrupt, match="prediction log, p0001 at 9"):
        decode(payload, "p0001", 9)


def test_predictions_are_read_on_from_where_the_reader_stopped(
    log: PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.serving.log.prediction_log._BLOCK", 15)
    ids = PredictionIds(SystemClock())
    made = [prediction(ids()) for _ in range(25)]
    log.append(made[:20])
    (first, begun), (second, reached) = log.blocks()
    assert (len(first), len(second)) == (15, 5)
    assert next(log.blocks(begun))[0] == second
    log.append(made[20:])
    ((third, reached),) = log.blocks(reached)
    assert [*first, *second, *third] == made
    assert list(log.blocks(reached)) == []
    assert [p for block in log.scan() for p in block] == made


def test_partitions_are_read_in_the_order_of_appending(tmp_path: Path) -> None:
    clock = VirtualClock(0)
    with SqliteLog(tmp_path, clock=clock) as a, SqliteLog(tmp_path, clock=clock) as b:
        ids = PredictionIds(clock)
        made = []
        for n in range(10):
            clock.advance_to(n * 1_000)
            made.append(prediction(ids()))
            PredictionLog(b if n % 3 else a).append(made[-1:])
        assert [p for block in PredictionLog(a).scan() for p in block] == made
        assert [PredictionLog(b).find(p.id) for p in made] == made


@given(
    st.lists(st.tuples(st.integers(0, 5_000_000), st.integers(1, 4)), min_size=1, max_size=30),
    st.integers(0, 2_000_000),
)
def test_a_prediction_is_found_by_its_id(steps: list[tuple[int, int]], delay_us: int) -> None:
    """Also when its append comes long after it was made, and many share a time."""
    clock = VirtualClock(1_700_000_000_000_000)
    store = MemoryLog(clock=clock)
    log, ids, made = PredictionLog(store), PredictionIds(clock, seed=1), []
    for step_us, count in steps:
        clock.advance_to(clock.now_us() + step_us)
        block = [prediction(ids()) for _ in range(count)]
        clock.advance_to(clock.now_us() + delay_us)
        log.append(block)
        made += block
    assert [log.find(p.id) for p in made] == made
    unknown = [PredictionIds(clock, seed=2)() for _ in range(3)]
    assert [log.get(one) for one in unknown] == [None] * 3


def test_a_batch_of_yesterday_is_found_although_it_is_logged_today(log: PredictionLog) -> None:
    made_at_us = SystemClock().now_us() - 24 * HOUR_US
    ids = batch_prediction_ids("b", made_at_us, range(3))
    log.append([prediction(one) for one in ids])
    assert log.find(ids[1]).id == ids[1]


@pytest.mark.parametrize("unknown", ["", "p_", "x", "p_" + "u" * 26, "q_" + "0" * 26, "p_" + "z" * 26])
def test_an_id_that_is_none_is_not_found(log: PredictionLog, unknown: str) -> None:
    log.append([prediction(PredictionIds(SystemClock())())])
    with pytest.raises(NotFound, match="prediction"):
        log.find(unknown)


def test_predictions_become_columns() -> None:
    made = [prediction("a"), prediction("b", score=0.5, values=np.array([2.0, 3.0]).tobytes(), reasons=bytes([255, 1]))]
    table = prediction_columns(made)
    assert table["score"].to_list() == [0.25, 0.5]
    assert table["at"].dtype == "time"


@pytest.mark.fast
def test_ids_increase_also_when_the_clock_is_set_back() -> None:
    class Jumping:
        times = iter([5_000, 9_000, 1_000, 9_000, 10_000])

        def now_us(self) -> int:
            return next(self.times)

    ids = PredictionIds(Jumping(), seed=3)
    made = [ids() for _ in range(5)]
    assert made == sorted(set(made))
    assert [id_time_us(one) for one in made] == [5_000, 9_000, 9_000, 9_000, 10_000]


def test_threads_never_get_the_same_id() -> None:
    ids = PredictionIds(SystemClock())
    made: list[list[str]] = [[] for _ in range(4)]

    def make(mine: list[str]) -> None:
        mine += [ids() for _ in range(5_000)]

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for mine in made for one in mine}) == 20_000


def test_ids_look_like_those_of_core() -> None:
    from trimtab.core.ids import TimeIds

    clock = VirtualClock(1_700_000_000_123_000)
    ours, core = PredictionIds(clock, seed=1)(), TimeIds(clock, seed=1)("p")
    assert len(ours) == len(core)
    assert ours[:12] == core[:12]
    assert id_time_us(core) == clock.now_us()


def test_batch_ids_are_the_same_again_and_differ_between_batches() -> None:
    ids = batch_prediction_ids("a", 5_000, range(3_000))
    assert ids == sorted(set(ids))
    assert ids[1_000:] == batch_prediction_ids("a", 5_000, range(1_000, 3_000))
    assert not set(ids) & set(batch_prediction_ids("b", 5_000, range(3_000)))


@pytest.mark.fast
@given(st.integers(0, 2**40 - 5_000), st.integers(0, 3_000))
def test_a_batch_id_ends_with_the_number_of_its_row(first: int, rows: int) -> None:
    made = batch_prediction_ids("a", 5_000, range(first, first + rows))
    letters = "0123456789abcdefghjkmnpqrstvwxyz"
    assert len({one[:-8] for one in made}) == min(rows, 1)
    for n in {0, rows // 2, rows - 1} & set(range(rows)):
        assert sum(letters.index(letter) << 5 * place for place, letter in enumerate(made[n][:-9:-1])) == first + n


def test_a_block_is_logged_by_one_append() -> None:
    """So a prediction costs microseconds: `make bench ARGS=log_append` says how many."""
    sizes = []

    class Counted(MemoryLog):
        def append(self, payloads: Sequence[bytes], *, at_us: Any = None) -> range:
            sizes.append(len(payloads))
            return super().append(payloads, at_us=at_us)

    ids = PredictionIds(SystemClock())
    PredictionLog(Counted()).append([prediction(ids()) for _ in range(1_000)])
    assert sizes == [1_000]


def test_a_log_that_is_written_to_all_the_time_is_read_to_an_end() -> None:
    """A tick under load never came to its end: there was always something new."""

    class Busy(MemoryLog):
        def read(self, partition: str, after: int, *, limit: int = 10_000) -> Any:
            assert len(made) < 100
            made.append(ids())
            found = super().read(partition, after, limit=limit)
            self.append([encode(prediction(made[-1]))])
            return found

    ids, made = PredictionIds(SystemClock(), seed=1), list[str]()
    log = PredictionLog(Busy(clock=SystemClock()))
    log.append([prediction(first := ids())])
    seen: dict[str, int] = {}
    for block, reached in log.blocks():
        assert block[0].id == first
        seen = reached
    assert [p.id for p, *_ in log.scan(seen)] == made[:1]


@given(st.data())
def test_of_one_model_the_same_is_read_as_of_all(data: st.DataObject) -> None:
    """Also where requests of others name it, where much was erased or is of several classes, and from anywhere."""
    clock = VirtualClock(1_700_000_000_000_000)
    store = MemoryLog(clock=clock)
    log, ids = PredictionLog(store), PredictionIds(clock, seed=1)
    rows = data.draw(st.integers(0, 40))
    for _ in range(rows):
        changes: dict[str, Any] = {
            "model": data.draw(st.sampled_from(["buyer", "buy", "learner"])),
            "request_id": data.draw(st.sampled_from(["buyer", "r1"])),
            "scores": data.draw(st.sampled_from([None, {"a": 0.25, "b": 0.75}])),
        }
        (place,) = log.append([prediction(ids(), **changes)])
        if data.draw(st.booleans()):
            store.erase(store.partition, {place: ERASED})
    after = {store.partition: data.draw(st.integers(0, rows))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimtab.serving.log.prediction_log._BLOCK", data.draw(st.integers(1, 7)))
        mine = list(log.blocks(after, model="buyer"))
        assert [p for block, _ in mine for p in block] == [p for b in log.scan(after) for p in b if p.model == "buyer"]
        if after[store.partition] < rows:
            assert mine[-1][1] == log.log.positions()


def test_a_prediction_of_another_model_is_not_decoded(log: PredictionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what a busy log's readers do would be that."""
    ids, decoded = PredictionIds(SystemClock()), list[bytes]()
    log.append([prediction(ids(), model=model) for model in ("buyer", "learner") * 5])

    def counted(payload: bytes, *place: Any) -> Prediction:
        decoded.append(payload)
        return decode(payload, *place)

    monkeypatch.setattr("trimtab.serving.log.prediction_log.decode", counted)
    ((block, _),) = log.blocks(model="buyer")
    assert len(block) == len(decoded) == 5


def test_a_format_of_a_later_trimtab_is_named_also_where_one_model_is_read(log: PredictionLog) -> None:
    log.append_payloads([b"\x07of another day"])
    with pytest.raises(Corrupt, match="format 07"):
        list(log.blocks(model="buyer"))


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_partitions_stay_in_the_order_of_appending_over_blocks(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker has answered ten times as often as another: what was answered last stays the last."""
    monkeypatch.setattr("trimtab.serving.log.prediction_log._BLOCK", block)
    clock = VirtualClock(0)
    with SqliteLog(tmp_path, clock=clock) as a, SqliteLog(tmp_path, clock=clock) as b:
        ids, made = PredictionIds(clock), list[Prediction]()
        for n in range(60):
            clock.advance_to(n * 1_000)
            made.append(prediction(ids()))
            PredictionLog(a if n % 10 == 4 else b).append(made[-1:])
        read = list(PredictionLog(a).blocks())
        assert [p for found, _ in read for p in found] == made
        for found, reached in read[:-1]:  # from wherever a reader goes on
            rest = [p for more in PredictionLog(b).scan(reached) for p in more]
            assert rest == made[made.index(found[-1]) + 1 :]


def test_a_partition_of_which_all_was_removed_keeps_no_reader_from_its_end(tmp_path: Path) -> None:
    """Under load a tick never came to its end: that partition never reached where it once stood."""
    clock = VirtualClock(0)
    with SqliteLog(tmp_path, clock=clock) as gone, SqliteLog(tmp_path, clock=clock) as busy:
        ids = PredictionIds(clock)
        PredictionLog(gone).append([prediction(ids()) for _ in range(5)])
        gone.truncate(gone.partition, 5)
        log = PredictionLog(busy)
        log.append([first := prediction(ids())])
        read: list[Prediction] = []
        reached: dict[str, int] = {}
        for found, places in log.blocks():
            log.append([prediction(ids())])
            read, reached = [*read, *found], places
        assert read == [first]
        assert reached == {gone.partition: 5, busy.partition: 1}
