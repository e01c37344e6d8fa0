"""Answers in process: checked before any work, logged before they are shown, the same as offline."""

from __future__ import annotations

import datetime as dt
import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.core.errors import Misuse, NotFound, Unavailable
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.features.encoding import Encoding
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.inputs import OnlineInputs
from trimtab.serving.answer.precomputed import Precomputed
from trimtab.serving.answer.served import Readers, shown
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.failures import ModelFailed
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_record import decode
from trimtab.serving.problems import InvalidField

Shop = Any  # from conftest


def test_an_answer_says_what_it_was_made_of(shop: Shop) -> None:
    shop.pay("ann", 10.0)
    shop.pay("ann", 20.0)
    shop.wait(5)
    (answer,) = shop.endpoint.answer([shop.ask()])
    values = [2.0, 30.0, 20.0, float(np.log1p(12.5)), 1.0]  # "web" is the second kind
    assert answer.score == shop.scorer.predict_row(values)
    assert (answer.request_id, answer.version, answer.arm, answer.mode) == ("c1", "late@1", "champion", "live")
    assert answer.at_us == shop.clock.now_us()
    assert (answer.reasons, answer.flags) == ({}, ())
    logged = shop.log.find(answer.id)
    assert struct.unpack("<5d", logged.values) == tuple(values)
    assert logged.positions == shop.online.positions()
    assert msgspec.msgpack.decode(logged.request) == ["c1", "ann", 12.5, "web", shop.clock.now_us()]
    assert logged.reasons == bytes([0, 0, 0, 255, 255])


def test_a_feature_without_a_fresh_value_says_why(shop: Shop) -> None:
    shop.pay("ann", 10.0)
    shop.wait(3 * 3600)
    ann, new, nobody = shop.endpoint.answer([shop.ask("ann"), shop.ask("new"), shop.ask(None, kind=None)])
    assert ann.reasons == {"spent.n_1h": "outside_window", "spent.last": "expired"}
    assert set(new.reasons.values()) == set(nobody.reasons.values()) == {"no_entity"}
    assert math.isnan(struct.unpack("<5d", shop.log.find(nobody.id).values)[4])


def test_the_as_of_time_is_never_below_what_was_applied(shop: Shop) -> None:
    shop.pay("ann", 10.0)
    applied_us = shop.clock.now_us()
    shop.clock = type(shop.clock)(applied_us - 1_000)  # this process's clock lags
    shop.endpoint.swap(shop.answerer())
    (answer,) = shop.endpoint.answer([shop.ask()])
    assert answer.at_us == applied_us


