"""The loop of a living project: several processes, crashes, freezes, and what it reads."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import trimtab as tt
from indexed_labels import IndexedLabels
from trimtab.app import Project
from trimtab.app.data.training_data import LivingData
from trimtab.app.features.feature_runs import run_in_memory
from trimtab.app.training.loop import last_activity
from trimtab.app.training.loops import Loops
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Conflict, Misuse, Unavailable
from trimtab.core.ids import TimeIds
from trimtab.core.records import Prediction, Signal
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.features.labels import LabelIndex
from trimtab.registry import LoadedModel
from trimtab.steering.candidates.ports import CandidateOptions, DeploymentParts
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows
from trimtab.steering.gate.scales import label_unit, refit_distance
from trimtab.steering.loop.loop import Loop
from trimtab.steering.loop_state import Changes
from trimtab.store import Append, Catalog, Entry, Put, Record, Remove
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.judge.evaluation import load_evaluation

NOW_US = parse_time_us("2024-03-01T00:00:00Z")
PROJECT = """
import time
from pathlib import Path
import trimtab as tt

visits = tt.request("visits", key="id", time="at", columns={"id": str, "at": tt.Time, "x": float})
sales = tt.source("sales", key="id", time="closed_at", columns={"id": str, "closed_at": tt.Time, "bought": float})
truth = tt.label(sales, key="id", value=tt.col("bought"), wait="1d")

def linear():
    from sklearn.linear_model import LinearRegression, LogisticRegression
    gate = Path(__file__).with_name("wait")
    while gate.exists():
        gate.with_name("waiting").touch()
        time.sleep(0.01)
    return LogisticRegression() if METRIC == "log_loss" else LinearRegression()

