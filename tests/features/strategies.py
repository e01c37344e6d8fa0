"""Random histories, views and instants for Hypothesis, full of hazards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from oracle import Record

from trimtab import features
from trimtab.core.expressions.functions import transform
from trimtab.core.expressions.nodes import Expression, col, when
from trimtab.events.definitions import Source, Time, source
from trimtab.features.aggregates import Aggregate, Several, count, latest
from trimtab.features.definitions import View, view

COLUMNS: dict[str, type] = {
    "id": str, "key": str, "at": Time, "x": float, "n": int, "ok": bool, "kind": str,
}  # fmt: skip
KEYED = source("readings", time="at", key="id", columns=COLUMNS)
KEYLESS = source("readings", time="at", columns=COLUMNS)

BASE_US = 1_000_000_000  # histories lie around it, and a little below 0 too
UNIT_US = 10  # times are multiples of it, or next to one, so that they tie

offsets = st.one_of(st.integers(-20, 60), st.integers(-2, 12))
instants = st.builds(lambda n, beside: n * UNIT_US + beside, offsets, st.sampled_from([0, 0, 0, 1, -1]))
floats = st.one_of(
    st.none(),
    st.sampled_from([0.1, 0.2, 0.3, 1e16, -1e16, 1.0, 0.0, -0.1, 5e-324, -5e-324, 2.3e-308, 1e150]),
    st.floats(-1e-307, 1e-307).map(lambda x: x + 0.0),  # subnormal: their means underflow
    st.floats(-1e3, 1e3).map(lambda x: x + 0.0),
)
keys = st.sampled_from(["a", "b", "c"])
own_ids = st.sampled_from([None, None, "i", "j", ""])  # what rows of a source without a key carry as `_id`


@st.composite
def rows(draw: st.DrawFn, record_id: str, event_at_us: int) -> dict[str, Any]:
    return {
        "id": record_id,
        "key": draw(st.one_of(keys, keys, keys, st.none())),
        "at": event_at_us,
        "x": draw(floats),
        "n": draw(st.one_of(st.none(), st.integers(-5, 5), st.integers(-(2**40), 2**40))),
        "ok": draw(st.one_of(st.none(), st.booleans())),
        "kind": draw(st.one_of(st.none(), st.sampled_from(["u", "v"]))),
    }


@st.composite
def histories(draw: st.DrawFn, of: Source = KEYED, base_us: int = BASE_US, most: int = 16) -> list[Record]:
    """Records in the order of their log: late, future-dated, embargoed, repeated, corrected, deleted, loaded."""
    records: list[Record] = []
    appended_at = {"p0": base_us, "p1": base_us}
    positions = {"p0": 0, "p1": 0}
    for _ in range(draw(st.integers(0, most))):
        partition = draw(st.sampled_from(["p0", "p0", "p1"]))
        appended_at[partition] += draw(st.sampled_from([0, 0, 1, UNIT_US, 5 * UNIT_US]))
        positions[partition] += draw(st.sampled_from([1, 1, 2]))
        again = draw(st.integers(0, 9)) < 3 and records
        previous = draw(st.sampled_from(records)) if again else None
        record_id = previous.id if previous else f"r{len(records)}"
        event_at = base_us + draw(instants)
        how = draw(st.sampled_from(["live", "live", "live", "history", "embargo"]))
        known_at = appended_at[partition]
        if how == "history":
            known_at = event_at + draw(st.sampled_from([0, 0, UNIT_US]))
        elif how == "embargo":
            known_at += draw(st.integers(0, 20)) * UNIT_US
        row, deleted = draw(rows(record_id, event_at)), False
        if previous and draw(st.booleans()):
            event_at = previous.event_at_us
            row = {**row, "key": previous.row["key"], "at": event_at}
        if previous:
            match draw(st.sampled_from(["correct", "correct", "repeat", "delete"])):
                case "repeat" if not previous.deleted:
                    row, event_at = previous.row, previous.event_at_us
                case "delete":
                    deleted = True
                    row = dict.fromkeys(row) | {"id": record_id, "at": event_at}
        records.append(
            Record(id=record_id, row=row, event_at_us=event_at, known_at_us=known_at, partition=partition,
                   position=positions[partition], deleted=deleted)
        )  # fmt: skip
    return records


@transform(returns=int)
def picky(n: int) -> int:
    if n % 3 == 0:
        raise ValueError(n)
    return n


VALUES: list[Expression] = [
    col("x"), col("n"), col("ok"), col("x") >= 0.2, col("x") * col("n"), when(col("ok"), col("n"), 1), col("x").log1p(),
    col("n") * 2**30, when(col("n") > 0, picky(col("n")), 7),
]  # fmt: skip
WHERE: list[Expression | None] = [
    None, None, col("ok"), ~col("ok"), col("x") > 0, col("kind") == "u", picky(col("n")) > 1,
]  # fmt: skip


NUMERIC = ["sum", "mean", "min", "max", "var", "std", "decayed_sum", "decayed_mean"]
KINDS = ["latest", "count", *NUMERIC, "first", "last", "last_n", "count_distinct", "top_k"]


@st.composite
def aggregates(draw: st.DrawFn, kinds: Sequence[str] = KINDS) -> Aggregate | Several:
    kind = draw(st.sampled_from(kinds))
    anything = [*VALUES, col("kind"), col("kind"), col("at"), col("id"), col("id")]
    if kind == "latest":
        value = draw(st.sampled_from([*VALUES, col("kind").category(), col("at")]))
        return latest(value, max_age=draw(st.sampled_from([None, 0, 1, UNIT_US, 5 * UNIT_US, 20 * UNIT_US])))
    how = draw(windows(kind.startswith("decayed")))
    if kind == "count":
        return count(draw(st.sampled_from([None, None, col("x"), col("kind"), col("ok")])), **how)
    make = getattr(features, kind)
    if kind in NUMERIC:
        return make(draw(st.sampled_from(VALUES)), **how)
    value = draw(st.sampled_from(anything))
    if value.op == "col" and value.params[0] in ("kind", "id") and kind != "count_distinct":
        value = value.category()  # so that a model may read it
    match kind:
        case "count_distinct":
            return make(value, k=draw(st.sampled_from([3, 3, 4, 256])), **how)
        case "last_n" | "top_k":
            return make(value, draw(st.integers(1, 4)), **how)
        case _:
            return make(value, **how)


@st.composite
def windows(draw: st.DrawFn, decays: bool) -> dict[str, Any]:
    """Of an aggregate: over, until, hop, where, and a half-life where values decay."""
    how: dict[str, Any] = {"where": draw(st.sampled_from(WHERE))}
    over = draw(st.sampled_from([None, 1, UNIT_US, 3 * UNIT_US, 25, 10 * UNIT_US, 40 * UNIT_US, 10**9]))
    if decays:
        how["half_life"] = draw(st.sampled_from([1, 7, 2 * UNIT_US, 25, 20 * UNIT_US, 10**6]))
        over = None if over == 10**9 else over
    if over is None and not decays:
        return how
    until = draw(st.sampled_from([0, 0, 0, 1, 3, UNIT_US, 2 * UNIT_US, 7 * UNIT_US]))
    length = 10 * how["half_life"] if over is None else over
    until = until if until < length else 0
    hop = draw(st.sampled_from([None, 1, 7, UNIT_US, 3 * UNIT_US, *([] if decays else [0, 0])]))
    if hop is not None and hop > length - until:
        hop = 1 if decays else 0
    if decays and hop is not None and length > 1_000 * hop:
        hop = None
    return how | {"over": over, "until": until, "hop": hop}


@st.composite
def views(draw: st.DrawFn, of: Source = KEYED, kinds: Sequence[str] = KINDS) -> View:
    declared = {f"f{i}": draw(aggregates(kinds)) for i in range(draw(st.integers(1, 5)))}
    return view("v", source=of, by="key", features=declared, boundary=draw(st.sampled_from(["before", "inclusive"])))


def request_times(base_us: int = BASE_US) -> st.SearchStrategy[int]:
    """Times at and around those of a history."""
    return instants.map(lambda offset: base_us + offset)


request_keys = st.one_of(keys, keys, st.sampled_from(["unknown", None]))
