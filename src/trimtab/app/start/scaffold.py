"""Make a new project from one data file (`trimtab init`)."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path

import msgspec

from trimtab.app.start.scaffold_plan import Estimator, Options, Plan, plan, python, slug
from trimtab.app.start.scaffold_table import DataTable, literal, quoted, unique
from trimtab.app.state.definitions import load_definitions
from trimtab.core.columns.data import Dtype
from trimtab.core.config import FILE
from trimtab.core.errors import Conflict, Unavailable
from trimtab.core.time import format_time

__all__ = ["Estimator", "Options", "Scaffolded", "scaffold"]

_STATE = ".trimtab/"
_TYPES: dict[Dtype, str] = {"float": "float", "int": "int", "bool": "bool", "str": "str", "time": "tt.Time"}


class Scaffolded(msgspec.Struct, frozen=True, kw_only=True):
    """The new project, with the commands to run next."""

    folder: Path
    files: tuple[str, ...]  # the paths of the files, relative to the folder
    model: str
    notes: tuple[str, ...]  # what was guessed, left out and changed
    commands: tuple[str, ...]  # the commands to run in the folder, in this order


def scaffold(file: Path, folder: Path | None, options: Options) -> Scaffolded:
    """Make a project in `folder` that trains on the rows of a file.

    Without `folder`, the folder is named after the file.

    Raises:
        NotFound: The file does not exist, or it does not have a column that is named.
        Misuse: The file cannot be read, or the role of a column cannot be guessed, or a column does not fit its role.
        Conflict: A file of the project exists already. Nothing was changed.
        Unavailable: The folder cannot be written.
    """
    with DataTable(file) as table:
        planned = plan(table, options)
        folder = Path(planned.name) if folder is None else folder
        data, labels = f"data/{planned.name}.parquet", f"data/{planned.labels}.parquet"
        texts = {"project.py": _project(planned), FILE: _settings(planned)}
        ignored = _ignores(folder)
        if ignored is None:
            texts[".gitignore"] = f"{_STATE}\n"
        there = [name for name in (*texts, data, labels) if (folder / name).exists()]
        if there:
            raise Conflict(
                f"{folder}: found existing files: {', '.join(there)}. Choose another --folder, or move them away."
            )
        try:
            _write(table, planned, folder, texts, data, labels)
        except OSError as error:
            raise Unavailable(
                f"{folder}: cannot be written ({error.strerror or error}). Choose another --folder."
            ) from error
        row = _example(table, planned)
    notes = [*planned.notes, *(f"Left out: {name!r} {why}." for name, why in planned.left_out.items())]
    if ignored is False:
        notes.append(f"Add {_STATE} to {folder / '.gitignore'}: it is the project's state.")
    return Scaffolded(
        folder=folder,
        files=(*texts, data, labels),
        model=planned.model,
        notes=tuple(notes),
        commands=(
            f"trimtab ingest {planned.name} {data}",
            f"trimtab ingest {planned.labels} {labels}",
            "trimtab train",
            f"trimtab predict {planned.model} {data} --out predictions.parquet",
            f"trimtab predict {planned.model} --row {shlex.quote(row)}",
            "trimtab serve",
        ),
    )


def _ignores(folder: Path) -> bool | None:
    """Return whether the .gitignore of the folder excludes the state, or None if there is no .gitignore."""
    try:
        lines = (folder / ".gitignore").read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return None
    except OSError:
        return False
    return any(line.strip().strip("/") == _STATE.strip("/") for line in lines)


def _write(table: DataTable, planned: Plan, folder: Path, texts: dict[str, str], data: str, labels: str) -> None:
    """Write all files, or none.

    The files are written to a temporary folder, loaded, and then linked into place.
    """
    made = [parent for parent in (folder, *folder.absolute().parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    moved: list[Path] = []
    try:
        with tempfile.TemporaryDirectory(prefix=".trimtab-init-", dir=folder) as name:
            draft = Path(name)
            (draft / "data").mkdir()
            for file, text in texts.items():
                (draft / file).write_text(text, "utf-8")
            load_definitions(draft / "project.py")
            shutil.rmtree(draft / "__pycache__", ignore_errors=True)
            _write_data(table, planned, draft / data, draft / labels)
            (folder / "data").mkdir(exist_ok=True)
            for file in (data, labels, *texts):
                os.link(draft / file, folder / file)  # unlike a rename, a link never replaces a file
                moved.append(folder / file)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        for path in (folder / "data", *made):
            with contextlib.suppress(OSError):  # the folder is not empty
                path.rmdir()
        raise


def _write_data(table: DataTable, planned: Plan, data: Path, labels: Path) -> None:
    columns = ", ".join(quoted(name) for name in _request_columns(planned) if name != planned.key)
    entity = f", {quoted(planned.entity)}" if planned.entity else ""
    key, time = quoted(planned.key), quoted(planned.time)
    table.connection.execute(
        f"CREATE TABLE keyed AS SELECT {planned.key_sql} AS {key}, * "
        + (f"EXCLUDE ({key})" if planned.key in table.columns else "")
        + " FROM data"
    )
    order = f"ORDER BY {time}, {key}"
    table.connection.execute(
        f"COPY (SELECT {key}, {columns} FROM keyed {order}) TO {literal(str(data))} (FORMAT parquet)"
    )
    table.connection.execute(
        f"COPY (SELECT {key}, {time}{entity}, {quoted(planned.label)} FROM keyed "
        f"WHERE {quoted(planned.label)} IS NOT NULL {order}) TO {literal(str(labels))} (FORMAT parquet)"
    )


def _request_columns(planned: Plan) -> dict[str, Dtype]:
    columns: dict[str, Dtype] = {planned.key: planned.key_dtype, planned.time: "time"}
    if planned.entity is not None:
        columns[planned.entity] = planned.entity_dtype
    return columns | {c.name: c.dtype for c in planned.features if c.dtype is not None}


def _example(table: DataTable, planned: Plan) -> str:
    """Return the newest row as a request in JSON."""
    columns = _request_columns(planned)
    picked = [f"epoch_us({quoted(n)})" if dtype == "time" else quoted(n) for n, dtype in columns.items()]
    found = table.one(
        f"SELECT {', '.join(picked)} FROM keyed WHERE {quoted(planned.time)} IS NOT NULL "
        f"ORDER BY {quoted(planned.time)} DESC, {quoted(planned.key)} DESC LIMIT 1"
    )
    row = {
        name: format_time(value) if columns[name] == "time" and value is not None else value
        for name, value in zip(columns, found, strict=True)
    }
    return json.dumps(row, ensure_ascii=False)


# --- texts of files


def _settings(planned: Plan) -> str:
    return f"""# All settings: docs/settings.md. TRIMTAB_SERVE_PORT=9000 in the environment wins over this file.
