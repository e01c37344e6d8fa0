"""What every verb prints with `--json` is as its schema says: every verb is run, in a project that has all of it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shop
from click.testing import CliRunner

import forked
import schemas
from receivers import http_receiver
from trimtab.app.project import open_project
from trimtab.cli.group import trimtab
from trimtab.cli.verbs import paths
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.monitoring.inputs.red_windows import KIND, RedWindow
from trimtab.store.ports import Append, Put
from trimtab.testing.builders import a_signal

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow
NOW_US = time.time_ns() // 1_000 // HOUR_US * HOUR_US
BUYER = """

def tuned(strength=1.0):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength)


model = tt.model(
    "buyer", request=visit, features=[{"x": tt.col("x"), "site": tt.col("site").category()}, site],
    label=tt.label(sales, key="visit_id", value="bought", wait="2d"), estimator=tuned, metric="log_loss",
    search=tt.search({"strength": tt.number(0.1, 10.0, log=True)}, trials=2, seed=1))
tt.deployment(model, approval="2d", gate=tt.beats_champion(margin=-0.5, calibration=0.5))
tt.experiment("banner", unit="visit_id", variants={"a": 1, "b": 2}, metrics=[tt.metric(
    "bought", source=sales, by="visit_id", value=tt.count(where=tt.col("bought")), kind="proportion", within="1d",
    role="primary")])
"""
LOADER = """
def load(folder):
    from pathlib import Path

    return {name: Path(__file__).with_name(f"{name}.csv") for name in ("readings", "sales", "visit")}
"""


def settings(url: str) -> str:
    start, until = format_time(NOW_US - 12 * DAY_US), format_time(NOW_US - 8 * DAY_US)
    demo = f'[demo]\nloader = "load.py:load"\nstart = "{start}"\nuntil = "{until}"\n'
    demo += 'lines = [{ name = "loop", model = "buyer", policy = "project" }]\n'
    return f'{demo}[alerts.receivers.team]\nkind = "webhook"\nurl = "{url}"\ntimeout = "5s"\n'


class Outputs:
    """Runs verbs with `--json`, and keeps the documents that each one printed, with the form that they must have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[str, list[tuple[str, Any]]] = {}

    def run(self, verb: str, *words: str, when: str = "", status: int = 0, folder: Path | None = None) -> Any:
        at = ["--project", str(folder or self.folder)]
        done = CliRunner().invoke(trimtab, [*verb.split(), *words, "--json", *at], catch_exceptions=False)
        assert done.exit_code == status, (verb, words, done.output)
        return self.keep(verb, done.stdout, when)

    def keep(self, verb: str, text: str, when: str = "") -> Any:
        form = next(one for one in schemas.PRINTED[verb] if one.when == when)
        documents = [json.loads(line) for line in text.splitlines()]
        assert form.each or len(documents) == 1, (verb, text)
        self.found.setdefault(verb, []).extend((form.type, one) for one in documents)
        return documents if form.each else documents[0]


@contextmanager
def opened(folder: Path) -> Iterator[Any]:
    with open_project(folder, environment={}) as project:
        yield project


