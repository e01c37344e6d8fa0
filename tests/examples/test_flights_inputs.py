"""The real faults of 2013 in the flights' weather are named within the hour in which they reach an answer."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trimtab import store
from trimtab.app.state.definitions import Definitions, load_definitions
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.records import Prediction, Signal
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, parse_time_us
from trimtab.events import EventFrame, read_file
from trimtab.events.columns.frames import NEVER_US
from trimtab.features.offline.evaluation import evaluate
from trimtab.monitoring.inputs.monitor import InputMonitor
from trimtab.monitoring.profiles.profile_store import Profiles
from trimtab.monitoring.signals import every_signal
from trimtab.registry import Registry
from trimtab.registry.protection import CHAMPION
from trimtab.testing.builders import a_gate_record
from trimtab.training import Model, build_training_set, fit, save_training_set

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"


def frame(table: Columns, name: str, time: str, delay_us: int) -> EventFrame:
    """The events of a source, each known so long after its time."""
    table = table.take(table[time].present())
    table = table.take(np.argsort(table[time].values, kind="stable"))
    at_us, rows = table[time].values.astype(np.int64), table.rows
    nothing = np.zeros(rows, np.int16)
    never = np.full(rows, NEVER_US)
    return EventFrame(
        name, table, at_us, at_us + delay_us, never, nothing.astype(bool), nothing, np.arange(1, rows + 1), ("p0",)
    )


class Year:
    """A model of flights, by default of the calendar, planes and weather; linear, so that fits are quick."""

    def __init__(self, project: Definitions, tables: dict[str, Columns], name: str = "late_flight_plain") -> None:
        self.model: Model = msgspec.structs.replace(project.models[name], estimator=LogisticRegression, trust=None)
        self.requests = tables["flight"]
        self.at_us = self.requests["scheduled_at"].values.astype(np.int64)
        times = {"weather": ("observed_at", HOUR_US), "landings": ("landed_at", 0), "planes": ("registered_at", 0)}
        self.frames = {name: frame(tables[name], name, *time) for name, time in times.items()}

    def watched(self, folder: Path, since: str, cut: str, until: str) -> list[Signal]:
        """All signals of the hours after a cut, of a version fitted on the days before."""
        since_us, cut_us, until_us = (parse_time_us(text) for text in (since, cut, until))
        clock = VirtualClock(cut_us)
        with (
            store.open(f"sqlite://{folder}/catalog.db", "catalog") as catalog,
            store.open(f"file://{folder}/blobs", "blob") as blob,
        ):
            registry = Registry(catalog, blob, clock=clock, actor="test")
            before = np.flatnonzero((self.at_us >= since_us) & (self.at_us <= cut_us))
            rows = build_training_set(
                self.model, self.requests.take(before), self.frames, cut_us=cut_us, positions={"p0": 1}
            )
            made = registry.register(fit(self.model, rows), training_set=save_training_set(rows, blob))
            gate = a_gate_record(model=made.model, candidate=made.id, judged_at_us=cut_us)
            registry.put_gate(gate)
            registry.move(made.model, CHAMPION, made.id, gate=gate, why="test")
            profiles = Profiles(catalog, blob, clock)
            monitor = InputMonitor(
                catalog,
                self.model,
                profiles=profiles,
                registry=registry,
                frame_of=self.frames.__getitem__,
                now_us=cut_us,
            )
            asked = self._asked(profiles.inputs_of(made)[1].names, made.id, profiles, made, cut_us, until_us)
            for now_us in range(cut_us + HOUR_US, until_us + HOUR_US, HOUR_US):
                clock.advance_to(now_us + 6 * MINUTE_US)
                begin_us = monitor.read_from_us if now_us == cut_us + HOUR_US else now_us - 54 * MINUTE_US
                monitor.add([p for p in asked if begin_us <= p.made_at_us < now_us + 6 * MINUTE_US])
                monitor.look(now_us + 6 * MINUTE_US)
            return every_signal(catalog)

    def _asked(
        self, names: tuple[str, ...], version: str, profiles: Profiles, made: object, cut_us: int, until_us: int
    ) -> list[Prediction]:
        rows = np.flatnonzero((self.at_us > cut_us) & (self.at_us < until_us))
        rows = rows[np.argsort(self.at_us[rows], kind="stable")]
        requests, at_us = self.requests.take(rows), self.at_us[rows]
        features = evaluate(self.model.features, requests, at_us, self.frames)
        encoding = profiles.inputs_of(made)[1]  # type: ignore[arg-type]  # the version
        values, codes = encoding.matrix(features.values), features.codes(names)
        packed = zip(*(column.to_list() for column in requests.by_name.values()), strict=True)
        return [
            Prediction(
                id=f"{at:018d}-{n:06d}", request_id=row[0], model=self.model.name, version=version, arm="champion",
                mode="live", made_at_us=at, at_us=at, positions={}, score=0.2, request=msgspec.msgpack.encode(row),
                values=values[n].astype("<f8").tobytes(), reasons=codes[n].tobytes(),
            )
            for n, (row, at) in enumerate(zip(packed, at_us.tolist(), strict=True))
        ]  # fmt: skip


@pytest.fixture(scope="module")
def project() -> Definitions:
    return load_definitions(FLIGHTS / "project.py")


@pytest.fixture(scope="module")
def tables(project: Definitions, files: dict[str, Path]) -> dict[str, Columns]:
    return {name: read_file(files[name], source).columns for name, source in project.sources.items()}


@pytest.fixture(scope="module")
def year(project: Definitions, tables: dict[str, Columns]) -> Year:
    return Year(project, tables)


@pytest.mark.slow
def test_a_wind_of_1048_miles_an_hour_is_named_in_the_hour_in_which_it_comes(year: Year, tmp_path: Path) -> None:
    wind = year.frames["weather"].columns["wind_speed"].values
    known_us = int(year.frames["weather"].known_at_us[np.nanargmax(wind)])
    signals = year.watched(tmp_path, "2013-01-01", "2013-02-11", "2013-02-14")
    red = [one for one in signals if one.severity == "red"]
    (found,) = [one for one in red if one.subject == "column weather.wind_speed"]  # no flight left while it stood
    assert found.kind == "range"
    assert "1,048" in found.message
    assert known_us <= found.raised_at_us <= known_us + HOUR_US + 6 * MINUTE_US
    assert found.ended_at_us is not None
    assert found.ended_at_us < known_us + DAY_US
    assert [one.message for one in red if one is not found] == []


def test_the_weather_that_is_missing_on_31_december_is_named(year: Year, tmp_path: Path) -> None:
    weather = year.frames["weather"]
    last_us = int(weather.event_at_us.max())
    signals = year.watched(tmp_path, "2013-11-01", "2013-12-29", "2014-01-01")
    red = [one for one in signals if one.severity == "red" and one.raised_at_us > last_us]
    kinds = {(one.kind, one.subject): one for one in red}
    first_null_us = last_us + 3 * HOUR_US  # an hourly reading counts for three hours
    nulls = kinds["nulls", "source weather"]
    assert nulls.raised_at_us <= first_null_us + 8 * HOUR_US
    stopped = kinds["feed_stopped", "source weather"]
    assert last_us < stopped.raised_at_us <= last_us + 5 * HOUR_US
    assert [one.message for one in signals if one.severity == "red" and one.raised_at_us <= last_us] == []


@pytest.mark.slow
def test_landings_that_a_snowstorm_stops_are_in_no_other_unit(
    project: Definitions, tables: dict[str, Columns], tmp_path: Path
) -> None:
    """On 8 February airports closed for a day: the landings of a day fell from 267 to 47 at the median."""
    signals = Year(project, tables, "late_flight").watched(tmp_path, "2013-01-02", "2013-02-06", "2013-02-13")
    red = {(one.kind, one.subject) for one in signals if one.severity == "red"}
    assert red == {
        ("nulls", "column tailnum"),  # of flights that were cancelled before a plane was chosen
        ("feed_stopped", "source landings"),
        ("range", "column weather.wind_speed"),
    }
