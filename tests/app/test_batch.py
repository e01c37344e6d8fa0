"""Tables of requests answered in one go: written out, stored for the service, never logged twice."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
import shop
from click.testing import CliRunner

import forked
from trimtab.app.keep.backup import read_manifest, restore
from trimtab.app.project import Project, open_project
from trimtab.app.state.applied import AppliedDefinitions
from trimtab.cli.group import trimtab
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Conflict, Misuse, Unavailable
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.serving.answer.batch import batch_predictions
from trimtab.store.lmdb.kv import LmdbKeyValue


def table(*hours: int) -> Columns:
    return Columns.of(
        {
            "visit_id": ("str", [f"t{hour}" for hour in hours]),
            "site": ("str", ["north" for _ in hours]),
            "at": ("time", [shop.NOW_US + hour * HOUR_US for hour in hours]),
            "x": ("float", [hour / 10 for hour in hours]),
        }
    )


def logged(project: Project) -> int:
    return sum(len(block) for block in project.predictions.scan())


@pytest.fixture
def project(trained: Path) -> Any:
    with shop.opened(trained) as opened:
        yield opened


def test_rows_that_do_not_fit_are_listed_and_the_others_answered(project: Project, tmp_path: Path) -> None:
    file, bad = tmp_path / "visits.csv", "b,north,31.02.2026,1\n"
    file.write_text("visit_id,site,at,x\na,north,2024-01-01T00:00:00,1\n" + bad + "c,north,,2\n")
    with pytest.raises(Misuse, match=r"visits.csv, line 3, column 'at': .* on_error='skip'"):
        project.predict_table("buyer", file)
    made = project.predict_table("buyer", file, on_error="skip")
    assert (made.rows, made.complete) == (1, True)
    assert made.unanswered == (
        "line 3, column 'at': needed time, found '31.02.2026' (bad_time).",
        "line 4, column 'at': needed a value, found none (missing).",
    )
    file.write_text("visit_id,site,at,x\n" + bad)
    with pytest.raises(Misuse, match=r"line 2"):
        project.predict_table("buyer", file, on_error="skip")


def test_a_mode_that_is_none_is_refused_before_anything_is_logged(project: Project) -> None:
    before = project.predictions.log.positions()
    with pytest.raises(Misuse, match=r"predict_table: mode='precompute'\. Needed: 'batch' or 'precomputed'"):
        project.predict_table("buyer", table(-5), mode="precompute")  # type: ignore[arg-type]  # a typing error
    with pytest.raises(Misuse, match=r"predict_table: on_error='ignore'\. Needed: 'refuse' or 'skip'"):
        project.predict_table("buyer", table(-5), on_error="ignore")  # type: ignore[arg-type]  # likewise
    assert project.predictions.log.positions() == before


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_answers_are_written_out(project: Project, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"answers.{suffix}"
    project.predict_table("buyer", table(-5, -3), out=out)
    rows = duckdb.sql(f"SELECT request_id, epoch_us(\"at\"), version, score FROM '{out}'").fetchall()
    assert {row[2] for row in rows} == {project.predict("buyer", [table(-5).to_rows()[0]])[0].version}
    assert [row[0] for row in rows] == ["t-5", "t-3"]
    assert [row[1] for row in rows] == [shop.NOW_US - 5 * HOUR_US, shop.NOW_US - 3 * HOUR_US]
    with pytest.raises(Conflict, match="not overwritten"):
        project.predict_table("buyer", table(-5), out=out)
    with pytest.raises(Misuse, match="parquet"):
        project.predict_table("buyer", table(-5), out=tmp_path / "answers.txt")


def test_a_batch_is_a_block_once_its_labels_had_their_time(trained: Path) -> None:
    """Rows about three days, of which the oldest had waited for its labels before the batch was asked for."""
    hours = (*range(-60, -40), *range(-30, -10))
    with shop.opened(trained) as project:
        made = project.predict_table("buyer", table(*hours))
        other = project.predict_table("buyer", table(-4, -3))
        project.push("sales", Columns.of({
            "visit_id": ("str", [f"t{hour}" for hour in hours if hour % 3]),
            "site": ("str", ["north" for hour in hours if hour % 3]),
            "bought": ("bool", [hour % 2 == 0 for hour in hours if hour % 3]),
            "closed_at": ("time", [shop.NOW_US for hour in hours if hour % 3]),
        }))  # fmt: skip
        scores = {p.request_id: p.score for block in project.predictions.scan() for p in block}
        project.tick()
        assert project.quality("buyer", by="batch").rows == 0  # the day is not over
    for later in (4, 5):  # it is stored once, and stays
        with shop.opened(trained, shop.NOW_US + later * DAY_US) as project:
            project.tick()
            rows = {row["batch"]: row for row in project.quality("buyer", by="batch").to_rows()}
            assert set(rows) == {made.id, other.id}
            found = rows[made.id]
            judged = [hour for hour in hours if hour % 3 and hour > -48]
            losses = [-math.log(scores[f"t{h}"] if h % 2 == 0 else 1 - scores[f"t{h}"]) for h in judged]
            assert (found["predictions"], found["labelled"]) == (len(hours), len(judged))
            assert found["missing"] == len(hours) - len(judged)
            assert found["loss"] == pytest.approx(math.fsum(losses) / len(losses))
            assert found["block"] == made.made_at_us
            assert (rows[other.id]["predictions"], rows[other.id]["labelled"]) == (2, 0)
            by_site = project.quality("buyer", by="batch", slices="site").to_rows()
            assert {(row["batch"], row["slice"]) for row in by_site} == {(n, "site=north") for n in rows}
    ran = CliRunner().invoke(trimtab, ["--project", str(trained), "quality", "show", "buyer", "--by", "batch"])
    assert (ran.exit_code, made.id in ran.output) == (0, True), ran.output


def test_an_empty_table_has_no_answers(project: Project, tmp_path: Path) -> None:
    made = project.predict_table("buyer", table(), out=tmp_path / "answers.csv")
    assert (made.rows, made.complete) == (0, True)
    assert (tmp_path / "answers.csv").read_text().strip() == "id,request_id,model,version,at,score,flags"


def test_a_batch_is_the_same_one_later_also_with_requests_to_come(project: Project) -> None:
    first = project.predict_table("buyer", table(-5, 3))
    shop.move(project, HOUR_US)
    same = project.predict_table("buyer", table(-5, 3))
    assert (first.answered_before, same.answered_before) == (False, True)
    assert msgspec.structs.replace(same, answered_before=False) == first
    assert logged(project) == 2
    moments = [p.at_us for block in project.predictions.scan() for p in block]
    assert moments == [shop.NOW_US - 5 * HOUR_US, shop.NOW_US]
    other = project.predict_table("buyer", table(-5, 3), at=shop.NOW_US)
    assert other.id != first.id
    assert project.predict_table("buyer", table(-5, 3), at=shop.NOW_US).id == other.id
    assert project.predict_table("buyer", table(-5, 4)).id != first.id
    assert logged(project) == 6


def test_rows_far_ahead_of_their_lead_are_flagged_as_live_answers_are(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / "ahead")
    file = folder / "project.py"
    file.write_text(file.read_text().replace('time="at",', 'time="at", lead="2d",', 1))
    rows, out = table(-50, 50, 80), tmp_path / "answers.csv"  # the last one is asked for 32 hours too early
    with shop.opened(folder) as project:
        shop.load(project)
        project.train("buyer")
        made = project.predict_table("buyer", rows, out=out)
        given = project.predict_table("buyer", rows, at=shop.NOW_US - 3 * HOUR_US)
        live = project.predict("buyer", rows.to_rows()[1:])
        found = [p.flags for one in (made, given) for part in batch_predictions(one, project.predictions) for p in part]
        frame = project.predict_frame(rows)["flags"].to_list()
    assert (made.not_at_lead, given.not_at_lead) == (1, 0)
    assert found == [(), (), ("not_at_lead",), (), (), ()]
    assert [one.flags for one in live] == found[1:3]
    assert frame == [None, None, "not_at_lead"]
    assert duckdb.sql(f"SELECT flags FROM '{out}'").fetchall() == [(None,), (None,), ("not_at_lead",)]
    (folder / "visits.csv").write_text("visit_id,site,at,x\nt1,north,2099-04-01T00:00:00Z,0.5\n")
    said = CliRunner().invoke(trimtab, ["--project", str(folder), "predict", "buyer", str(folder / "visits.csv")])
    assert "1 row flagged not_at_lead" in said.output


def test_a_table_is_answered_again_if_that_is_asked_for(project: Project) -> None:
    first = project.predict_table("buyer", table(-5, 3))
    shop.move(project, HOUR_US)
    again = project.predict_table("buyer", table(-5, 3), again=True)
    assert (again.id != first.id, again.answered_before, logged(project)) == (True, False, 4)
    moments = [p.at_us for part in batch_predictions(again, project.predictions) for p in part]
    assert moments == [shop.NOW_US - 5 * HOUR_US, shop.NOW_US + HOUR_US]


def test_the_command_says_that_a_file_was_answered_before(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "visits.csv").write_text("visit_id,site,at,x\nt1,north,2024-04-01T00:00:00Z,0.5\n")
    command = ["--project", str(trained), "predict", "buyer", str(tmp_path / "visits.csv")]
    ran = [CliRunner().invoke(trimtab, [*command, *more]).output for more in ((), (), ("--again",))]
    assert ["were answered before" in output for output in ran] == [False, True, False], ran
    assert json.loads(CliRunner().invoke(trimtab, [*command, "--json"]).output)["answered_before"]


def test_what_was_cut_off_goes_on_as_of_its_beginning(trained: Path) -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with shop.opened(trained) as project, pytest.raises(KeyboardInterrupt):
        project.predict_table("buyer", table(-5, 3), progress=stop)
    with shop.opened(trained, shop.NOW_US + HOUR_US) as project:
        made = project.predict_table("buyer", table(-5, 3))
        assert (made.complete, made.made_at_us, logged(project)) == (True, shop.NOW_US, 2)


def test_a_batch_goes_on_and_is_the_same_one_after_the_clock_was_set_back(trained: Path) -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    late_us = shop.NOW_US + HOUR_US
    with shop.opened(trained, late_us) as project:
        whole = project.predict_table("buyer", table(-5, 4))
        with pytest.raises(KeyboardInterrupt):
            project.predict_table("buyer", table(-5, 5), progress=stop)
    with shop.opened(trained) as project:
        assert project.predict_table("buyer", table(-5, 4)).id == whole.id
        made = project.predict_table("buyer", table(-5, 5))
        assert (made.complete, made.made_at_us, logged(project)) == (True, late_us, 4)


def test_stored_answers_name_the_version_that_scored_them(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread follows the alias while a table is scored."""
    served = project.served("buyer")
    loaded = served.refresh()
    stored: list[Any] = []
    monkeypatch.setattr(served.precomputed, "put", stored.extend)

    def promote(done: int, of: int) -> None:
        current = served.endpoint.current
        other = msgspec.structs.replace(current.served, label="buyer@99", inputs=("other",) * len(loaded.inputs))
        monkeypatch.setattr(current, "served", other)

    project.predict_table("buyer", table(2, 3), mode="precomputed", progress=promote)
    assert served.endpoint.current.served.label == "buyer@99"
    assert [(row["visit_id"], key) for row, key, _, _ in stored] == [("t2", "t2"), ("t3", "t3")]
    assert {(version, answer.version) for _, _, version, answer in stored} == {(loaded.version.id, loaded.version.name)}


