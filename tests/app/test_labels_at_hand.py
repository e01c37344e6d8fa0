"""Labels given with no more than the id of a prediction and a value, in projects that `init` makes."""

from __future__ import annotations

import datetime as dt
import json
import random
import shlex
import shutil
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
import shop
from click.testing import CliRunner
from test_addresses import Asker

import trimtab as tt
from trimtab.app.data.label_tables import LabelsTaken, RefusedLabel
from trimtab.app.data.label_values import LabelValues
from trimtab.app.start.init.options import Options
from trimtab.app.start.init.scaffold import Scaffolded, scaffold
from trimtab.cli.data.labels import label_lines
from trimtab.cli.group import trimtab
from trimtab.core.clock import ShiftedClock
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, HOUR_US, format_time, parse_time_us

BEGIN = dt.datetime(2026, 1, 5)
DAYS = 90
NOW_US = parse_time_us("2026-04-05T06:00:00Z")  # the day after the newest row
OPTIONS: dict[str, dict[str, Any]] = {
    "bool": {},
    "words": {"wait": "1d"},
    "reversed": {"positive": "no"},
    "ones": {},
    "classes": {},
    "number": {},
    "entity": {"key": "id"},
    "known": {"time": "at", "known_at": "decided_at"},
    "american": {},  # times that the source declares a format for
}
VALUES: dict[str, list[tuple[object, float | str]]] = {  # what is given, and the label that it must be
    "bool": [(True, 1.0), (False, 0.0), ("yes", 1.0), ("no", 0.0), (0, 0.0)],
    "words": [(True, 1.0), (False, 0.0), ("churned", 1.0), ("stayed", 0.0), ("true", 1.0), (1, 1.0)],
    "reversed": [(True, 1.0), (False, 0.0)],
    "ones": [(True, 1.0), (False, 0.0), (2, 0.0), (1, 1.0)],
    "classes": [("green", "green"), ("red", "red")],
    "number": [(12, 12.0), (0.5, 0.5)],
    "entity": [(True, 1.0), (False, 0.0)],
    "known": [(True, 1.0), (False, 0.0)],
    "american": [(True, 1.0), (False, 0.0)],
    "panel": [(12, 12.0), (0.5, 0.5)],
}
TEXTS = {
    "bool": ("no", "yes"),
    "words": ("stayed", "churned"),
    "reversed": ("no", "yes"),
    "ones": ("2", "1"),
    "entity": ("no", "yes"),
    "known": ("no", "yes"),
    "american": ("no", "yes"),
}