[project]
name = {python(planned.name)}

[serve]
port = 8117
"""


def _project(planned: Plan) -> str:
    kind = "is" if planned.binary else "will be"
    what = f"{planned.label!r} {kind} {planned.label_value}" if planned.label_value else repr(planned.label)
    parts = [
        f'"""Predicts {_one_line(what)}. Written by `trimtab init`; change it as you like."""',
        "import trimtab as tt",
        _declarations(planned),
        *([_history(planned)] if planned.entity else []),
        _features(planned),
        _estimator(planned),
        _model(planned),
    ]
    return "\n\n".join(f"\n{part}\n" if part.startswith("def ") else part for part in parts) + "\n"


def _one_line(text: str) -> str:
    return text.replace("\\", "/").replace('"', "'")


def _columns(columns: dict[str, Dtype]) -> str:
    return "".join(f"        {python(name)}: {_TYPES[dtype]},\n" for name, dtype in columns.items())


def _declarations(planned: Plan) -> str:
    key, time = python(planned.key), python(planned.time)
    labels: dict[str, Dtype] = {planned.key: planned.key_dtype}
    if planned.entity is not None:
        labels[planned.entity] = planned.entity_dtype
    labels[planned.label] = planned.label_dtype
    value = f"tt.col({python(planned.label)})"
    if planned.label_value is not None:
        value += f" == {planned.label_value}"
    return f"""# Requests to the model: the same columns in a file, in Python and over HTTP.