def test_precomputed_answers_can_be_stored_beside_a_running_service(trained: Path) -> None:
    """The learner's state is elsewhere; the service gives the answers while they are fresh, and says when not."""
    as_of = shop.NOW_US + HOUR_US
    ahead = table(2, 3)
    rows = [{**row, "at": format_time(row["at"])} for row in ahead.to_rows()]
    with shop.serving(trained, "--as-of", format_time(as_of)) as (_, url):
        address = f"{url}/v1/models/buyer/predict"
        first = shop.call(address, {"request": rows[0]})[1]
        assert (first["mode"], first["flags"]) == ("live", [])
        with shop.opened(trained, as_of) as project:
            made = project.predict_table("buyer", ahead, mode="precomputed")
        for _ in range(100):  # the service looks every two seconds whether there are stored answers
            stored = shop.call(address, {"rows": rows})[1]["predictions"]
            if stored[0]["mode"] == "precomputed":
                break
            time.sleep(0.1)
        assert [(a["mode"], a["flags"]) for a in stored] == [("precomputed", [])] * 2
        with shop.opened(trained, as_of) as project:
            missing = shop.call(address, {"request": {**rows[0], "visit_id": "other"}})[1]
            assert (missing["mode"], missing["flags"]) == ("live", ["precomputed_missing"])
            assert project.predictions.find(stored[0]["id"]).mode == "precomputed"
            again = project.predict_table("buyer", ahead, mode="precomputed")
            assert again == msgspec.structs.replace(made, answered_before=True)
    with shop.serving(trained, "--as-of", format_time(as_of + 2 * DAY_US)) as (_, url):
        stale = shop.call(f"{url}/v1/models/buyer/predict", {"request": rows[0]})[1]
        assert (stale["mode"], stale["flags"]) == ("live", ["precomputed_stale"])


