"""Assignment of units to variants: as specified, sticky, and moving no more units than it must."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.experiments.assignment import (
    BUCKETS,
    Assigner,
    PastAssignments,
    check_row,
    first_buckets,
    free_slots,
    reallocated,
)
from trimtab.experiments.definitions import Experiment, Switchback
from trimtab.experiments.records import Allocation, ExperimentState

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))
UNITS = 20_000
ROWS = [{"customer": f"customer-{n}", "country": ("DE", "FR", None)[n % 3]} for n in range(UNITS)]


def defined(**changes: Any) -> Experiment:
    plain = Experiment(name="checkout", unit=("customer",), variants={"control": "blue", "green": {"hex": "#0f0"}})
    return msgspec.structs.replace(plain, **changes)


def allocation(share: float = 1.0, weights: dict[str, float] | None = None, **changes: Any) -> Allocation:
    weights = weights or {"control": 0.5, "green": 0.5}
    plain = Allocation(from_us=0, share=share, weights=weights, buckets=first_buckets(weights))
    return msgspec.structs.replace(plain, **changes)


def started(allocations: list[Allocation] | None = None, **changes: Any) -> ExperimentState:
    plain = ExperimentState(
        name="checkout",
        hash="",
        definition=b"",
        generation=1,
        phase="running",
        started_at_us=0,
        allocations=allocations or [allocation()],
    )
    return msgspec.structs.replace(plain, **changes)


def reasons(assigner: Assigner) -> Counter[str]:
    return Counter(assigner.assign(row).reason for row in ROWS)


@pytest.mark.parametrize("case", VECTORS, ids=range(len(VECTORS)))
def test_the_vectors_of_an_independent_script_are_those_of_the_code(case: dict[str, Any]) -> None:
    every_us, regions = case["every_us"], [f"region{n}" for n in range(len(case["region"]))]
    switchback = Switchback(every_us=every_us, gap_us=case["gap_us"], by=tuple(regions)) if every_us else None
    buckets = [(count, name) for count, name in case["buckets"]]
    state = started(
        [Allocation(from_us=0, share=case["share"], weights={}, buckets=buckets)],
        generation=case["generation"],
        slots=tuple(case["slots"]),
    )
    for texts, expected in case["units"]:
        unit = {f"column{n}": text for n, text in enumerate(texts)}
        definition = defined(
            name=case["experiment"],
            unit=tuple(unit),
            variants={"control": 0, "red": 1, "green": 2},
            layer=case["layer"],
            switchback=switchback,
        )
        row = unit | dict(zip(regions, case["region"], strict=True))
        found = Assigner(definition, state, holdout=case["holdout"]).assign(row, case["at_us"])
        assert (found.variant if found.takes_part else found.reason) == expected


def test_a_number_and_its_text_are_one_unit() -> None:
    assigner = Assigner(defined(), started())
    assert [assigner.assign({"customer": n}) for n in range(99)] == [
        assigner.assign({"customer": str(n)}) for n in range(99)
    ]
    assert assigner.unit({"customer": 7}) == "7"
    assert Assigner(defined(unit=("a", "b")), started()).unit({"a": 7, "b": "x"}) == '["7","x"]'


weights = st.lists(st.integers(0, 1_000), min_size=3, max_size=3).filter(any)


@given(weights, weights)
def test_new_weights_move_exactly_the_share_that_must_move(before: list[int], after: list[int]) -> None:
    names = ("control", "red", "green")
    first, second = (dict(zip(names, (one / sum(given) for one in given), strict=True)) for given in (before, after))
    buckets = first_buckets(first)
    moved = reallocated(buckets, second)
    old, new = ([name for count, name in runs for _ in range(count)] for runs in (buckets, moved))
    assert len(new) == BUCKETS
    wanted = Counter({name: count for count, name in first_buckets(second)})
    assert Counter(new) == wanted
    must = sum(max(0, wanted[name] - old.count(name)) for name in names)
    assert sum(a != b for a, b in zip(old, new, strict=True)) == must
    assert all(a[1] != b[1] for a, b in pairwise(moved))
    assert reallocated(moved, second) == moved


def test_units_move_only_to_the_variant_whose_weight_grew() -> None:
    old = allocation()
    new = allocation(weights={"control": 0.3, "green": 0.7})
    new = msgspec.structs.replace(new, buckets=reallocated(old.buckets, new.weights))
    one, other = (Assigner(defined(), started([given])) for given in (old, new))
    moves = Counter((one.assign(row).variant, other.assign(row).variant) for row in ROWS)
    assert moves["green", "control"] == 0
    assert abs(moves["control", "green"] / UNITS - 0.2) < 0.01


def test_a_larger_share_keeps_the_units_of_a_smaller_one_and_their_variants() -> None:
    small, large = (Assigner(defined(), started([allocation(share)])) for share in (0.2, 0.6))
    pairs = [(small.assign(row), large.assign(row)) for row in ROWS]
    assert all(one == other for one, other in pairs if one.takes_part)
    assert abs(sum(other.takes_part for _, other in pairs) / UNITS - 0.6) < 0.02
    assert {one.variant for one, _ in pairs if not one.takes_part} == {"control"}


def test_a_new_generation_assigns_the_units_again() -> None:
    one, other = (Assigner(defined(), started(generation=n)) for n in (1, 2))
    both = sum(one.assign(row).variant == other.assign(row).variant for row in ROWS)
    assert abs(both / UNITS - 0.5) < 0.02


def test_experiments_of_one_layer_share_no_unit_and_other_layers_are_independent() -> None:
    one = Assigner(defined(layer="shop"), started(slots=(0, 5_000)))
    other = Assigner(defined(name="banner", layer="shop"), started([allocation(0.3)], slots=(5_000, 9_000)))
    apart = Assigner(defined(name="mail", layer="mail"), started(slots=(0, 5_000)))
    taken = [(one.assign(row), other.assign(row), apart.assign(row)) for row in ROWS]
    assert not any(a.takes_part and b.takes_part for a, b, _ in taken)
    count = Counter((a.takes_part, b.takes_part, c.takes_part) for a, b, c in taken)
    assert abs(sum(found for (a, _, _), found in count.items() if a) / UNITS - 0.5) < 0.02
    assert abs(sum(found for (_, b, _), found in count.items() if b) / UNITS - 0.3) < 0.02
    assert abs(count[True, False, True] / UNITS - 0.25) < 0.02


def test_the_global_holdout_is_the_same_for_all_experiments() -> None:
    one, other = (Assigner(defined(name=name), started(), holdout=0.1) for name in ("checkout", "banner"))
    held = [one.assign(row).reason == "holdout" for row in ROWS]
    assert held == [other.assign(row).reason == "holdout" for row in ROWS]
    assert abs(sum(held) / UNITS - 0.1) < 0.01


def test_only_eligible_units_take_part_and_an_unknown_attribute_is_not_eligible() -> None:
    definition = defined(where=col("country") == "DE", attributes={"country": "str"})
    found = reasons(Assigner(definition, started()))
    assert found["not eligible"] == sum(row["country"] != "DE" for row in ROWS)
    assert found["assigned"] == sum(row["country"] == "DE" for row in ROWS)


def test_a_tester_gets_the_variant_whatever_else_holds() -> None:
    definition = defined(
        overrides={"customer-7": "green", "8": "green"}, where=col("country") == "none", attributes={"country": "str"}
    )
    state = started([allocation(0.0)])
    assigner = Assigner(definition, state, holdout=1.0)
    assert assigner.assign({"customer": "customer-7", "country": None}).reason == "override"
    assert assigner.assign({"customer": 8, "country": None}).value == {"hex": "#0f0"}
    assert Assigner(definition, state, overrides={}).assign(ROWS[7]).reason == "not eligible"
    paused = Assigner(definition, started(phase="paused")).assign(ROWS[7])
    assert (paused.variant, paused.reason, paused.takes_part) == ("control", "paused", False)


def test_a_switchback_gives_a_block_and_region_one_variant() -> None:
    definition = defined(switchback=Switchback(every_us=100, gap_us=20, by=("country",)))
    with pytest.raises(Misuse, match=r"'country' is missing\. It identifies the region"):
        check_row(definition, {"customer": "x"})
    assigner = Assigner(definition, started())
    found: dict[tuple[int, str | None], set[str]] = {}
    for n, row in enumerate(ROWS):
        one = assigner.assign(row, n)
        found.setdefault((n // 100, row["country"]), set()).add(one.variant)
        assert one.reason == ("carry-over gap" if n % 100 < 20 else "assigned")
        assert one.takes_part == (n % 100 >= 20)
    assert all(len(variants) == 1 for variants in found.values())
    share = sum(variants == {"green"} for variants in found.values()) / len(found)
    assert abs(share - 0.5) < 0.07
    assert assigner.block({"customer": "x", "country": "DE"}, 250) == '["2","DE"]'


def test_the_allocations_of_the_past_are_those_at_that_time() -> None:
    state = started([allocation(1.0), allocation(0.0, from_us=10), allocation(1.0, from_us=20)], ended_at_us=30)
    past = PastAssignments(defined(), msgspec.structs.replace(state, phase="stopped"))
    found = [past.at(ROWS[0], at_us).reason for at_us in (-1, 0, 9, 10, 19, 20, 29, 30)]
    assert found == ["not started", "assigned", "assigned", *["paused"] * 2, *["assigned"] * 2, "stopped"]


def test_all_but_the_global_holdout_get_the_winner() -> None:
    assigner = Assigner(defined(), started(phase="concluded", winner="green"), holdout=0.1)
    assert {(one.variant, one.reason) for one in map(assigner.assign, ROWS)} == {
        ("green", "concluded"),
        ("control", "holdout"),
    }


def test_slots_of_a_layer_are_the_smallest_gap_with_room() -> None:
    taken = {"a": (0, 2_000), "b": (5_000, 6_000)}
    assert free_slots(taken, 2_500) == (2_000, 4_500)
    assert free_slots(taken, 3_500) == (6_000, 9_500)
    assert free_slots(taken, 4_500) is None
    assert free_slots({}, BUCKETS) == (0, BUCKETS)
    assert free_slots({"a": (0, BUCKETS)}, 1) is None


def test_a_given_unit_is_checked_and_the_message_names_what_lacks() -> None:
    definition = defined(
        where=(col("age") > 17) & (col("country") == "DE"), attributes={"country": "str", "age": "float"}
    )
    assert check_row(definition, {"customer": 7, "age": 30, "country": None, "more": 1}) == {
        "customer": 7,
        "age": 30.0,
        "country": None,
    }
    assert check_row(defined(), "x") == {"customer": "x"}
    for one, value in ((np.int64(7), 7), (np.uint8(7), 7), (np.str_("x"), "x")):
        assert check_row(defined(), one) == check_row(defined(), {"customer": one}) == {"customer": value}
        assert type(check_row(defined(), one)["customer"]) is type(value)
    assert check_row(defined(), ("x",)) == {"customer": "x"}
    assert check_row(defined(unit=("country", "user")), ("DE", 7)) == {"country": "DE", "user": 7}
    assert check_row(defined(), "") == check_row(defined(), {"customer": None}) == {"customer": None}
    for wrong in (np.float64(7.0), np.bool_(True), np.array([7])):
        with pytest.raises(Misuse, match="is no unit"):
            check_row(defined(), wrong)
    typed = {"customer": np.int64(7), "age": np.float32(30.0), "country": np.str_("DE")}
    assert check_row(definition, typed) == {"customer": 7, "age": 30.0, "country": "DE"}
    for row, message in (
        (["x"], "is no unit"),
        ({}, "'customer' is missing. It identifies the unit"),
        ({"customer": 1.5, "age": 1.0, "country": "DE"}, "'customer' is 1.5. Give a text or an integer"),
        ({"customer": True, "age": 1.0, "country": "DE"}, "'customer' is True"),
        ({"customer": "\ud800", "age": 1.0, "country": "DE"}, "no valid Unicode"),
        ({"customer": "x", "age": 1.0, "country": "\ud800"}, "the attribute 'country' is .* no valid Unicode"),
        (("x", "y"), "is no unit"),
        ({"customer": 1, "country": "DE"}, r"the attribute 'age' \(float\) is missing"),
        ({"customer": 1, "age": "old", "country": "DE"}, "declared as float"),
        ("x", "the attribute 'age'"),
    ):
        with pytest.raises(Misuse, match=message):
            check_row(definition, row)


@pytest.mark.soak
def test_two_layers_are_independent_over_a_million_units() -> None:
    """The test has a false-alarm probability of 1e-4; the hash has no seed, so that the outcome is fixed."""
    from scipy.stats import chi2_contingency

    weights = {"control": 0.25, "red": 0.25, "green": 0.5}
    definition = defined(variants=dict.fromkeys(weights, 0))
    state = started([allocation(weights=weights)])
    one = Assigner(definition, state).assign
    other = Assigner(msgspec.structs.replace(definition, name="banner"), state).assign
    slots = Assigner(msgspec.structs.replace(definition, layer="shop"), started(slots=(0, 5_000))).assign
    table: Counter[tuple[str, str, str]] = Counter()
    for n in range(1_000_000):
        row = {"customer": f"customer-{n}"}
        table[one(row).variant, other(row).variant, slots(row).reason] += 1
    for places in ((0, 1), (0, 2), (1, 2)):
        pairs = Counter()
        for key, count in table.items():
            pairs[key[places[0]], key[places[1]]] += count
        rows, columns = ({key[n] for key in pairs} for n in (0, 1))
        p = chi2_contingency([[pairs[a, b] for b in sorted(columns)] for a in sorted(rows)]).pvalue
        print(places, "p =", p)
        assert p > 1e-4


def test_an_integer_that_does_not_fit_is_refused() -> None:
    plain: dict[str, Any] = {"name": "e", "unit": ("user",), "variants": {"a": 1, "b": 2}}
    whole = Experiment(**plain, attributes={"amount": "int"})
    assert check_row(whole, {"user": "u", "amount": -(2**63)})["amount"] == -(2**63)
    with pytest.raises(Misuse, match=r"the attribute 'amount' is 9223.*, which does not fit in 64 bits"):
        check_row(whole, {"user": "u", "amount": 2**63})
    definition = Experiment(**plain, attributes={"amount": "float"})
    assert check_row(definition, {"user": "u", "amount": 10**300})["amount"] == 1e300
    with pytest.raises(Misuse, match=r"the attribute 'amount' is 1000.*, which is too large for a float"):
        check_row(definition, {"user": "u", "amount": 10**400})