question = tt.request(
    {python(planned.name)},
    key={key},
    time={time},
    columns={{
{_columns(_request_columns(planned))}    }},
)

# Outcomes. The file does not say when a label became known: {planned.wait} after its row is assumed.
labels = tt.source(
    {python(planned.labels)},
    key={key},
    time={time},
    delay={python(planned.wait)},
    columns={{
{_columns(labels)}    }},
)
truth = {value}"""


def _history(planned: Plan) -> str:
    features = '"rows": tt.count(), "mean_label": tt.mean(truth), "last_label": tt.latest(truth)'
    if planned.classes:
        shares = [f'"share_{n}": tt.mean(truth == {python(one)})' for n, one in enumerate(planned.classes, 1)]
        features = ", ".join(['"rows": tt.count()', *shares])
    return f"""# What was known of the same {_one_line(repr(planned.entity))} at the time of the request.
history = tt.view(
    "history",
    source=labels,
    by={python(planned.entity)},
    features={{{features}}},
)"""


def _features(planned: Plan) -> str:
    lines: list[str] = []
    taken: set[str] = set()
    for column in planned.features:
        name = unique(slug(column.name, "column"), taken)
        taken.add(name)
        call = ".category()" if column.dtype == "str" else ""
        lines.append(f"    {python(name)}: tt.col({python(column.name)}){call},\n")
    if planned.has_hours:
        lines.append(f"    {python(unique('hour', taken))}: tt.col({python(planned.time)}).hour(),\n")
    lines.append(f"    {python(unique('weekday', taken))}: tt.col({python(planned.time)}).weekday(),\n")
    left = "".join(
        f"    # left out: {python(name)} {' '.join(why.split())}\n" for name, why in planned.left_out.items()
    )
    return f"features = {{\n{''.join(lines)}{left}}}"


def _estimator(planned: Plan) -> str:
    classifier = planned.binary or bool(planned.classes)
    kind = "Classifier" if classifier else "Regressor"
    if planned.trees:
        leaf = max(1, min(20, planned.rows // 50))
        made = f"LGBM{kind}(n_estimators=200, learning_rate=0.05, num_leaves=15, min_child_samples={leaf}, verbose=-1)"
        return f"def estimator():\n    from lightgbm import LGBM{kind}\n\n    return {made}"
    name, arguments = ("LogisticRegression", "max_iter=1000") if classifier else ("Ridge", "")
    return f"def estimator():\n    from sklearn.linear_model import {name}\n\n    return {name}({arguments})"


def _model(planned: Plan) -> str:
    metric = "multi_log_loss" if planned.classes else "log_loss" if planned.binary else "squared_error"
    classes = f", classes=[{', '.join(map(python, planned.classes))}]" if planned.classes else ""
    listed = "[history, features]" if planned.entity else "[features]"
    return f"""model = tt.model(
    {python(planned.model)},
    request=question,
    features={listed},
    label=tt.label(labels, key={python(planned.key)}, value=truth, wait={python(planned.wait)}{classes}),
    estimator=estimator,
    metric={python(metric)},
)

# Train again when quality has dropped, or after 30 days; promote a version only if it is shown to be better.
tt.deployment(
    model,
    retrain=tt.on_quality_drop() | tt.every("30d"),
    gate=tt.beats_champion(window={python(planned.window)}, calibration={planned.calibration:g}),
)"""
