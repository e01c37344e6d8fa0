"""What a deployment declares: who owns it is for people, and changes no address."""

from __future__ import annotations

from typing import Any

import pytest

import trimtab as tt
from trimtab.core.errors import Misuse

visit = tt.request("visit", key="id", time="at", columns={"id": str, "at": tt.Time, "x": float})
sales = tt.source("sales", time="at", key="id", columns={"id": str, "at": tt.Time, "bought": bool})


def estimator() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


MODEL = tt.model(
    "buyer",
    request=visit,
    features=[{"x": tt.col("x")}],
    label=tt.label(sales, key="id", value="bought", wait="2d"),
    estimator=estimator,
    metric="log_loss",
)


def test_the_owner_of_a_deployment_is_no_part_of_its_address() -> None:
    owned = tt.deployment(MODEL, owner="team shop")
    assert owned.owner == "team shop"
    assert owned.hash == tt.deployment(MODEL).hash


@pytest.mark.parametrize("owner", ["", "  ", 7, ["team shop"]])
def test_an_owner_that_is_no_text_is_refused(owner: Any) -> None:
    with pytest.raises(Misuse, match=r"owner=.*Give a text"):
        tt.deployment(MODEL, owner=owner)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"retrain": "30d"}, r"retrain: '30d' is not a trigger\. Give .*tt\.every\(\"30d\"\)"),
        ({"retrain": tt.every}, r"retrain: <function every .* is not a trigger"),
        ({"retrain": [tt.every("30d")]}, r"retrain: \[Every.* is not a trigger"),
        ({"gate": None}, r"deployment of 'buyer': gate=None\. Give e\.g\. tt\.beats_champion\(\), or leave gate out"),
        ({"gate": tt.beats_champion}, r"gate=<function beats_champion .* Give e\.g\. tt\.beats_champion\(\)"),
        ({"rollout": "1d"}, r"rollout='1d'\. Give e\.g\. tt\.rollout\("),
        ({"rollout": "1d", "learn": "online"}, r"rollout='1d'\. Give"),
        ({"degrade": 0.5}, r"degrade=0\.5\. Give e\.g\. tt\.degrade\("),
        ({"cache": True}, r"cache=True\. Give e\.g\. tt\.cache\(\)"),
        ({"fits_per_day": 2.5}, r"fits_per_day=2\.5 is not a number of fits\. Give a whole number"),
        ({"fits_per_week": "3"}, r"fits_per_week='3' is not a number of fits"),
        ({"approval": 0}, r"approval, cooldown or settle is no usable time\. Give it with a unit"),
        ({"approval": 3}, r"no usable time\. Give it with a unit"),
        ({"cooldown": 30}, r"no usable time\. Give it with a unit"),
        ({"settle": 7}, r"no usable time\. Give it with a unit"),
        (
            {"learn": "online", "retrain": tt.every("7d") | tt.on_estimated_drop() & tt.on_new_labels(5)},
            r"on_estimated_drop\(\) would never begin a repair\. Leave it out",
        ),
        ({"fits_per_week": True}, r"fits_per_week=True is not a number of fits"),
    ],
)
def test_an_argument_of_another_type_is_refused_at_the_declaration(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(Misuse, match=said):
        tt.deployment(MODEL, **arguments)


def test_a_deployment_without_rules_has_the_usual_gate_and_is_never_retrained() -> None:
    made = tt.deployment(MODEL, retrain=None, rollout=None)
    assert (made.gate, tuple(made.retrain.singles())) == (tt.beats_champion(), ())


@pytest.mark.parametrize("other", [None, "30d", tt.every])
def test_only_triggers_can_be_joined(other: Any) -> None:
    for join in (lambda: tt.every("7d") | other, lambda: tt.on_slice_drop() & other):
        with pytest.raises(Misuse, match=r"retrain: .* is not a trigger"):
            join()


@pytest.mark.parametrize("run_length", ["0d", "1d", 0])
def test_a_run_length_of_a_day_or_less_is_refused(run_length: Any) -> None:
    with pytest.raises(Misuse, match=r"on_quality_drop: run_length=.*\. Give a duration longer than a day"):
        tt.on_quality_drop(run_length=run_length)
    assert tt.on_quality_drop(run_length="36h").run_length_days == 1.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("margin", "0.1"), ("margin", float("nan")), ("margin", None), ("level", "0.9"), ("level", 0.5), ("level", 1),
        ("calibration", -1), ("calibration", float("nan")), ("calibration", None), ("slice_margin", -0.1),
        ("calibration_error", "0.05"), ("calibration_error", 1), ("refit_distance", 0), ("refit_share", True),
    ],
)  # fmt: skip
def test_a_number_of_a_gate_that_makes_no_sense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Misuse, match=rf"beats_champion: {name}=.*\. Give "):
        tt.beats_champion(**{name: value})


def test_a_margin_of_a_shadow_that_is_a_text_is_refused() -> None:
    with pytest.raises(Misuse, match=r"rollout: margin='0\.02'\. Give a share"):
        tt.rollout(shadow="1d", margin="0.02")  # type: ignore[arg-type]  # what is tested


def test_an_unknown_slice_is_refused_with_each_name_that_there_is_once() -> None:
    with pytest.raises(Misuse, match=r"slices=\['y'\]\. Give a list of names, each one of id, at, x\.$"):
        tt.deployment(MODEL, gate=tt.beats_champion(slices=["y"]))


@pytest.mark.parametrize("slices", [None, 5, {"x", "y"}, "x"])
def test_slices_in_no_order_are_refused(slices: Any) -> None:
    with pytest.raises(Misuse, match="Give a list of names"):
        tt.beats_champion(slices=slices)


def test_triggers_joined_by_the_words_of_python_are_refused() -> None:
    for joined in (
        lambda: tt.every("30d") and tt.on_quality_drop(),
        lambda: tt.on_quality_drop() or tt.every("30d"),
        lambda: (tt.on_quality_drop() | tt.every("30d")) and tt.every("60d"),
        lambda: not tt.every("30d"),
    ):
        with pytest.raises(Misuse, match=r"joined by & and \|"):
            joined()