def test_nothing_is_scored_while_another_process_stores_answers(trained: Path, project: Project) -> None:
    def other(count: int, of: int) -> None:
        raise AssertionError("it was scored")

    store = trained / ".trimtab" / "answers"
    command = f"""
import sys
from pathlib import Path
from trimtab.store.lmdb.kv import LmdbKeyValue
with LmdbKeyValue(Path({str(store)!r})) as store:
    store.write({{b"x": b"1"}})
    print("writing", flush=True)
    sys.stdin.read()
"""
    with forked.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(Conflict, match="is writing here"):
            project.predict_table("buyer", table(2), mode="precomputed", progress=other)
        assert logged(project) == 0
        process.communicate()
    project.predict_table("buyer", table(2), mode="precomputed")
    with LmdbKeyValue(store) as free:
        free.write({b"y": b"1"})


def test_the_same_requests_are_the_same_batch_whatever_holds_them(project: Project, tmp_path: Path) -> None:
    asked = table(-5, -3)
    first = project.predict_table("buyer", asked)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("asked", asked)
        connection.sql("SELECT * FROM asked").write_parquet(str(tmp_path / "asked.parquet"))
        again = project.predict_table("buyer", connection.sql("SELECT * FROM asked"))
    for given in (asked.to_rows(), tmp_path / "asked.parquet", str(tmp_path / "asked.parquet")):
        assert project.predict_table("buyer", given).id == first.id
    assert again.id == first.id
    assert logged(project) == 2
    with pytest.raises(Misuse, match="the table: no column 'x', which request 'visit' declares"):
        project.predict_table("buyer", asked.select(["visit_id", "site", "at"]))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_answers_that_cannot_be_written_out_are_kept_and_written_at_the_next_try(
    project: Project, tmp_path: Path, suffix: str
) -> None:
    out, in_the_way = tmp_path / f"answers.{suffix}", tmp_path / f"answers.{suffix}.partial"
    in_the_way.mkdir()
    with pytest.raises(Unavailable, match=rf"answers\.{suffix}: .* Check free space and access, and run it again"):
        project.predict_table("buyer", table(-5, -3), out=out)
    assert not out.exists()
    assert logged(project) == 2
    in_the_way.rmdir()
    project.predict_table("buyer", table(-5, -3), out=out)
    assert duckdb.sql(f"SELECT count(*) FROM '{out}'").fetchall() == [(2,)]
    assert logged(project) == 2
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [out.name]