def write(path: Path, kind: str) -> Path:
    rng = random.Random(1)
    lines = ["id,at,x,y" + ",decided_at" * (kind == "known")]
    for row in range(1_800):
        at, x = BEGIN + dt.timedelta(minutes=row * DAYS * 1440 // 1_800), rng.random()
        if kind == "classes":
            label = ("red", "green", "blue")[int(3 * min(0.99, max(0, x + rng.uniform(-0.2, 0.2))))]
        elif kind == "number":
            label = f"{10 * x + rng.random():.3f}"
        else:
            label = TEXTS[kind][rng.random() < x]
        key = f"c{row % 40}" if kind == "entity" else f"k{row}"
        known = f",{at + dt.timedelta(hours=rng.uniform(1, 20)):%Y-%m-%dT%H:%M:%S}" if kind == "known" else ""
        written = f"{at:%m/%d/%Y %H:%M:%S}" if kind == "american" else f"{at:%Y-%m-%dT%H:%M:%S}"
        lines.append(f"{key},{written},{x:.3f},{label}{known}")
    path.write_text("\n".join(lines) + "\n")
    return path


def panel(path: Path) -> Path:
    rng = random.Random(1)
    days = [BEGIN.date() + dt.timedelta(days=day) for day in range(DAYS)]
    lines = [f"{day},S{one},{100 + 20 * one + 9 * rng.random():.2f}" for day in days for one in range(5)]
    path.write_text("\n".join(["date,shop,sales", *lines]) + "\n")
    return path


def trained_on(folder: Path, kind: str) -> Scaffolded:
    """A project that `init` made of a file, trained at the end of it."""
    clock = ShiftedClock(NOW_US)
    if kind == "panel":
        made = scaffold(panel(folder / "data.csv"), folder / "made", Options(estimator="linear"), clock=clock)
    else:
        options = Options(label="y", estimator="linear", **OPTIONS[kind])
        made = scaffold(write(folder / "data.csv", kind), folder / "made", options, clock=clock)
    with tt.open(made.folder, clock=clock, environment={}) as project:
        for command in made.commands[:2]:
            project.ingest(shlex.split(command)[2], folder / "data.csv")
        project.train()
    return made


def request(made: Scaffolded, number: int = 0, at_us: int = NOW_US) -> dict[str, Any]:
    """A request of now, with a key of its own."""
    row: dict[str, Any] = json.loads(next(shlex.split(one)[4] for one in made.commands if " --row " in one))
    time = "date" if "date" in row else "at"
    row[time] = format_time(at_us // DAY_US * DAY_US if time == "date" else at_us)
    if "row_id" in row:
        row["row_id"] = f"own-{number}"
    else:
        row["id"] = f"new-{number}"
    return row


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(VALUES))
def test_an_id_and_a_value_are_enough_in_every_project_that_init_makes(tmp_path: Path, kind: str) -> None:
    made = trained_on(tmp_path, kind)
    with tt.open(made.folder, clock=ShiftedClock(NOW_US + HOUR_US), environment={}) as project:
        for number, (value, label) in enumerate(VALUES[kind]):
            (answer,) = project.predict(made.model, [request(made, number)])
            assert project.why(answer.id).label_state == "pending"
            assert project.label(answer.id, value).accepted == 1
            why = project.why(answer.id)
            assert (why.label_state, why.label) == ("labelled", label)
            if kind in ("entity", "panel"):  # what the history by key is made of is there as well
                frame = event_frame(project, made)
                assert frame.columns["id" if kind == "entity" else "shop"].to_list()[-1] is not None
            before = project.state.events.positions()
            project.label(answer.id, value)  # sent again, it is the same event
            project.history.refresh()
            assert project.state.events.positions() != before
            assert project.history.duplicates[event_source(made)] == number + 1
            project.tick()  # its day is still open
        with pytest.raises(Misuse, match="no day is closed yet"):
            project.status().plot()


def event_source(made: Scaffolded) -> str:
    return shlex.split(made.commands[1])[2]


def event_frame(project: Any, made: Scaffolded) -> Any:
    project.history.refresh()
    return project.history.frame(event_source(made))


@pytest.fixture(scope="module")
def words_once(tmp_path_factory: pytest.TempPathFactory) -> Scaffolded:
    return trained_on(tmp_path_factory.mktemp("words"), "words")


@pytest.fixture
def words(words_once: Scaffolded, tmp_path: Path) -> Scaffolded:
    """A copy of the project, because the clock of each test begins again."""
    folder = Path(shutil.copytree(words_once.folder, tmp_path / "words"))
    return msgspec.structs.replace(words_once, folder=folder)


def test_over_http_a_day_closes_with_a_label_of_an_id_and_a_value(words: Scaffolded) -> None:
    as_of = format_time(NOW_US + HOUR_US)
    with shop.serving(words.folder, "--as-of", as_of, "--workers", "2") as (_, url):
        ask, label = Asker(url), f"/v1/labels/{words.model}"
        ids = []
        for number in range(8):
            status, answer = ask("POST", f"/v1/models/{words.model}/predict", {"request": request(words, number + 100)})
            assert status == 200
            ids.append(answer["id"])
        for number, one in enumerate(ids[:6]):  # each over a connection of its own, so that both workers take some
            status, told = ask("POST", label, {"prediction": one, "value": number % 2 == 0})
            assert (status, told["accepted"], told["late"], told["absent"]) == (200, 1, 0, [])
            assert ask("POST", label, {"prediction": one, "value": number % 2 == 0})[0] == 200  # a retry
        assert ask("POST", label, {"prediction": ids[5], "value": True})[0] == 200  # a correction
        for wrong, status, field, said in (
            ({"prediction": "p_nothing", "value": True}, 404, None, "is not in the log"),
            ({"prediction": ids[6], "value": 0.5}, 422, "y", "wrong_type"),
            (
                {"prediction": ids[6], "value": True, "at": "2026-04-05T00:00:00Z"},
                422,
                "at",
                "the as-of time of the prediction",
            ),
            ({"prediction": ids[6]}, 422, "value", "give "),
            ({"prediction": ids[6], "value": None}, 422, "value", "null is no label"),
            (
                [{"prediction": ids[6], "value": True}, {"prediction": "p_nothing", "value": True}],
                404,
                None,
                "$[1].prediction: prediction 'p_nothing' is not",
            ),
            (
                [{"prediction": ids[6], "value": True}, {"prediction": ids[7], "value": None}],
                422,
                "value",
                "None of the 2 labels was taken",
            ),
        ):
            found, problem = ask("POST", label, wrong)
            assert (found, problem.get("field")) == (status, field), problem
            assert said in problem["detail"]
    with tt.open(words.folder, clock=ShiftedClock(NOW_US + 3 * DAY_US), environment={}) as project:
        project.tick()
        (day,) = project.quality(words.model, since=NOW_US // DAY_US * DAY_US).to_rows()
        assert (day["predictions"], day["labelled"], day["missing"]) == (8, 6, 2)
        assert 'aria-label="y: loss by day: 1 series (champion)' in str(project.status().plot())
        assert "Predicted and true rate" in str(picture := project.evaluation("y@champion").plot())
        assert "log_loss by day" in str(picture)
        states = [(project.why(one).label_state, project.why(one).label) for one in ids]
        assert states == [("labelled", value) for value in (1.0, 0.0, 1.0, 0.0, 1.0, 1.0)] + [("missing", None)] * 2
        assert project.label(ids[6], True).late == 1
        assert project.why(ids[6]).label_state == "late"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".ndjson"])
