"""Make a new project from one data file (`trimtab init`)."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from trimtab.app.start.init.estimators import with_estimator
from trimtab.app.start.init.file.profile import FileProfile, profile
from trimtab.app.start.init.file.table import DataTable
from trimtab.app.start.init.file.texts import quoted
from trimtab.app.start.init.options import Assumption, Options
from trimtab.app.start.init.plan import Plan, plan
from trimtab.app.start.init.project_text import project_text, request_columns, settings_text
from trimtab.app.state.definitions import load_definitions
from trimtab.core.clock import Clock, SystemClock
from trimtab.core.config import FILE
from trimtab.core.errors import Conflict, Misuse, Unavailable
from trimtab.core.time import format_time
from trimtab.events.formats.reading import made_keys

_STATE = ".trimtab/"


class Scaffolded(msgspec.Struct, frozen=True, kw_only=True):
    """The new project, with the commands to run next."""

    folder: Path
    files: tuple[str, ...]  # the paths of the files, relative to the folder
    model: str
    profile: FileProfile
    assumed: tuple[Assumption, ...]
    left_out: dict[str, str]  # columns that are no features, each with the reason
    notes: tuple[str, ...]  # other remarks for the reader
    commands: tuple[str, ...]  # the commands to run in the folder, in this order


def scaffold(
    file: Path,
    folder: Path | None,
    options: Options,
    show: Callable[[FileProfile], object] = lambda found: None,
    show_plan: Callable[[Plan], object] = lambda planned: None,
    clock: Clock | None = None,
) -> Scaffolded:
    """Make a project in `folder` that reads this file, and later files like it, and trains on its rows.

    Args:
        file: The data. The file is neither moved nor changed.
        folder: The folder of the project; by default, named after the file.
        options: What the caller decided.
        show: Called with the profile of the file, before anything is assumed or refused.
        show_plan: Called with the plan, before anything is written.
        clock: Says which rows are dated in the future. The default is the system's clock.

    Raises:
        NotFound: The file does not exist, or lacks a named column.
        Misuse: The file cannot be read, the role of a column cannot be guessed, or a column does not fit its role.
        Conflict: A file of the project exists already. Nothing was changed.
        Unavailable: The folder cannot be written.
    """
    with DataTable(file, options.choices()) as table:
        found = profile(table)
        show(found)
        now_us = (clock or SystemClock()).now_us()
        planned = with_estimator(table, plan(table, options, now_us), options, now_us)
        show_plan(planned)
        folder = Path(planned.name) if folder is None else folder
        texts = {"project.py": project_text(table, planned), FILE: settings_text(planned)}
        row = _example(table, planned, now_us)
        needed = (planned.time, *(planned.key.of or (planned.key.name,)))
        whole = not table.bad and all(table.columns[name].present == table.rows for name in needed)
    ignored = _ignores(folder)
    if ignored is None:
        texts[".gitignore"] = f"{_STATE}\n"
    there = [name for name in texts if (folder / name).exists()]
    if there:
        raise Conflict(
            f"{folder}: found existing files: {', '.join(there)}. Choose another --folder, or move them away."
        )
    try:
        _write(folder, texts)
    except OSError as error:
        raise Unavailable(
            f"{folder}: cannot be written ({error.strerror or error}). Choose another --folder."
        ) from error
    notes = list(planned.notes)
    if ignored is False:
        notes.append(f"Add {_STATE} to {folder / '.gitignore'}: it is the project's state.")
    data = shlex.quote(os.path.relpath(file, folder))
    return Scaffolded(
        folder=folder,
        files=tuple(texts),
        model=planned.model,
        profile=found,
        assumed=planned.assumed,
        left_out=planned.left_out,
        notes=tuple(notes),
        commands=(
            f"trimtab ingest {planned.name} {data}",
            f"trimtab ingest {planned.labels} {data}",
            "trimtab train",
            # with rows that do not fit, this command may end with exit status 1
            *([f"trimtab predict {planned.model} {data} --out predictions.parquet"] if whole else []),
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


def _write(folder: Path, texts: dict[str, str]) -> None:
    """Write all files, or none.

    The files are written to a temporary folder, loaded, and then linked into place.
    """
    made = [parent for parent in (folder, *folder.absolute().parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    moved: list[Path] = []
    try:
        with tempfile.TemporaryDirectory(prefix=".trimtab-init-", dir=folder) as name:
            draft = Path(name)
            for file, text in texts.items():
                (draft / file).write_text(text, "utf-8")
            load_definitions(draft / "project.py")
            shutil.rmtree(draft / "__pycache__", ignore_errors=True)
            for file in texts:
                os.link(draft / file, folder / file)  # a link, unlike a rename, never replaces a file
                moved.append(folder / file)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        for path in made:
            with contextlib.suppress(OSError):  # the folder is not empty
                path.rmdir()
        raise


def _example(table: DataTable, planned: Plan, now_us: int) -> str:
    """Return the newest row as a request in JSON: not one that is dated after `now_us`, if there are others."""
    columns = request_columns(table, planned)
    own = [name for name in columns if name in table.columns]
    picked = [f"epoch_us({quoted(name)})" if columns[name] == "time" else quoted(name) for name in own]
    there = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in (planned.time, *planned.key.of))
    if not planned.key.of:
        there += f" AND {quoted(planned.key.name)} IS NOT NULL"
    time = quoted(planned.time)
    newest = f'ORDER BY epoch_us({time}) <= {now_us} DESC, {time} DESC, "@line" DESC LIMIT 1'
    values = table.connection.execute(f"SELECT {', '.join(picked)} FROM data WHERE {there} {newest}").fetchone()
    if values is None:
        raise Misuse(
            f"{table.file}: no row has both a time ({planned.time}) and a key ({planned.key.name}). "
            "Name other columns: --time COLUMN, --key COLUMN."
        )
    found = dict(zip(own, values, strict=True))
    if planned.key.of:
        (found[planned.key.name],) = made_keys(
            {name: [found[name]] for name in planned.key.of}, columns, planned.key.of
        )
    row = {
        name: format_time(found[name]) if dtype == "time" and found[name] is not None else found[name]
        for name, dtype in columns.items()
    }
    return json.dumps(row, ensure_ascii=False)
