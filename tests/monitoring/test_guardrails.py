"""Guardrails ring for what harms the service, soon, and hardly ever for a version that is no worse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.monitoring.breaches import Breach, breach
from trimtab.monitoring.guardrails import Guardrails, guardrails
from trimtab.serving.arms.arm_counts import LATENCY_EDGES_S, ServiceMetrics, score_bucket

LIMITS = guardrails()
Draw = Callable[[np.random.Generator, int], dict[str, Any]]


def requests(
    rng: np.random.Generator,
    n: int,
    *,
    slower: float = 1.0,
    fail: float = 0.002,
    degraded: float = 0.001,
    scores: Callable[[np.random.Generator, int], Any] = lambda rng, n: 1 / (1 + np.exp(2 - rng.normal(size=n))),
    same: float = 0.0,
) -> dict[str, Any]:
    """What so many requests add to figures: heavy-tailed latencies around 20 ms, rare failures, scores below 1."""
    failed = rng.random(n) < fail
    latencies = 0.02 * slower * rng.lognormal(0.0, 0.5, n)
    made = scores(rng, n)[~failed]
    return {
        "requests": n,
        "failures": int(failed.sum()),
        "degraded": int((rng.random(n) < degraded).sum()),
        "repeats": int((rng.random(made.size) < same).sum()),
        "latencies": _counts(np.searchsorted(LATENCY_EDGES_S, latencies[~failed])),
        "scores": _score_counts(made),
    }


def _counts(places: Any) -> dict[int, int]:
    found, count = np.unique(np.asarray(places, np.int64), return_counts=True)
    return dict(zip(found.tolist(), count.tolist(), strict=True))


def _score_counts(scores: Any) -> dict[int, int]:
    """Count scores by their bucket; all of a bucket have one sign and one power of two."""
    buckets = np.sign(scores) * (5_000 + np.frexp(scores)[1])
    _, first, count = np.unique(buckets, return_index=True, return_counts=True)
    return {score_bucket(float(scores[place])): int(n) for place, n in zip(first, count, strict=True)}


def figures(arm: str, **counts: Any) -> ServiceMetrics:
    return ServiceMetrics(model="late", version="7f3a", arm=arm, **counts)


def looks(
    rng: np.random.Generator, canary: Draw, champion: Draw, *, share: float, times: int, per_look: int
) -> Iterator[Breach | None]:
    """What is said at each of several looks, at the sums since the beginning."""
    ours, theirs = figures("canary"), figures("champion")
    for _ in range(times):
        mine = int(rng.binomial(per_look, share))
        ours = ours.plus(figures("canary", **canary(rng, mine)))
        theirs = theirs.plus(figures("champion", **champion(rng, per_look - mine)))
        yield breach(ours, theirs, LIMITS)


def found(seed: int, canary: Draw, *, share: float = 0.05, champion: Draw = requests) -> tuple[Breach, int] | None:
    """The first breach, and how many requests the canary had by then."""
    rng = np.random.default_rng(seed)
    for look, said in enumerate(looks(rng, canary, champion, share=share, times=60, per_look=int(40 / share)), 1):
        if said is not None:
            return said, 40 * look
    return None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "times"), [(0.25, 36), *(pytest.param(one, 72, marks=pytest.mark.soak) for one in (0.05, 0.25, 0.5))]
)
def test_an_equal_version_is_hardly_ever_found_in_breach_in_a_day_of_looks(share: float, times: int) -> None:
    rung = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        said = looks(rng, requests, requests, share=share, times=times, per_look=14_400 // times)
        rung += any(one is not None for one in said)
    assert rung <= 1  # of 40 days; a stated 1 % makes 2 or more in one of 15 such tests, and what is stated is a bound


def test_an_outage_that_hits_both_arms_is_no_fault_of_either() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        minutes = iter(range(10_000))

        def draw(rng: np.random.Generator, n: int, minutes: Iterator[int] = minutes) -> dict[str, Any]:
            hit = next(minutes) // 2 in range(30, 36)  # both arms draw once a look
            return requests(rng, n, fail=0.6 if hit else 0.002, slower=5.0 if hit else 1.0)

        assert not any(looks(rng, draw, draw, share=0.25, times=72, per_look=200))


@pytest.mark.parametrize(
    ("kind", "canary"),
    [
        ("failures", lambda rng, n: requests(rng, n, fail=0.05)),
        ("latency", lambda rng, n: requests(rng, n, slower=2.0)),
        ("degraded", lambda rng, n: requests(rng, n, degraded=0.06)),
        ("constant", lambda rng, n: requests(rng, n, scores=lambda rng, n: np.full(n, 0.1), same=1.0)),
        ("strange", lambda rng, n: requests(rng, n, scores=lambda rng, n: -rng.random(n))),
    ],
)
def test_what_is_wrong_is_found_within_a_few_hundred_requests(kind: str, canary: Draw) -> None:
    for share in (0.05, 0.5):
        for seed in range(4):
            said = found(seed, canary, share=share)
            assert said is not None
            assert said[0].kind == kind
            assert said[0].figure > said[0].bound
            assert said[1] <= 1_000


def test_a_version_that_fails_always_is_found_as_soon_as_a_verdict_is_allowed() -> None:
    said = breach(figures("canary", requests=50, failures=50), figures("champion", requests=950), LIMITS)
    assert said is not None
    assert said.message == (
        "100.0 % of its requests failed (50 of 50), but 0.0 % with the version that it is compared with; "
        "at most 1.0 % more is allowed."
    )
    assert breach(figures("canary", requests=49, failures=49), figures("champion", requests=950), LIMITS) is None


def test_a_promoted_version_is_held_to_the_one_before_for_refusals() -> None:
    before, after = figures("champion", requests=5_000, refused=10), figures("champion", requests=800, refused=200)
    said = breach(after, before, LIMITS)
    assert said is not None
    assert (said.kind, said.figure) == ("saturation", 0.2)
    assert breach(msgspec.structs.replace(after, refused=8), before, LIMITS) is None


def test_a_limit_in_seconds_holds_without_a_champion() -> None:
    slow = figures("canary", **requests(np.random.default_rng(0), 400, slower=20.0))
    none = figures("champion")
    assert breach(slow, none, LIMITS) is None
    said = breach(slow, none, guardrails(p99="250ms"))
    assert said is not None
    assert (said.kind, said.bound) == ("latency", 0.25)
    assert "allowed is at most 250 ms" in said.message
    assert breach(slow, none, guardrails(p99="60s")) is None


def test_latencies_that_are_low_anyway_are_no_breach() -> None:
    rng = np.random.default_rng(0)
    fast, faster = (figures("canary", **requests(rng, 5_000, slower=one)) for one in (0.05, 0.005))
    assert breach(fast, faster, LIMITS) is None
    said = breach(fast, faster, guardrails(easy="1ms"))
    assert said is not None
    assert said.kind == "latency"


def test_a_refit_that_moves_the_level_or_answers_in_steps_is_no_breach() -> None:
    """A repair after a drift is meant to answer otherwise: three times the level, or few distinct scores."""
    higher = found(
        0, lambda rng, n: requests(rng, n, scores=lambda rng, n: 1 / (1 + np.exp(0.65 - rng.normal(size=n))))
    )
    assert higher is None
    steps = found(0, lambda rng, n: requests(rng, n, same=0.6))
    assert steps is None
    spread = found(
        1, requests, champion=lambda rng, n: requests(rng, n, scores=lambda rng, n: np.full(n, 0.1), same=1.0)
    )
    assert spread is None  # the champion lost the feature that the refit goes without


def test_each_check_can_be_left_out() -> None:
    bad = figures("canary", requests=500, failures=400, degraded=400)
    none = figures("champion", requests=9_500)
    kinds = [
        breach(bad, none, guardrails(failures=f, degraded=d)) for f, d in ((0.01, 0.01), (None, 0.01), (None, None))
    ]
    assert [None if one is None else one.kind for one in kinds] == ["failures", "degraded", None]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"latency": 1.0}, "latency=1.0"),
        ({"failures": 0.0}, "failures=0.0"),
        ({"strange": 1.5}, "strange=1.5"),
        ({"least": 0}, "least=0"),
        ({"false_alarms": 0.7}, "false_alarms=0.7"),
        ({"p99": "soon"}, "soon"),
        ({"p99": "0ms"}, "p99='0ms'"),
        ({"latency": "250ms"}, "latency='250ms'.*a limit in time is p99"),
        ({"failures": "1 %"}, "failures='1 %'"),
        ({"least": None}, "least=None"),
        (dict.fromkeys(("latency", "failures", "degraded", "refused", "constant", "strange")), "all limits are None"),
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(Misuse, match=said):
        guardrails(**wrong)


def test_limits_and_breaches_are_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(LIMITS), type=Guardrails) == LIMITS == Guardrails()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_figures_add_up_in_any_order_and_can_be_taken_apart(data: st.DataObject) -> None:
    counts = st.integers(0, 50)
    places = st.dictionaries(st.integers(0, 400), st.integers(1, 9), max_size=5)
    made = [
        figures("canary", requests=a, failures=b, degraded=a, refused=b, repeats=a, latencies=c, scores=d)
        for a, b, c, d in data.draw(st.lists(st.tuples(counts, counts, places, places), min_size=3, max_size=3))
    ]
    one, two, three = made
    assert one.plus(two).plus(three) == three.plus(one).plus(two)
    kept = msgspec.structs.replace(one, latencies=dict(sorted(one.latencies.items())))
    assert one.plus(two).minus(two) == kept


@given(st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
@settings(max_examples=60, deadline=None)
def test_a_quantile_is_the_upper_edge_of_the_bucket_that_holds_it(times: list[float], share: float) -> None:
    shown = figures("canary", latencies=_counts(np.searchsorted(LATENCY_EDGES_S, times))).latency_s(share)
    exact = sorted(times)[max(int(np.ceil(share * len(times) - 1e-9)) - 1, 0)]
    assert shown == min(edge for edge in LATENCY_EDGES_S if edge >= min(exact, LATENCY_EDGES_S[-1]))