def test_a_file_of_labels_is_taken_and_the_rest_is_listed(words: Scaffolded, suffix: str, tmp_path: Path) -> None:
    with tt.open(words.folder, clock=ShiftedClock(NOW_US + HOUR_US), environment={}) as project:
        rows = [request(words, number + 1_000 * len(suffix)) for number in range(4)]
        ids = [answer.id for answer in project.predict(words.model, rows)]
        table = pl.DataFrame(
            {
                "prediction": [*ids[:3], "p_" + "0" * 26, None, ids[3]],
                "value": ["churned", "stayed", "true", "churned", "churned", None],
                "customer": ["a"] * 6,
            }
        )
        file = tmp_path / f"outcomes{suffix}"
        {".csv": table.write_csv, ".parquet": table.write_parquet, ".ndjson": table.write_ndjson}[suffix](file)
        taken = project.label_table(file)
        assert (taken.accepted, taken.refused, taken.models) == (3, 3, {words.model: 3})
        assert taken.ignored == ("customer",)
        assert taken.counted_as == {"churned": "true", "stayed": "false", "true": "true"}
        unit, first = ("line", 2) if suffix == ".csv" else ("row", 1)
        assert [(one.place, one.reason.split(".")[0]) for one in taken.problems] == [
            (f"{unit} {first + 3}", f"prediction '{'p_' + '0' * 26}' is not in the log"),
            (f"{unit} {first + 4}", "it names no prediction"),
            (f"{unit} {first + 5}", "it has no value"),
        ]
        assert [project.why(one).label for one in ids] == [1.0, 0.0, 1.0, None]


def test_the_ids_of_predictions_may_stand_under_the_names_that_answers_have(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained) as project:
        ids = [answer.id for answer in project.predict("buyer", [shop.visit(f"n{n}", shop.NOW_US) for n in range(4)])]
        labels = pl.DataFrame({"prediction_id": ids[:2], "prediction": ["a class"] * 2, "value": [True, False]})
        assert project.label_table(labels).accepted == 2
        (tmp_path / "answers.csv").write_text(f"id,value\n{ids[2]},true\n{ids[3]},false\n")
        assert project.label_table(tmp_path / "answers.csv").accepted == 2
        with pytest.raises(Misuse, match=r"label\.value: null is no label"):
            project.label(ids[0], float("nan"))
        assert project.label_table([]) == LabelsTaken(accepted=0, refused=0, late=0, models={})
        assert [project.why(one).label for one in ids] == [1.0, 0.0, 1.0, 0.0]


