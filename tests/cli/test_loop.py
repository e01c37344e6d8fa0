"""From one CSV file to answers over HTTP, by the commands that `init` prints."""

from __future__ import annotations

import datetime as dt
import getpass
import json
import random
import re
import shlex
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner
from command import BEGIN, COMMAND, Run, churn_rows, clean_environment, write_csv

import forked
from trimtab.cli.group import trimtab

Table = tuple[list[str], list[list[Any]]]


def sensor_rows(n: int = 400) -> Table:
    """Readings of a few machines over and over: a label of 0 and 1, times in seconds, values missing."""
    chance = random.Random(2)
    rows = []
    for i in range(n):
        heat, at = round(chance.gauss(60, 10), 1), int(BEGIN.timestamp()) + i * 22_000
        rows.append([i % 13, at, heat if i % 8 else "NA", chance.randrange(4), int(heat + chance.gauss(0, 5) > 66)])
    return ["machine_id", "ts", "Heat (°C)", "import", "failed"], rows


def house_rows(n: int = 400) -> Table:
    """Prices, no key, German dates, booleans, a note that is different everywhere."""
    chance = random.Random(3)
    rows = []
    for i in range(n):
        sold, size = (BEGIN + dt.timedelta(hours=6 * i)).strftime("%d.%m.%Y"), chance.randrange(30, 200)
        price = round((size * 3_000 + chance.randrange(20_000)) / 1e5, 3)
        rows.append([sold, size, chance.choice(["True", "False"]), f"n{i}", price])
    return ["Sold", "Size m²", "Garden", "Note", "Price"], rows