METRIC = "log_loss"
one = tt.model("one", request=visits, features=[{"x": tt.col("x")}], label=truth, metric=METRIC, estimator=linear)
two = tt.model("two", request=visits, features=[{"x": tt.col("x")}], label=truth, metric=METRIC, estimator=linear)
gate = tt.beats_champion(calibration=0.2)
tt.deployment(one, gate=gate, retrain=tt.on_quality_drop())
tt.deployment(two, gate=gate)
"""


def write_project(folder: Path, text: str = PROJECT) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(text)
    return folder


def buys(x: float, luck: float) -> float:
    return float(luck < 1 / (1 + np.exp(-2 * x)))


def costs(x: float, luck: float) -> float:
    return 2 * x + 3 * luck


def load(
    project: Project,
    *,
    first_day: int = -40,
    last_day: int = 0,
    unit: float = 1.0,
    labelled: bool = True,
    label: Callable[[float, float], float] = buys,
) -> NDArray[np.float64]:
    """History from `first_day` until before `last_day` (day 0: NOW): a visit every half hour, a label an hour later.

    The visits' `x`.
    """
    chance = np.random.default_rng(last_day - first_day)
    at_us = np.arange(NOW_US + first_day * DAY_US, NOW_US + last_day * DAY_US, HOUR_US // 2)
    ids = [f"v{at}" for at in at_us.tolist()]
    x = chance.normal(size=len(ids))
    y = [unit * label(a, b) for a, b in zip(x.tolist(), chance.random(len(ids)).tolist(), strict=True)]
    visits = {"id": ("str", ids), "at": ("time", at_us.tolist()), "x": ("float", x.tolist())}
    project.ingestor.load("visits", Columns.of(visits), history=True)
    if labelled:
        sales = {"id": ("str", ids), "closed_at": ("time", (at_us + HOUR_US).tolist()), "bought": ("float", y)}
        project.ingestor.load("sales", Columns.of(sales), history=True)
    return x


@contextmanager
def opened(folder: Path, at_us: int = NOW_US) -> Iterator[Project]:
    with tt.open(folder, clock=VirtualClock(at_us), environment={}) as project:
        yield project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with opened(write_project(tmp_path / "p")) as found:
        load(found)
        yield found


def acts(decisions: Sequence[tt.Decision]) -> list[str]:
    return [decision.act for decision in decisions]


FIRST = ["trigger", "train", "gate", "promote"]


class Crash(BaseException):
    """The process ends here."""


def kinds_of(changes: Sequence[Put | Remove | Append]) -> str:
    return " ".join(one.journal if isinstance(one, Append) else one.kind for one in changes)


class Fragile:
    """A catalogue of a process that ends at its n-th write: before it, or right after it."""

    def __init__(self, catalog: Catalog, last: int, *, after: bool) -> None:
        self._catalog = catalog
        self.left = last
        self._after = after
        self.written: list[str] = []

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        self.left -= 1
        if self.left >= 0:
            self.written.append(kinds_of(changes))
        if self.left == 0 and not self._after:
            raise Crash
        if self.left >= 0:  # afterwards there is no process
            self._catalog.write(changes)
        if self.left == 0:
            raise Crash

    def get(self, kind: str, key: str) -> Record | None:
        return self._catalog.get(kind, key)

    def find(self, kind: str, prefix: str = "") -> list[Record]:
        return self._catalog.find(kind, prefix)

    def journal(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[Entry]:
        return self._catalog.journal(name, after=after, limit=limit)

    def acquire(self, lease: str, holder: str, ttl_s: float) -> bool:
        return self._catalog.acquire(lease, holder, ttl_s)

    def release(self, lease: str, holder: str) -> None:
        if self.left > 0:
            self._catalog.release(lease, holder)

    def close(self) -> None:
        self._catalog.close()


# --- crashes


class FragileAt(Fragile):
    """A catalogue of a process that ends right before its first write of these kinds of records, or of this kind."""

    def __init__(self, catalog: Catalog, kinds: str) -> None:
        super().__init__(catalog, 10**9, after=False)
        self._kinds = kinds

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        kinds = kinds_of(changes)
        if self.left > 0 and self._kinds in (kinds, *kinds.split()):
            self.left = 1
        super().write(changes)


def killed(folder: Path, fragile: Callable[[Catalog], Fragile]) -> Fragile:
    """Kill a first repair where its catalogue is fragile, and finish it in another process."""
    with opened(folder) as project:
        catalog = project.state.catalog = fragile(project.state.catalog)
        with suppress(Crash):
            project.loop("one").tick()
    with opened(folder) as project:
        project.loop("one").tick()
        assert project.loop("one").tick() == []
        assert acts(project.ledger()) == FIRST, catalog.written
        assert project.verify_ledger() == 4
        champion = project.registry.alias("one", "champion")
        watch = project.loop("one").monitor.watch
        assert champion is not None
        assert watch is not None
        assert (watch.version, project.ledger()[-1].version) == (champion.id, champion.id)
        assert len(project.registry.history("one", "champion")) == 1
        assert project.loop("one").controller.state.phase == "idle"
    return catalog


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[], Path]:
    """Copies of a project with a history."""
    with opened(write_project(tmp_path / "loaded")) as project:
        load(project, first_day=-25)
    numbers = count()
    return lambda: Path(shutil.copytree(tmp_path / "loaded", tmp_path / f"{next(numbers)}"))


def test_a_first_repair_that_is_killed_at_each_kind_of_write_is_done_once_in_the_end(
    loaded: Callable[[], Path],
) -> None:
    """One repair is killed at turn, trigger, step, versions, gate, decision, alias, promotion, one after the other."""
    kinds = dict.fromkeys(killed(loaded(), partial(Fragile, last=10**9, after=False)).written)
    assert len(kinds) > 8
    folder = loaded()
    for kind in list(kinds)[:-1]:
        with opened(folder) as project:
            catalog = project.state.catalog = FragileAt(project.state.catalog, kind)
            with pytest.raises(Crash):
                project.loop("one").tick()
            assert catalog.left <= 0
    assert killed(folder, partial(FragileAt, kinds=list(kinds)[-1])).left <= 0


@pytest.mark.soak
def test_a_first_repair_that_is_killed_at_any_write_is_done_once_in_the_end(
    loaded: Callable[[], Path], soak_report: Callable[..., None]
) -> None:
    last, left = 0, 0
    while left <= 0:
        last += 1
        left = killed(loaded(), partial(Fragile, last=last, after=False)).left
    soak_report("killed_repair", runs=last, failures=0)
    assert last > 8


def predictions(project: Project, first_day: int, days: int, *, good: bool) -> None:
    """Answers of the champion, every half hour, as they were logged then."""
    champion = project.registry.alias("one", "champion")
    assert champion is not None
    at_us = np.arange(NOW_US + first_day * DAY_US, NOW_US + (first_day + days) * DAY_US, HOUR_US // 2)
    project.predictions.append(
        [answer(champion.id, int(at), score=0.5 if good else 0.99) for at in at_us], at_us=at_us.tolist()
    )


def answer(version: str, at_us: int, *, score: float, **more: Any) -> Prediction:
    fields: dict[str, Any] = {
        "id": f"p{at_us}",
        "request_id": f"v{at_us}",
        "model": "one",
        "version": version,
        "arm": "champion",
        "mode": "live",
        "made_at_us": at_us,
        "at_us": at_us,
        "positions": {},
        "score": score,
        "request": msgspec.msgpack.encode([f"v{at_us}", at_us, 0.0]),
        "values": b"",
        "reasons": b"",
    }
    return Prediction(**(fields | more))


def test_days_answered_between_a_killed_promotion_and_its_end_are_watched(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "p")
    with opened(folder) as project:
        load(project)
        project.state.catalog = FragileAt(project.state.catalog, "quality_watch")  # the alias has moved
        with pytest.raises(Crash):
            project.loop("one").tick()
    with opened(folder, NOW_US + 9 * DAY_US) as project:
        assert project.loop("one").monitor.watch is None
        predictions(project, 0, 8, good=True)
        load(project, first_day=0, last_day=8)
        assert acts(project.loop("one").tick()) == ["promote"]
        watch = project.loop("one").monitor.watch
        assert watch is not None
        assert (watch.first_day_us, watch.last_day_us) == (NOW_US, NOW_US + 7 * DAY_US)


def test_signals_are_kept_with_the_days_they_came_from_whenever_a_tick_is_killed(project: Project) -> None:
    project.loop("one").tick()
    predictions(project, 0, 12, good=False)
    load(project, first_day=0, last_day=12)
    folder, real = project.config.folder, project.state.catalog
    # the first write says whose turn it is; the next stores recent events, if there are new ones
    for last, after, day in ((3, False, 15), (2, True, 16)):
        with opened(folder, NOW_US + day * DAY_US) as other:
            other.state.catalog = Fragile(other.state.catalog, last, after=after)
            with pytest.raises(Crash):
                other.loop("one").tick()
        watch, reached = real.get("quality_watch", "one"), real.get("loop_reader", "one")
        kept = [msgspec.json.decode(e.body, type=Signal).kind for e in real.journal("signals")]
        assert watch is not None
        assert reached is not None
        assert (watch.revision, reached.revision, bool(kept)) == ((2, 2, True) if after else (1, 1, False))
    with opened(folder, NOW_US + 17 * DAY_US) as other:
        other.loop("one").tick()
        kept = [s.id for s in other.signals()]
        assert len(set(kept)) == len(kept) > 0


def test_a_tick_that_fails_midway_closes_the_same_days_again_in_the_same_process(project: Project) -> None:
    loop = project.loop("one")
    loop.tick()
    predictions(project, 0, 12, good=False)
    load(project, first_day=0, last_day=12)
    clock = project.clock
    assert isinstance(clock, VirtualClock)
    clock.advance_to(NOW_US + 13 * DAY_US)
    other = Project(project.config, project.definitions, clock=clock)
    fragile = other.state.catalog = Fragile(other.state.catalog, 3, after=False)
    with pytest.raises(Crash):
        other.loop("one").tick()
    fragile.left = 10**9
    other.loop("one").tick()
    watch = other.loop("one").monitor.watch
    assert watch is not None
    assert (watch.first_day_us, watch.last_day_us) == (NOW_US, NOW_US + 11 * DAY_US)
    assert other.signals() != []
    other.close()


def test_a_day_without_rows_of_any_slice_counts_for_the_dates_of_slices(tmp_path: Path) -> None:
    gate = 'beats_champion(slices={"far": tt.col("x") > -1}, '
    with opened(write_project(tmp_path / "p", PROJECT.replace("beats_champion(", gate))) as project:
        load(project)
        loop, at_us = project.loop("one"), np.arange(NOW_US, NOW_US + 6 * DAY_US, HOUR_US // 2).tolist()
        loop.tick()
        champion = project.registry.alias("one", "champion")
        assert champion is not None
        xs = [2.0 - 4.0 * ((at - NOW_US) // DAY_US == 2) for at in at_us]  # no row of the third day is far
        rows = [msgspec.msgpack.encode([f"v{at}", at, x]) for at, x in zip(at_us, xs, strict=True)]
        logged = [answer(champion.id, at, score=0.5, request=row) for at, row in zip(at_us, rows, strict=True)]
        project.predictions.append(logged, at_us=at_us)
        load(project, first_day=0, last_day=6)
        assert isinstance(project.clock, VirtualClock)
        project.clock.advance_to(NOW_US + 7 * DAY_US)
        loop.tick()
        watch = loop.monitor.watch
        assert watch is not None
        assert [(name, one.state.days) for name, one in watch.slices.items()] == [("far", 6)]


# --- several processes


def test_fits_for_the_evaluation_are_not_counted_in_the_budget(project: Project) -> None:
    project.tick()
    version = project.registry.alias("one", "champion")
    assert version is not None
    candidate = project.registry.get(version.refit_of or "")
    evaluation = load_evaluation(candidate.evaluation or "", project.state.blob)
    assert len(evaluation.learning_curve) > 2  # each point but the last is a fit
    made = sum(fits for _, fits in project.loop("one").controller.state.fits)
    assert made in (2, 3)  # the candidate, its refit, and perhaps one for days before the window


def test_while_one_trains_others_tick_without_effect_and_are_told_who_trains(project: Project) -> None:
    folder = project.config.folder
    (folder / "wait").touch()
    done: list[list[str]] = []
    thread = threading.Thread(target=lambda: done.append(acts(project.train("one"))))
    thread.start()
    try:
        while not (folder / "waiting").exists():
            thread.join(0.01)
        with opened(folder) as other:
            assert other.loop("one").tick() == []
            assert project.loop("one").tick() == []  # another thread of the same process
            with pytest.raises(Conflict, match=r"process \d+ on .* \(its train\) is working"):
                other.train("one")
            turn = last_activity(other.state.catalog, "one")
            assert turn is not None
            assert (turn.doing, turn.ended_us) == ("train", None)
    finally:
        (folder / "wait").unlink()
        thread.join()
    assert done == [["train", "gate", "promote"]]


def test_a_process_goes_on_from_what_another_one_has_done(project: Project) -> None:
    with opened(project.config.folder, NOW_US + 13 * DAY_US) as other:
        other.loop("one")
        other.loop("one").tick()  # promotes, as of its later clock
        assert project.loop("one").tick() == []
        assert acts(project.ledger()) == FIRST
        predictions(other, 0, 5, good=True)
        project.loop("one").tick()
        assert project.loop("one").controller.state == other.loop("one").controller.state
        assert project.loop("one").monitor.watch == other.loop("one").monitor.watch


# --- errors


def test_a_deployment_that_fails_does_not_starve_the_others_and_says_so(tmp_path: Path) -> None:
    broken = PROJECT.replace("estimator=linear)\ntwo", "estimator=broken)\ntwo").replace(
        'METRIC = "log_loss"\n',
        'METRIC = "log_loss"\n\n'
        "def broken():\n"
        "    if not Path(__file__).with_name('mended').exists():\n"
        "        raise OSError('libbroken.so.1: cannot open shared object file')\n"
        "    return linear()\n",
    )
    folder = write_project(tmp_path / "p", broken)
    with opened(folder) as project:
        load(project)
        with pytest.raises(Unavailable, match="libbroken"):
            project.tick()
        assert {d.model for d in project.ledger() if d.act == "promote"} == {"two"}
        turns = {name: last_activity(project.state.catalog, name) for name in ("one", "two")}
        assert turns["one"] is not None
        assert turns["two"] is not None
        assert "libbroken" in (turns["one"].last_error or "")
        assert (turns["one"].last_tick_us, turns["two"].last_error) == (None, None)
        (folder / "mended").touch()
        project.tick()
        mended = last_activity(project.state.catalog, "one")
        assert mended is not None
        assert (mended.last_error, mended.last_tick_us) == (None, NOW_US)
    with opened(folder) as project:
        assert last_activity(project.state.catalog, "none") is None


def test_a_fit_that_fails_leaves_no_training_set_behind(tmp_path: Path) -> None:
    with opened(write_project(tmp_path / "p")) as project:
        load(project, label=lambda x, luck: 1.0)
        with pytest.raises(Misuse, match=r"all \d+ labels are 1"):
            project.train("one")
        assert acts(project.ledger()) == ["apply", "failed"]
        kept = {path.name for path in (project.state_folder / "blob").rglob("*") if path.is_file()}
        assert kept <= {"format"}
        assert acts(project.loop("one").tick()) == []  # the quiet time holds


# --- freeze


def test_a_freeze_and_its_row_are_one_write(project: Project) -> None:
    real = project.state.catalog
    project.state.catalog = Fragile(real, 1, after=False)
    with pytest.raises(Crash):
        project.freeze("a test")
    assert (real.get("freeze", "all"), Project.ledger(project)) == (None, [])
    project.state.catalog = real
    assert project.freeze("a test").act == "freeze"
    assert project.tick() == []
    with pytest.raises(Conflict, match=r"frozen \(a test\).*unfreeze"):
        project.train("one")
    assert project.unfreeze("enough").act == "unfreeze"
    rows = Project.ledger(project)
    with pytest.raises(Conflict, match="unfreeze: automation is not frozen"):
        project.unfreeze("enough")
    assert Project.ledger(project) == rows
    assert acts(project.loop("one").tick()) == FIRST


def test_a_freeze_without_a_reason_is_named_so_in_refusals(project: Project) -> None:
    project.freeze("")
    with pytest.raises(Conflict, match=r"automation is frozen \(no reason is given\)"):
        project.train("one")


def test_a_freeze_during_a_fit_stops_before_the_gate(project: Project) -> None:
    folder = project.config.folder
    (folder / "wait").touch()
    said: list[str] = []

    def train() -> None:
        try:
            project.train("one")
        except Conflict as error:
            said.append(str(error))

    thread = threading.Thread(target=train)
    thread.start()
    try:
        while not (folder / "waiting").exists():
            thread.join(0.01)
        with opened(folder) as other:
            other.freeze("a test")
    finally:
        (folder / "wait").unlink()
        thread.join()
    assert len(said) == 1
    assert "frozen (a test)" in said[0]
    assert project.registry.versions("one") == []
    assert acts(project.ledger()) == ["apply", "freeze"]
    project.unfreeze("enough")
    assert acts(project.loop("one").tick()) == ["train", "gate", "promote"]


# --- what can be judged


def test_history_of_long_ago_trains_a_version_judged_on_its_newest_days(tmp_path: Path) -> None:
    with opened(write_project(tmp_path / "p")) as project:
        load(project, first_day=-2_000, last_day=-1_960)
        assert acts(project.train("one")) == ["train", "gate", "promote"]
        (gate,) = project.registry.gates_of(project.registry.get("one@1"))
        assert gate.window_end_us == NOW_US - 1_960 * DAY_US
        assert gate.rows == 14 * 48
        watch = project.loop("one").monitor.watch
        assert watch is not None
        assert watch.unwatched == {}
        assert project.train("one") == []  # the version in service is what these data give
    with opened(project.config.folder, NOW_US + 30 * DAY_US) as project:
        assert project.train("one") == []
        assert (
            project.runs()[-1].outcome
            == "Unchanged: one@2 is the result of this data and code. A new seed alone changes nothing."
        )
        lack = project.loop("one")._loop.builder.blocked(project.clock.now_us(), Changes())
        assert "are of 2018-10-18, and the champion has learnt all that was known at 2018-10-" in str(lack)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with opened(write_project(tmp_path / "a")) as project:
        load(project, labelled=False)
        with pytest.raises(
            Unavailable, match=r"None of 1920 requests has a label .*\(48 pending, 1872 missing\)|missing"
        ):
            project.train("one")
        assert acts(project.loop("one").tick()) == ["trigger"]
    with opened(write_project(tmp_path / "b")) as project:
        load(project, first_day=-3)
        with pytest.raises(Unavailable, match="No labels were final before 2024-02"):
            project.train("one")
    with opened(write_project(tmp_path / "c")) as project:
        load(project, first_day=-40, last_day=-30)
        load(project, first_day=-9, last_day=-7)
        with pytest.raises(Unavailable, match=r"days from 2024-02-09 to 2024-02-22 have labels; 5 such"):
            project.train("one")


def test_numbers_are_judged_alike_in_any_unit(tmp_path: Path) -> None:
    found = []
    for unit in (1e-6, 1.0, 1e6):
        text = PROJECT.replace('METRIC = "log_loss"', 'METRIC = "squared_error"').replace(
            "calibration=0.2", "calibration=0.1"
        )
        with opened(write_project(tmp_path / f"{unit:g}", text)) as project:
            load(project, unit=unit, label=costs)
            decisions = project.train("one")
            watch = project.loop("one").monitor.watch
            assert watch is not None
            spec = watch.figures["quality_loss"].spec
            (gate,) = project.registry.gates_of(project.registry.get("one@1"))
            figures = (spec.mean, spec.sd, watch.loss_cap / unit**2, gate.candidate_metric / unit**2)
            found.append((acts(decisions), gate.checks, pytest.approx(figures, rel=1e-6)))
    assert found[0][:2] == found[1][:2] == found[2][:2] == (["train", "gate", "promote"], found[1][1])
    assert found[0][2] == found[1][2].expected == found[2][2]


def test_numbers_count_in_standard_deviations_of_the_labels_and_probabilities_as_they_are() -> None:
    labels = np.random.default_rng(1).normal(size=500)
    for unit in (1e-6, 1e6):
        assert label_unit("absolute_error", unit * labels) == pytest.approx(unit * label_unit("absolute_error", labels))
    assert label_unit("brier", labels) == 1.0
    assert label_unit("squared_error", np.full(9, 7.0)) == 7.0
    assert (refit_distance("log_loss"), refit_distance("squared_error")) == (0.1, 0.25)


def test_a_label_that_came_too_late_counts_neither_live_nor_in_the_reference(tmp_path: Path) -> None:
    with opened(write_project(tmp_path / "p")) as project:
        x = load(project, labelled=False)
        at_us = np.arange(NOW_US - 40 * DAY_US, NOW_US, HOUR_US // 2)
        ids = [f"v{at}" for at in at_us.tolist()]
        late_us = np.where(np.arange(len(ids)) % 4 == 0, 30 * HOUR_US, HOUR_US)  # a quarter of them
        luck = np.random.default_rng(2).random(len(ids))
        bought = np.array([buys(one, chance) for one, chance in zip(x.tolist(), luck.tolist(), strict=True)])
        sales = {
            "id": ("str", ids),
            "closed_at": ("time", (at_us + late_us).tolist()),
            "bought": ("float", bought.tolist()),
        }
        project.ingestor.load("sales", Columns.of(sales), history=True)
        project.train("one")
        watch = project.loop("one").monitor.watch
        (gate,) = project.registry.gates_of(project.registry.get("one@1"))
        assert gate.rows > 13 * 48  # the gate learns from late ones too
        assert watch is not None
        assert watch.figures["quality_loss"].spec.least_rows == 36 // 2  # of 48 a day


def test_live_errors_of_numbers_are_held_to_the_reference_in_any_unit(tmp_path: Path) -> None:
    unit = 1e-6
    text = PROJECT.replace('METRIC = "log_loss"', 'METRIC = "squared_error"')
    with opened(write_project(tmp_path / "p", text)) as project:
        load(project, unit=unit, label=costs)
        project.train("one")
        champion = project.registry.load("one@champion")
        with opened(project.config.folder, NOW_US + 31 * DAY_US) as later:
            x = load(later, first_day=0, last_day=30, unit=unit, label=costs)
        at_us = np.arange(NOW_US, NOW_US + 30 * DAY_US, HOUR_US // 2)
        scores = np.asarray(champion.predict(x.reshape(-1, 1)))
        scores[20 * 48 :] += 2 * unit
        logged = [answer(champion.version.id, int(at), score=float(s)) for at, s in zip(at_us, scores, strict=True)]
        project.predictions.append(logged, at_us=at_us.tolist())
        for day, rung in ((22, []), (32, ["quality_calibration", "quality_loss"])):
            with opened(project.config.folder, NOW_US + day * DAY_US) as later:
                later.loop("one").tick()
                kinds = sorted(signal.kind for signal in later.signals() if signal.severity == "red")
                assert [kind for kind in kinds if kind != "traffic_stopped"] == rung  # nobody asked since day 30


def test_a_refit_with_a_long_wait_does_not_look_as_if_no_day_were_closed(tmp_path: Path) -> None:
    text = PROJECT.replace('wait="1d"', 'wait="22d"').replace("retrain=tt.on_quality_drop()", 'retrain=tt.every("30d")')
    with opened(write_project(tmp_path / "p", text)) as project:
        load(project, first_day=-100)
        project.train("one")
    for first, day in ((0, 25), (25, 31), (31, 50)):  # the refit of day 31 has no closed day of its own before day 54
        with opened(tmp_path / "p", NOW_US + day * DAY_US) as later:
            x = load(later, first_day=first, last_day=day)
            at_us = np.arange(NOW_US + first * DAY_US, NOW_US + day * DAY_US, HOUR_US // 2)
            champion = later.registry.load("one@champion")
            scores = np.asarray(champion.predict(x.reshape(-1, 1)))
            logged = [answer(champion.version.id, int(at), score=float(s)) for at, s in zip(at_us, scores, strict=True)]
            later.predictions.append(logged, at_us=at_us.tolist())
            later.loop("one").tick()
            status = later.status()
    assert status.deployments[0].version == "one@4"
    assert "last closed day 2024-03-28" in status.deployments[0].watch
    assert not [line for line in status.red if "no day was closed" in line]


class Bent:
    """A recipe whose answers for the window are bent: `bend(n)` is added by the n-th fitted model."""

    def __init__(self, recipe: Recipe, bend: Callable[[int], float]) -> None:
        self._recipe = recipe
        self._bend = bend
        self._asked = 0

    def fit(self, training_set: TrainingSet, rows: Rows) -> Fitted:
        return self._recipe.fit(training_set, rows)

    def expect(self, training_set: TrainingSet, rows: Rows) -> bool:
        return self._recipe.expect(training_set, rows)

    def candidate_scores(self, fitted: Fitted, training_set: TrainingSet, window: Rows) -> Floats:
        self._asked += 1
        return self._recipe.candidate_scores(fitted, training_set, window) + self._bend(self._asked)

    def champion_scores(self, champion: LoadedModel, training_set: TrainingSet, window: Rows) -> Floats:
        return self._recipe.champion_scores(champion, training_set, window)


def bent(project: Project, bend: Callable[[int], float]) -> list[tt.Decision]:
    """The first training of a deployment by such a recipe."""
    index = LabelIndex(project.definitions.deployment("one").model.label)
    project.history.refresh()
    index.update(project.history.frame("sales"))
    parts = DeploymentParts(
        deployment=project.definitions.deployment("one"),
        labels=IndexedLabels(index),
        data=LivingData(partial(run_in_memory, project.history), project.predictions),
        registry=project.registry,
        catalog=project.state.catalog,
        blob=project.state.blob,
        clock=project.clock,
        ids=TimeIds(project.clock, seed=1),
    )
    options = CandidateOptions(seed=0, around=lambda recipe: Bent(recipe, bend))
    return Loop(parts, options, live=project.loop("one")).controller.tick()


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("sds", "act"), [(0.2, "promote"), (0.3, "refuse")])
def test_a_refit_may_be_a_quarter_of_a_standard_deviation_from_its_candidate(
    tmp_path: Path, unit: float, sds: float, act: str
) -> None:
    text = PROJECT.replace('METRIC = "log_loss"', 'METRIC = "squared_error"')
    with opened(write_project(tmp_path / "p", text)) as project:
        load(project, unit=unit, label=costs)
        away = sds * unit * float(np.hypot(2.0, 3.0 / np.sqrt(12.0)))  # of 2 x + 3 luck
        decisions = bent(project, lambda n: away if n == 2 else 0.0)
        assert acts(decisions)[-1] == act
        assert ("the refit and its candidate differ" in decisions[-1].cause) == (act == "refuse")


def test_answers_that_are_no_number_never_reach_the_gate(project: Project) -> None:
    decisions = bent(project, lambda n: float("nan"))
    assert acts(decisions) == ["trigger", "failed"]
    assert "no finite number for 672 of 672 rows" in decisions[-1].cause
    assert project.registry.gates_of(project.registry.get("one@1")) == []


# --- what was answered


def test_only_answers_of_the_champion_at_their_own_time_count_as_its_own(project: Project) -> None:
    loop = project.loop("one")
    hours = [NOW_US + n * HOUR_US for n in range(8)]
    logged = [
        answer("old", hours[0], score=0.0),
        answer("champ", hours[1], score=0.1),
        answer("champ", hours[2], score=0.2, mode="batch"),
        answer("champ", hours[3], score=0.3, mode="precomputed"),
        answer("champ", hours[4], score=0.4, made_at_us=hours[5]),  # asked about the past
        answer("champ", hours[5], score=0.5, mode="online"),
        answer("champ", hours[6], score=0.6, model="two"),
        answer("champ", hours[7], score=0.7, mode="replay"),
        answer("champ", hours[7], score=0.9),  # asked again
    ]
    project.predictions.append(logged, at_us=[p.made_at_us for p in logged])
    keys: list[object] = [f"v{at}" for at in hours]
    nan = float("nan")
    found = loop.scores_of(keys, version="champ", since_us=hours[0])
    np.testing.assert_array_equal(found, [nan, 0.1, nan, nan, nan, 0.5, nan, 0.7])
    later = loop.scores_of(keys, version="champ", since_us=hours[6])
    np.testing.assert_array_equal(later, [nan] * 7 + [0.7])


def test_what_is_read_ahead_is_not_read_again_and_its_days_are_closed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, clock = project.loop("one"), project.clock
    assert isinstance(clock, VirtualClock)
    loop.tick()
    read: list[str] = []
    add = loop._loop.add

    def noted(block: Sequence[Prediction], **places: Any) -> None:
        read.extend(p.request_id for p in block)
        add(block, **places)

    monkeypatch.setattr(loop._loop, "add", noted)
    predictions(project, 0, 3, good=True)
    load(project, first_day=0, last_day=3)
    loop.read_ahead()
    loop.read_ahead()
    assert len(read) == 3 * 48
    clock.advance_to(NOW_US + 5 * DAY_US)
    loop.tick()
    assert len(read) == 3 * 48
    watch = loop.monitor.watch
    assert watch is not None
    assert (watch.first_day_us, watch.last_day_us) == (NOW_US, NOW_US + 2 * DAY_US)


def test_nothing_is_read_ahead_before_the_first_tick_or_after_one_that_failed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days that nobody closes would take memory without end."""
    loop = project.loop("one")
    read: list[object] = []
    monkeypatch.setattr(loop._loop, "add", lambda block, **places: read.append(block))
    loop.read_ahead()
    loop.tick()
    predictions(project, 0, 1, good=True)

    def fails() -> None:
        raise Unavailable("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(loop, "catch_up", fails)
        with pytest.raises(Unavailable):
            loop.tick()
    loop.read_ahead()
    assert read == []
    loop.tick()
    assert len(read) == 1
    predictions(project, 1, 1, good=True)
    project.part(Loops).read_ahead("two")  # had no tick
    assert len(read) == 1
    project.part(Loops).read_ahead("one")
    assert len(read) == 2


def test_while_a_tick_reads_nothing_is_read_ahead(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = project.loop("one")
    loop.tick()
    predictions(project, 0, 1, good=True)
    read: list[int] = []

    def add(block: Sequence[Prediction], **places: object) -> None:
        read.append(len(block))
        loop.read_ahead()
        other = threading.Thread(target=loop.read_ahead)
        other.start()
        other.join()

    monkeypatch.setattr(loop._loop, "add", add)
    loop.tick()
    assert read == [48]


def test_only_the_log_since_the_window_is_read_for_scores(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    at_us = [NOW_US + n * HOUR_US for n in range(200)]
    project.predictions.append([answer("champ", at, score=0.5) for at in at_us], at_us=at_us)
    read: list[int] = []
    blocks = project.predictions.blocks

    def counted(after: dict[str, int], *, model: str) -> Iterator[tuple[list[Prediction], dict[str, int]]]:
        for block, reached in blocks(after, model=model):
            read.append(len(block))
            yield block, reached

    monkeypatch.setattr(project.predictions, "blocks", counted)
    project.loop("one").scores_of([f"v{at_us[-1]}"], version="champ", since_us=at_us[-10])
    assert sum(read) == 10