@pytest.mark.parametrize(
    ("changes", "field", "needed"),
    [
        ({"basket": "much"}, "basket", "a number"),
        ({"basket": math.inf}, "basket", "a number"),
        ({"basket": 1e151}, "basket", "a number"),
        ({"basket": True}, "basket", "a number"),
        ({"user": 7}, "user", "a text"),
        ({"id": None}, "id", "a text"),
        ({"id": ""}, "id", "a text"),
        ({"at": None}, "at", "ISO 8601"),
        ({"at": "yesterday"}, "at", "ISO 8601"),
        ({"at": 10**18}, "at", "ISO 8601"),
        ({"colour": "red"}, "colour", "id, user, basket, kind, at"),
    ],
)
def test_a_row_that_is_not_as_declared_is_refused_by_its_field(
    shop: Shop, changes: dict[str, Any], field: str, needed: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        shop.endpoint.answer([shop.ask(), {**shop.ask(), **changes}])
    assert caught.value.field == field
    assert caught.value.pointer == f"rows[1].{field}"
    assert needed in str(caught.value)
    assert shop.log.read()[0] == []


@pytest.mark.parametrize("name", ["id", "user", "basket", "kind", "at"])
def test_a_missing_column_is_refused_by_its_name(shop: Shop, name: str) -> None:
    row = shop.ask()
    del row[name]
    with pytest.raises(InvalidField, match="missing") as caught:
        shop.endpoint.answer([row])
    assert caught.value.field == name


def test_what_is_no_row_is_refused(shop: Shop) -> None:
    with pytest.raises(Misuse, match="row 0"):
        shop.endpoint.answer([["c1"]])
    assert shop.endpoint.answer([]) == []


def test_rows_take_what_python_has(shop: Shop) -> None:
    shop.pay("ann", 10.0)
    plain = shop.endpoint.answer([shop.ask(basket=3.0, at=0), shop.ask(basket=None, at=0)])
    odd = shop.endpoint.answer(
        [
            shop.ask(basket=np.float64(3), at=dt.datetime(1970, 1, 1)),
            shop.ask(basket=math.nan, at="1970-01-01T01:00:00+01:00"),
        ]
    )
    assert [a.score for a in plain] == [a.score for a in odd]


def test_one_row_and_many_give_the_same_bits(shop: Shop) -> None:
    for n in range(20):
        shop.pay(f"u{n % 4}", 0.1 * n)
    rows = [shop.ask(f"u{n}", id=f"c{n}", basket=0.3 * n) for n in range(6)]
    together = shop.endpoint.answer(rows)
    alone = [shop.endpoint.answer([row])[0] for row in rows]
    assert [a.score for a in together] == [a.score for a in alone]
    assert [a.reasons for a in together] == [a.reasons for a in alone]
    assert len({a.id for a in [*together, *alone]}) == 12


@pytest.mark.parametrize("changes", [{}, {"user": "new"}, {"user": None, "kind": None}, {"basket": np.float64(3.0)}])
def test_one_row_alone_is_answered_and_logged_as_among_others(shop: Shop, changes: dict[str, Any]) -> None:
    shop.pay("ann", 10.0)
    shop.wait(5)
    row = {**shop.ask(), **changes}
    (alone,) = shop.endpoint.answer([row])
    among, _ = shop.endpoint.answer([row, shop.ask("bob")])
    assert alone == msgspec.structs.replace(among, id=alone.id)
    assert shop.log.find(alone.id) == msgspec.structs.replace(shop.log.find(among.id), id=alone.id)


@pytest.mark.parametrize("days", [-30, -9, 2])
def test_an_answer_far_from_the_lead_is_flagged(shop: Shop, days: int) -> None:
    shop.checkout = msgspec.structs.replace(shop.checkout, lead_us=7 * DAY_US)
    shop.endpoint.swap(shop.answerer())
    at_us = shop.clock.now_us() + 7 * DAY_US
    near, far = shop.ask(at=at_us + HOUR_US * 23), shop.ask(at=at_us + days * DAY_US)
    assert [one.flags for one in shop.endpoint.answer([near, far])] == [(), ("not_at_lead",)]
    assert [shop.endpoint.answer([row])[0].flags for row in (near, far)] == [(), ("not_at_lead",)]
    (alone,) = shop.endpoint.answer([far])
    assert shop.log.find(alone.id).flags == alone.flags
    (past,) = shop.endpoint.answer([far], at=shop.clock.now_us() - HOUR_US)
    assert past.flags == ("past",)


def test_one_row_is_answered_and_logged_as_rows_are(shop: Shop) -> None:
    answerer, endpoint = shop.answerer(), shop.endpoint
    endpoint.swap(answerer)
    shop.pay("ann", 10.0)
    for given in (shop.ask(), shop.ask(None, kind=None), shop.ask("new", basket=None, kind="unseen")):
        (row,) = answerer.rows.check([given])
        alone = endpoint.answer_one(answerer, row)
        (made,) = endpoint.prepare(answerer, [row], None)
        assert alone is not None
        assert isinstance(made, Prediction)
        logged, answer = decode(alone[0], "test", 1), alone[1]
        assert logged == msgspec.structs.replace(made, id=logged.id)
        assert answer == endpoint.shown(answerer, logged)
        assert min(alone[2:]) > 0.0  # seconds for features and model
    (counts,) = (one.snapshot() for one in endpoint.counts.all())
    assert (endpoint.uses, counts.requests, counts.timed, counts.scored) == (6, 6, 6, 6)


def test_a_row_alone_whose_model_gives_no_number_is_refused_and_not_logged(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.scorer, "predict_row", lambda row: math.nan)
    shop.endpoint.swap(shop.answerer())
    with pytest.raises(ModelFailed, match="gave no finite number"):
        shop.endpoint.answer([shop.ask()])
    assert not [one for block in shop.log.scan() for one in block]
    monkeypatch.setattr(shop.scorer, "predict_row", lambda row: [0.5, 0.5])
    shop.endpoint.swap(shop.answerer())
    with pytest.raises(ModelFailed, match="late@1: the model gave no finite number"):
        shop.endpoint.answer([shop.ask()])
    with pytest.raises(ModelFailed, match="late@1: the model gave no finite number"):
        shop.endpoint.current.predict(shop.endpoint.current.rows.check([shop.ask()]))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (np.zeros((3, 2)), r"shape \(3, 2\), needed \(3,\)"),
        (np.zeros(2), r"shape \(2,\), needed"),
        (np.array(0.5), r"shape \(\), needed"),
        (np.array([None, "x", 1], object), "gave no finite number"),
        (np.array(["1", "2", "3"]), "gave no finite number"),
    ],
)
def test_a_model_that_gives_no_number_for_each_row_has_failed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, numbers: NDArray[Any], said: str
) -> None:
    """It was an unexpected error of the server."""
    monkeypatch.setattr(shop.scorer, "predict", lambda matrix: numbers)
    with pytest.raises(ModelFailed, match=f"late@1: .*{said}"):
        shop.endpoint.answer([shop.ask(name) for name in ("ann", "bob", "cid")])
    assert not [one for block in shop.log.scan() for one in block]


