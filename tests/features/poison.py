"""Random definitions over random hostile events, evaluated on every path and by a third, plain evaluator."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from oracle import Record, contribution, oracle, versions

from trimtab import features as f
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.expressions.functions import transform
from trimtab.core.expressions.nodes import Expression, col, lit, when
from trimtab.events.columns.history import History
from trimtab.events.definitions import Time, source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine
from trimtab.events.records import decode, known_at_us
from trimtab.features.aggregates import Aggregate, Several
from trimtab.features.definitions import View, request, view
from trimtab.features.feature_set import feature_set
from trimtab.features.frames import FAILED, NO_VIEW, REASONS
from trimtab.features.offline.evaluation import evaluate
from trimtab.features.online.fill.fill import fill
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue, MemoryLog

BEGIN_US, STEP_US = 1_700_000_000_000_000, 1_000
COLUMNS: dict[str, type] = {"id": str, "who": str, "at": Time, "n": int, "m": int, "x": float, "s": str, "ok": bool}
KEYED = source("keyed", time="at", key="id", columns=COLUMNS, future_tolerance="10d")
PLAIN = source("plain", time="at", columns=COLUMNS, future_tolerance="10d")
ASK = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "who": str, "n": int, "m": int, "x": float})
INTS = [0, 1, -1, 3, 7, 2**31, 2**62, 2**63 - 1, -(2**63), -(2**62)]
FLOATS = [0.0, 1.0, -0.5, 0.1, 1e16, 1e150, -1e150, 5e-324, 1e-300]
TEXTS = ["", "a", "b", "\0", "é\u202e", "𝔘" * 40, "x" * 3_000]
BOUND, GREATEST = 2**63, 1e150


# -- functions of a user, each of which goes wrong for some values


@transform(returns=int)
def picky(n: int) -> int:
    if n % 3 == 0:
        raise ValueError(n)
    return n


@transform(returns=int)
def growing(n: int) -> int:
    return n * n


@transform(returns=float, nulls="pass")
def liar(x: float | None, s: str | None) -> Any:
    return s if x is None or x < 0.5 else x


@transform(returns=str)
def halved(s: str) -> str:
    return s + "\ud800" if len(s) > 30 else s[: len(s) // 2]


@transform(returns=bool)
def leaving(n: int) -> bool:
    return n < 5 if n < 2**40 else sys.exit("enough")


FUNCTIONS: dict[str, tuple[Callable[..., Any], type, bool]] = {
    one.name: (one.function, returns, skips)
    for one, returns, skips in (
        (picky, int, True), (growing, int, True), (liar, float, False), (halved, str, True), (leaving, bool, True),
    )
}  # fmt: skip


# -- the third evaluator


def plainly(node: Expression, columns: Mapping[str, Dtype], row: Mapping[str, Any]) -> tuple[Any, bool]:
    """An expression's value of one row, and whether a part that it needed failed, word for word as documented."""

    def of(arg: Expression) -> tuple[Any, bool]:
        return plainly(arg, columns, row)

    match node.op:
        case "col":
            return row[str(node.params[0])], False
        case "lit":
            return node.params[1], False
        case "when":
            condition, failed = of(node.args[0])
            if condition is not True and len(node.args) == 2:
                return None, failed
            value, also = of(node.args[1 if condition is True else 2])
            return value, failed or also
        case "fill_null":
            value, failed = of(node.args[0])
            if value is not None:
                return value, failed
            value, also = of(node.args[1])
            return value, failed or also
        case "&" | "|":
            decisive = node.op == "|"
            a, failed = of(node.args[0])
            if a is decisive:
                return a, failed
            b, also = of(node.args[1])
            return b if b is decisive or a is not None else None, failed or also
        case "python":
            function, returns, skips = FUNCTIONS[str(node.params[0])]
            found = [of(arg) for arg in node.args]
            values, failed = [value for value, _ in found], any(one for _, one in found)
            if skips and None in values:
                return None, failed
            value, also = called(function, returns, values)
            return value, failed or also
    found = [of(arg) for arg in node.args]
    values, failed = [value for value, _ in found], any(one for _, one in found)
    if node.op == "is_null":
        return values[0] is None, failed
    if None in values or node.op == "category":
        return values[0] if node.op == "category" else None, failed
    value, also = computed(node.op, *values)
    return value, failed or also


