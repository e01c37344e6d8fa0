"""Faults by name and date: what each does to the rows, to the loop, and what the loop makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import worlds
from worlds import day_us

import trimtab as tt
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import HOUR_US
from trimtab.simulation import Fault, fault, read_faults, ungated
from trimtab.simulation.faulty_tables import recorded_labels, with_faults
from trimtab.simulation.replay import Recording, Replay, ReplaySettings
from trimtab.simulation.results import ReplayResult
from trimtab.simulation.scenarios.scenario import Scenario

MODEL = worlds.deployed().model
START_US, END_US = day_us(3), day_us(6)


def put(tables: dict[str, Columns], kind: Any, **more: Any) -> dict[str, Columns]:
    return with_faults(tables, [fault(kind, START_US, END_US, **more)], worlds.SOURCES, MODEL)


def replayed(
    folder: Path, tables: dict[str, Columns], lines: list[Scenario], days: int, *faults: Fault
) -> ReplayResult:
    with Replay(
        [msgspec.structs.replace(line, main=n == 0) for n, line in enumerate(lines)],
        Recording(tables, worlds.SOURCES, faults=faults),
        folder,
        ReplaySettings(start_us=day_us(0), until_us=day_us(days), seed=1),
    ) as running:
        return running.run()


@pytest.mark.fast
def test_faults_of_data_change_what_they_name_and_nothing_else() -> None:
    tables = worlds.make(2, days=9, per_day=40)
    visits, reads, sales = tables["visit"], tables["readings"], tables["sales"]
    inside = (visits["at"].values >= START_US) & (visits["at"].values < END_US)
    x = visits["x"].values
    nulls = put(tables, "null_column", column="x")["visit"]
    assert nulls["x"].present().tolist() == (~inside).tolist()
    assert nulls["x"].to_list() == [None if gone else value for gone, value in zip(inside, x.tolist(), strict=True)]
    assert nulls["site"].to_list() == visits["site"].to_list()
    heat = put(tables, "unit_change", column="x")["visit"]["x"].values
    assert np.allclose(heat, np.where(inside, 1.8 * x + 32, x))
    assert np.allclose(
        put(tables, "unit_change", column="x", size=1000.0)["visit"]["x"].values[inside], 1000 * x[inside]
    )
    read_us = reads["read_at"].values
    faulty = (read_us >= START_US) & (read_us < END_US)
    gone = put(tables, "outage", source="readings")["readings"]
    assert gone["read_at"].values.tolist() == read_us[~faulty].tolist()
    late = put(tables, "late_feed", source="readings", size=5.0)["readings"]["_known_at"].values
    assert late.tolist() == (read_us + HOUR_US + np.where(faulty, 5 * HOUR_US, 0)).tolist()
    stuck = put(tables, "stuck_feed", source="readings")["readings"]
    for site in worlds.SITES:
        mine = np.array([one == site for one in reads["site"].to_list()])
        last = reads["level"].take(mine & (read_us < START_US)).to_list()[-1]
        assert set(stuck["level"].take(mine & faulty).to_list()) == {last}
    assert stuck["level"].take(~faulty).to_list() == reads["level"].take(~faulty).to_list()
    closed = (sales["closed_at"].values >= START_US) & (sales["closed_at"].values < END_US)
    assert put(tables, "label_stop")["sales"].rows == int((~closed).sum())
    flipped = put(tables, "label_flip")["sales"]["bought"].values
    assert (flipped != sales["bought"].values).tolist() == closed.tolist()


@pytest.mark.fast
def test_labels_of_other_shapes_are_flipped_too() -> None:
    tables = worlds.make(2, days=9, per_day=40)
    sales = tables["sales"]
    closed = (sales["closed_at"].values >= START_US) & (sales["closed_at"].values < END_US)
    late = msgspec.structs.replace(MODEL, label=msgspec.structs.replace(MODEL.label, value=tt.col("amount") >= 1.0))
    one = [fault("label_flip", START_US, END_US)]
    amounts = with_faults(tables, one, worlds.SOURCES, late)["sales"]["amount"].values
    was, now = sales["amount"].values[closed] >= 1.0, amounts[closed] >= 1.0
    assert (was != now).all()
    assert (amounts[~closed] == sales["amount"].values[~closed]).all()
    odd = msgspec.structs.replace(MODEL, label=msgspec.structs.replace(MODEL.label, value=tt.col("amount") + 1.0))
    with pytest.raises(Misuse, match="can be flipped"):
        with_faults(tables, one, worlds.SOURCES, odd)


@pytest.mark.fast
def test_faults_are_read_from_files_and_tables(tmp_path: Path) -> None:
    file = tmp_path / "faults.csv"
    file.write_text(
        "kind,start,end,source,column,size\nunit_change,2020-02-05,2020-02-07,,x,10\n"
        "restart,2020-02-02,,,,\noutage,2020-02-03,2020-02-04T12:00:00Z,readings,,\n"
    )
    found = read_faults(file)
    assert [one.said for one in found] == ["restart", "outage readings", "unit_change x"]
    assert found[2].size == 10.0
    rows = [{"kind": "outage", "start": "2020-02-03", "end": "2020-02-04T12:00:00Z", "source": "readings"}]
    assert read_faults(rows) == [found[1]] == read_faults([found[1]])
    table = Columns.of({name: ("str", [value]) for name, value in rows[0].items()})
    assert read_faults(table) == [found[1]]
    with pytest.raises(NotFound, match="cannot be read"):
        read_faults(tmp_path / "none.csv")
    for wrong, said in (
        ({"kind": "storm", "start": "2020-01-01", "end": "2020-01-02"}, "'storm' is none of null_column"),
        ({"kind": "outage", "start": "2020-01-02", "end": "2020-01-01", "source": "a"}, "Give a time after its start"),
        ({"kind": "outage", "start": "2020-01-01", "end": "2020-01-02"}, "it needs a source"),
        ({"kind": "null_column", "start": "2020-01-01", "end": "2020-01-02"}, "it needs a column"),
        ({"kind": "freeze", "start": "2020-01-01", "end": "2020-01-02", "column": "x"}, "it takes no column"),
        ({"kind": "freeze", "start": "2020-01-01", "end": "2020-01-02", "source": "a"}, "it takes no source"),
        ({"kind": "label_flip", "start": "2020-01-01", "end": "2020-01-02", "size": ".5"}, "it takes no size"),
        ({"kind": "freeze", "start": "2020-01-01", "end": "2020-01-02", "size": "big"}, "row 1"),
        ({"kind": "freeze", "when": "2020-01-01"}, "no field 'when'"),
    ):
        with pytest.raises(Misuse, match=said):
            read_faults([wrong])
    tables = worlds.make(2, days=4, per_day=10)
    with pytest.raises(NotFound, match="no source 'rain'"):
        put(tables, "outage", source="rain")
    with pytest.raises(NotFound, match="no column 'y'"):
        put(tables, "null_column", column="y")
    known = put(tables, "late_feed", source="readings")
    with pytest.raises(NotFound, match=r"no column '_known_at'\. There is: site, level, read_at\.$"):
        put(known, "null_column", source="readings", column="_known_at")
    with pytest.raises(Misuse, match="only the unit of a column of floats"):
        put(tables, "unit_change", column="site")
    with pytest.raises(Misuse, match="to 2020-02-06T00:00 has no effect: 'readings' has no event"):
        put({**tables, "readings": tables["readings"].take(slice(0, 5))}, "outage", source="readings")
    for size in (0, 1, float("nan")):
        with pytest.raises(Misuse, match="Give a finite factor other than 0 and 1"):
            fault("unit_change", START_US, END_US, column="x", size=size)
    for size in (0, -24, float("nan")):
        with pytest.raises(Misuse, match="how many hours late"):
            fault("late_feed", START_US, END_US, source="readings", size=size)
    file.write_text("kind,start,end\n")
    with pytest.raises(Misuse, match=r"holds no fault. Give one or more, with the fields kind,start,end"):
        read_faults(file)
    with pytest.raises(Misuse, match="is the time or the key"):
        put(tables, "null_column", column="at")


@pytest.mark.fast
def test_recorded_labels_are_the_newest_of_each_key() -> None:
    tables = worlds.make(2, days=9, per_day=40)
    sales = tables["sales"]
    expected = dict(zip(sales["visit_id"].to_list(), sales["bought"].to_list(), strict=True))
    keys = [*tables["visit"]["visit_id"].to_list()]
    found = recorded_labels(MODEL.label, sales, keys)
    assert [None if np.isnan(one) else bool(one) for one in found] == [expected.get(key) for key in keys]


@pytest.mark.slow
def test_a_restart_changes_nothing_that_is_decided_answered_or_found(tmp_path: Path) -> None:
    tables = worlds.make(4, days=14, per_day=150)
    line = Scenario(
        name="weekly", deployment=worlds.deployed(retrain=tt.every("5d"), gate=tt.beats_champion(margin=-1.0))
    )
    nulls = fault("null_column", day_us(2.3), day_us(4.6), column="x")
    restarts = [fault("restart", day_us(day)) for day in (1, 3, 5.5, 8, 11)]
    whole = replayed(tmp_path / "whole", tables, [line], 14, nulls).lines["weekly"]
    cut = replayed(tmp_path / "cut", tables, [line], 14, nulls, *restarts).lines["weekly"]
    assert np.array_equal(cut.scores, whole.scores)
    assert worlds.ledger(tmp_path / "cut") == worlds.ledger(tmp_path / "whole")
    told = [[(s.id, s.kind, s.onset_us) for s in one.input_signals] for one in (cut, whole)]
    assert told[0] == told[1]
    assert any(kind == "nulls" for _, kind, _ in told[0])
    assert cut.signals == whole.signals


def test_a_freeze_stops_every_policy_and_its_end_lets_them_go_on(tmp_path: Path) -> None:
    tables = worlds.make(5, days=16)
    gate = tt.beats_champion(margin=-1.0, calibration=0.2)
    own = Scenario(name="own", deployment=worlds.deployed(retrain=tt.every("4d"), gate=gate))
    plain = Scenario(name="plain", deployment=worlds.deployed(), decide=ungated("4d").decide)
    result = replayed(tmp_path, tables, [own, plain], 16, fault("freeze", day_us(2), day_us(10)))
    for line in result.lines.values():
        acts = [(d.act, d.at_us) for d in line.decisions if d.at_us > day_us(0)]
        assert ("freeze", day_us(2)) in acts
        assert ("unfreeze", day_us(10)) in acts
        assert not [act for act, at_us in acts if day_us(2) < at_us < day_us(10)]
        assert [act for act, at_us in acts if act == "promote" and at_us >= day_us(10)]


@pytest.mark.slow
def test_a_sabotaged_refit_answers_badly_where_no_gate_looks(tmp_path: Path) -> None:
    tables = worlds.make(6, days=20, per_day=200)
    gate = tt.beats_champion(margin=-0.2, window="7d", calibration=0.2)
    own = Scenario(name="own", deployment=worlds.deployed(retrain=tt.every("9d"), gate=gate))
    plain = Scenario(name="plain", deployment=worlds.deployed(), decide=ungated("9d").decide)
    result = replayed(tmp_path, tables, [own, plain], 20, fault("sabotaged_refit", day_us(1), day_us(12)))
    after = result.lines["own"].at_us >= day_us(10)
    losses = {}
    for name, line in result.lines.items():
        losses[name] = line.measures[0].value(line.rows(after & line.judged)) or 0.0
    assert losses["plain"] > losses["own"] + 0.1
    refused = [d.cause for d in result.lines["own"].decisions if d.act == "refuse" and d.at_us < day_us(12)]
    assert refused


def test_quality_is_judged_by_the_labels_without_the_fault(tmp_path: Path) -> None:
    tables = worlds.make(3, days=6)
    flip = fault("label_flip", day_us(1), day_us(4))
    bare = replayed(tmp_path / "bare", tables, [worlds.never()], 6).lines["never"]
    flipped = replayed(tmp_path / "flipped", tables, [worlds.never()], 6, flip)
    assert flipped.faults == [flip]
    assert np.array_equal(flipped.lines["never"].labels, bare.labels, equal_nan=True)


@pytest.mark.fast
def test_files_of_faults_that_cannot_be_read_say_where_and_why(tmp_path: Path) -> None:
    file = tmp_path / "faults.csv"
    header, line = "kind,start,end,source,column,size\n", "unit_change,2024-02-20,2024-02-22,,x,{}\n"
    file.write_text(header + line.format("2"), "utf-8-sig")  # as spreadsheets write it
    assert read_faults(file)[0].size == 2.0
    for encoding in ("utf-16", "latin-1"):
        file.write_text(header + "outage,2024-02-20,2024-02-22,café,,\n", encoding)
        with pytest.raises(Misuse, match=r"faults.csv is not in UTF-8 .* Save it as CSV in UTF-8"):
            read_faults(file)
    for size in ("abc", '"1,8"'):
        file.write_text(header + "\n" + line.format(size))  # an empty line counts
        with pytest.raises(Misuse, match=rf"line 3: found size='{size.strip(chr(34))}', needed a number"):
            read_faults(file)
    file.write_text(header + line.format("2,,7"))
    with pytest.raises(Misuse, match="line 2: more values than columns"):
        read_faults(file)
    with pytest.raises(Misuse, match="what was given holds no fault"):
        read_faults([])
    with pytest.raises(Misuse, match="row 1: found 5, needed a Fault or a dict"):
        read_faults([5])  # type: ignore[list-item]
    one = fault("freeze", "2024-02-20", "2024-02-22")
    assert read_faults(one) == read_faults({"kind": "freeze", "start": "2024-02-20", "end": "2024-02-22"}) == [one]


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["label_stop", "label_flip"])
def test_faults_of_labels_take_no_other_source(kind: Any) -> None:
    with pytest.raises(
        Misuse, match=f"{kind} readings: found the source 'readings', needed that of the labels, 'sales'"
    ):
        put(worlds.make(2, days=9, per_day=4), kind, source="readings")