def test_answers_about_the_past_are_those_that_were_given(shop: Shop) -> None:
    given = []
    for n in range(30):
        shop.pay(f"u{n % 3}", 1.1 * n, after_s=400.3)
        shop.wait(0.7)
        given += shop.endpoint.answer([shop.ask(f"u{n % 3}", id=f"c{n}")])
    shop.pay("u0", 5.0)
    for n, then in enumerate(given):
        (again,) = shop.endpoint.answer([shop.ask(f"u{n % 3}", id=f"c{n}")], at=then.at_us)
        assert (again.score, again.reasons, again.at_us) == (then.score, then.reasons, then.at_us)
        assert shop.log.find(again.id).values == shop.log.find(then.id).values


def test_the_future_cannot_be_asked_about(shop: Shop) -> None:
    with pytest.raises(Misuse, match="future"):
        shop.endpoint.answer([shop.ask()], at=shop.clock.now_us() + 1)
    answer = shop.endpoint.answer([shop.ask()], at=format_time(shop.clock.now_us()))
    assert answer[0].at_us == shop.clock.now_us()


def test_without_history_the_past_cannot_be_asked_about(shop: Shop) -> None:
    answerer = shop.answerer()
    answerer.readers.past = None
    with pytest.raises(NotFound, match="history"):
        answerer.answer([shop.ask()], at=0)


def test_an_endpoint_without_a_version_is_not_ready(shop: Shop) -> None:
    endpoint = Endpoint("late")
    assert not endpoint.ready
    with pytest.raises(
        Unavailable, match=r"no version is in service yet. Train one \(trimtab train late\), promote one, or"
    ):
        endpoint.answer([shop.ask()])
    endpoint.fails_to_load = True
    with pytest.raises(Unavailable, match=r"cannot be loaded here .* Promote another, or try again soon\.$"):
        endpoint.answer([shop.ask()])


def test_a_warm_up_logs_no_answer_and_never_fails(shop: Shop) -> None:
    reads: list[Any] = []
    answerer = shop.answerer()
    read = answerer._read

    def noted(rows: Any, now_us: int) -> Any:
        reads.extend(rows)
        return read(rows, now_us)

    answerer._read = noted
    answerer.warm_up()
    assert len(reads) == 1
    assert not [one for block in shop.log.scan() for one in block]

    def fails(rows: Any, now_us: int) -> Any:
        reads.extend(rows)
        raise ZeroDivisionError(now_us)

    answerer._read = fails
    answerer.warm_up()
    assert len(reads) == 2


def test_a_version_of_another_model_does_not_serve(shop: Shop) -> None:
    shop.endpoint.swap(shop.answerer(number=2))
    with pytest.raises(Misuse, match="other"):
        shop.endpoint.swap(shop.answerer(number=3, model="other"))
    assert shop.endpoint.answer([shop.ask()])[0].version == "late@2"


def test_an_encoding_of_other_features_is_refused(shop: Shop) -> None:
    from trimtab.features.online.read.request_plan import RequestPlan

    other = Encoding(dtypes={"x": "float"}, vocabularies={})
    with pytest.raises(Misuse, match="trained on x"):
        OnlineInputs(RequestPlan(shop.features, shop.kv), other)
    # the names were equal, and the message showed nothing else
    dtypes = dict.fromkeys(shop.features.names, "bool")
    with pytest.raises(Misuse, match=rf"{shop.features.names[0]} \(bool\)"):
        OnlineInputs(RequestPlan(shop.features, shop.kv), Encoding(dtypes=dtypes, vocabularies={}))  # type: ignore[arg-type]  # "bool" is a literal