def called(function: Callable[..., Any], returns: type, values: list[Any]) -> tuple[Any, bool]:
    try:
        result = function(*values)
    except (Exception, SystemExit):
        return None, True
    if result is None:
        return None, False
    if type(result) is not returns or (returns is int and not -BOUND <= result < BOUND):
        return None, True
    if returns is str and any(0xD800 <= ord(c) < 0xE000 for c in result):
        return None, True
    return result, False


def computed(op: str, a: Any, b: Any = None) -> tuple[Any, bool]:
    """A function of values that are there."""
    match op:
        case "~":
            return not a, False
        case "<" | ">" | "==":
            return {"<": a < b, ">": a > b, "==": a == b}[op], False
        case "neg" | "abs":
            value = -a if op == "neg" else abs(a)
        case _:
            if op in ("//", "%") and b == 0:
                return None, False
            value = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "//": lambda: a // b,
                     "%": lambda: a % b}[op]()  # fmt: skip
    if isinstance(value, float):
        return (value + 0.0, False) if -GREATEST <= value <= GREATEST else (None, False)
    return (value, False) if -BOUND <= value < BOUND else (None, True)


# -- random definitions


class Definitions:
    """Random expressions over the numbers n and m, x, and where there are such columns s and ok."""

    def __init__(self, rng: random.Random, *, of_events: bool) -> None:
        self._rng = rng
        self._of_events = of_events

    def number(self, depth: int) -> Expression:
        pick, again = self._rng.choice, depth - 1
        if depth <= 0:
            return pick([col("n"), col("m"), lit(pick(INTS))])
        kind = pick(["+", "-", "*", "*", "//", "%", "neg", "abs", "when", "fill", "picky", "growing"])
        one = self.number(again)
        match kind:
            case "+" | "-" | "*" | "//" | "%":
                return Expression(kind, (one, self.number(again)))
            case "neg":
                return -one
            case "abs":
                return one.abs()
            case "when":
                return when(self.truth(again), one, pick([None, self.number(again)]))
            case "fill":
                return one.fill_null(self.number(again))
            case _:
                return {"picky": picky, "growing": growing}[kind](one)

    def real(self, depth: int) -> Expression:
        pick, again = self._rng.choice, depth - 1
        if depth <= 0:
            return pick([col("x"), lit(pick(FLOATS))])
        one = self.real(again)
        kind = pick(["+", "-", "*", "when", "liar"])
        if kind == "when":
            return when(self.truth(again), one, self.real(again))
        if kind == "liar" and self._of_events:
            return liar(one, col("s"))
        return Expression("*" if kind == "liar" else kind, (one, self.real(again)))

    def truth(self, depth: int) -> Expression:
        pick, again = self._rng.choice, depth - 1
        if depth <= 0:
            return pick([col("n") > 5, col("x") < 0.5, *([col("ok")] if self._of_events else [])])
        match pick(["n", "x", "&", "|", "~", "null", "leaving"]):
            case "n":
                return Expression(pick(["<", ">", "=="]), (self.number(again), self.number(again)))
            case "x":
                return Expression(pick(["<", ">"]), (self.real(again), self.real(again)))
            case "&":
                return self.truth(again) & self.truth(again)
            case "|":
                return self.truth(again) | self.truth(again)
            case "~":
                return ~self.truth(again)
            case "null":
                return self.number(again).is_null()
            case _:
                return leaving(self.number(again))

    def text(self) -> Expression:
        return self._rng.choice([col("s"), halved("s"), when(self.truth(1), halved("s"), "z")]).category()

    def aggregate(self) -> Aggregate | Several:
        rng = self._rng
        kind = rng.choice(
            ["latest", "latest", "count", "sum", "sum", "mean", "min", "max", "var", "std", "decayed_sum",
             "decayed_mean", "first", "last", "last_n", "count_distinct", "top_k"]
        )  # fmt: skip
        value = rng.choice([self.number, self.number, self.real, self.truth])(rng.randrange(1, 4))
        if kind in ("latest", "first", "last", "last_n", "top_k", "count_distinct") and rng.random() < 0.3:
            value = self.text()
            value = value.args[0] if kind == "count_distinct" else value
        if kind == "latest":
            return f.latest(value, max_age=rng.choice([None, 20 * STEP_US]))
        how: dict[str, Any] = {"where": rng.choice([None, None, self.truth(rng.randrange(3))])}
        how["over"] = rng.choice([None, None, 7 * STEP_US, 30 * STEP_US])
        if how["over"] is not None and rng.random() < 0.3:
            how["until"] = 2 * STEP_US
        if kind.startswith("decayed"):
            return getattr(f, kind)(value, half_life=4 * STEP_US, where=how["where"])
        more = [rng.randrange(1, 4)] if kind in ("last_n", "top_k") else []
        return getattr(f, kind)(value, *more, **how)