def written(folder: Path) -> None:
    """The events of the project in files, for the loader of the demo."""
    with opened(folder) as project:
        project.history.refresh()
        for name, source in project.definitions.sources.items():
            with (folder / f"{name}.csv").open("w", newline="") as out:
                table = csv.DictWriter(out, list(source.columns))
                table.writeheader()
                for row in project.history.frame(name).columns.to_rows():
                    table.writerow(
                        {n: format_time(row[n]) if d == "time" else row[n] for n, d in source.columns.items()}
                    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    base = tmp_path_factory.mktemp("json")
    with http_receiver() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_TRAINING_EXECUTOR", "thread")
        patch.chdir(base)
        folder = shop.write_project(base / "shop", settings=settings(server.url))
        (folder / "project.py").write_text(shop.PROJECT.replace('\nbuyer("buyer", batch)\n', BUYER))
        made = Outputs(folder)
        begin(made, base)
        learn(made)
        answer(made, base)
        look(made, base)
        experiment(made, base)
        keep(made, base)
        replay(made, base, server.url)
        return made


def begin(o: Outputs, base: Path) -> None:
    rows = [["id", "at", "fee", "gone"]]
    rows += [[f"c{n}", format_time(NOW_US - n * HOUR_US), n % 7, ("no", "yes")[n % 3 == 0]] for n in range(300)]
    with (base / "churn.csv").open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    done = CliRunner().invoke(trimtab, ["init", str(base / "churn.csv"), "--label", "gone", "--wait", "1d", "--json"])
    assert done.exit_code == 0, done.output
    o.keep("init", done.stdout)
    o.run("help", "versions", "list")
    o.run("doctor")
    assert o.run("plan", status=1)
    o.run("apply", "--yes")
    (base / "more.csv").write_text("site,level,read_at\nnorth,warm,2024-01-01\nnorth,2.5,2024-01-01\n")
    assert o.run("ingest", "readings", str(base / "more.csv"), status=1)["quarantined"] == 1
    assert o.run("quarantine list", "readings")
    o.run("quarantine replay")
    assert o.run("quarantine drop", "readings", "--yes") == {"dropped": 1}
    with opened(o.folder) as project:
        shop.load(project, end_us=NOW_US)


def learn(o: Outputs) -> None:
    assert o.run("search run", "buyer")["trials"]
    o.run("search trials", "buyer", "--best", "1")
    for n, verb in enumerate(["approve", "approve", "reject"]):
        file = o.folder / "project.py"
        more = f'features=[{{"more_{n}": tt.col("x") + 1.0, '
        file.write_text(file.read_text().replace("features=[{", more))
        o.run("apply", "--yes")
        assert o.run("train", "buyer")[-1]["act"] == "ask"
        assert o.run(verb, "buyer", "--why", "Looked at it.")
    assert o.run("runs list")
    with opened(o.folder) as project:
        tracked = project.recorded.track("train", "buyer", actor="a test")
        tracked.begin()
        o.run("runs cancel", tracked.run.id)
        tracked.end("cancelled by a test")
    assert o.run("runs show", o.run("runs list", "--last", "3")[0]["id"])["steps"]
    assert o.run("runs stages", "buyer")
    o.run("freeze", "--why", "a test")
    o.run("unfreeze", "--why", "a test")
    o.run("tick")


def answer(o: Outputs, base: Path) -> None:
    row = json.dumps({"visit_id": "new", "site": "north", "at": format_time(NOW_US), "x": 0.5})
    (answered,) = o.run("predict", "buyer", "--row", row, when="--row")
    assert o.run("why", answered["id"])["score"] == answered["score"]
    (base / "labels.csv").write_text(f"prediction,value\n{answered['id']},1\n")
    o.run("label", str(base / "labels.csv"))
    asked = base / "asked.csv"
    asked.write_text(f"visit_id,site,at,x\na,north,{format_time(NOW_US)},0.1\nb,east,{format_time(NOW_US)},0.2\n")
    o.run("predict", "buyer", str(asked), "--out", str(base / "answers.csv"), when="FILE")
    o.run("features list")
    o.run("features show", "site.level")
    o.run("features join", str(asked), "--view", "site", "--at", "at", "--out", str(base / "joined.csv"))
    o.run("features snapshot", "site", "--out", str(base / "snapshot.csv"))
    o.run("keys add", "shop", "--role", "read", "--rate", "5/s")
    assert o.run("keys list")
    o.run("keys remove", "shop")
    o.run("service openapi")
    o.run("service openapi", "--out", str(base / "openapi.json"), when="--out")
    o.run("service rules")
    o.run("service rules", "--out", str(base / "rules"))
    with opened(o.folder) as project:
        key = project.keys.add("top", ["read", "predict"])
    command = [sys.executable, "-c", "from trimtab.cli import main; main()", "serve", "--port", "0", "--json"]
    server = forked.Popen(command, cwd=o.folder, env=shop.environment(), stdout=subprocess.PIPE, text=True)
    try:
        o.keep("serve", server.stdout.readline())
        for verb, words in (("service top", ["--once", "--every", "0.3", "--key", key]), ("status", [])):
            assert o.run(verb, *words)
    finally:
        server.terminate()
        assert server.wait(60) == 0
        server.stdout.close()
    with opened(o.folder) as project:
        project.keys.remove("top")


def look(o: Outputs, base: Path) -> None:
    newest = f"buyer@{max(one['version']['number'] for one in o.run('versions list'))}"
    for verb, words in (
        ("versions list", ["buyer"]),
        ("versions show", ["buyer@champion"]),
        ("versions card", ["buyer@1"]),
        ("versions card", ["buyer@1", "--html", str(base / "card.html")]),
        ("versions report", ["buyer@champion"]),
        ("versions compare", ["buyer@1", "buyer@champion"]),
        ("versions tag", ["buyer@1", "seen", "--note", "By hand."]),
        ("versions export", [newest, str(base / "exported")]),
        ("versions protect", ["buyer", "live", "--needs", "reason", "--why", "five percent see it"]),
        ("canary", ["buyer@1", "--share", "0.1", "--why", "to look at its answers"]),
        ("shadow", ["buyer@1", "--share", "0.1"]),
    ):
        assert o.run(verb, *words), verb
    assert o.run("promote", "buyer@1", "--dry-run")["gate"]
    o.run("rollback", "buyer", "--why", "a test")
    with opened(o.folder) as project:
        window = RedWindow(
            id="nulls/1", model="buyer", kind="nulls", subject="x", start_us=NOW_US - DAY_US, end_us=None
        )
        project.state.catalog.write([Put(KIND, "buyer/nulls/1", msgspec.json.encode(window))])
        signal = Append("signals", NOW_US, msgspec.json.encode(a_signal(model="buyer")))
        project.state.catalog.write([signal])
    assert o.run("quality exclusions", "buyer")
    assert o.run("quality show", "buyer") is not None
    o.run("quality show", "buyer", "--page", str(base / "quality.html"), when="--page")
    o.run("quality skew", "buyer", status=0)
    assert o.run("quality skew", "--history", "2", when="--history")
    o.run("status")
    assert o.run("alert test", "team")
    o.run("alert mute", "buyer", "--for", "1h", "--why", "a test of ten letters")
    o.run("alert list")
    o.run("alert unmute", "buyer")
    assert o.run("signals")
    assert o.run("ledger list")
    o.run("ledger verify")


def experiment(o: Outputs, base: Path) -> None:
    why = ["--why", "a test of the verbs"]
    for verb, words in (
        ("plan", ["banner", "--effect", "0.2"]),
        ("power", ["--mean", "0.1", "--units-a-day", "500"]),
        ("start", ["banner", *why]),
        ("assign", ["banner", "v00001", "--expose"]),
        ("ramp", ["banner", "--weight", "a=0.4", "--weight", "b=0.6", *why]),
        ("pause", ["banner", *why]),
        ("resume", ["banner", *why]),
        ("list", []),
        ("show", ["banner"]),
        ("conclude", ["banner", "b", *why]),
        ("start", ["banner", "--again", *why]),
        ("stop", ["banner", *why]),
    ):
        assert o.run(f"experiment {verb}", *words), verb
    o.run("experiment show", "banner", "--page", str(base / "banner.html"), when="--page")
    o.run("simulate", "--experiment", "banner", "--effect", "0.2", "--runs", "2", when="--experiment")


def keep(o: Outputs, base: Path) -> None:
    other = shop.write_project(base / "other")
    (other / "project.py").write_text((o.folder / "project.py").read_text())
    o.run("versions import", str(base / "exported"), "--model", "buyer", folder=other)
    for verb, words in (
        ("storage disk", []),
        ("storage prune", ["--dry-run"]),
        ("storage prune", []),
        ("storage gc", ["--dry-run", "--evidence", "0s", "--grace", "0s"]),
        ("storage compact", ["--largest", "2"]),
        ("storage materialise", []),
        ("storage rebuild", ["site"]),
        ("storage backup", [str(base / "backup")]),
        ("storage restore", [str(base / "backup"), "--into", str(base / "restored")]),
        ("storage recover", ["--dry-run"]),
        ("forget", ["visit_id", "v00001", "--dry-run"]),
    ):
        assert o.run(verb, *words), verb


def replay(o: Outputs, base: Path, url: str) -> None:
    folder = shop.write_project(base / "replayed", settings=settings(url))
    (folder / "load.py").write_text(LOADER)
    with opened(folder) as project:
        shop.load(project, end_us=NOW_US)
    times = ["--start", format_time(NOW_US - 12 * DAY_US), "--until", format_time(NOW_US - 8 * DAY_US)]
    o.run("simulate", "--policy", "never", *times, folder=folder)
    stream = ["--stream", "history=30 days=30 per_day=40", "--seed", "2"]
    o.run(
        "simulate", "--search", "--policy", "never", "--policy", "ungated 15d", *stream, when="--search", folder=folder
    )
    written(folder)
    done = CliRunner().invoke(trimtab, ["demo", str(folder), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    o.keep("demo", done.stdout)


@pytest.mark.parametrize("verb", [*paths()])
def test_what_a_verb_prints_is_as_its_schema_says(verb: str, outputs: Outputs) -> None:
    assert outputs.found.get(verb), f"{verb} printed nothing"
    for kind, document in outputs.found[verb]:
        found = [*schemas.problems(document, schemas.schemas()[0][kind])]
        assert found == [], (verb, kind)


@pytest.mark.fast
def test_every_verb_has_a_schema_and_the_document_has_it() -> None:
    assert list(schemas.PRINTED) == [*paths()]
    assert schemas.PAGE.read_text("utf-8") == schemas.document(), "run: python tests/schemas.py"


@pytest.mark.fast
def test_a_field_that_no_schema_names_is_found() -> None:
    schema = schemas.schemas()[0]["cli.printed:Dropped"]
    assert [*schemas.problems({"dropped": 1}, schema)] == []
    for wrong in ({"dropped": 1, "more": 2}, {}, {"dropped": "1"}, {"dropped": True}, [], None):
        assert [*schemas.problems(wrong, schema)]
