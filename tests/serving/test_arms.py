"""Canaries, shadows, and models that sleep: every request is answered, by whom it should be."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from time import perf_counter, sleep
from typing import Any

import pytest

from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.records import Prediction
from trimtab.serving.arms.arms import SHADOWED_AT_MOST, ArmShares, Canary, Shadow, Share
from trimtab.serving.failures import Late
from trimtab.serving.http.predict.scheduler import RequestScheduler
from trimtab.serving.http.predict.shadowing import Shadowing
from trimtab.serving.http.service import HttpService
from trimtab.serving.log.commit import GroupCommit
from trimtab.serving.protect.admission import GradientLimit
from trimtab.serving.protect.degradation import Degrading, degrade


class Broken:
    def predict(self, matrix: Any) -> Any:
        raise ValueError("a bug of the user's")

    predict_row = predict


def logged(shop: Any) -> list[Prediction]:
    return [p for block in shop.log.scan() for p in block]


def other(shop: Any, arm: str, *, scorer: Any = None) -> Any:
    import msgspec

    made = shop.answerer(number=2, scorer=scorer)
    made.served = msgspec.structs.replace(made.served, arm=arm)
    made._arm = arm
    shop.endpoint.know(made.served)
    return made


def users(n: int) -> list[str]:
    return [f"user-{k}" for k in range(n)]


def test_a_canary_answers_its_share_always_about_the_same_entities(shop: Any) -> None:
    shop.endpoint.canary = Canary(other(shop, "canary"), Share("late", 0.3, ["user"]))
    first = {user: shop.endpoint.answer([shop.ask(user)])[0] for user in users(300)}
    share = sum(answer.arm == "canary" for answer in first.values()) / 300
    assert 0.2 < share < 0.4
    assert {answer.version for answer in first.values() if answer.arm == "canary"} == {"late@2"}
    assert {answer.version for answer in first.values() if answer.arm == "champion"} == {"late@1"}
    again = shop.endpoint.answer([shop.ask(user) for user in users(300)])
    assert [answer.arm for answer in again] == [answer.arm for answer in first.values()]
    assert [answer.request_id for answer in again] == ["c1"] * 300
    assert {p.version for p in logged(shop) if p.arm == "canary"} == {f"{2:064}"}


def test_who_is_in_a_share_stays_in_it_when_it_grows() -> None:
    rows = [{"user": user} for user in users(2_000)]
    held = [[share.holds(row) for row in rows] for share in (Share("m", s, ["user"]) for s in (0.0, 0.1, 0.5, 1.0))]
    assert not any(held[0])
    assert all(held[3])
    assert all(small <= large for small, large in zip(held[1], held[2], strict=True))
    assert [Share("m", 0.5, ["user"]).holds(r) for r in rows] != [Share("n", 0.5, ["user"]).holds(r) for r in rows]
    with pytest.raises(Misuse, match=r"the share is 1.5"):
        ArmShares(canary=1.5)


def test_two_lines_of_a_model_split_its_entities_independently() -> None:
    """With one hash for both, a shadow of a tenth would get only the entities of the canary."""
    rows = [{"user": user} for user in users(4_000)]
    canary = [Share("m", 0.5, ["user"]).holds(row) for row in rows]
    for line in ("shadow", "canary-2", "holdback"):
        other = [Share("m", 0.2, ["user"], line=line).holds(row) for row in rows]
        both = sum(a and b for a, b in zip(canary, other, strict=True))
        assert 0.17 < sum(other) / 4_000 < 0.23
        assert 0.08 < both / 4_000 < 0.12  # a fifth of those in the canary, as of all
    with_lines = {line: [Share("m", 0.5, ["user"], line=line).holds(r) for r in rows] for line in ("a", "b")}
    assert with_lines["a"] != with_lines["b"]


def test_who_was_in_a_canary_before_there_were_lines_still_is() -> None:
    held = [n for n in range(60) if Share("late", 0.25, ["user"]).holds({"user": f"user-{n}"})]
    assert held == [2, 7, 8, 13, 16, 22, 25, 29, 30, 37, 38, 41, 43, 45, 46, 48, 49, 52, 54, 58]


def test_where_a_canary_fails_the_version_in_service_answers(shop: Any) -> None:
    shop.endpoint.canary = Canary(other(shop, "canary", scorer=Broken()), Share("late", 0.5, ["user"]))
    answers = shop.endpoint.answer([shop.ask(user) for user in users(40)])
    assert {(a.version, a.flags) for a in answers} == {("late@1", ()), ("late@1", ("canary_failed",))}
    assert len(logged(shop)) == 40


class Gone:
    """The reads of a version whose store is down."""

    def __init__(self, answerer: Any) -> None:
        self.calls = 0
        answerer._read = self.read

    def read(self, *_: Any) -> Any:
        self.calls += 1
        raise Unavailable("the store is gone")


def test_a_canary_leaves_features_alone_that_fail_again_and_again(shop: Any) -> None:
    """Where a policy left them alone, every request of a canary still asked the store."""
    shop.endpoint.degrading = Degrading(degrade(rule=0.5), about=["user"])
    canary = other(shop, "canary")
    shop.endpoint.canary = Canary(canary, Share("late", 1.0, ["user"]))
    reads = Gone(shop.endpoint.current), Gone(canary)
    for user in users(50):
        (answer,) = shop.endpoint.answer([shop.ask(user)])
        assert answer.flags == ("canary_failed", "features_failed", "rule")
    assert max(one.calls for one in reads) < 20


@pytest.mark.parametrize("policy", [True, False])
def test_a_request_that_is_late_says_nothing_about_a_canary(shop: Any, policy: bool) -> None:
    canary = other(shop, "canary")
    shop.endpoint.canary = Canary(canary, Share("late", 1.0, ["user"]))
    reads, champion = Gone(canary), shop.endpoint.current
    rows, over_s = champion.rows.check([shop.ask()]), perf_counter() - 1
    if policy:
        shop.endpoint.degrading = Degrading(degrade(rule=0.5), about=["user"])
        (made,) = shop.endpoint.prepare(champion, rows, None, over_s)
        assert made.flags == ("late", "rule")
    else:
        with pytest.raises(Late):
            shop.endpoint.prepare(champion, rows, None, over_s)
    assert reads.calls == 0


def test_requests_of_a_split_that_get_no_answer_are_told(shop: Any) -> None:
    told: list[tuple[int, str]] = []
    canary, champion = other(shop, "canary"), shop.endpoint.current

    def unanswered(rows: Any, error: Exception) -> None:
        told.append((len(rows), type(error).__name__))

    shop.endpoint.canary = Canary(canary, Share("late", 0.5, ["user"]), unanswered=unanswered)
    rows = champion.rows.check([shop.ask(user) for user in users(4)])
    shop.endpoint.prepare(champion, rows, None)
    assert told == []
    with pytest.raises(Late):
        shop.endpoint.prepare(champion, rows, None, perf_counter() - 1)
    with pytest.raises(Late):  # the rows of a shared call are answered one by one afterwards, and told then
        shop.endpoint.prepare(champion, rows, None, perf_counter() - 1, shared=True)
    Gone(champion)
    Gone(canary)
    with pytest.raises(Unavailable, match="the store is gone"):
        shop.endpoint.prepare(champion, rows[:1], None)
    assert told == [(4, "Late"), (1, "Unavailable")]


def test_a_canary_that_reads_too_slowly_is_late_and_then_not_called(shop: Any) -> None:
    shop.endpoint.degrading = Degrading(degrade(rule=0.5), about=["user"])
    canary, reads = other(shop, "canary"), 0
    shop.endpoint.canary = Canary(canary, Share("late", 1.0, ["user"]))
    champion, read = shop.endpoint.current, canary._read

    def slow(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        sleep(0.06)
        return read(*arguments)

    canary._read = slow
    rows = champion.rows.check([shop.ask()])
    while reads < 5:
        (made,) = shop.endpoint.prepare(champion, rows, None, perf_counter() + 0.03)
        assert made.flags == ("late", "rule")
    text = HttpService([shop.endpoint], shop.log).parts.metrics.text()
    found = re.findall(r'trimtab_breaker_open{model="late",whose="(\w+)"} (\d)', text)
    assert dict(found) == {"champion": "0", "canary": "1", "fallback": "0"}


def test_requests_whose_share_is_unknown_are_answered_by_the_version_in_service(shop: Any) -> None:
    """The column that names its entity has another name: every request failed while a canary ran."""
    shop.endpoint.canary = Canary(other(shop, "canary"), Share("late", 0.5, ["buyer"]))
    answers = shop.endpoint.answer([shop.ask(user) for user in users(3)])
    assert [(a.version, a.flags) for a in answers] == [("late@1", ("canary_failed",))] * 3
    assert len(logged(shop)) == 3


def test_a_shadow_works_while_no_request_waits_and_is_logged(shop: Any) -> None:
    shadow = Shadow(other(shop, "shadow"), Share("late", 1.0, ["user"]))
    turns = RequestScheduler(GradientLimit())
    commit = GroupCommit(shop.log)

    async def serve() -> None:
        shadowing = Shadowing(turns, commit)
        turns.under_way = 1
        shadowing.offer(shadow, [{**shop.ask(user), "at": 1} for user in users(10)])
        await asyncio.sleep(0.05)
        assert shadow.counts.answered == 0  # a request waits
        turns.under_way = 0
        while shadow.waits:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)

    asyncio.run(serve())
    commit.close()
    assert counted(shadow) == (10, 0, 0)
    assert [(p.arm, p.version) for p in logged(shop)] == [("shadow", f"{2:064}")] * 10


def test_a_shadow_whose_share_is_unknown_fails_alone(shop: Any, caplog: pytest.LogCaptureFixture) -> None:
    shadow = Shadow(other(shop, "shadow"), Share("late", 0.5, ["buyer"]))
    shadow.offer([shop.ask(user) for user in users(3)])
    assert (counted(shadow), shadow.waits) == ((0, 0, 3), False)
    assert "late@2 (shadow): KeyError: 'buyer'" in caplog.text


def test_a_shadow_that_falls_behind_or_fails_delays_no_request(shop: Any) -> None:
    shadow = Shadow(other(shop, "shadow", scorer=Broken()), Share("late", 1.0, ["user"]))
    shadow.offer([shop.ask(user) for user in users(SHADOWED_AT_MOST + 7)])
    assert counted(shadow) == (0, 7, 0)
    while shadow.waits:
        assert shadow.work(1.0) == []
    assert counted(shadow) == (0, 7, SHADOWED_AT_MOST)


def test_a_shadow_leaves_features_alone_that_fail_again_and_again(shop: Any) -> None:
    shadow = Shadow(other(shop, "shadow"), Share("late", 1.0, ["user"]))
    reads = Gone(shadow.answerer)
    shadow.offer([shop.ask(user) for user in users(100)])
    while shadow.waits:
        assert shadow.work(1.0) == []
    assert reads.calls < 20
    assert counted(shadow) == (0, 0, 100)


def test_a_shadow_that_reads_slowly_answers_all_the_same(shop: Any) -> None:
    shadow = Shadow(other(shop, "shadow"), Share("late", 1.0, ["user"]))
    read = shadow.answerer._read

    def slow(*arguments: Any) -> Any:
        sleep(0.06)
        return read(*arguments)

    shadow.answerer._read = slow
    shadow.offer([{**shop.ask(user), "at": 1} for user in users(7)])
    assert len(shadow.work(60.0)) == 7


def test_a_slow_shadow_has_a_sixth_of_the_time_at_most(shop: Any) -> None:
    worked: list[tuple[float, float]] = []

    class Slow:
        def predict_row(self, row: list[float]) -> float:
            begun_s = perf_counter()
            sleep(0.02)
            worked.append((begun_s, perf_counter()))
            return 0.5

    shadow = Shadow(other(shop, "shadow", scorer=Slow()), Share("late", 1.0, ["user"]))
    commit = GroupCommit(shop.log)

    async def serve() -> None:
        Shadowing(RequestScheduler(GradientLimit()), commit).offer(
            shadow, [{**shop.ask(user), "at": 1} for user in users(4)]
        )
        while len(worked) < 4:
            await asyncio.sleep(0.005)

    asyncio.run(serve())
    commit.close()
    for (begun_s, ended_s), (next_s, _) in itertools.pairwise(worked):
        assert next_s - ended_s > 4.5 * (ended_s - begun_s) * 0.9


def test_of_a_large_request_only_what_a_shadow_may_get_to_is_looked_at(shop: Any) -> None:
    looked = 0

    class Counted(Share):
        def holds(self, row: Any) -> bool:
            nonlocal looked
            looked += 1
            return super().holds(row)

    shadow = Shadow(other(shop, "shadow"), Counted("late", 0.5, ["user"]))
    shadow.offer([shop.ask(user) for user in users(3 * SHADOWED_AT_MOST)])
    assert looked == SHADOWED_AT_MOST
    assert shadow.counts.dropped == SHADOWED_AT_MOST


def test_what_became_of_requests_for_shadows_is_counted_for_all_of_them_and_only_grows(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new version in the shadow began its counts again, and what could not be logged was counted as answered."""
    endpoint, everybody = shop.endpoint, Share("late", 1.0, ["user"])
    service = HttpService([endpoint], shop.log)

    def figures() -> dict[str, int]:
        found = re.findall(
            r'trimtab_shadow_requests_total{model="late",fate="(\w+)"} (\d+)', service.parts.metrics.text()
        )
        return {fate: int(count) for fate, count in found}

    async def offered(scorer: Any = None) -> dict[str, int]:
        shadow = endpoint.shadow = Shadow(other(shop, "shadow", scorer=scorer), everybody, endpoint.shadowed)
        offers = Shadowing(service.parts.scheduler, service.parts.commit)
        offers.offer(shadow, [shop.ask(user) for user in users(4)])
        while shadow.waits or sum(counted(shadow)) < before + 4:
            await asyncio.sleep(0.002)
        return figures()

    def full(*_: Any, **__: Any) -> range:
        raise Unavailable("the disk is full")

    before = 0
    assert asyncio.run(offered()) == {"answered": 4, "dropped": 0, "failed": 0}
    before = 4
    assert asyncio.run(offered(Broken())) == {"answered": 4, "dropped": 0, "failed": 4}
    before = 8
    with monkeypatch.context() as patch:
        patch.setattr(shop.log.log, "append", full)
        assert asyncio.run(offered()) == {"answered": 4, "dropped": 4, "failed": 4}
    endpoint.shadow = None
    assert figures() == {"answered": 4, "dropped": 4, "failed": 4}
    service.close()


def counted(shadow: Shadow) -> tuple[int, int, int]:
    return shadow.counts.answered, shadow.counts.dropped, shadow.counts.failed


def test_an_unloaded_model_is_loaded_once_and_answers(shop: Any) -> None:
    answerer, loaded_by = shop.endpoint.current, []

    def wake() -> None:
        loaded_by.append(threading.get_ident())
        shop.endpoint.swap(answerer)

    shop.endpoint.unload(wake)
    assert shop.endpoint.ready
    assert shop.endpoint.unloaded
    assert shop.endpoint.serving is None
    assert shop.endpoint.answer([shop.ask()])[0].version == "late@1"
    assert not shop.endpoint.unloaded
    shop.endpoint.answer([shop.ask()])
    assert len(loaded_by) == 1