def test_a_file_of_labels_is_read_by_the_rules_of_the_labels_source(words: Scaffolded, tmp_path: Path) -> None:
    project_file = words.folder / "project.py"
    text, before = project_file.read_text(), f'"{event_source(words)}",'
    assert before in text
    project_file.write_text(text.replace(before, before + ' delimiter=";", time_format={"at": "%d.%m.%Y"},'))
    with tt.open(words.folder, clock=ShiftedClock(NOW_US + HOUR_US), environment={}) as project:
        answers = project.predict(words.model, [request(words, number) for number in range(3)])
    with tt.open(words.folder, clock=ShiftedClock(NOW_US + 3 * DAY_US), environment={}) as project:
        tomorrow = dt.datetime.fromtimestamp(answers[0].at_us / 1e6, dt.UTC) + dt.timedelta(days=1)
        times = [f"{tomorrow:%d.%m.%Y}", f"{tomorrow:%Y-%m-%d}", "soon"]
        rows = [f"{one.id};churned;{at}\n" for one, at in zip(answers, times, strict=True)]
        file = tmp_path / "outcomes.csv"
        file.write_text("prediction;value;at\n" + "".join(rows))
        taken = project.label_table(file)
        assert (taken.accepted, taken.refused) == (2, 1)
        assert taken.problems[0].reason == (
            "at is bad_time (found 'soon', needed ISO 8601 or in the format '%d.%m.%Y')"
        )


def test_many_labels_are_found_in_one_pass_through_the_log(words: Scaffolded, monkeypatch: pytest.MonkeyPatch) -> None:
    with tt.open(words.folder, clock=ShiftedClock(NOW_US + HOUR_US), environment={}) as project:
        answers = project.predict(words.model, [request(words, number) for number in range(150)])
        searched: list[str] = []
        find = project.predictions.find
        monkeypatch.setattr(project.predictions, "find", lambda one: (searched.append(one), find(one))[1])
        rows = [{"prediction": one.id, "value": place % 3 == 0} for place, one in enumerate(answers)]
        taken = project.label_table([*rows, {"prediction": "p_" + "0" * 26, "value": True}])
        assert (taken.accepted, taken.refused, searched) == (150, 1, ["p_" + "0" * 26])
        assert [project.why(one.id).label for one in answers[:4]] == [1.0, 0.0, 0.0, 1.0]


def test_the_command_says_how_many_were_taken_and_why_the_rest_was_not(words: Scaffolded, tmp_path: Path) -> None:
    with tt.open(words.folder, environment={}) as project:
        (answer,) = project.predict(words.model, [request(words, 9)])
    file = tmp_path / "outcomes.csv"
    file.write_text(f"prediction,value\n{answer.id},yes\np_nothing,no\n")
    shown = CliRunner().invoke(trimtab, ["label", str(file), "--project", str(words.folder)])
    assert shown.exit_code == 1
    assert shown.output == (
        "1 label taken, 1 refused\n"
        "  counted as true: 'yes'\n"
        "  line 3: prediction 'p_nothing' is not in the log. Ids look like p_01kne71xcn000001ttevzs38xs. Give the id "
        "of an answer.\n"
    )
    file.write_text(f"prediction,value\n{answer.id},yes\n")
    shown = CliRunner().invoke(trimtab, ["label", str(file), "--json", "--project", str(words.folder)])
    assert shown.exit_code == 0
    assert msgspec.json.decode(shown.output, type=LabelsTaken).accepted == 1
    for text, said in (
        ("prediction\np_1\n", "the columns 'prediction' and 'value'"),
        (
            "id,value\np_1,yes\n",
            "column 'prediction' of str is missing. There are id, value. Rows with the keys of requests "
            "instead of ids of predictions are events: ingest them into ",
        ),
        ("prediction;value\np_1;yes\n", "There are prediction;value. The file seems to be separated by ';'"),
    ):
        file.write_text(text)
        shown = CliRunner().invoke(trimtab, ["label", str(file), "--project", str(words.folder)])
        assert (shown.exit_code, said in shown.output) == (2, True)


