"""The declaration of experiments and metrics: what is inferred, and every refusal with what to do."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import msgspec
import pytest

import trimtab as tt
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.reading.reading import decided_before

ORDERS = tt.source(
    "orders", time="at", columns={"customer_id": str, "city": str, "amount": float, "paid": bool, "note": str}
)
SALES = tt.source("sales", time="at", key="visit_id", columns={"visit_id": str, "bought": bool})
VISIT = tt.request("visit", key="visit_id", time="at", columns={"visit_id": str, "customer_id": str, "x": float})
SEEN = tt.view("seen", source=ORDERS, by="customer_id", features={"n": tt.count(over="1d")})
BUYER = tt.model(
    "buyer",
    request=VISIT,
    features=[{"x": tt.col("x")}, SEEN],
    label=tt.label(SALES, key="visit_id", value="bought", wait="2d"),
    estimator=dict,
    metric="log_loss",
)
AB = {"control": "blue", "green": "green"}


def revenue(**changes: Any) -> Any:
    given = {"source": ORDERS, "by": "customer_id", "value": tt.sum("amount"), "role": "primary"} | changes
    return tt.metric("revenue", **given)


def checkout(**changes: Any) -> Experiment:
    return tt.experiment("checkout", **({"unit": "customer_id", "variants": AB} | changes))


def test_kinds_and_directions_are_inferred() -> None:
    assert revenue().kind == "mean"
    assert revenue(denominator=tt.count()).kind == "ratio"
    assert (revenue(quantile=0.9).kind, revenue(quantile=0.9).quantile) == ("quantile", 0.9)
    assert revenue(value=tt.count(), kind="proportion").kind == "proportion"
    loss = tt.metric("loss", prediction="loss")
    assert (loss.kind, loss.better, revenue().better) == ("mean", "lower", "higher")
    assert tt.metric("loss", prediction="loss", better="higher").better == "higher"
    late = revenue(value=tt.count(where=tt.col("amount") > 100.0), kind="time_to_event")
    assert late.better == "lower"
    found = revenue(within="3d", before="28d", cap=500)
    assert (found.within_us, found.before_us, found.cap, found.by) == (3 * DAY_US, 28 * DAY_US, 500.0, ("customer_id",))


def test_an_experiment_is_declared_with_equal_weights_and_survives_its_document() -> None:
    made = checkout(
        metrics=[revenue(before="28d"), tt.metric("orders", source=ORDERS, by="customer_id", value=tt.count())],
        where=(tt.col("country") == "DE") & (tt.col("age") > 18.0),
        attributes={"country": str, "age": float, "unused": int},
        ramp={"3d": 1.0, "1d": 0.5},
        share=0.1,
        layer="shop",
        overrides={7: "green"},
        duration="14d",
        slices=["country"],
    )
    assert (made.weights, made.control, made.unit) == ((0.5, 0.5), "control", ("customer_id",))
    assert made.ramp == ((DAY_US, 0.5), (3 * DAY_US, 1.0))
    assert made.attributes == {"country": "str", "age": "float"}
    assert made.overrides == {"7": "green"}
    again = msgspec.json.decode(msgspec.json.encode(made), type=Experiment)
    assert again.hash == made.hash
    assert checkout(weights={"green": 0.2, "control": 0.8}).weights == (0.8, 0.2)


def test_the_hash_covers_what_is_decided_before_the_start_only() -> None:
    described = msgspec.structs.replace(ORDERS, about=msgspec.structs.replace(ORDERS.about, description="Orders."))
    wider = tt.source("orders", time="at", columns={**dict.fromkeys(("customer_id", "more"), str), "amount": float})
    base = checkout(metrics=[revenue()])
    for same in (
        checkout(metrics=[revenue(source=described)]),
        checkout(metrics=[revenue(source=wider)]),
        checkout(metrics=[revenue()], overrides={"x": "green"}, owner="shop"),
    ):
        assert same.hash == base.hash
    for other in (
        checkout(metrics=[revenue(cap=9.0)]),
        checkout(metrics=[revenue(value=tt.mean("amount"))]),
        checkout(metrics=[revenue()], level=0.9),
        checkout(metrics=[revenue()], variants=AB | {"green": "lime"}),
    ):
        assert other.hash != base.hash


def test_an_experiment_over_versions_takes_unit_and_attributes_from_its_model() -> None:
    made = tt.experiment(
        "new_model",
        model=BUYER,
        variants={"control": "champion", "new": "buyer@7"},
        where=tt.col("x") > 1.0,
        metrics=[tt.metric("loss", prediction="loss", role="primary")],
    )
    assert made.variants == {"control": "buyer@champion", "new": "buyer@7"}
    assert (made.model, made.unit, made.attributes) == ("buyer", ("customer_id",), {"x": "float"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "median"}, "metric 'revenue': kind='median'. Give one of 'mean', 'proportion'"),
        ({"kind": "mean", "quantile": 0.5}, "kind='mean', but this is a quantile. Leave kind out."),
        ({"kind": "ratio"}, "a ratio needs denominator="),
        ({"kind": "quantile"}, "a quantile needs quantile=, such as 0.9."),
        ({"role": "main"}, "role='main'. Give one of 'primary'"),
        ({"better": "up"}, 'Give "higher" or "lower".'),
        ({"prediction": "loss"}, "give either source=, by= and value=, or prediction=."),
        ({"source": None}, "give either source="),
        ({"source": None, "prediction": "loss"}, "value=, denominator= and by= need source=."),
        ({"source": None, "by": (), "value": None, "prediction": "f1"}, "prediction='f1'. Give one of 'loss'"),
        (
            {"source": None, "by": (), "value": None, "prediction": "loss", "kind": "proportion"},
            "prediction= gives no proportion. Leave kind out.",
        ),
        ({"value": None}, "value= is missing. Give an aggregate"),
        ({"by": ()}, "by= is missing."),
        ({"by": "amount"}, "by='amount' must be a column of 'orders' of type str or int; it is float"),
        ({"by": "client"}, "it is not one of customer_id, city"),
        ({"within": 0}, "within=0 leaves no time for an event."),
        ({"before": 0}, "before=0 is an empty window."),
        ({"before": "7d", "quantile": 0.5}, "before= is for means and proportions of events. Leave before out."),
        ({"quantile": 1.5}, "quantile=1.5. Give a number between 0 and 1."),
        ({"cap": float("nan")}, "cap=nan. Give a finite number above 0."),
        ({"cap": -5}, "cap=-5. Give a finite number above 0."),
        ({"cap": 0.0}, "cap=0.0. Give a finite number above 0."),
        ({"cap": "9"}, "cap='9'. Give a finite number above 0."),
        ({"cap": 5.0, "quantile": 0.5}, "cap= is for means and ratios; this is a quantile. Leave cap out."),
        ({"margin": 1.5}, "margin=1.5. Give a share from 0 to 1"),
        ({"role": "guardrail"}, "a guardrail needs margin="),
        ({"margin": 0.1}, "margin= is for guardrails; this metric is primary."),
        ({"role": "guardrail", "margin": 0.1}, "a guardrail needs better="),
        ({"value": tt.sum("amount", over="1d")}, "value= has a window of its own. Leave over, until and max_age out"),
        ({"value": tt.latest("note")}, "value= is a str. Give an aggregate that is a number."),
        ({"value": tt.sum("nothing")}, "metric 'revenue', value"),
        ({"value": tt.sum("amount"), "denominator": tt.count(over="1d")}, "denominator= has a window of its own."),
        ({"kind": "time_to_event"}, "a time to an event needs value=tt.count(where=...)"),
        ({"source": "orders"}, "source='orders' is no source. Make one with tt.source()."),
    ],
)
def test_a_metric_whose_parts_do_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Misuse, match=re.escape(message)):
        revenue(**given)


VERSIONS = {"model": BUYER, "unit": (), "variants": {"control": "champion", "new": "buyer@7"}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"variants": {"control": 1}}, "Give at least two"),
        ({"variants": ["a", "b"]}, "Give at least two"),
        ({"variants": {f"v{n}": n for n in range(101)}}, "101 variants. Give at most 100."),
        ({"variants": {"control": 1, "B": 2}}, "variant 'B': a name starts with a lower-case letter"),
        ({"variants": {"control": 1, "b": object()}}, "the value of a variant is no JSON value"),
        ({"variants": {"control": 1, "b": {2}}}, "the value of a variant is no JSON value"),
        ({"variants": {"control": 1, "b": [float("nan")]}}, "the value of a variant is no JSON value"),
        ({"weights": {"control": 0.0, "green": 1.0}}, "the control, 'control', has the weight 0"),
        ({"unit": ""}, "unit=''. Name each of the columns"),
        ({"unit": ["shop", "shop"]}, "unit=['shop', 'shop']. Name each of the columns"),
        ({"overrides": {("a", "b"): "green"}}, "the override of ('a', 'b') fits no unit of customer_id. Give \"c-7\"."),
        ({"overrides": {1.5: "green"}}, "the override of 1.5 fits no unit of customer_id."),
        ({"unit": ["shop", "till"], "overrides": {"s": "green"}}, "the override of 's' fits no unit of shop, till."),
        ({"unit": ()}, 'unit= is missing. Name the columns that identify the unit, such as unit="customer_id".'),
        ({"weights": {"control": 1.0}}, "weights of control, but the variants are control, green. Give one for each."),
        ({"weights": {"control": 0.9, "green": 0.2}}, "the weights add up to 1.1. Give shares that add up to 1."),
        ({"weights": {"control": -0.5, "green": 1.5}}, "Give shares from 0 to 1."),
        (
            {"weights": [0.5, 0.5]},
            "weights=[0.5, 0.5]. Give one for each variant, such as {'control': 0.5, 'green': 0.5}",
        ),
        ({"ramp": [0.5]}, 'ramp=[0.5]. Give shares by the time since the start: {"1d": 0.5}.'),
        ({"share": 0.0}, "the share of units that take part is [0.0]. Give more than 0, at most 1."),
        (
            {"share": 0.1, "ramp": {"2027-01-04": 0.5, "3d": 1.0}},
            "mixes dates with times since the start. Give only one kind.",
        ),
        ({"share": 0.1, "ramp": {"2027-01-04": 0.5, "2027-01-03": 0.7}}, "Give later times with larger shares."),
        ({"share": 0.1, "ramp": {"2027-13-04": 0.5}}, "2027-13-04"),
        ({"share": 0.5, "ramp": {"1d": 0.2}}, "Give later times with larger shares."),
        ({"ramp": {"0d": 1.0}, "share": 0.5}, "Give later times with larger shares."),
        ({"layer": "My layer"}, "layer 'My layer': a name starts with a lower-case letter"),
        ({"where": tt.col("country") == "DE"}, "country"),
        ({"where": tt.col("age") + 1.0, "attributes": {"age": float}}, "is no condition. Write one"),
        ({"where": "age > 1"}, "is no condition. Write one"),
        ({"slices": ["country"]}, "'country' is not one of attributes="),
        ({"overrides": {"x": "red"}}, "the override of 'x' is 'red'. Variants: control, green."),
        ({"switchback": "1h"}, "switchback= is no switchback. Make it with tt.switchback()."),
        ({"rule": "bayes"}, "rule='bayes'. Give one of 'sequence'"),
        ({"level": 95}, "level=95. Give a confidence between 0.5 and 1"),
        ({"rule": "fixed"}, "rule='fixed' needs duration="),
        ({"duration": 0}, "duration=0 is less than a day"),
        ({"duration": "1d"}, "so after one day nothing could be judged"),
        ({"duration": 14}, "duration=14 is less than a day (a number without a unit is in microseconds)"),
        ({"duration": "7d", "share": 0.1, "ramp": {"7d": 1.0}}, "the last step of ramp= comes 7d after the start"),
        ({"rule": "obrien_fleming", "duration": "5d", "looks": 10}, "there is at most one look a day"),
        ({"share": 4e-5}, "share=4e-05. Units are divided into 10,000 parts."),
        ({"weights": {"control": 0.99999, "green": 1e-5}}, "Units are divided into 10,000 parts. Give 0.0001 or more."),
        ({"weights": {"control": 0.99993, "green": 7e-5}}, "Units are divided into 10,000 parts. Give 0.0001 or more."),
        ({"share": 6e-5}, "share=6e-05"),
        ({"weights": {"control": 1.0, "green": 0.0}}, "the smallest weight is 0"),
        (
            {"metrics": [revenue()], "switchback": tt.switchback(every="2h")},
            'Declare within="2h" or less.',
        ),
        ({"rule": "obrien_fleming", "duration": "14d"}, "looks=1. Give 2 to 50."),
        (
            {"slices": ["age"], "attributes": {"age": float}},
            "'age' is a float, and each of its values would be a slice.",
        ),
        (VERSIONS | {"slices": ["x"]}, "'x' is a float, and each of its values would be a slice."),
        ({"strata": "country"}, "strata='country' is not one of slices=[]. Add it there."),
        (
            {"attributes": {"n": "int"}},
            "'int'. Use float, int, bool, str, tt.Time (unquoted).",
        ),
        ({"slices": "country"}, "slices='country' is a text. Give a list: slices=['country']."),
        ({"looks": 5}, "looks= is for rule=\"obrien_fleming\", not 'sequence'."),
        ({"owner": " "}, "owner=' '. Give a text such as \"team shop\"."),
        ({"metrics": [revenue(), revenue()]}, "two metrics are called 'revenue'. Rename one."),
        ({"metrics": [revenue(role="secondary")]}, "no metric is primary."),
        ({"metrics": [tt.metric("loss", prediction="loss", role="primary")]}, "is about predictions. Give model="),
        (
            {"metrics": [revenue(by=["city", "customer_id"])]},
            "finds a unit by city, customer_id, but the unit is customer_id.",
        ),
        (VERSIONS | {"variants": {"control": "champion", **{f"v{n}": f"buyer@{n}" for n in range(5)}}}, "at most 5."),
        (VERSIONS | {"variants": {"control": "champion", "a": "buyer@1", "b": "buyer@1"}}, "names a version twice"),
        (VERSIONS | {"variants": {"control": "champion", "new": "other@7"}}, 'Name a version: "buyer@7".'),
        (VERSIONS | {"variants": {"control": "buyer@6", "new": "buyer@7"}}, 'Give "champion" to the first variant'),
        (VERSIONS | {"variants": {"control": "champion", "new": "champion"}}, 'Give "champion" to the first variant'),
        (VERSIONS | {"attributes": {"x": float}}, "with model=, attributes are the request's columns. Leave them out."),
        (VERSIONS | {"unit": "buyer_id"}, "'buyer_id' is not a column of the request. Known: visit_id, customer_id, x"),
        (VERSIONS | {"unit": "x"}, "'x' is a float. Identify units and regions by texts or integers."),
        (VERSIONS | {"model": "buyer"}, "model='buyer' is no model. Give what tt.model() returned."),
        (VERSIONS | {"switchback": tt.switchback(every="1h", by="city")}, "'city' is not a column of the request."),
    ],
)
def test_an_experiment_whose_parts_do_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Misuse, match=re.escape(message)):
        checkout(**given)


def test_overrides_of_several_columns_are_joined_as_units_are() -> None:
    made = checkout(unit=["shop", "till"], overrides={("s", 7): "green", '["s", "8"]': "green", '["s","9"]': "control"})
    assert made.overrides == {'["s","7"]': "green", '["s","8"]': "green", '["s","9"]': "control"}


def test_what_was_decided_before_the_start_has_blocks_and_share() -> None:
    blocks = tt.switchback(every="2h", gap="20min", by="city")
    found = decided_before(checkout(switchback=blocks, share=0.1, metrics=[revenue(within="1h")]))
    assert found["switchback"] == "blocks of 2h, by city, without the first 20min"
    assert found["share"] == "0.1"
    assert not {"switchback", "share"} & decided_before(checkout()).keys()


def test_a_switchback_needs_blocks_longer_than_its_gap() -> None:
    assert tt.switchback(every="1h", gap="10min", by=["city"]).every_us == HOUR_US
    with pytest.raises(Misuse, match="leaves nothing of blocks"):
        tt.switchback(every="10min", gap="10min")


def test_a_ramp_by_date() -> None:
    ramp = {"2027-01-04": 0.5, dt.date(2027, 1, 6): 1.0}
    made = tt.experiment("checkout", unit="user", variants={"a": 1, "b": 2}, share=0.1, ramp=ramp)
    assert made.ramp == ()
    assert made.ramp_at == ((parse_time_us("2027-01-04"), 0.5), (parse_time_us("2027-01-06"), 1.0))
    assert made.largest_share == 1.0
