"""Files that do not fit, standard input, and the rows that were set aside, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Run

import forked

PROJECT = """
import trimtab as tt
weather = tt.source("weather", time="at", columns={"origin": str, "temp": float})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(PROJECT)
    return tmp_path


def test_what_a_file_has_and_lacks_is_said(folder: Path, call: Run) -> None:
    (folder / "a.csv").write_text(
        'origin,temp,at,dewp\nJFK,1.5,2025-01-01,3\nJFK,"1,5",2025-01-01,3\nJFK,1,5,2025-01-01,3\n'
    )
    done = call("ingest", "weather", "a.csv", cwd=folder)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "weather: 1 row taken (1 new), 2 quarantined",
        "  columns that are not declared, left out: dewp",
        "  line 3: temp = '1,5': wrong_type",
        "  line 4: 5 fields where the header has 4: 'JFK,1,5,2025-01-01,3': bad_line",
    ]
    assert done.stderr == (
        "66.7 % of the rows were NOT taken; they are in quarantine. See: trimtab quarantine list weather. "
        "If so many are known to be wrong, allow them: --max-refused SHARE\n"
    )
    (folder / "few.csv").write_text("origin,at\nJFK,2025-01-01\n")
    refused = call("ingest", "weather", "few.csv", cwd=folder)
    assert refused.returncode == 2
    assert "--absent-as-null" in refused.stderr
    taken = call("ingest", "weather", "few.csv", "--absent-as-null", cwd=folder)
    assert "columns that the file lacks, set to null: temp" in taken.stdout
    (folder / "semicolons.csv").write_text("origin;temp;at\nJFK;1,5;2025-01-01\n")
    assert "separated by ';'" in call("ingest", "weather", "semicolons.csv", cwd=folder).stderr


def test_lines_that_cannot_be_read_blame_no_column(folder: Path, call: Run) -> None:
    (folder / "a.csv").write_bytes("origin,temp,at\nKöln,1,2025-01-01\nJFK,1\n".encode("latin-1"))
    said = call("ingest", "weather", "a.csv", cwd=folder).stdout
    assert "Its encoding is probably WINDOWS-1252. Convert it: iconv " in said
    assert call("quarantine", "list", cwd=folder).stdout.splitlines()[0] == "weather  bad_line: 2 rows"


def test_words_that_may_mean_null_are_said_with_what_to_do(folder: Path, call: Run) -> None:
    (folder / "a.csv").write_text(
        "origin,temp,at\nJFK,missing,2025-01-01\nJFK,n.a.,2025-01-02\nJFK,n.a.,2025-01-03\nJFK,5 F,2025-01-03\n"
    )
    assert call("ingest", "weather", "a.csv", cwd=folder).stdout.splitlines()[-1] == (
        "  If such a word means that there is no value, add it to nulls=['missing', 'n.a.'] of 'weather' in "
        "project.py, then: trimtab quarantine replay weather"
    )
    text = (folder / "project.py").read_text()
    (folder / "project.py").write_text(text.replace('time="at",', 'time="at", nulls=["missing", "n.a."],'))
    replayed = call("quarantine", "replay", "weather", cwd=folder).stdout
    assert replayed == "3 rows taken, 1 do not fit and stay in quarantine\n"


def test_rows_are_shown_given_back_and_dropped(folder: Path, call: Run) -> None:
    (folder / "a.ndjson").write_text(
        '{"origin": 5, "temp": 1, "at": "2025-01-01"}\n{"origin": "JFK", "temp": 1}\nnot JSON\n'
    )
    call("ingest", "weather", "a.ndjson", cwd=folder)
    shown = call("quarantine", cwd=folder).stdout
    assert "weather  wrong_type: 1 row, at fault: origin (1)" in shown
    assert '{"origin": 5, "temp": 1, "at": "2025-01-01"}' in shown
    only = json.loads(call("quarantine", "list", "weather", "--reason", "missing", "--json", cwd=folder).stdout)
    assert [(group["reason"], group["examples"][0]["row"]) for group in only] == [
        ("missing", {"origin": "JFK", "temp": 1.0, "at": None})
    ]
    (folder / "project.py").write_text(PROJECT.replace('"origin": str', '"origin": int'))
    assert "1 row taken, 2 do not fit" in call("quarantine", "replay", "weather", cwd=folder).stdout
    unsure = call("quarantine", "drop", "weather", cwd=folder)
    assert unsure.returncode == 2
    assert "2 rows would be dropped" in unsure.stderr
    assert "2 rows dropped" in call("quarantine", "drop", "weather", "--yes", cwd=folder).stdout
    assert "Nothing is in quarantine." in call("quarantine", cwd=folder).stdout
    nothing = call("quarantine", "drop", "weather", cwd=folder)
    assert (nothing.returncode, nothing.stdout) == (0, "0 rows dropped\n")  # nobody has to be sure of that


