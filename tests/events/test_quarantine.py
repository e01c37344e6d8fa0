import datetime as dt
import math
from typing import Any

import pytest

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Corrupt
from trimtab.core.time import HOUR_US
from trimtab.events.definitions import source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine, Replayed
from trimtab.events.records import decode

PLAIN = source("plain", time="at", delay="1h", columns={"who": str, "x": float})
OTHER = source("other", time="at", columns={"who": str})


@pytest.fixture
def quarantine(make_log: Any) -> Quarantine:
    return Quarantine(make_log("q1"))


@pytest.fixture
def ingestor(log: Any, quarantine: Quarantine) -> Ingestor:
    return Ingestor(log, [PLAIN, OTHER], clock=VirtualClock(0), quarantine=quarantine)


def test_rows_are_read_and_counted_by_source_and_reason(ingestor: Ingestor, quarantine: Quarantine) -> None:
    ingestor.push("plain", [{"who": "a", "at": 0, "x": math.inf}, {"who": "a"}, {"who": "b"}])
    ingestor.push("other", [{"who": 5, "at": 0}])
    assert quarantine.counts() == {"plain": {"infinite": 1, "missing": 2}, "other": {"wrong_type": 1}}
    assert [row.raw() for row in quarantine.read("plain")] == [
        {"who": "a", "at": 0, "x": "inf"},
        {"who": "a"},
        {"who": "b"},
    ]


def test_fixed_rows_are_let_in_and_no_longer_counted(ingestor: Ingestor, quarantine: Quarantine, log: Any) -> None:
    ingestor.push("plain", [{"who": "a", "at": 0, "x": "1.5"}, {"who": "b", "at": 0, "x": "no"}, {"who": "c"}])

    def fix(row: dict[str, Any]) -> dict[str, Any] | None:
        if "at" not in row:
            return None
        return row | {"x": float(row["x"])} if row["x"] != "no" else row

    assert quarantine.replay(ingestor, fix=fix) == Replayed(accepted=1, quarantined=1, left_out=1)
    assert quarantine.counts() == {"plain": {"wrong_type": 1}}
    assert decode(log.records["p1"][0].payload).values == ("a", 1.5, 0)


def test_rows_of_a_load_of_history_come_back_as_history(ingestor: Ingestor, quarantine: Quarantine, log: Any) -> None:
    ingestor.push("plain", [{"who": "a", "at": 5, "x": "1"}], history=True)
    quarantine.replay(ingestor, fix=lambda row: row | {"x": 1.0})
    event = decode(log.records["p1"][0].payload)
    assert (event.history, event.known_at_us) == (True, 5 + HOUR_US)


def test_only_the_named_source_is_given_back(ingestor: Ingestor, quarantine: Quarantine) -> None:
    ingestor.push("plain", [{"who": "a"}])
    ingestor.push("other", [{"who": "a"}])
    quarantine.replay(ingestor, "plain", fix=lambda row: None)
    assert quarantine.counts() == {"other": {"missing": 1}}


def test_a_row_of_anything_at_all_can_be_kept(ingestor: Ingestor, quarantine: Quarantine) -> None:
    ingestor.push("plain", [{"who": "\ud800", "x": {1: object()}, "at": dt.datetime(1970, 1, 1)}])
    (row,) = quarantine.read()
    assert row.raw()["who"] == "\ud800"
    assert row.raw()["at"] == "1970-01-01T00:00:00"


def test_a_log_of_something_else_is_corrupt(make_log: Any) -> None:
    log = make_log("q1")
    log.append([b"\x01"])
    with pytest.raises(Corrupt, match="record 1 of partition 'q1'"):
        Quarantine(log).read()
