from __future__ import annotations

import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import market
import msgspec
import numpy as np
import pytest
import shop
from click.testing import CliRunner

import forked
from trimtab.app.data.training_data import LivingData
from trimtab.app.data.training_pin import Pin
from trimtab.app.features.feature_runs import run_in_memory
from trimtab.app.features.materialising import writing_tables
from trimtab.app.keep import erasure
from trimtab.app.keep.subjects import Subject
from trimtab.app.project import Project, open_project
from trimtab.app.state.state import truncation_put
from trimtab.cli.group import trimtab
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.records import Prediction
from trimtab.core.time import HOUR_US
from trimtab.experiments.day_sums import short_value
from trimtab.experiments.exposures import log_exposures
from trimtab.experiments.records import Exposure
from trimtab.features.online.packed.keys import name_bytes
from trimtab.feedback.slices import slice_value
from trimtab.serving.log.prediction_record import encode
from trimtab.serving.log.spool import Spool
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store.file_lock import FileLock
from trimtab.store.ports import Put, Remove

TEXTS = ["cust-0001", "cust-00012", "cust-0001-x", "käse 'ü' \U0001f9c0%", "12", "x"]
LONG = 0x115AC37E2986D4  # few zero bytes, so that no file contains it by chance
NUMBERS = [7, 77, -7, LONG, 0, 300]
Made = Callable[[list[Any]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A trained project for these customers, made once."""
    made: dict[str, Path] = {}

    def make(customers: list[Any]) -> Path:
        kind = "int" if isinstance(customers[0], int) else "str"
        if kind not in made:
            folder = market.write_project(tmp_path_factory.mktemp("market") / kind, kind)
            with market.opened(folder) as project:
                market.load(project, customers)
                assert [d.act for d in project.train()][-1] == "promote"
            made[kind] = folder
        return made[kind]

    return make


@pytest.fixture
def texts(made_once: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_once(TEXTS), tmp_path / "texts"))


def use(project: Project, customers: list[Any], folder: Path) -> list[str]:
    """Ask, answer ahead, materialise, and send what cannot be taken; the ids of the answers."""
    asked = [market.quote(f"live{n}", one, market.NOW_US) for n, one in enumerate(customers)]
    ids = [answer.id for answer in project.predict("sale", asked)]
    table = folder / "ahead.csv"
    rows = [f'"ahead{n}","{one}",shop1,2024-04-09T00:00:00Z,0.5' for n, one in enumerate(customers)]
    table.write_text("\n".join(["quote,customer,shop,at,x", *rows]))
    project.predict_table("sale", table, mode="precomputed")
    project.predict_table("sale", table)
    table.unlink()
    project.materialise()
    for one in customers:
        late = {"customer": one, "clicked_at": "soon", "page": "p"}
        project.push("clicks", [late, {**late, "customer": str(one)}])
        project.push("orders", [{"order": "o", "customer": one, "ordered_at": market.NOW_US, "amount": "much"}])
    more = [{"customer": one, "clicked_at": market.NOW_US, "page": "p", "seconds": 3.0} for one in customers]
    project.push("clicks", more)  # behind what is in the tables
    met = [
        Exposure(experiment="any", generation=1, unit=str(one), variant="a", at_us=market.NOW_US) for one in customers
    ]
    log_exposures(project.state.exposures, met)
    return ids


def inputs(project: Project, customers: list[Any], name: str = "again") -> list[Prediction]:
    """What the model is shown of each customer."""
    shop.move(project, HOUR_US)
    asked = [
        market.quote(f"{name}{n}{place}", one, project.clock.now_us(), f"shop{place}")
        for n, one in enumerate(customers)
        for place in range(3)
    ]
    return [project.predictions.find(answer.id) for answer in project.predict("sale", asked)]


def shown(predictions: list[Prediction]) -> list[tuple[bytes, bytes]]:
    return [(p.values, p.reasons) for p in predictions]


def files_with(folder: Path, needle: bytes) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and needle in p.read_bytes())


def records_with_slice(project: Project, name: str) -> list[str]:
    """The records of the catalogue in which a slice has this name."""
    kinds = ("quality_slices", "quality_batch", "quality_watch", "arm_watch", "experiment_day", "signal")
    records = [record for kind in kinds for record in project.state.catalog.find(kind)]
    return [record.key for record in records if msgspec.json.encode(name) + b":" in record.body]


def in_parquet(folder: Path, key: Any) -> list[str]:
    """Parquet files under any name that have the key in some column."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.read_bytes()[:4] == b"PAR1" and ".checkpoint" not in path.name:
            rows = duckdb.sql(f"SELECT COLUMNS('customer|_id') FROM read_parquet('{path}')").fetchall()
            if any(str(key) in map(str, row) for row in rows):
                found.append(str(path.relative_to(folder)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    [NUMBERS[0], *(pytest.param(k, marks=pytest.mark.soak) for k in (*TEXTS, *NUMBERS))],
)
def test_who_is_forgotten_is_nowhere_and_all_others_are_as_if_that_one_had_never_been(
    key: Any, made_once: Made, tmp_path: Path
) -> None:
    customers = NUMBERS if isinstance(key, int) else TEXTS
    folder = Path(shutil.copytree(made_once(customers), tmp_path / "project"))
    others = [one for one in customers if one != key]
    state = folder / ".trimtab"
    with market.opened(folder) as project:
        ids = use(project, customers, tmp_path)
        named = records_with_slice(project, f"customer={key}")
        dry = project.forget("customer", key, dry_run=True)
        done = project.forget("customer", key, why="asked to", training_sets=True)
        assert done.counts == dry.counts
        each = dry.sources["clicks"]
        assert dry.sources == {"clicks": each, "orders": each - 1, "quote": each - 1, "results": each - 1}
        assert dry.counts == {
            "events": 4 * each - 3,
            "table_rows": 4 * each - 4,
            "predictions": 3,
            "quarantined": 3,
            "exposures": 1,
            "stored_answers": 1,
            "slices": len(named),
            "training_sets": 1,
        }
        assert done.training_sets[0].versions == ("sale@1", "sale@2")
        looked_for = isinstance(key, str) and len(key) > 5
        told_apart = looked_for and not any(key in one for one in others)
        assert bool(done.residue) == (looked_for and not told_apart)
        for partition in ("events", "predictions", "quarantine", "exposures"):
            assert (state / "log" / partition / "p0001.db").exists()
        if told_apart:
            assert files_with(state, key.encode()) == []
        assert in_parquet(state, key) == []
        assert records_with_slice(project, f"customer={key}") == []
        assert bool(named) == (key in (TEXTS[0], *TEXTS[3:5]))  # the others have too few rows, or are numbers
        project.history.refresh()
        for source in ("clicks", "orders", "quote"):
            frame = project.history.frame(source)
            assert key not in frame.columns["customer"].to_list()
            assert set(others) <= set(frame.columns["customer"].to_list())
        left_results = sorted(project.history.frame("results").columns["quote_ref"].to_list())
        place = customers.index(key)
        for n, prediction_id in enumerate(ids):
            if n == place:
                with pytest.raises(NotFound, match="was erased"):
                    project.why(prediction_id)
            else:
                assert project.why(prediction_id).request["customer"] == customers[n]
        again = inputs(project, customers)
        gone = [p for p in again if p.request_id.startswith(f"again{place}")]
        names = list(project.definitions.models["sale"].features.names)
        own = [n for n, name in enumerate(names) if name.startswith(("reader.", "buyer.", "pair."))]
        assert len(gone) == 3
        assert {p.reasons[n] for p in gone for n in own} == {gone[0].reasons[own[0]]}
        answers = project.predict("sale", [market.quote("who", key, project.clock.now_us())])
        assert answers[0].reasons["reader.last"] == answers[0].reasons["buyer.orders"] == "no_entity"
        assert project.verify_ledger() == len(project.ledger())
        assert project.ledger()[-1].act == "forget"
        evidence = project.ledger()[-1].evidence
        assert str(key) not in {str(value) for name, value in evidence.items() if name not in dry.counts}
        assert project.history.unknown == 0
        assert project.materialise().unknown == 0

    shutil.rmtree(state / "online")
    with market.opened(folder) as project:  # online features made anew from the erased log
        assert shown(inputs(project, customers)) == shown(again)

    for part in ("log", "tables", "online"):
        shutil.rmtree(state / part, ignore_errors=True)
    with market.opened(folder) as project:  # the naive way: load everything but that one
        project.recover()  # the log is gone, as the catalogue knows
        without = Path(shutil.copytree(made_once(customers), tmp_path / "naive"))
        with market.opened(without) as whole:
            use(whole, customers, tmp_path)
            whole.history.refresh()
            for source in ("clicks", "orders", "quote", "results"):
                frame = whole.history.frame(source)
                keep = np.ones(frame.rows, bool)
                if "customer" in frame.columns:
                    keep = np.array([one != key for one in frame.columns["customer"].to_list()])
                if source == "quote":
                    asked = frame.columns["quote"].to_list()
                    theirs = {quote for quote, kept in zip(asked, keep, strict=True) if kept}
                if source == "results":
                    keep = np.array([quote in theirs for quote in frame.columns["quote_ref"].to_list()])
                    results = sorted(frame.columns["quote_ref"].take(keep).to_list())
                    assert left_results == results
                project.ingestor.load(source, frame.columns.take(keep))
        assert shown(inputs(project, others)) == shown([p for p in again if p not in gone])


def test_slices_named_after_a_key_are_removed_though_nothing_else_is_left_of_it(texts: Path) -> None:
    key = "ghost-" + "é" * 70
    short = slice_value(key)
    cut = short_value(key)
    assert short != cut
    bodies: dict[tuple[str, str], Any] = {
        ("quality_slices", "sale/2024-04-01/v/champion"): {f"customer={short}": [1, [0.1]], "shop=shop1": [2, [0.2]]},
        ("experiment_day", "e/000001/2024-04-01"): {
            "variants": {"a": {"units": 3, "slices": {f"customer={cut}": {"n": 1}, f"shop={cut}": {"n": 2}}}}
        },
        ("signal", "s1"): {"subject": f"slice customer={short}", "message": "x"},
        ("signal", "s2"): {"subject": f"slice shop={short}", "message": f"customer={short}"},
    }
    with market.opened(texts) as project:
        catalog = project.state.catalog
        catalog.write([Put(*place, msgspec.json.encode(body)) for place, body in bodies.items()])
        dry = project.forget("customer", key, dry_run=True)
        with pytest.raises(Misuse, match="the reason contains a key, and the ledger keeps it for ever"):
            project.forget("customer", key, why=f"request 9 of {key}")
        done = project.forget("customer", key, why="asked to")
        assert {name for name, n in done.counts.items() if n} == {"slices"}
        assert done.counts == dry.counts
        assert done.counts["slices"] == 3
        left = {place: catalog.get(*place) for place in bodies}
        found = {place: msgspec.json.decode(record.body) for place, record in left.items() if record is not None}
        assert found == {
            ("quality_slices", "sale/2024-04-01/v/champion"): {"shop=shop1": [2, [0.2]]},
            ("experiment_day", "e/000001/2024-04-01"): {
                "variants": {"a": {"units": 3, "slices": {f"shop={cut}": {"n": 2}}}}
            },
            ("signal", "s2"): bodies["signal", "s2"],
        }
        with pytest.raises(NotFound, match="The data of this key was erased"):
            project.forget("customer", key)


@pytest.mark.parametrize("deleted", [True, False])
def test_whole_numbers_that_are_left_over_are_found_in_every_form_and_deleted_sets_are_not_said_to_be_there(
    deleted: bool, made_once: Made, tmp_path: Path
) -> None:
    key = LONG
    folder = Path(shutil.copytree(made_once(NUMBERS), tmp_path / "project"))
    forms = {
        "text": str(key).encode(),
        "msgpack": msgspec.msgpack.encode(key),
        "parquet": struct.pack("<q", key),
        "packed": b"\xd3" + struct.pack(">q", key),
        "name": name_bytes(("shop1", key)),
        "other": struct.pack("<q", key + 1),
    }
    for name, form in forms.items():
        (folder / ".trimtab" / name).write_bytes(b"x" * (2**20 - 3) + form + b"x")  # over two blocks
    with market.opened(folder) as project:
        done = project.forget("customer", key, why="x", training_sets=deleted)
    left = [name for name in done.residue if name in forms]
    assert left == sorted(forms.keys() - {"other"})
    assert done.residue == left or not deleted
    (line,) = (line for line in done.lines() if "training set " in line)
    assert ("erased: all rows of training set" in line, "which had" in line) == (deleted, deleted)
    assert any("--training-sets" in line for line in done.lines()) != deleted


@pytest.mark.parametrize("dry_run", [True, False])
def test_data_only_in_training_sets_is_named_and_erased_with_the_option_alone(texts: Path, dry_run: bool) -> None:
    said = (
        r"no data of customer 'cust-0001' was found outside training sets .* 1 stored training set has rows about it; "
        r"--training-sets deletes all rows of such sets. Nothing was erased"
    )
    with market.opened(texts) as project:
        project.forget("customer", TEXTS[0])
        with pytest.raises(NotFound, match=said):
            project.forget("customer", TEXTS[0], dry_run=dry_run)
        done = project.forget("customer", TEXTS[0], training_sets=True, dry_run=dry_run)
        assert done.counts == {**dict.fromkeys(done.counts, 0), "training_sets": 1}


def test_each_erasure_changes_the_pin_of_training_sets_also_one_that_was_stopped(texts: Path) -> None:
    with market.opened(texts) as project:
        data, catalog = LivingData(partial(run_in_memory, project.history), project.predictions), project.state.catalog
        pin = Pin(data, lambda: project.history, catalog, kept_from=dict)

        def found() -> object:
            return pin(project.definitions.models["sale"], market.NOW_US)

        pins = [found()]
        for _ in range(2):  # a run that was stopped, and the next one, which was stopped, too
            catalog.write([Put(erasure.KIND, "0123", b"{}")])
            pins.append(found())
        row = Entry(at_us=market.NOW_US, model="*", act=erasure.ACT, cause="x", actor="x")
        Ledger(catalog).write([row], [Remove(erasure.KIND, "0123")])
        pins += [found(), found()]
        assert [pins.index(one) for one in pins] == [0, 1, 2, 3, 3]


def test_views_are_filled_again_from_the_tables_of_record_where_the_log_is_truncated(texts: Path) -> None:
    def read(project: Project) -> list[tuple[bytes, bytes]]:
        asked = [market.quote(f"q{n}", one, project.clock.now_us(), f"shop{n % 3}") for n, one in enumerate(TEXTS)]
        return shown([project.predictions.find(answer.id) for answer in project.predict("sale", asked)])

    with market.opened(texts) as project:
        read(project)
        assert sum(project.retain().truncated.values()) > 0
        assert project.forget("customer", TEXTS[0]).sources["orders"] > 0
        after = read(project)
    shutil.rmtree(texts / ".trimtab" / "online")
    with market.opened(texts) as project:
        assert read(project) == after


def test_the_next_training_set_has_nothing_of_it(texts: Path) -> None:
    with market.opened(texts) as project:
        model = project.definitions.models["sale"]
        for expected in (TEXTS, TEXTS[1:]):
            made = LivingData(partial(run_in_memory, project.history), project.predictions).training_set(
                model, cut_us=market.NOW_US
            )
            assert set(made.requests["customer"].to_list()) == set(expected)
            if expected is TEXTS:
                project.forget("customer", TEXTS[0])


def test_what_arrives_afterwards_is_known_again_a_repetition_too(texts: Path) -> None:
    click = {"customer": "someone", "clicked_at": market.NOW_US - 5, "page": "p", "seconds": 2.0}
    with market.opened(texts) as project:
        project.push("clicks", [click, click])
        asked = [market.quote("q", "someone", market.NOW_US)]
        before = project.predictions.find(project.predict("sale", asked)[0].id)
        assert project.forget("customer", "someone").counts["events"] == 2
        assert project.predict("sale", asked)[0].reasons["reader.last"] == "no_entity"
        project.push("clicks", [click])  # the same event, delivered once more
        after = project.predictions.find(project.predict("sale", asked)[0].id)
        assert (after.values, after.reasons) == (before.values, before.reasons)
        assert project.forget("customer", "someone").counts["predictions"] == 2


def test_an_event_that_was_another_ones_before_does_not_come_back(texts: Path) -> None:
    order = {"order": "moved", "customer": "first", "shop": "shop9", "amount": 50.0, "ordered_at": market.NOW_US - 9}
    left = {**order, "order": "left", "customer": "second"}
    with market.opened(texts) as project:

        def sums() -> list[Any]:
            asked = [market.quote("q", one, market.NOW_US, "shop9") for one in ("first", "second", "third")]
            names = list(project.definitions.models["sale"].features.names)
            found = []
            for answer in project.predict("sale", asked):
                values = np.frombuffer(project.predictions.find(answer.id).values, "<f8")
                found.append([values[names.index(name)] for name in ("buyer.orders", "seller.amount", "pair.orders")])
            return found

        project.push("orders", [order, left])
        project.push("orders", [{**order, "customer": "second"}])
        project.push("orders", [{**left, "customer": "third", "amount": 7.0}])
        project.push("orders", [{"order": "gone", **{k: v for k, v in order.items() if k != "order"}}])
        project.push("orders", [{"order": "gone", "_op": "delete"}])
        project.materialise()
        assert sums() == [[0, 57, 0], [1, 57, 1], [1, 57, 1]]
        assert project.forget("customer", "second").sources == {"orders": 2}
        assert sums() == [[0, 7, 0], [0, 7, 0], [1, 7, 1]]
        shutil.rmtree(texts / ".trimtab" / "online")
    with market.opened(texts) as project:
        assert sums() == [[0, 7, 0], [0, 7, 0], [1, 7, 1]]
        assert project.forget("customer", "first").sources == {"orders": 4}  # deletions of its events go too
        assert sums() == [[0, 7, 0], [0, 7, 0], [1, 7, 1]]
        frame = project.history.frame("orders")
        assert {"moved", "gone"}.isdisjoint(frame.columns["order"].to_list())


def test_the_label_of_a_request_stays_while_another_ones_request_has_its_key(texts: Path) -> None:
    at_us = market.NOW_US - HOUR_US
    with market.opened(texts) as project:
        project.push("quote", [market.quote("event of both", "a", at_us), market.quote("alone", "a", at_us)])
        project.push("quote", [market.quote("event of both", "b", at_us)])
        project.predict("sale", [market.quote("asked of both", one, market.NOW_US) for one in ("a", "b")])
        project.predict("sale", [market.quote("event and asked", "b", market.NOW_US)])
        project.push("quote", [market.quote("event and asked", "a", at_us)])
        named = ["event of both", "alone", "asked of both", "event and asked"]
        project.push("results", [{"quote_ref": n, "bought": True, "known_at": market.NOW_US} for n in named])
        project.materialise()
        assert project.forget("customer", "a").sources == {"quote": 3, "results": 1}
        left = set(project.history.frames_at(["results"])[0]["results"].columns["quote_ref"].to_list())
        assert left & set(named) == set(named) - {"alone"}


def test_nothing_moves_into_tables_while_somebody_is_erased_nor_the_other_way_round(texts: Path) -> None:
    with market.opened(texts) as project, market.opened(texts) as beside:
        use(project, TEXTS, texts)
        with ThreadPoolExecutor(1) as pool, writing_tables(beside.state):
            with pytest.raises(Conflict, match="another process copies events to the tables of record"):
                project.forget("customer", TEXTS[0])
            moving = pool.submit(project.materialise)
            time.sleep(0.05)
            assert not moving.done()  # it waits
        assert sum(moving.result().rows.values()) >= len(TEXTS)
        erasing = erasure._alone(project)
        with erasing, pytest.raises(Conflict, match="or erases some of them"), writing_tables(beside.state):
            pass


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import market
from pathlib import Path

signal.signal(signal.SIGALRM, lambda *a: os.kill(os.getpid(), signal.SIGKILL))
with market.opened(Path(sys.argv[2])) as project:
    project.predictions, project.registry, project.quarantine
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[3]))
    project.forget("customer", sys.argv[4])
    signal.setitimer(signal.ITIMER_REAL, 0)
"""


def killed_and_finished(project_folder: Path, tmp_path: Path, key: str, delays_s: list[float]) -> int:
    """Forget in processes that are killed after each of these times, then in one that is not; how many were killed."""
    with market.opened(project_folder) as project:
        use(project, TEXTS, tmp_path)
        planned = project.forget("customer", key, dry_run=True)
    kills = 0
    for delay_s in [*delays_s, 60.0]:
        arguments = [str(Path(market.__file__).parent), str(project_folder), str(delay_s), key]
        done = forked.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, timeout=60, check=False)
        if done.returncode == 0 or b"The data of this key was erased" in done.stderr:  # killed behind the end
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
    state = project_folder / ".trimtab"
    with market.opened(project_folder) as project:
        rows = [d for d in project.ledger() if d.act == "forget"]
        assert len(rows) == 1
        assert {name: rows[0].evidence[name] for name in planned.counts} == planned.counts
        with pytest.raises(NotFound, match=r"no data of customer .* The data of this key was erased"):
            project.forget("customer", key)
        assert project.verify_ledger() == len(project.ledger())
        assert files_with(state, key.encode()) == []
        once = shown(inputs(project, TEXTS))
    blobs = {f"blob/{one.blob}" for one in planned.training_sets}
    assert set(in_parquet(state, key)) == blobs
    shutil.rmtree(state / "online")
    with market.opened(project_folder) as project:
        assert shown(inputs(project, TEXTS)) == once
    return kills


@pytest.mark.slow
def test_a_run_that_was_killed_is_finished_by_the_next(texts: Path, tmp_path: Path) -> None:
    assert killed_and_finished(texts, tmp_path, TEXTS[2], [0.06, 0.2]) == 2


@pytest.mark.soak
def test_runs_that_are_killed_anywhere_are_finished(
    made_once: Made, tmp_path: Path, soak_report: Callable[..., None]
) -> None:
    chance = random.Random(1)
    kills = 0
    for run in range(12):
        folder = Path(shutil.copytree(made_once(TEXTS), tmp_path / str(run)))
        kills += killed_and_finished(folder, tmp_path, TEXTS[2], [chance.uniform(0, 0.3) for _ in range(4)])
        shutil.rmtree(folder)
    soak_report("kill_forget", runs=12, failures=0, kills=kills)
    assert kills > 12


HOLDER = """
import sys
from pathlib import Path
from trimtab.store.lmdb.kv import LmdbKeyValue

with LmdbKeyValue(Path(sys.argv[1])) as store:
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_was_refused_half_way_is_red_until_it_is_finished(texts: Path) -> None:
    with market.opened(texts) as project:
        project.predict("sale", [market.quote("q", TEXTS[2], market.NOW_US)])
        planned = project.forget("customer", TEXTS[2], dry_run=True)
        command = [sys.executable, "-c", HOLDER, str(texts / ".trimtab" / "online")]
        with forked.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(Conflict, match="another process has it open"):
                project.forget("customer", TEXTS[2], why="asked to")
            holder.communicate()
        assert [line for line in project.status().red if "not finished" in line]
        assert TEXTS[2].encode() not in (texts / ".trimtab" / "catalog.db").read_bytes()
        assert project.forget("customer", TEXTS[2]).counts == planned.counts
        assert project.ledger()[-1].cause == "asked to"
        assert [line for line in project.status().red if "not finished" in line] == []
    assert files_with(texts / ".trimtab", TEXTS[2].encode()) == []


def test_a_service_that_runs_keeps_a_project_from_forgetting(texts: Path) -> None:
    with shop.serving(texts) as (_, url), open_project(texts, environment={}) as project:
        assert shop.call(f"{url}/health/live")[0] == 200
        planned = project.forget("customer", TEXTS[0], dry_run=True)
        with pytest.raises(Conflict, match="another process uses this project"):
            project.forget("customer", TEXTS[0])
    done = CliRunner().invoke(trimtab, ["--project", str(texts), "--json", "forget", "customer", TEXTS[0]])
    found = msgspec.json.decode(done.stdout)
    assert (found["counts"], found["dry_run"], done.exit_code) == (planned.counts, False, 0)


def test_every_partition_is_looked_at_once_nobody_writes_it(texts: Path) -> None:
    click = {"customer": TEXTS[2], "clicked_at": market.NOW_US - 5, "page": "p", "seconds": 2.0}
    with market.opened(texts) as one, market.opened(texts) as other:
        for n, project in enumerate((one, other)):
            project.push("clicks", [{**click, "seconds": float(n)}])
            project.predict("sale", [market.quote(f"of {n}", TEXTS[2], market.NOW_US)])
        before = one.forget("customer", TEXTS[2], dry_run=True)
        with market.opened(texts) as third, pytest.raises(Conflict, match="is writing to it"):
            third.forget("customer", TEXTS[2])
    assert {p.stem for p in (texts / ".trimtab" / "log" / "events").glob("*.db")} >= {"p0001", "p0002"}
    with market.opened(texts) as project:
        assert project.forget("customer", TEXTS[2]).counts == before.counts
    assert files_with(texts / ".trimtab", TEXTS[2].encode()) == []


def test_lines_of_a_file_that_could_not_be_read_are_found(texts: Path, tmp_path: Path) -> None:
    file = tmp_path / "clicks.csv"
    head = "customer,clicked_at,page,seconds"
    bad = [f"{TEXTS[2]},2024-03-02,p,many", f"{TEXTS[3]},never,p,1", f"{TEXTS[2]}x,2024-03-02,p,many"]
    file.write_text("\n".join([head, *bad]))
    with market.opened(texts) as project:
        project.ingest("clicks", file)
        assert sum(project.quarantine.counts()["clicks"].values()) == 3
        assert project.forget("customer", TEXTS[2]).counts["quarantined"] == 1
        assert project.forget("customer", TEXTS[3]).counts["quarantined"] == 1
        left = [row.raw()["customer"] for row in project.quarantine.read()]
        assert left == [TEXTS[2] + "x"]


def test_a_line_that_could_not_be_told_apart_goes_wherever_it_mentions_the_key(texts: Path, tmp_path: Path) -> None:
    file = tmp_path / "clicks.csv"
    lines = [f"somebody,2024-03-02,p,1,{TEXTS[2]}", "Zo\xeb,2024-03-02,p,1", "another,2024-03-02,p,1,2"]
    file.write_bytes("\n".join(["customer,clicked_at,page,seconds", *lines]).encode("latin-1"))
    with market.opened(texts) as project:
        project.ingest("clicks", file)
        done = project.forget("customer", TEXTS[2])
        assert (done.counts["quarantined"], done.residue) == (1, [])
        assert project.forget("customer", "Zo\xeb").counts["quarantined"] == 1
        assert [row.raw()["_line"] for row in project.quarantine.read()] == ["another,2024-03-02,p,1,2"]


def test_rows_that_were_dropped_are_not_counted_as_there(texts: Path) -> None:
    with market.opened(texts) as project:
        project.push("clicks", [{"customer": "dropped-1", "clicked_at": "never", "page": "p", "seconds": 1}])
        assert project.forget("customer", "dropped-1", dry_run=True).counts["quarantined"] == 1
        assert project.drop_quarantined("clicks") == 1
        with pytest.raises(NotFound, match="no data of"):
            project.forget("customer", "dropped-1", dry_run=True)
    assert files_with(texts / ".trimtab", b"dropped-1") == []


def test_simulations_that_were_killed_leave_nothing(texts: Path) -> None:
    state = texts / ".trimtab"
    for name in ("trimtab-replay-abc", "trimtab-replay-alive", "backfill/0123"):
        (state / name / "log").mkdir(parents=True)
        (state / name / "log" / "p0001.lock").touch()
        (state / name / "log" / "p0001.db").write_bytes(TEXTS[2].encode())
    (state / "blob" / ".x1.new").write_bytes(TEXTS[2].encode())
    running = FileLock.take(state / "trimtab-replay-alive" / "log" / "p0001.lock")
    assert running is not None
    with market.opened(texts) as project:
        done = project.forget("customer", TEXTS[2])
        assert done.workspaces == ["backfill/0123", "trimtab-replay-abc"]
        assert done.residue == ["trimtab-replay-alive/log/p0001.db"]
    running.release()


def test_answers_that_a_killed_service_noted_are_found_too(texts: Path) -> None:
    with market.opened(texts) as project:
        given = project.predict("sale", [market.quote("noted", TEXTS[2], market.NOW_US)])[0]
        lost = encode(project.predictions.find(given.id))
    shutil.rmtree(texts / ".trimtab" / "log" / "predictions")
    with market.opened(texts) as project:
        with Spool(texts / ".trimtab" / "spool", project.predictions) as spool:
            spool.add([lost])
        assert project.forget("customer", TEXTS[2]).counts["predictions"] == 1
    assert files_with(texts / ".trimtab", TEXTS[2].encode()) == []


def test_the_log_may_have_been_truncated(texts: Path, tmp_path: Path) -> None:
    key = TEXTS[3]
    with market.opened(texts) as project:
        use(project, TEXTS, tmp_path)
        planned = project.forget("customer", key, dry_run=True)
        reached = {name: {"p0001": 2_000} for name in project.definitions.sources}
        noted = truncation_put(project.state.catalog, reached, {"p0001": 2_000}, market.NOW_US)
        project.state.catalog.write([noted])
        project.state.events.truncate("p0001", 2_000)
        done = project.forget("customer", key)
        assert (done.counts, done.sources) == (
            {**planned.counts, "events": done.counts["events"]},
            planned.sources,
        )
        assert done.counts["events"] < planned.counts["events"]
        once = inputs(project, TEXTS)
        shutil.rmtree(texts / ".trimtab" / "online")
    with market.opened(texts) as project:
        assert shown(inputs(project, TEXTS)) == shown(once)
    assert files_with(texts / ".trimtab" / "log" / "events", key.encode()) == []


def test_an_entity_of_several_columns_goes_alone(texts: Path) -> None:
    with market.opened(texts) as project:
        before = {s: project.history.frames_at([s])[0][s].rows for s in ("clicks", "orders", "quote")}
        done = project.forget("customer_shop", TEXTS[0], "shop1")
        assert done.columns == {"orders": ["customer + shop"], "quote": ["customer + shop"]}
        assert 0 < done.sources["orders"] < before["orders"] / len(TEXTS)
        left = project.history.frames_at(["orders", "clicks"])[0]
        pairs = set(zip(*(left["orders"].columns[c].to_list() for c in ("customer", "shop")), strict=True))
        assert (TEXTS[0], "shop1") not in pairs
        assert {(TEXTS[0], "shop2"), (TEXTS[1], "shop1")} <= pairs
        assert left["clicks"].rows == before["clicks"]


@pytest.mark.fast
def test_columns_that_are_joined_are_one_entity(made_once: Made) -> None:
    with market.opened(made_once(NUMBERS)) as project:
        assert Subject(project.definitions, project.sources, "quote", ["q0001"]).places == {
            "quote": [("quote",)],
            "results": [("quote_ref",)],
        }
        assert Subject(project.definitions, project.sources, "quote_ref", ["q0001"]).places.keys() == {
            "quote",
            "results",
        }
        subject = Subject(project.definitions, project.sources, "customer", ["7"])
        assert subject.places.keys() == {"clicks", "orders", "quote"}
        assert subject.of_event("clicks")((7, "p", 1.0, 0))
        assert not subject.of_event("clicks")((77, "7", 7.0, 7))
        assert subject.of_event("no longer declared")(("a", 7, None))
        raws = [{"customer": 7}, {"customer": "7"}, {"customer": " 7 "}, {"customer": 7.0}, {"line": "a,7,b"}]
        assert [subject.of_raw("clicks", row) for row in raws] == [True] * 5
        others = [{"customer": "77"}, {"customer": None, "page": "7"}, {"line": "a,77,b-7"}]
        assert [subject.of_raw("clicks", row) for row in others] == [False] * 3


@pytest.mark.fast
def test_what_cannot_be_forgotten_says_why(made_once: Made, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made_once(NUMBERS), tmp_path / "project"))
    with market.opened(folder) as project:
        for entity, key, error, said in [
            ("custmer", ["7"], NotFound, r"no entity or column 'custmer'. Entities: customer, "),
            ("customer", ["seven"], Misuse, r"seven cannot be a value of customer \(int\)"),
            ("customer", ["7", "8"], Misuse, r"is customer; found 2 values"),
            ("customer", [], Misuse, r"no key of 'customer' was given"),
            ("customer", [""], Misuse, r"none of them empty"),
            ("amount", ["7"], Misuse, r"column 'amount' is float"),
            ("customer", ["123456"], NotFound, r"no data of customer '123456' was found \(searched: clicks: customer;"),
            ("customer", ["9" * 19], Misuse, r"cannot be a value"),
        ]:
            with pytest.raises(error, match=said):
                project.forget(entity, *key)
        with pytest.raises(Misuse, match=r"keys='77' is one str\. Give a list"):  # else, each digit would be a key
            project.forget("customer", keys="77")
        for wrong in (None, 7.5):
            with pytest.raises(Misuse, match=rf"forget: {wrong} is no part of a key"):
                project.forget("customer", keys=[77, wrong])  # type: ignore[list-item]  # such as a null of a column
        assert project.forget("customer", keys=np.array([77, 300]), dry_run=True).keys == 2
        assert [d.act for d in project.ledger()].count("forget") == 0
        following = market.opened(folder)
        follower = following.views.follow()
        with pytest.raises(Conflict, match="being served"):
            following.forget("customer", 7)
        follower.close()
        following.close()