def test_a_load_of_which_nothing_was_taken_fails(folder: Path, call: Run) -> None:
    (folder / "bad.ndjson").write_text('{"origin": 5, "temp": 1, "at": "2025-01-01"}\n')
    failed = call("ingest", "weather", "bad.ndjson", cwd=folder)
    assert failed.returncode == 1
    assert failed.stderr.startswith("Nothing was taken: 1 row is in quarantine.")
    assert call("ingest", "weather", "bad.ndjson", "--max-refused", "1", cwd=folder).returncode == 1
    assert call("ingest", "weather", "bad.ndjson", "--json", cwd=folder).returncode == 1
    (folder / "project.py").write_text(PROJECT.replace('time="at",', 'time="at", delay="7d", only_final=True,'))
    good = '{"origin": "JFK", "temp": 1, "at": "2025-01-01"}\n'
    (folder / "open.ndjson").write_text(good)
    early = call("ingest", "weather", "open.ndjson", cwd=folder)
    assert (early.returncode, early.stderr) == (1, "Nothing was taken.\n")
    assert "1 row left out: they are dated less than the source's delay before" in early.stdout
    assert "load it with --live" in early.stdout
    assert call("ingest", "weather", "open.ndjson", "--live", cwd=folder).returncode == 0
    (folder / "project.py").write_text(PROJECT)
    (folder / "few.ndjson").write_text(good * 99 + "no JSON\n")
    few = call("ingest", "weather", "few.ndjson", cwd=folder)
    assert few.returncode == 0
    assert few.stderr == ""  # 1 % is not more than 1 %
    (folder / "empty.ndjson").write_text("")
    assert call("ingest", "weather", "empty.ndjson", cwd=folder).returncode == 0


def test_times_in_quarantine_are_shown_as_times(folder: Path, call: Run) -> None:
    (folder / "a.csv").write_text("origin,temp,at\nJFK,1,2025-01-01\nJFK,1,2125-01-01\n")
    call("ingest", "weather", "a.csv", cwd=folder)
    assert '  at = "2125-01-01T00:00:00Z"  {"' in call("quarantine", "list", cwd=folder).stdout


@pytest.mark.fast
def test_a_load_fails_when_more_is_refused_than_is_allowed(folder: Path, call: Run) -> None:
    good = '{"origin": "JFK", "temp": 1, "at": "2025-01-01"}\n'
    (folder / "a.ndjson").write_text(good * 4 + good.replace("2025", "2125"))
    lines = {}
    for most, status in (("0.01", 1), ("0.2", 0), ("0.19", 1), ("0", 1)):
        done = call("ingest", "weather", "a.ndjson", "--max-refused", most, cwd=folder)
        assert (done.returncode, "20.0 % of the rows were NOT taken" in done.stderr) == (status, bool(status)), most
        counted, _, lines[most] = done.stdout.partition("\n")
        new = "1 new, 3" if len(lines) == 1 else "0 new, 4"
        assert counted == f"weather: 4 rows taken ({new} there before), 1 quarantined"
    assert len(set(lines.values())) == 1
    assert "line 5: at = 2125-01-01T00:00:00Z: future" in lines["0"]
    told = call("ingest", "weather", "a.ndjson", "--json", cwd=folder)
    assert (told.returncode, json.loads(told.stdout)["quarantined"], told.stderr) == (1, 1, "")
    wrong = call("ingest", "weather", "a.ndjson", "--max-refused", "5", cwd=folder)
    assert (wrong.returncode, "0<=x<=1" in wrong.stderr) == (2, True)


def test_what_is_no_file_is_named_as_what_it_is(folder: Path, call: Run) -> None:
    (folder / "days").mkdir()
    refused = call("ingest", "weather", "days", cwd=folder)
    assert (refused.returncode, "is a folder" in refused.stderr) == (2, True)
    (folder / "a.xlsx").write_bytes(b"PK")
    refused = call("ingest", "weather", "a.xlsx", cwd=folder)
    assert refused.returncode == 2
    assert "file_format" not in refused.stderr
    assert ".csv" in refused.stderr


def test_the_column_at_fault_is_shown_first_and_a_wrong_reason_is_named(folder: Path, call: Run) -> None:
    row = {"origin": "x" * 300, "temp": "warm", "at": "2025-01-01"}
    (folder / "a.ndjson").write_text(json.dumps(row) + "\nnot JSON\n")
    call("ingest", "weather", "a.ndjson", cwd=folder)
    shown = call("quarantine", cwd=folder).stdout
    assert '  temp = "warm"  {"origin": "xxx' in shown
    assert "  line 2 of a.ndjson: not JSON" in shown
    for words in (["list"], ["drop", "--yes"], ["replay"]):
        wrong = call("quarantine", *words, "--reason", "wrong_typ", cwd=folder)
        assert wrong.returncode == 3, words
        assert "no reason 'wrong_typ'" in wrong.stderr
        assert "bad_line" in wrong.stderr
    assert "0 rows dropped" in call("quarantine", "drop", "--yes", "--reason", "infinite", cwd=folder).stdout


@pytest.mark.parametrize(
    ("words", "status"), [(["list", "nothing"], 3), (["replay", "nothing"], 3), (["list", "a", "b"], 2)]
)
def test_wrong_words_are_named(folder: Path, call: Run, words: list[str], status: int) -> None:
    done = call("quarantine", *words, cwd=folder)
    assert done.returncode == status
    assert words[-1] in done.stderr


def test_lines_of_json_come_from_standard_input(folder: Path) -> None:
    from command import COMMAND, clean_environment

    lines = b'{"origin": "JFK", "temp": 1, "at": "2025-01-01"}\n{"origin": "LGA", "temp": 2, "at": "2025-01-01"}\n'
    done = forked.run(
        [*COMMAND, "ingest", "weather", "-"],
        cwd=folder,
        env=clean_environment(),
        input=lines,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (
        0,
        b"weather: 2 rows taken (2 new), 0 quarantined\n",
    )
