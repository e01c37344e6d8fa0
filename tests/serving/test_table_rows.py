"""Rows of a table that are answered in columns get the answers that they would get one by one."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from arro3.io import read_ipc_stream, write_ipc_stream
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.conftest import START_US, Shop, Weighted

from trimtab.core.columns.data import Columns
from trimtab.core.columns.packs import unpack
from trimtab.core.errors import Unavailable
from trimtab.core.expressions.nodes import col
from trimtab.core.records import Prediction
from trimtab.features.encoding import fit
from trimtab.features.feature_set import feature_set
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.inputs import OfflineInputs, OnlineInputs
from trimtab.serving.answer.request_rows import rows_of_table
from trimtab.serving.answer.served import Readers, ServedVersion
from trimtab.serving.answer.table_rows import TableAnswers, plain_table
from trimtab.serving.failures import ModelFailed
from trimtab.serving.http.service import HttpService
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_record import decode, encode

ARROW = "application/vnd.apache.arrow.stream"
KINDS = {"id": "str", "user": "str", "basket": "float", "kind": "str", "at": "time"}


def answerer(shop: Shop, scorer: Any = None, classes: tuple[str, ...] = ()) -> Answerer:
    """An answerer of a version without views."""
    transforms = {"log_basket": col("basket").log1p(), "kind": col("kind").category(), "basket": col("basket")}
    features = feature_set(shop.checkout, [transforms])
    examples: dict[str, list[Any]] = {"str": ["web", "app"]}
    dtypes = features.dtypes
    encoding = fit(features, Columns.of({name: (kind, examples.get(kind, [1, 2])) for name, kind in dtypes.items()}))
    return Answerer(
        ServedVersion(
            model="late", version="1" * 64, label="late@1", arm="champion", inputs=features.names, classes=classes
        ),
        shop.checkout,
        Readers(
            OnlineInputs(RequestPlan(features, shop.kv), encoding),
            reads_state=False,
            tables=OfflineInputs(features, encoding, shop.snapshot),
        ),
        scorer or Weighted([0.1, 1.0, 0.5]),
        log=shop.log,
        clock=shop.clock,
        ids=PredictionIds(shop.clock),
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("bare"))
    yield shop
    shop.close()


def table_of(rows: list[dict[str, Any]]) -> Columns:
    return Columns.of({name: (kind, [row[name] for row in rows]) for name, kind in KINDS.items()})  # type: ignore[misc]  # dtypes are literals


TEXTS = st.text("abc", max_size=3)
ROWS = st.fixed_dictionaries(
    {
        "id": st.text("abc", min_size=1, max_size=3),
        "user": st.none() | TEXTS,
        "basket": st.none() | st.floats(-2.0, 1e150),
        "kind": st.none() | st.sampled_from(["web", "app", "other"]),
        "at": st.integers(START_US - 10**12, START_US),
    }
)


class ThreeClasses:
    def predict(self, matrix: Any) -> Any:
        scores = np.abs(np.nan_to_num(matrix)) % 7.0 + 1.0
        return scores / scores.sum(axis=1, keepdims=True)

    def predict_row(self, row: list[float]) -> list[float]:
        found: list[float] = self.predict(np.array([row]))[0].tolist()
        return found


def without_id(one: Prediction) -> Prediction:
    return msgspec.structs.replace(one, id="")


@given(st.lists(ROWS, min_size=1, max_size=8), st.booleans())
def test_a_table_is_answered_as_its_rows_are(bare: Shop, rows: list[dict[str, Any]], several: bool) -> None:
    one = answerer(bare, ThreeClasses() if several else None, ("a", "b", "c") if several else ())
    table = table_of(rows)
    plain, rows = plain_table(bare.checkout, table), rows_of_table(table)
    assert plain is not None
    assert [*plain] == one.rows.check(rows)
    assert (len(plain), plain[0]) == (len(rows), rows[0])
    made = one.predict_table(plain)
    expected = one.predict(one.rows.check(rows))
    if made is None:  # a transform failed, of which only `predict` says why
        assert any(4 < code < 255 for each in expected for code in each.reasons)
        return
    assert [without_id(each) for each in made] == [without_id(each) for each in expected]
    logged = [payload for pack in made.packs() for payload in unpack(pack)]
    assert logged == [encode(each) for each in made]
    assert [decode(payload, "p", 1) for payload in logged] == made[:]
    assert len({each.id for each in made} | {each.id for each in expected}) == 2 * len(rows)


ROW = {"id": "a", "user": "ann", "basket": 1.5, "kind": "web", "at": START_US}


@pytest.mark.parametrize(
    "change",
    [{"id": None}, {"id": ""}, {"user": "é"}, {"at": None}, {"at": 5}, {"basket": 1e151}, {"at": 2**62}],
    ids=str,
)
def test_rows_that_may_not_be_plain_are_checked_one_by_one(shop: Shop, change: dict[str, Any]) -> None:
    assert plain_table(shop.checkout, table_of([ROW])) is not None
    assert plain_table(shop.checkout, table_of([ROW, ROW | change])) is None


def test_other_columns_are_not_plain(shop: Shop) -> None:
    table = table_of([ROW])
    assert plain_table(shop.checkout, table.select(["id", "user", "basket", "at"])) is None
    assert plain_table(shop.checkout, table.replace({"more": table["id"]})) is None
    assert plain_table(shop.checkout, table.replace({"basket": table["at"]})) is None
    assert plain_table(shop.checkout, table.select([*reversed(KINDS)])) is not None


def test_a_version_with_views_answers_row_by_row(shop: Shop) -> None:
    plain = plain_table(shop.checkout, table_of([ROW] * 3))
    assert plain is not None
    assert shop.answerer().predict_table(plain) is None
    made = shop.endpoint.prepare(shop.endpoint.current, plain, None)
    assert isinstance(made, list)
    assert [one.request_id for one in made if isinstance(one, Prediction)] == ["a"] * 3


@pytest.mark.parametrize("accept", [ARROW, "application/json"])
def test_a_large_table_is_answered_and_logged_over_http(shop: Shop, accept: str) -> None:
    rows = [ROW | {"id": f"c{n}", "basket": None if n % 7 == 0 else 0.5 * n} for n in range(3_000)]
    shop.endpoint.swap(answerer(shop))
    service, out = HttpService([shop.endpoint], shop.log), io.BytesIO()
    write_ipc_stream(table_of(rows), out, compression=None)

    async def ask(body: bytes, kind: str, accept: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1") as client:
            headers = {"content-type": kind, "accept": accept}
            return await client.post("/v1/models/late/predict", content=body, headers=headers)

    answered = asyncio.run(ask(out.getvalue(), ARROW, accept))
    expected = asyncio.run(ask(json.dumps({"rows": rows}).encode(), "application/json", "")).json()["predictions"]
    if accept == ARROW:
        found = read_ipc_stream(io.BytesIO(answered.content)).read_all()
        columns = {name: found.column(name).to_pylist() for name in found.column_names}
        columns |= {name: [json.loads(text) for text in columns[name]] for name in ("reasons", "flags")}
        answers = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    else:
        answers = answered.json()["predictions"]
    assert [{**one, "id": ""} for one in answers] == [{**one, "id": ""} for one in expected]
    logged = [one for block in shop.log.scan() for one in block]
    assert [without_id(one) for one in logged[:3_000]] == [without_id(one) for one in logged[3_000:]]
    assert [one.id for one in logged[:3_000]] == [one["id"] for one in answers]
    assert shop.log.find(answers[1_234]["id"]) == logged[1_234]
    (counts,) = shop.endpoint.counts.all()
    assert (counts.snapshot().requests, counts.snapshot().failures) == (2, 0)
    assert 'trimtab_answers_total{model="late",version="late@1",arm="champion"} 6000' in text_of(service)
    service.close()


def text_of(service: HttpService) -> str:
    async def ask() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1") as client:
            return (await client.get("/metrics")).text

    return asyncio.run(ask())


class Broken:
    def predict(self, matrix: Any) -> Any:
        raise ZeroDivisionError("by nothing")

    predict_row = predict


def test_a_model_that_fails_on_a_table_is_counted_and_nothing_is_logged(shop: Shop) -> None:
    shop.endpoint.swap(answerer(shop, Broken()), costs=shop.endpoint.batched.costs)
    plain = plain_table(shop.checkout, table_of([ROW] * 5_000))
    assert plain is not None
    with pytest.raises(ModelFailed, match="ZeroDivisionError"):
        shop.endpoint.prepare(shop.endpoint.current, plain, None)
    (counts,) = shop.endpoint.counts.all()
    assert counts.snapshot().failures == 1
    assert shop.log.read()[0] == []


@pytest.mark.parametrize(("rows", "timed"), [(1, 1), (2, 0)])
def test_only_a_table_of_one_row_has_a_latency(shop: Shop, rows: int, timed: int) -> None:
    shop.endpoint.swap(answerer(shop), costs=shop.endpoint.batched.costs)
    plain = plain_table(shop.checkout, table_of([ROW] * rows))
    assert plain is not None
    shop.endpoint.prepare(shop.endpoint.current, plain, None)
    (counts,) = shop.endpoint.counts.all()
    assert (counts.snapshot().requests, counts.snapshot().timed) == (1, timed)


class NeedsRows(Weighted):
    """Like many libraries, it refuses a matrix without rows."""

    def predict(self, matrix: Any) -> Any:
        if not len(matrix):
            raise ValueError("at least one row is needed")
        return super().predict(matrix)


@pytest.mark.parametrize("scorer", [Weighted, NeedsRows])
def test_a_table_without_rows_gets_no_answers(shop: Shop, scorer: Any) -> None:
    """The model was called, and failed; or the first answer was looked for."""
    shop.endpoint.swap(answerer(shop, scorer([0.1, 1.0, 0.5])), costs=shop.endpoint.batched.costs)
    plain = plain_table(shop.checkout, table_of([]))
    assert plain is not None
    assert shop.endpoint.prepare(shop.endpoint.current, plain, None) == []


def test_a_log_that_cannot_be_written_refuses_a_table(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.endpoint.swap(answerer(shop))

    def full(packs: Any, *, at_us: Any = None) -> range:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(shop.log, "append_packs", full)
    service, out = HttpService([shop.endpoint], shop.log), io.BytesIO()
    write_ipc_stream(table_of([ROW] * 3_000), out, compression=None)

    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1") as client:
            headers = {"content-type": ARROW}
            return (await client.post("/v1/models/late/predict", content=out.getvalue(), headers=headers)).status_code

    assert asyncio.run(ask()) == 503
    assert shop.log.read()[0] == []
    service.close()


def test_answers_of_a_table_are_a_sequence(shop: Shop, tmp_path: Path) -> None:
    plain = plain_table(shop.checkout, table_of([ROW | {"id": f"c{n}"} for n in range(5)]))
    assert plain is not None
    made = answerer(shop).predict_table(plain)
    assert isinstance(made, TableAnswers)
    assert [one.request_id for one in made[1:4]] == ["c1", "c2", "c3"]
    assert made[-1].request_id == "c4"