# -- one campaign


class Outcome(NamedTuple):
    reads: int
    failures: int  # that were counted
    wrong: list[str]


def run(seed: int) -> Outcome:
    """Push hostile events at random definitions, and compare every path with the plain evaluator."""
    rng = random.Random(seed)
    of = rng.choice([KEYED, PLAIN])
    makes = Definitions(rng, of_events=True)
    poisoned = view(
        "poisoned", source=of, by="who", features={"ever": f.count()} | {f"f{i}": makes.aggregate() for i in range(5)}
    )
    healthy = view(
        "healthy", source=of, by="who",
        features={"n": f.count(), "sum": f.sum("x", over=30 * STEP_US), "s": f.count_distinct("s"), "m": f.latest("m")},
    )  # fmt: skip
    wanted = Definitions(rng, of_events=False)
    derived = {f"t{i}": wanted.number(3) for i in range(2)} | {"t2": wanted.real(2), "t3": wanted.truth(3)}
    features = feature_set(ASK, [poisoned, healthy, derived])
    clock = VirtualClock(BEGIN_US)
    log = MemoryLog(clock=clock)
    ingestor = Ingestor(log, [of], clock=clock, quarantine=Quarantine(MemoryLog(clock=clock)))
    kv, twin_kv = MemoryKeyValue(), MemoryKeyValue()
    online, twin = OnlineStore(kv, [poisoned, healthy]), OnlineStore(twin_kv, [healthy])
    mixed = rng.random() < 0.4  # with history, which was known before what came earlier
    outcome = Outcome(0, 0, [])
    last: dict[str, int] = {}
    for _ in range(rng.randrange(3, 9)):
        clock.advance_to(clock.now_us() + rng.randrange(1, 6) * STEP_US)
        rows = [event(rng, clock.now_us(), deletes=of is KEYED) for _ in range(rng.randrange(1, 8))]
        ingestor.push(of.name, rows, history=mixed and rng.random() < 0.5)
        new = [record for name in log.positions() for record in log.read(name, last.get(name, 0))]
        last = dict(log.positions())
        online.apply(new)
        twin.apply(new)
        if rng.random() < 0.5:
            outcome = compared(outcome, rng, features.views, features, log, (kv, twin_kv), clock.now_us())
    clock.advance_to(clock.now_us() + rng.randrange(1, 40) * STEP_US)
    outcome = compared(outcome, rng, features.views, features, log, (kv, twin_kv), clock.now_us())
    filled_kv = MemoryKeyValue()
    filled = OnlineStore(filled_kv, [poisoned, healthy])
    for _ in fill(filled, log):
        pass
    outcome = compared(outcome, rng, features.views, features, log, (filled_kv, twin_kv), clock.now_us())
    for name, store in (("applied", online), ("filled", filled)):
        counted = {feature: (one.count, one.event_id) for feature, one in store.failures().get("poisoned", {}).items()}
        expected = expected_failures(records_of(log, of), poisoned)
        if of is KEYED and mixed:  # which versions count is not settled while they come
            counted, expected = dict.fromkeys(counted, (1, "")), dict.fromkeys(expected, (1, ""))
        if counted != expected or "healthy" in store.failures():
            outcome.wrong.append(f"seed {seed}: {name} counted {counted}, meant {expected}")
    return Outcome(outcome.reads, sum(count for count, _ in expected.values()), [*outcome.wrong])