def test_paths_may_be_texts(trained: Path, tmp_path: Path) -> None:
    with open_project(trained, clock=VirtualClock(shop.NOW_US), state=str(trained / ".trimtab")) as project:
        project.predict_table("buyer", table(-5), out=str(tmp_path / "answers.csv"))
        assert (tmp_path / "answers.csv").is_file()
        version = project.registry.alias("buyer", "champion")
        page = project.report(version.name, str(tmp_path / "page.html"))
        assert page == tmp_path / "page.html"
        assert page.is_file()
        project.backup(str(tmp_path / "backup"))
    restore(str(tmp_path / "backup"), str(tmp_path / "again"))
    assert read_manifest(str(tmp_path / "backup")).files
    with pytest.raises(Misuse, match="Give a text or a Path"):
        project.backup(3)


def test_two_first_uses_at_once_both_go_on(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / "project")
    with shop.opened(folder) as one, shop.opened(folder) as other:
        write = AppliedDefinitions.write

        def slower(self: AppliedDefinitions, *given: Any, **more: Any) -> Any:
            AppliedDefinitions.write = write  # type: ignore[method-assign]  # once
            assert other.apply_first() is not None
            return write(self, *given, **more)

        AppliedDefinitions.write = slower  # type: ignore[method-assign]  # the other one comes in between
        try:
            assert one.apply_first() is None
        finally:
            AppliedDefinitions.write = write  # type: ignore[method-assign]


