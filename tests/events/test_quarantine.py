import base64
import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Corrupt, NotFound
from trimtab.core.time import HOUR_US
from trimtab.events.columns.frames import NEVER_US
from trimtab.events.columns.history import History
from trimtab.events.definitions import source
from trimtab.events.files.files import read_rows
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine, Replayed
from trimtab.events.records import decode

PLAIN = source("plain", time="at", delay="1h", columns={"who": str, "x": float})
OTHER = source("other", time="at", columns={"who": str})


@pytest.fixture
def quarantine(make_log: Any) -> Quarantine:
    return Quarantine(make_log("q1"))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(0)


@pytest.fixture
def ingestor(log: Any, quarantine: Quarantine, clock: VirtualClock) -> Ingestor:
    return Ingestor(log, [PLAIN, OTHER], clock=clock, quarantine=quarantine)


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


def test_history_from_the_future_comes_back_once_its_time_has_come(
    ingestor: Ingestor, quarantine: Quarantine, clock: VirtualClock, log: Any
) -> None:
    ingestor.push("plain", [{"who": "a", "at": 2 * HOUR_US}, {"who": "b", "at": 400 * HOUR_US}], history=True)
    assert quarantine.counts() == {"plain": {"future": 2}}
    assert quarantine.replay(ingestor) == Replayed(accepted=0, quarantined=2, left_out=0)
    clock.advance_to(2 * HOUR_US)
    assert quarantine.replay(ingestor) == Replayed(accepted=1, quarantined=1, left_out=0)
    event = decode(log.records["p1"][0].payload)
    assert (event.event_at_us, event.known_at_us, event.history) == (2 * HOUR_US, 3 * HOUR_US, True)


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


def test_what_is_in_quarantine_is_summed_up_by_source_and_reason(
    ingestor: Ingestor, quarantine: Quarantine, clock: VirtualClock
) -> None:
    ingestor.push("plain", [{"who": "a"}, {"at": 0, "x": "much"}])
    clock.advance_to(HOUR_US)
    ingestor.push("plain", [{"who": "b"}, {"x": 1.0}])
    ingestor.push("other", [{"who": 5, "at": 0}])
    other, missing, wrong = quarantine.summary(examples=2)
    assert (other.source, wrong.reason, wrong.fields) == ("other", "wrong_type", {"x": 1})
    assert (missing.source, missing.reason, missing.rows) == ("plain", "missing", 3)
    assert (missing.since_us, missing.newest_us, missing.fields) == (0, HOUR_US, {"at": 3})
    assert [example.row for example in missing.examples] == [{"x": 1.0}, {"who": "b"}]
    assert quarantine.summary("other") == [quarantine.summary()[0]]


def test_rows_that_are_dropped_count_no_longer_and_come_back_with_no_replay(
    ingestor: Ingestor, quarantine: Quarantine
) -> None:
    ingestor.push("plain", [{"who": "a"}, {"at": 0, "x": "much"}])
    ingestor.push("other", [{"who": "a"}])
    assert quarantine.drop("plain", reason="missing") == 1
    assert quarantine.counts() == {"plain": {"wrong_type": 1}, "other": {"missing": 1}}
    assert quarantine.drop("plain", reason="missing") == 0
    assert quarantine.drop() == 2
    assert quarantine.replay(ingestor, fix=lambda row: row | {"at": 0}) == Replayed(0, 0, 0)


def test_only_rows_with_the_named_reason_are_given_back(ingestor: Ingestor, quarantine: Quarantine) -> None:
    ingestor.push("plain", [{"who": "a"}, {"at": 0, "x": "much"}])
    done = quarantine.replay(ingestor, reason="wrong_type", fix=lambda row: row | {"x": 1.0})
    assert done == Replayed(1, 0, 0)
    assert quarantine.counts() == {"plain": {"missing": 1}}


def test_a_source_that_is_gone_does_not_keep_the_others_rows(
    ingestor: Ingestor, quarantine: Quarantine, log: Any
) -> None:
    ingestor.push("plain", [{"who": "a"}])
    ingestor.push("other", [{"who": "a"}])
    fewer = Ingestor(log, [OTHER], clock=VirtualClock(0), quarantine=quarantine)
    with pytest.raises(NotFound, match="no source 'plain'"):
        quarantine.replay(fewer, fix=lambda row: row | {"at": 0})
    assert quarantine.counts() == {"plain": {"missing": 1}}


def test_rows_of_a_definition_that_was_corrected_are_events_once_whatever_stops_the_replay(
    make_log: Any, log: Any
) -> None:
    class Stopping(make_log):  # type: ignore[misc]  # a class that is a fixture
        left = 1

        def append(self, payloads: Any, *, at_us: Any = None) -> range:
            if b"released" in payloads[0]:
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
            return super().append(payloads, at_us=at_us)  # type: ignore[no-any-return]

    kept = Stopping("q1")
    wrong = source("sales", time="at", key="id", columns={"id": str, "n": float})
    right = source("sales", time="at", key="id", columns={"id": str, "n": str})
    clock = VirtualClock(0)
    rows = [{"id": f"s{i}", "n": f"#{i}", "at": i} for i in range(2_500)]
    pushed = Ingestor(log, [wrong], clock=clock, quarantine=Quarantine(kept)).push("sales", rows)
    assert pushed.quarantined == 2_500
    fixed = Ingestor(log, [right], clock=clock, quarantine=Quarantine(kept))
    with pytest.raises(KeyboardInterrupt):
        Quarantine(kept).replay(fixed)
    assert log.positions() == {"p1": 2_000}  # pushed twice a thousand, noted once
    kept.left = 100
    assert Quarantine(kept).replay(fixed) == Replayed(1_500, 0, 0)
    assert log.positions() == {"p1": 3_500}  # a thousand of them came again
    assert Quarantine(kept).counts() == {}
    history = History(log, [right])
    history.refresh()
    frame = history.frame("sales")
    newest = frame.take(frame.superseded_at_us == NEVER_US)
    assert sorted(newest.columns["id"].to_list()) == sorted(row["id"] for row in rows)
    assert history.duplicates == {"sales": 1_000}