@pytest.mark.slow
def test_several_keys_go_in_one_run_and_each_has_its_row(texts: Path, tmp_path: Path) -> None:
    with market.opened(texts) as project:
        use(project, TEXTS, tmp_path)
        dry = [project.forget("customer", key, dry_run=True) for key in TEXTS[:2]]
        keys = [*TEXTS[:2], "nobody-here"]
        both = project.forget("customer", keys=keys, dry_run=True)
        assert both.sources == {name: sum(one.sources[name] for one in dry) for name in dry[0].sources}
        done = project.forget("customer", keys=[*reversed(keys), TEXTS[0]], why="asked to")
        assert (done.counts, done.keys, done.nothing) == (both.counts, 3, ["nobody-here"])
        assert done.residue == [f for f in done.residue if TEXTS[0].encode() in (texts / ".trimtab" / f).read_bytes()]
        rows = [d for d in project.ledger() if d.act == "forget"]
        assert len({row.evidence["key_hash"] for row in rows}) == len(rows) == 2
        assert {row.evidence["keys"] for row in rows} == {2}
        assert dry[0].key_hash not in {None, done.key_hash}
        with pytest.raises(NotFound, match=r"no data of customer 'cust-0001' was found .* this key was erased"):
            project.forget("customer", TEXTS[0])
        with pytest.raises(NotFound, match=r"no data of these 3 keys of customer was .* Data of one of these keys"):
            project.forget("customer", keys=keys)
        again = shown(inputs(project, TEXTS))
    shutil.rmtree(texts / ".trimtab" / "online")
    with market.opened(texts) as project:
        assert shown(inputs(project, TEXTS)) == again


