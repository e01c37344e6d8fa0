"""`trimtab features join` and `trimtab features snapshot`, from files to files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from command import Run, write_csv

PROJECT = """
import trimtab as tt

spending = tt.source("spending", time="spent_at", columns={"customer": str, "amount": float})
by = tt.view("by_customer", source=spending, by="customer", features={
    "total": tt.sum("amount"), "last": tt.latest("amount")})
"""
EVENTS = [["ann", "2024-05-01T10:00Z", 3.5], ["bob", "2024-05-02T10:00Z", 1.0], ["ann", "2024-05-03T10:00Z", 2.0]]
ASKED = [["b", "bob", "2024-05-02T12:00Z"], ["a", "ann", "2024-05-02T12:00Z"], ["c", "cyd", "2024-05-04T00:00Z"]]


@pytest.fixture
def folder(call: Run, tmp_path: Path) -> Path:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(PROJECT)
    write_csv(tmp_path / "spending.csv", ["customer", "spent_at", "amount"], EVENTS)
    write_csv(tmp_path / "asked.csv", ["id", "customer", "when"], ASKED)
    done = call("ingest", "spending", "spending.csv")
    assert done.returncode == 0, done.stderr
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_file_gets_its_features_row_by_row(folder: Path, call: Run) -> None:
    done = call(
        "features", "join", "asked.csv", "--view", "by_customer", "--at", "when", "--reasons", "--out", "out.csv"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 rows with 2 features written to out.csv\n"
    found = rows(folder / "out.csv")
    assert [(row["id"], row["by_customer.total"], row["by_customer.last.reason"]) for row in found] == [
        ("b", "1.0", "found"),
        ("a", "3.5", "found"),
        ("c", "0.0", "no_entity"),
    ]
    again = call("features", "join", "asked.csv", "--view", "by_customer", "--at", "when", "--out", "out.csv")
    assert (again.returncode, "not overwritten" in again.stderr) == (4, True)


def test_json_says_what_was_written_and_let_in(folder: Path, call: Run) -> None:
    arguments = ["--view", "by_customer", "--at", "2024-05-01T09:00Z", "--as-known", "final", "--out", "out.parquet"]
    done = call("features", "join", "asked.csv", *arguments, "--json")
    made = json.loads(done.stdout)
    assert (made["rows"], made["path"], made["parts"]) == (3, "out.parquet", 1)
    assert made["let_in"] == {"by_customer.total": 2, "by_customer.last": 2}, "not_yet instead of no_entity"


def test_snapshots_list_the_entities_known_at_each_moment(folder: Path, call: Run) -> None:
    span = ["--start", "2024-05-01T12:00Z", "--end", "2024-05-03T12:00Z", "--every", "1d"]
    assert call("features", "snapshot", "by_customer", *span, "--out", "s.csv").returncode == 0
    assert [(r["customer"], r["at"][:10], r["by_customer.total"]) for r in rows(folder / "s.csv")] == [
        ("ann", "2024-05-01", "3.5"),
        ("ann", "2024-05-02", "3.5"),
        ("bob", "2024-05-02", "1.0"),
    ]
    assert call("features", "snapshot", "by_customer", "--out", "now.csv").stdout.startswith("2 rows with 2 features")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["features", "join", "asked.csv", "--out", "o.csv"], 2, "whose features to add"),
        (["features", "join", "asked.csv", "--view", "by_customer", "--out", "o.csv"], 2, "no time is given"),
        (["features", "join", "asked.csv", "--view", "v", "--at", "when", "--out", "o.csv"], 3, "by_customer"),
        (["features", "join", "none.csv", "--view", "by_customer", "--at", "when", "--out", "o.csv"], 3, "none.csv"),
        (
            ["features", "join", "asked.csv", "--view", "by_customer", "--model", "m", "--out", "o.csv"],
            2,
            "either --model or --view",
        ),
        (["features", "join", "asked.csv", "--view", "by_customer", "--at", "id", "--out", "o.csv"], 2, "id"),
        (
            ["features", "join", "spending.csv", "--view", "by_customer", "--at", "2999-01-01", "--out", "o.csv"],
            2,
            "is in the future",
        ),
        (
            ["features", "join", "asked.csv", "--view", "by_customer", "--events", "x", "--out", "o.csv"],
            2,
            "SOURCE=PATH",
        ),
        (["features", "snapshot", "by_customer", "--start", "2024-01-01", "--out", "o.csv"], 2, "--every"),
        (["features", "snapshot", "by_customer", "--at", "soon", "--out", "o.csv"], 2, "ISO 8601"),
        (["features", "snapshot", "by_customer"], 2, "--out"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_or_two(
    folder: Path, call: Run, arguments: list[str], status: int, words: str
) -> None:
    done = call(*arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not list(folder.glob("o.*"))