def event(rng: random.Random, now_us: int, *, deletes: bool) -> dict[str, Any]:
    return {
        "_op": "delete" if deletes and rng.random() < 0.1 else "upsert",
        "id": f"e{rng.randrange(12)}" if rng.random() < 0.4 else f"e{rng.getrandbits(40)}",
        "who": rng.choice(["a", "b", "𝔘", None]),
        "at": now_us - rng.choice([0, 0, STEP_US, 3 * STEP_US, rng.randrange(20 * STEP_US)]),
        "n": rng.choice([None, *INTS, rng.randrange(-9, 9), rng.randrange(-(2**63), 2**63)]),
        "m": rng.choice([None, *INTS, rng.randrange(-9, 9)]),
        "x": rng.choice([None, *FLOATS, rng.uniform(-3, 3)]),
        "s": rng.choice([None, *TEXTS]),
        "ok": rng.choice([None, True, False]),
    }


def compared(
    outcome: Outcome,
    rng: random.Random,
    views: Any,
    features: Any,
    log: MemoryLog,
    stores: tuple[MemoryKeyValue, MemoryKeyValue],
    now_us: int,
) -> Outcome:
    """All entities at one time: online, offline, by the healthy twin and word for word."""
    kv, twin_kv = stores
    of = views[0].source
    rows = [
        {"who": who, "n": rng.choice([None, *INTS]), "m": rng.choice([None, *INTS]), "x": rng.choice([None, *FLOATS])}
        for who in ("a", "b", "𝔘", "none", None)
    ]
    read = RequestPlan(features, kv).read(rows, now_us)
    healthy = RequestPlan(feature_set(ASK, [views[1]]), twin_kv).read(rows, now_us)
    history = History(log, [of])
    history.refresh()
    columns = features.request.columns
    table = Columns.of({name: (columns[name], [row[name] for row in rows]) for name in ("who", "n", "m", "x")})
    found = evaluate(features, table, np.full(len(rows), read.at_us), {of.name: history.frame(of.name)})
    codes = found.codes(features.names)
    lists = [found.values[name].to_list() for name in features.names]
    records = records_of(log, of)
    wrong, reads = list(outcome.wrong), outcome.reads
    for n, row in enumerate(rows):
        meant: dict[str, tuple[Any, Any]] = {}
        for v in views:
            answers = oracle(records, v, row["who"], read.at_us, evaluate=plainly)
            meant |= {f"{v.name}.{name}": answer for name, answer in answers.items()}
        for name, expression in features.transforms.items():
            value, failed = plainly(expression, columns, row)
            meant[name] = value, "failed" if failed and value is None else None
        for place, name in enumerate(features.names):
            reads += 1
            code = read.reasons[n][place]
            on = read.values[n][place], REASONS[code] if name not in features.transforms or code == FAILED else None
            off = lists[place][n], None if codes[n, place] == NO_VIEW else REASONS[codes[n, place]]
            if not (bits(on) == bits(off) == bits(meant[name])):
                wrong.append(f"{name} of {row['who']!r}: online {on}, offline {off}, meant {meant[name]}")
        own = [name for name in features.names if name.startswith("healthy.")]
        here = [bits((read.values[n][features.names.index(name)], None)) for name in own]
        if here != [bits((value, None)) for value in healthy.values[n]]:
            wrong.append(f"the healthy view of {row['who']!r} differs from its twin")
    return Outcome(reads, outcome.failures, wrong)


def records_of(log: MemoryLog, of: Any) -> list[Record]:
    found = []
    for partition in log.positions():
        for record in log.read(partition, 0):
            one = decode(record.payload)
            found.append(
                Record(id=one.id, row=dict(zip(of.columns, one.values, strict=True)), event_at_us=one.event_at_us,
                       known_at_us=known_at_us(one, record), partition=record.partition, position=record.position,
                       deleted=one.op == "delete")
            )  # fmt: skip
    return found


def expected_failures(records: list[Record], v: View) -> dict[str, tuple[int, str]]:
    """Of each feature how many versions of events it failed for, and the id of the last one."""
    out: dict[str, tuple[int, str]] = {}
    kept = [r for r in versions(records, v.source) if r.row["who"] is not None]
    for record in sorted(kept, key=lambda r: (r.known_at_us, r.partition, r.position)):
        for name, aggregate in v.features.items():
            if not record.deleted and contribution(aggregate, v.source, record, plainly)[1]:
                out[name] = out.get(name, (0, ""))[0] + 1, record.id[:200]
    return out


def bits(answer: tuple[Any, Any]) -> Any:
    value, reason = answer
    return (float.hex(value) if isinstance(value, float) and not math.isnan(value) else (type(value), value)), reason


__all__ = ["LogRecord", "Outcome", "run"]