def test_each_kind_of_reason_is_shown_in_full_once() -> None:
    later = "which is later than now, " * 4
    reasons = [f"the time of '{one}' is 2026-04-0{n}T10:00:00Z, {later}wait" for n, one in ((1, "a"), (2, "b"))]
    reasons.insert(1, "the value is of another type, " * 4 + "correct it")
    problems = tuple(RefusedLabel(f"line {n}", None, reason) for n, reason in enumerate(reasons, 2))
    lines = label_lines(LabelsTaken(accepted=0, refused=3, late=0, models={}, problems=problems))
    assert lines[1:3] == [f"  line 2: {reasons[0]}", f"  line 3: {reasons[1]}"]
    assert lines[3] == f"  line 4: {reasons[2][:100]}..."


def test_what_does_not_fit_is_said(words: Scaffolded) -> None:
    with tt.open(words.folder, clock=ShiftedClock(NOW_US + HOUR_US), environment={}) as project:
        (answer,) = project.predict(words.model, [request(words, 77)])
        with pytest.raises(NotFound, match=r"is not in the log\. Ids look like p_"):
            project.label("p_nothing", True)
        with pytest.raises(NotFound, match=r"is not in the log\. Give the id of an answer"):
            project.label("p_" + answer.id[2:][::-1], True)
        with pytest.raises(Misuse, match="y is wrong_type"):
            project.label(answer.id, 1.5)
        with pytest.raises(Misuse, match="the as-of time of the prediction"):
            project.label(answer.id, True, at=NOW_US)
        with pytest.raises(Misuse, match="cannot be given here"):
            project.label(answer.id, columns={"x": 1.0})
        with pytest.raises(Misuse, match='give "value" or "columns"'):
            project.label(answer.id)
        assert project.label(answer.id, columns={"y": "stayed"}).accepted == 1
        assert project.why(answer.id).label == 0.0


def late(column: str) -> tt.Expression:
    return tt.col(column) >= 30


def values(expression: tt.Expression, *others: tt.Expression, kind: type = float) -> LabelValues:
    source = tt.source("landings", time="at", key="id", columns={"id": str, "y": kind})
    return LabelValues(tt.label(source, key="id", value=expression, wait="1d"), [expression, *others])


def test_a_value_that_does_not_say_what_the_column_holds_is_refused_with_what_is_needed() -> None:
    with pytest.raises(Misuse, match=r"label is .col\('y'\) >= 30.*true does not say which value 'y' has"):
        values(late("y")).column_value(True)
    assert values(late("y")).column_value(45.0) == 45.0
    with pytest.raises(Misuse, match=r"found True\. Give a value of column 'y', which is of type float"):
        values(tt.col("y")).column_value(True)
    assert values(tt.col("y") == 2, kind=int).column_value(False) == 0
    with pytest.raises(Misuse, match="false does not say"):  # a feature reads the column itself
        values(tt.col("y") == 2, tt.col("y") * 2, kind=int).column_value(False)
    assert values(tt.col("y") == 2, tt.col("y") * 2, kind=int).column_value(True) == 2


@pytest.mark.parametrize("positive", ["yes", "no", "churned", "true", "1"])
@pytest.mark.parametrize("given", [True, False, "yes", "no", "true", "FALSE", "churned", "1", "0", "other", 1, 0])
def test_a_value_of_the_column_stays_and_a_truth_becomes_one(positive: str, given: object) -> None:
    found = values(tt.col("y") == positive, kind=str).column_value(given)
    assert isinstance(found, str)
    if isinstance(given, bool | int):
        assert (found == positive) is bool(given)
    elif given == positive or given == "other":
        assert found == given


@pytest.mark.parametrize("word", ["NaN", "n/a", "null"])
def test_a_word_for_no_value_takes_no_label_back(trained: Path, tmp_path: Path, word: str) -> None:
    with shop.opened(trained) as project:
        (answer,) = project.predict("buyer", [shop.visit("v1", shop.NOW_US)])
        shop.move(project, HOUR_US)
        file = tmp_path / "labels.csv"
        for value, taken in (("true", 1), (word, 0)):
            file.write_text(f"prediction,value\n{answer.id},{value}\n")
            found = project.label_table(file)
            assert (found.accepted, found.refused) == (taken, 1 - taken)
        assert "null is no label" in found.problems[0].reason
        assert project.why(answer.id).label == 1.0