def test_rows_to_predict_may_be_a_table_and_what_is_none_is_said(project: Project) -> None:
    asked = table(-5, -3)
    assert [a.request_id for a in project.predict("buyer", asked)] == ["t-5", "t-3"]
    row = shop.visit("q", shop.NOW_US)
    for wrong, said in [(row, r"Give a list of dicts.*\[row\]"), ("q.csv", "predict_table"), (3, "rows is a int")]:
        with pytest.raises(Misuse, match=said):
            project.predict("buyer", wrong)
    with pytest.raises(Misuse, match="at: time: 'gestern' is not ISO 8601"):
        project.predict("buyer", [row], at="gestern")


def test_a_closed_project_says_that_it_is_closed(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.predict("buyer", [shop.visit("q", shop.NOW_US)])
    project.close()
    verbs = [project.status, project.ledger, lambda: project.predict("buyer", [shop.visit("q2", shop.NOW_US)])]
    for verb in [*verbs, lambda: project.join([shop.visit("q", shop.NOW_US)], "buyer")]:
        with pytest.raises(Misuse, match=r"project is closed. Open it again: tt.open"):
            verb()


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import shop
from pathlib import Path
from trimtab.core.columns.data import Columns

with shop.opened(Path(sys.argv[2])) as project:
    print("open", flush=True)
    rows = Path(sys.argv[3])
    project.predict_table("buyer", rows, progress=lambda *_: os.kill(os.getpid(), int(sys.argv[4])))
"""


def test_the_batch_of_a_process_that_was_killed_goes_on_at_once_and_that_of_a_stopped_one_does_not(
    trained: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(f"visit_id,site,at,x\na,north,{format_time(shop.NOW_US - HOUR_US)},1.0\n")
    for sent in (signal.SIGSTOP, signal.SIGKILL):
        arguments = [str(Path(shop.__file__).parent), str(trained), str(rows), str(int(sent))]
        with forked.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE) as process:
            if sent == signal.SIGSTOP:
                os.waitpid(process.pid, os.WUNTRACED)
                with (
                    shop.opened(trained) as project,
                    pytest.raises(Conflict, match="another process is scoring this batch"),
                ):
                    project.predict_table("buyer", rows)
                process.kill()
            process.wait()
        with shop.opened(trained) as project:  # its clock stands still: no lease runs out
            made = project.predict_table("buyer", rows)
            assert made.complete
            assert sum(p.request_id == "a" for block in project.predictions.scan() for p in block) == 1
    assert list((trained / ".trimtab" / "batches").iterdir()) == []