def test_an_arm_logs_a_request_as_its_own_version_declares_it(shop: Shop) -> None:
    """It was logged in the order of the champion's columns, and read as its own."""
    champion = shop.answerer()
    plan = RequestPlan(shop.features, shop.kv)
    arm = Answerer(
        champion.served,
        shop.checkout,
        Readers(OnlineInputs(plan, shop.encoding, of_others=True)),
        shop.scorer,
        log=shop.log,
        clock=shop.clock,
        ids=PredictionIds(shop.clock),
        of_others=True,
    )
    row = champion.rows.check([shop.ask()])[0]
    others = {name: row[name] for name in ("kind", "basket", "at", "user", "id")} | {"added": 7.0}
    (made,) = arm.predict([others])
    assert msgspec.msgpack.decode(made.request) == ["c1", "ann", 12.5, "web", row["at"]]


class TestPrecomputed:
    @pytest.fixture
    def endpoint(self, shop: Shop) -> Endpoint:
        """An endpoint whose answers of one checkout were made ahead."""
        stored = Precomputed(shop.kv, "late", max_age_us=HOUR_US)
        endpoint = Endpoint("late", precomputed=stored)
        answerer: Answerer = shop.answerer()
        endpoint.swap(answerer)
        rows = answerer.rows.check([shop.ask(id="c1", at=0), shop.ask(id="x" * 900, at=0)])
        made = answerer.predict(rows)
        shop.log.append(made)
        stored.put(
            (row, p.request_id, p.version, msgspec.structs.replace(shown(p, answerer.served), mode="precomputed"))
            for row, p in zip(rows, made, strict=True)
        )
        return endpoint

    def test_a_fresh_stored_answer_is_given_and_not_logged_again(self, shop: Shop, endpoint: Endpoint) -> None:
        before = len(shop.log.read()[0])
        shop.pay("ann", 1_000.0)  # a live answer would see this
        for key in ("c1", "x" * 900):
            (answer,) = endpoint.answer([shop.ask(id=key, at=0)])
            assert (answer.mode, answer.flags, answer.request_id) == ("precomputed", (), key)
            assert shop.log.find(answer.id).score == answer.score
        assert len(shop.log.read()[0]) == before

    def test_both_zeros_are_one(self, shop: Shop, endpoint: Endpoint) -> None:
        """A table that was read has none below nought."""
        answerer = endpoint.current
        row = answerer.rows.check([shop.ask(id="zero", at=0, basket=0.0)])[0]
        (made,) = answerer.predict([row])
        endpoint.precomputed.put([(row, "zero", made.version, shown(made, answerer.served))])  # type: ignore[union-attr]
        (answer,) = endpoint.answer([shop.ask(id="zero", at=0, basket=-0.0)])
        assert (answer.id, answer.flags) == (made.id, ())

    def test_a_stale_answer_is_made_again_and_flagged(self, shop: Shop, endpoint: Endpoint) -> None:
        shop.wait(3600)
        assert endpoint.answer([shop.ask(at=0)])[0].mode == "precomputed"
        shop.wait(1)
        (answer,) = endpoint.answer([shop.ask(at=0)])
        assert (answer.mode, answer.flags) == ("live", ("precomputed_stale",))
        assert shop.log.find(answer.id).flags == ("precomputed_stale",)

    def test_another_key_or_other_columns_are_missing(self, shop: Shop, endpoint: Endpoint) -> None:
        rows = [shop.ask(id="c9", at=0), shop.ask(at=0), shop.ask(at=0, basket=12.6)]
        answers = endpoint.answer(rows)
        assert [a.mode for a in answers] == ["live", "precomputed", "live"]
        assert [a.flags for a in answers] == [("precomputed_missing",), (), ("precomputed_missing",)]
        assert [a.request_id for a in answers] == ["c9", "c1", "c1"]

    def test_answers_of_the_version_before_are_stale(self, shop: Shop, endpoint: Endpoint) -> None:
        endpoint.swap(shop.answerer(number=2))
        (answer,) = endpoint.answer([shop.ask(at=0)])
        assert (answer.version, answer.flags) == ("late@2", ("precomputed_stale",))

    def test_asking_about_the_past_passes_stored_answers_by(self, shop: Shop, endpoint: Endpoint) -> None:
        (answer,) = endpoint.answer([shop.ask(at=0)], at=shop.clock.now_us())
        assert (answer.mode, answer.flags) == ("live", ("past",))
