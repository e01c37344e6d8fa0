"""Policies side by side: what each decides, what a gate keeps out, and fits that are shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import worlds
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import day_us

import trimtab as tt
from trimtab import simulation, store
from trimtab.app.replay.scenarios import scenarios_of_policies
from trimtab.app.state.definitions import Definitions
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.records import Decision
from trimtab.core.time import DAY_US
from trimtab.simulation import Refit, Standing, policies
from trimtab.simulation.results import ReplayResult
from trimtab.simulation.scenarios.scenario import Scenario

DAYS = 24


def definitions() -> Definitions:
    gate = tt.beats_champion(margin=0.5, calibration=0.2)  # nothing can pass it
    deployment = worlds.deployed(retrain=tt.every("8d"), gate=gate)
    return Definitions(
        sources={one.name: one for one in worlds.SOURCES},
        requests={"visit": worlds.visit},
        views={},
        models={"buyer": deployment.model},
        deployments={"buyer": deployment},
    )


def on_fridays(standing: Standing) -> Refit | None:
    """Learns each week from the newest three."""
    fridays = standing.now_us // DAY_US % 7 == 1  # 2 January 1970 was one
    return Refit(why="It is Friday.", since_us=standing.now_us - 21 * DAY_US) if fridays else None


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scenario], ReplayResult]:
    """Five policies; what `x` does turns round on day 6."""
    words = ["project", "never", "every 9d", "ungated 7d", "naive"]
    mine = simulation.Policy(name="fridays", decide=on_fridays)
    lines = scenarios_of_policies(definitions(), [*words, mine], None, Path("."))
    folder = tmp_path_factory.mktemp("policies")
    tables = worlds.make(7, days=DAYS, drift_day=6)
    return folder, lines, worlds.replay(folder, tables, lines, days=DAYS)


def promoted(result: ReplayResult, line: str) -> list[Decision]:
    return [d for d in result.lines[line].decisions if d.act == "promote" and d.at_us > day_us(0)]


@pytest.mark.slow
def test_each_policy_does_what_it_says(done: tuple[Path, list[Scenario], ReplayResult]) -> None:
    _, _, result = done
    assert list(result.lines) == ["project", "never", "every 9d", "ungated 7d", "naive", "fridays"]
    assert promoted(result, "never") == []
    assert promoted(result, "project") == []  # its gate lets nothing through
    assert [d.act for d in result.lines["project"].decisions if d.at_us > day_us(0)].count("refuse") >= 1
    assert [round((d.at_us - day_us(0)) / DAY_US) for d in promoted(result, "ungated 7d")] == [7, 14, 21]
    fridays = promoted(result, "fridays")
    assert len(fridays) == 3
    assert all(d.at_us // DAY_US % 7 == 1 for d in fridays)
    assert all(d.cause == "It is Friday." for d in fridays)


def test_a_policy_without_a_gate_answers_with_what_it_fitted(done: tuple[Path, list[Scenario], ReplayResult]) -> None:
    _, _, result = done
    line = result.lines["ungated 7d"]
    assert line.versions is not None
    moves = [d for d in line.decisions if d.act == "promote"]
    for before, after in zip(moves, [*moves[1:], None], strict=True):
        until_us = result.until_us if after is None else after.at_us
        inside = (line.at_us >= before.at_us) & (line.at_us < until_us)
        assert set(line.versions[inside]) == {before.version}
    assert [d.replaced for d in moves] == [None, *(d.version for d in moves[:-1])]
    gain = result.compare("ungated 7d", "never")
    assert gain.metrics["log_loss"].high < 0  # the world turned round, and only who learns from it follows


def test_first_versions_of_one_recipe_on_the_same_rows_are_one(
    done: tuple[Path, list[Scenario], ReplayResult],
) -> None:
    _, _, result = done
    first = {name: str(line.versions[0]) for name, line in result.lines.items() if line.versions is not None}
    assert len(first) == 6
    assert first["ungated 7d"] == first["naive"] == first["fridays"]
    assert first["project"] == first["never"]
    asked = result.lines["never"].at_us < day_us(1)
    scores = [line.scores[asked].tolist() for line in result.lines.values()]
    assert all(one == scores[0] for one in scores)  # refitted after the gate or not: the same rows
    assert result.lines["ungated 7d"].fits == 4
    assert result.lines["fridays"].fits == 4
    assert result.lines["never"].fits < result.lines["project"].fits


def test_a_policy_does_the_same_alone(done: tuple[Path, list[Scenario], ReplayResult], tmp_path: Path) -> None:
    folder, lines, result = done
    for number in (3, 5):
        alone = worlds.replay(
            tmp_path / str(number), worlds.make(7, days=DAYS, drift_day=6), [lines[number]], days=DAYS
        )
        name = lines[number].name
        assert np.array_equal(alone.lines[name].scores, result.lines[name].scores)
        assert worlds.ledger(tmp_path / str(number)) == worlds.ledger(folder, number)


def test_decisions_without_a_gate_stand_in_a_chained_ledger(done: tuple[Path, list[Scenario], ReplayResult]) -> None:
    folder, _, result = done
    with store.open(f"sqlite://{worlds.home(folder, 3)}/catalog.db", "catalog") as catalog:
        rows = [msgspec.json.decode(entry.body, type=Decision) for entry in catalog.journal("ledger")]
        assert rows == result.lines["ungated 7d"].decisions
        from trimtab.steering.ledger import Ledger

        assert Ledger(catalog).verify() == len(rows)


def test_naive_retraining_follows_drift_of_inputs_that_costs_nothing(tmp_path: Path) -> None:
    tables = worlds.make(8, days=20)
    x = tables["visit"]["x"]
    moved = np.where(tables["visit"]["at"].values >= day_us(5), x.values + 4, x.values)
    tables["visit"] = tables["visit"].replace({"x": msgspec.structs.replace(x, values=moved)})
    lines = scenarios_of_policies(definitions(), ["naive", "never"], None, tmp_path)
    result = worlds.replay(tmp_path, tables, lines, days=20)
    found = promoted(result, "naive")
    assert found
    told = [d for d in found if "Input x drifted" in d.cause]
    assert told
    assert day_us(6) <= told[0].at_us <= day_us(15)


def test_a_policy_is_written_as_one_thinks_of_it(tmp_path: Path) -> None:
    written = {
        "every 30d": ("30d", "every 30d", " every  30d "),
        "alarm or 30d": ("alarm|30d", "alarm or 30d", "alarm | 30d", "alarm or every 30d", "30d|alarm"),
        "ungated 7d": ("ungated 7d",),
        "alarm": ("alarm",),
    }  # fmt: skip
    for name, texts in written.items():
        assert {policies.policy_of(text, tmp_path).name for text in texts} == {name}


def test_words_that_name_no_policy_are_refused(tmp_path: Path) -> None:
    for word in ("sometimes", "every", "never 3d", "ungated 3h", "36h", "alarm|", "30d|60d", ""):
        with pytest.raises(Misuse, match="policy"):
            policies.policy_of(word, tmp_path)
    with pytest.raises(NotFound, match="there is no file"):
        policies.policy_of("rules.py:mine", tmp_path)
    (tmp_path / "rules.py").write_text("def mine(standing):\n    return None\n\n\nlimit = 3\n")
    assert policies.policy_of("rules.py:mine", tmp_path).name == "mine"
    with pytest.raises(NotFound, match="has no function 'limit'"):
        policies.policy_of("rules.py:limit", tmp_path)
    (tmp_path / "half.py").write_text("def mine(:\n")
    with pytest.raises(Misuse, match=r"half.py raised SyntaxError"):
        policies.policy_of("half.py:mine", tmp_path)
    with pytest.raises(Misuse, match="a name occurs twice"):
        scenarios_of_policies(definitions(), ["never", "never"], None, tmp_path)


@pytest.mark.parametrize(
    ("decide", "said"),
    [
        (lambda standing: {}["x"], "it raised KeyError: 'x'"),
        (lambda standing: "refit", "it returned 'refit'. Return a"),
    ],
)
def test_a_policy_that_fails_is_named(decide: Any, said: str, tmp_path: Path) -> None:
    line = Scenario(name="mine", deployment=worlds.deployed(), decide=decide)
    with pytest.raises(Misuse, match="policy 'mine' at 2020-02-01T00:00:00Z: ") as told:
        worlds.replay(tmp_path, worlds.make(5, days=3), [line], days=3)
    assert said in str(told.value)


def test_a_learner_has_no_policy_without_a_gate(tmp_path: Path) -> None:
    line = Scenario(
        name="x", deployment=worlds.deployed(worlds.stream, learn="online"), decide=policies.ungated("7d").decide
    )
    with pytest.raises(Misuse, match="cannot have a policy without a gate"):
        worlds.replay(tmp_path, worlds.make(1, days=1), [line], days=1)


@pytest.mark.fast
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.0, 0.1, 1.0]))
def test_the_stability_index_is_that_of_counting_by_hand(seed: int, values: int, nulls: float) -> None:
    rng = np.random.default_rng(seed)

    def made(shift: int) -> list[float]:
        found = rng.integers(-values, values, 230) / 2 + shift
        return np.where(rng.random(230) < nulls, np.nan, found).tolist()  # type: ignore[no-any-return]

    before, now = made(0), made(int(rng.integers(0, 3)))
    found = policies.stability(np.array(before)[:, None], np.array(now)[:, None])
    there = sorted(value for value in before if value == value)
    edges = sorted({float(np.quantile(there, n / 10)) for n in range(1, 10)}) if there else []
    bins = range(len(edges) + 2)

    def shares(values: list[float]) -> list[float]:
        places = [len(edges) + 1 if v != v else sum(v > edge for edge in edges) for v in values]
        return [max(places.count(n) / len(values), 1e-4) for n in bins]

    expected = sum((q - p) * np.log(q / p) for p, q in zip(shares(before), shares(now), strict=True))
    assert found.tolist() == pytest.approx([expected])