def test_more_keys_than_are_looked_for_one_by_one_go_as_well(texts: Path) -> None:
    with market.opened(texts) as project:
        expected = project.forget("customer", keys=TEXTS[:2], dry_run=True)
        many = [*TEXTS[:2], *(f"nobody-{n}" for n in range(40))]
        assert project.forget("customer", keys=many, dry_run=True).counts == expected.counts
        pairs = [(one, "shop1") for one in TEXTS]
        one_by_one = [project.forget("customer_shop", *pair, dry_run=True).counts["events"] for pair in pairs]
        assert project.forget("customer_shop", keys=pairs, dry_run=True).counts["events"] == sum(one_by_one)


@pytest.mark.fast
def test_keys_come_from_the_command_line_and_from_a_file(made_once: Made, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made_once(TEXTS), tmp_path / "project"))
    (tmp_path / "keys").write_text(f"customer\n{TEXTS[0]}\n\n{TEXTS[1]}\n")
    (tmp_path / "pairs").write_text(f"{TEXTS[0]},shop1\n{TEXTS[0]},shop1,7\n")

    def run(*arguments: str, **more: Any) -> str:
        done = CliRunner().invoke(trimtab, ["--project", str(folder), "forget", *arguments, "--dry-run"], **more)
        return done.output

    assert "2 keys of customer: would be erased: " in run("customer", TEXTS[0], TEXTS[1])
    assert "2 keys of customer: would be erased: " in run("customer", "--from", str(tmp_path / "keys"))
    assert "3 keys of customer: " in run("customer", "nobody", "--from", "-", input=f"{TEXTS[0]}\n{TEXTS[1]}\n")
    assert "a key has 2 values, but found 3 values." in run("customer_shop", TEXTS[0], "shop1", TEXTS[1])
    assert "line 2: give customer, shop, " in run("customer_shop", "--from", str(tmp_path / "pairs"))
    assert "Give a KEY, or --from FILE" in run("customer")
    assert "not found" in run("customer", "--from", str(tmp_path / "none"))