CASES: dict[str, tuple[Callable[[], Table], list[str]]] = {
    "churn": (churn_rows, ["--label", "churned"]),
    "sensors": (sensor_rows, ["--time", "ts", "--label", "failed"]),
    "houses": (house_rows, ["--key", "row", "--label", "Price"]),
}


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `trimtab serve` of its own on a free port, and its URL."""
    process = forked.Popen(
        [*COMMAND, "serve", "--port", "0", "--json", *arguments],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.communicate()[1])
        yield process, json.loads(line)["url"]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def ask(url: str, model: str, row: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"request": row}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/models/{model}/predict", body, headers)) as got:
            return got.status, json.loads(got.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def start(run: Run, folder: Path, name: str) -> dict[str, Any]:
    rows, options = CASES[name]
    file = write_csv(folder / f"{name}.csv", *rows())
    made = run("init", str(file), "--folder", str(folder / name), "--estimator", "linear", "--json", *options)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_the_printed_commands_lead_from_a_file_to_answers(name: str, run: Run, call: Run, tmp_path: Path) -> None:
    run = run if name == "churn" else call  # one as a shell would, the others quicker
    made = start(run, tmp_path, name)
    folder = tmp_path / name
    outputs = {}
    for step in made["commands"]:
        words = shlex.split(step)
        assert words[0] == "trimtab"
        if words[1] == "serve" or "--out" in words:
            continue
        done = run(*words[1:], cwd=folder)
        assert done.returncode == 0, (step, done.stderr)
        # how far training is, where it takes long
        told = r"(trimtab: First use of the project: definitions applied: \d+ new\.\n)?"
        told += r"((training|ingesting|predicting|online features).*\n)*"
        assert re.fullmatch(told, done.stderr)
        outputs[" ".join(words[1:3])] = done.stdout
    assert f"ingest {name}" in outputs
    assert "400 rows taken (400 new), 0 quarantined" in outputs[f"ingest {name}"]
    assert "promote" in outputs["train"] + outputs.get("train ", "")
    row = json.loads(shlex.split(next(step for step in made["commands"] if "--row" in step))[-1])
    answered = run("predict", made["model"], "--row", json.dumps(row), "--json", cwd=folder)
    answer = json.loads(answered.stdout)
    with serving(folder) as (process, url):
        status, served = ask(url, made["model"], row)
        assert status == 200, served
        assert served["score"] == pytest.approx(answer["score"], rel=1e-12)
        refused, problem = ask(url, made["model"], {**row, "colour": 1})
        assert refused == 422
        assert "colour" in json.dumps(problem)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    for identifier in (answer["id"], served["id"]):
        explained = run("why", identifier, cwd=folder)
        assert explained.returncode == 0, explained.stderr
        assert identifier in explained.stdout
    shown = run("status", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert made["model"] in shown.stdout
    assert re.search(rf"  {made['model']}  {getpass.getuser()}  train  ", run("ledger", cwd=folder).stdout)  # by whom
    assert run("ledger", "verify", cwd=folder).stdout.endswith("all sound.\n")


def test_the_report_of_a_version_is_a_page(trained: Path, call: Run, tmp_path: Path) -> None:
    done = call("versions", "report", "churned@champion", "--out", str(tmp_path / "page.html"), "--json", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "<html" in Path(json.loads(done.stdout)["page"]).read_text()
    unknown = call("versions", "report", "churned@99", cwd=trained)
    assert (unknown.returncode, "has versions @1" in unknown.stderr) == (3, True)


def test_answers_to_a_file_are_written_out(trained: Path, call: Run, tmp_path: Path) -> None:
    out = tmp_path / "predictions.parquet"
    done = call("predict", "churned", "../churn.csv", "--out", str(out), cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "400 rows answered" in done.stdout
    ((rows, low, high),) = duckdb.sql(f"SELECT count(*), min(score), max(score) FROM '{out}'").fetchall()
    assert rows == 400
    assert low < high
    assert call("predict", "churned", "../churn.csv", "--out", str(out), cwd=trained).returncode == 4


def test_a_file_of_long_ago_trains_a_version_too(call: Run, tmp_path: Path) -> None:
    header, rows = churn_rows()
    old = [[key, dt.datetime.fromisoformat(at) - dt.timedelta(days=2_000), *more] for key, at, *more in rows]
    file = write_csv(tmp_path / "old.csv", header, old)
    made = call("init", str(file), "--label", "churned", "--estimator", "linear", "--json")
    for step in json.loads(made.stdout)["commands"][:3]:
        done = call(*shlex.split(step)[1:], cwd=tmp_path / "old")
        assert done.returncode == 0, (done.stdout, done.stderr)
    assert "promote" in done.stdout


@pytest.mark.slow
def test_a_project_is_served_by_one_process_at_a_time(trained: Path, run: Run, call: Run) -> None:
    with serving(trained):
        second = run("serve", "--port", "0", cwd=trained)
        assert second.returncode == 4, second.stderr
        assert "Traceback" not in second.stderr
        assert call("status", cwd=trained).returncode == 0
    assert call("freeze", "--why", "a test", cwd=trained).returncode == 0
    assert "FROZEN" in call("status", cwd=trained).stdout
    assert call("unfreeze", cwd=trained).returncode == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was trained, for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("trained")

    def run_there(*arguments: str, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
        with chdir(cwd):
            done = CliRunner().invoke(trimtab, list(arguments))
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    made = start(run_there, folder, "churn")
    for step in made["commands"][:3]:
        done = run_there(*shlex.split(step)[1:], cwd=folder / "churn")
        assert done.returncode == 0, done.stderr
    return folder / "churn"


ROW = {"Customer ID": "x", "Signed Up": "2024-02-01T00:00:00Z", "Monthly Fee": 10.0, "class": "pro"}


def changed(**more: object) -> str:
    return json.dumps({key: value for key, value in {**ROW, **more}.items() if value != "LEFT OUT"})


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["predict", "nobody", "--row", changed()], 3, ["nobody", "churned"]),
        (["predict", "churned", "--row", changed(colour=1)], 2, ["colour"]),
        (["predict", "churned", "--row", changed(**{"Monthly Fee": "ten"})], 2, ["Monthly Fee", "ten"]),
        (["predict", "churned", "--row", changed(**{"Customer ID": None})], 2, ["Customer ID"]),
        (["predict", "churned", "--row", changed(**{"Customer ID": 7})], 2, ["Customer ID"]),
        (["predict", "churned", "--row", changed(**{"Signed Up": "never"})], 2, ["Signed Up", "never"]),
        (["predict", "churned", "--row", changed(**{"Signed Up": "2024-02-31"})], 2, ["Signed Up", "2024-02-31"]),
        (["predict", "churned", "--row", changed(**{"class": "LEFT OUT"})], 2, ["class"]),
        (["predict", "churned", "--row", changed(), "--at", "2999-01-01"], 2, ["2999", "future"]),
        (["predict", "churned", "none.parquet"], 3, ["none.parquet"]),
        (["ingest", "churns", "../churn.csv"], 3, ["churns", "churn_labels"]),
        (["ingest", "churn", "none.csv"], 3, ["none.csv"]),
        (["ingest", "churn", "project.py"], 2, ["project.py", ".csv"]),
        (["ingest", "churn", "trimtab.toml"], 2, ["trimtab.toml"]),
        (["train", "nobody"], 3, ["nobody", "churned"]),
        (["why", "nothing"], 3, ["nothing"]),
    ],
)
def test_what_cannot_be_is_told_by_name(
    trained: Path, call: Run, arguments: list[str], status: int, words: list[str]
) -> None:
    done = call(*arguments, cwd=trained)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert [word for word in words if word not in done.stderr] == []
    assert len(done.stderr.splitlines()) <= 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("", 2, ["needed a header line"]),
        ("Customer ID,Monthly Fee\nx,1\n", 2, ["Signed Up", "time"]),
        ("Customer ID,Signed Up,Monthly Fee,class\nx,2024-01-01,1,pro,more\n", 2, ["line 2"]),
    ],
)
def test_files_that_do_not_fit_are_told_by_line_and_column(
    trained: Path, call: Run, tmp_path: Path, text: str, status: int, words: list[str]
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(text)
    done = call("predict", "churned", str(file), cwd=trained)
    assert done.returncode == status, done.stderr
    assert [word for word in [*words, "rows.csv"] if word not in done.stderr] == []


def test_a_port_in_use_is_told_with_the_way_out(trained: Path, call: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call("serve", "--port", str(port), cwd=trained)
    assert done.returncode == 5
    assert f":{port}" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_ingest_says_what_is_safe(number: signal.Signals, status: int, call: Run, tmp_path: Path) -> None:
    start(call, tmp_path, "churn")
    file = tmp_path / "many.parquet"
    duckdb.sql(
        'SELECT i::VARCHAR AS "Customer ID", TIMESTAMP \'2024-01-01\' + to_seconds(i) AS "Signed Up",'
        " 1.5::DOUBLE AS \"Monthly Fee\", 'pro' AS class FROM range(1500000) t(i)"
    ).write_parquet(str(file))
    process = forked.Popen(
        [*COMMAND, "ingest", "churn", str(file)],
        cwd=tmp_path / "churn",
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    state = tmp_path / "churn" / ".trimtab"
    while process.poll() is None and not any(state.rglob("*.db")) and not any(state.rglob("*sqlite*")):
        pass
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    assert "safe in the log" in error
    assert "Traceback" not in error
    assert call("doctor", cwd=tmp_path / "churn").returncode == 0


def test_a_project_file_that_does_not_import_is_told_by_line(call: Run, tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text("import trimtab as tt\n\nimport there_is_none_of_this\n")
    for name in ("status", "train", "serve", "tick"):
        done = call(name)
        assert done.returncode == 2, done.stderr
        assert "project.py, line 3" in done.stderr
        assert "there_is_none_of_this" in done.stderr


def test_a_state_of_a_newer_format_is_refused_by_file(call: Run, tmp_path: Path) -> None:
    start(call, tmp_path, "churn")
    folder = tmp_path / "churn"
    assert call("ingest", "churn", "../churn.csv", cwd=folder).returncode == 0
    for path in (folder / ".trimtab").rglob("*"):
        if path.is_file() and path.read_bytes()[:6] == b"SQLite" and path.read_bytes()[68:72] == b"trLg":
            data = bytearray(path.read_bytes())
            data[60:64] = (99).to_bytes(4, "big")  # PRAGMA user_version
            path.write_bytes(bytes(data))
    done = call("doctor", cwd=folder)
    assert done.returncode == 1
    assert "format 99" in done.stdout
    (folder / ".trimtab" / "format.json").write_text('{"format": 99}')
    refused = call("status", cwd=folder)
    assert refused.returncode == 2
    assert "format.json: state of format 99, but this trimtab reads up to" in refused.stderr


def test_an_absent_extra_is_told_before_any_work(call: Run, tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text(
        '[demo]\nloader = "load.py:load"\nstart = "2024-01-01"\nuntil = "2024-02-01"\nlines = []\n'
        'requires = ["there_is_none_of_this"]\n'
    )
    (tmp_path / "project.py").write_text("raise SystemExit('this must not run')\n")
    done = call("demo")
    assert done.returncode == 2
    assert "there_is_none_of_this: not installed. pip install" in done.stderr


def test_commands_work_from_a_folder_below(trained: Path, call: Run) -> None:
    (trained / "below").mkdir()
    done = call("status", cwd=trained / "below")
    assert done.returncode == 0, done.stderr
    assert call("--project", str(trained), "status", "--json", cwd=Path("/")).returncode == 0