def test_what_does_not_fit_after_a_fix_stays_as_it_was(
    ingestor: Ingestor, quarantine: Quarantine, clock: VirtualClock
) -> None:
    ingestor.push("plain", [{"who": "a", "at": 0, "x": math.inf}, {"who": "b"}])
    before = quarantine.read()
    clock.advance_to(HOUR_US)
    assert quarantine.replay(ingestor) == Replayed(0, 2, 0)
    assert quarantine.read() == before
    assert quarantine.replay(ingestor, fix=lambda row: row | {"at": 0}) == Replayed(1, 1, 0)
    assert [row.reason for row in quarantine.read()] == ["infinite"]


def test_a_line_that_fits_no_header_is_not_guessed_at(tmp_path: Path, log: Any, quarantine: Quarantine) -> None:
    texts = source("texts", time="at", columns={"a": str, "b": str})
    ingestor = Ingestor(log, [texts], clock=VirtualClock(0), quarantine=quarantine)
    file = tmp_path / "a.csv"
    file.write_text("at,a,b\n1970-01-01,comma,here,too\n1970-01-01,short\n")
    assert ingestor.take("texts", read_rows(file, texts, on_error="quarantine")).quarantined == 2
    assert quarantine.replay(ingestor) == Replayed(0, 2, 0)
    assert log.positions() == {}
    assert quarantine.replay(ingestor, fix=lambda row: row) == Replayed(2, 0, 0)


def test_every_text_that_could_not_be_read_is_kept(tmp_path: Path, log: Any, quarantine: Quarantine) -> None:
    ingestor = Ingestor(log, [PLAIN], clock=VirtualClock(0), quarantine=quarantine)
    file = tmp_path / "a.csv"
    file.write_text('who,x,at\na,"1,5",31.12.1970\n')
    ingestor.take("plain", read_rows(file, PLAIN, on_error="quarantine"))
    assert [row.raw() for row in quarantine.read()] == [{"who": "a", "x": "1,5", "at": "31.12.1970"}]


@pytest.mark.fast
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_that_fits_no_header_is_kept_byte_by_byte(
    tmp_path: Path, log: Any, quarantine: Quarantine, end: bytes
) -> None:
    ingestor = Ingestor(log, [PLAIN], clock=VirtualClock(0), quarantine=quarantine)
    (tmp_path / "a.csv").write_bytes(
        b'who,x,at\nZo\xeb,1,1970-01-01\na,1,2,3,4\n"two\nlines",1,2,3,4\nb,"1,5",1970-01-01\n'.replace(b"\n", end)
    )
    rows = read_rows(tmp_path / "a.csv", PLAIN, on_error="quarantine")
    assert ingestor.take("plain", rows).quarantined == 4
    latin, many, two, wrong = (row.raw() for row in quarantine.read())
    assert base64.b64decode(latin["_line_base64"]) == b"Zo\xeb,1,1970-01-01"
    assert (latin["_line"], latin["_line_number"]) == ("Zo\ufffd,1,1970-01-01", 2)
    assert (many["_line"], many["_line_number"], many["_file"]) == ("a,1,2,3,4", 3, str(tmp_path / "a.csv"))
    assert "_line_base64" not in many
    assert two["_line"] == f'"two{end.decode()}lines",1,2,3,4'
    assert wrong == {"who": "b", "x": "1,5", "at": 0}

    def fix(row: dict[str, Any]) -> dict[str, Any] | None:
        if "_line_base64" not in row:
            return None
        who, x, at = base64.b64decode(row["_line_base64"]).decode("latin-1").split(",")
        del row["_line"]  # the other fields about the line are left out as well
        return row | {"who": who, "x": float(x), "at": at}

    assert quarantine.replay(ingestor, reason="bad_line", fix=fix) == Replayed(1, 0, 2)
    assert decode(log.records["p1"][0].payload).values == ("Zoë", 1.0, 0)


def test_a_line_that_is_no_json_is_kept_and_can_be_repaired(tmp_path: Path, log: Any, quarantine: Quarantine) -> None:
    ingestor = Ingestor(log, [PLAIN], clock=VirtualClock(0), quarantine=quarantine)
    (tmp_path / "a.ndjson").write_bytes(b'{"who": "a", "at": 0}\n{"who": "b", "at": 0,}\n{"who": "\xe9", "at": 0}\n')
    ingestor.take("plain", read_rows(tmp_path / "a.ndjson", PLAIN, on_error="quarantine"))
    comma, latin = (row.raw() for row in quarantine.read())
    assert (comma["_line"], comma["_line_number"]) == ('{"who": "b", "at": 0,}', 2)
    assert base64.b64decode(latin["_line_base64"]) == b'{"who": "\xe9", "at": 0}'
    assert quarantine.replay(ingestor) == Replayed(0, 2, 0)
    repaired = quarantine.replay(ingestor, fix=lambda row: json.loads(row["_line"].replace(",}", "}")))
    assert repaired == Replayed(2, 0, 0)
