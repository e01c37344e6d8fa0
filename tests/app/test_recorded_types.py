"""The types of recorded columns stay those of the source, whatever was truncated, removed or restored since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import shop

from trimtab.app.keep.backup import restore
from trimtab.app.project import Project
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US

REFUSED = (
    "source 'readings': column 'level' is declared int, but recorded events hold it as float. Declare it float and "
    "convert it in features, or send the new values as a column of another name."
)


def declare(folder: Path, level: str = ', "level": float', settings: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trimtab.toml").write_text(settings)
    columns = f'columns={{"site": str{level}}}'
    text = f"""
import trimtab as tt

readings = tt.source("readings", time="read_at", {columns})
other = tt.source("other", time="at", columns={{"site": str}})
"""
    (folder / "project.py").write_text(text)
    return folder


def push(project: Project, level: object = 1.5, days: int = 0) -> int:
    row = {"site": "north", "read_at": project.clock.now_us() - days * DAY_US, "level": level}
    return project.ingestor.push("readings", [row], history=True).accepted


def retained(folder: Path) -> None:
    with shop.opened(folder) as project:
        project.retain()


def removed_by_age(folder: Path) -> None:
    declare(folder, settings='[retention]\nevents = "10d"\n')
    with shop.opened(folder, shop.NOW_US + 60 * DAY_US) as project:
        project.push("other", [{"site": "x", "at": project.clock.now_us()}])
        assert project.retain().expired == {"readings": 1}


def restored(folder: Path) -> None:
    retained(folder)
    with shop.opened(folder) as project:
        project.backup(folder.parent / "kept")
        state = project.state_folder
    restore(folder.parent / "kept", state, force=True)


@pytest.mark.parametrize("then", [retained, removed_by_age, restored], ids=lambda one: one.__name__)
def test_another_type_of_a_column_is_refused_whatever_became_of_its_events(
    tmp_path: Path, then: Callable[[Path], None]
) -> None:
    folder = declare(tmp_path / "project")
    with shop.opened(folder) as project:
        assert push(project) == 1
    then(folder)
    declare(folder, ', "level": int')
    with shop.opened(folder) as project:
        assert project.plan().refused == [REFUSED]
        for act in (project.apply, project.retain, lambda: push(project, 2)):
            with pytest.raises(Misuse, match="recorded events hold it as float"):
                act()
    declare(folder)
    with shop.opened(folder) as project:
        assert project.plan().refused == []
        assert push(project, 2.5) == 1
        project.history.refresh()
        assert project.history.frame("readings").columns["level"].to_list()[-1] == 2.5


def test_a_removed_column_comes_back_as_the_type_that_it_had_only(tmp_path: Path) -> None:
    folder = declare(tmp_path / "project")
    with shop.opened(folder) as project:
        assert push(project) == 1
    retained(declare(folder, ""))
    declare(folder, ', "level": int')
    with shop.opened(folder) as project:
        assert project.plan().refused == [REFUSED]
    declare(folder)
    with shop.opened(folder) as project:
        project.history.refresh()
        assert project.history.frame("readings").columns["level"].to_list() == [1.5]


def test_a_type_may_change_as_long_as_no_event_was_ever_recorded(tmp_path: Path) -> None:
    folder = declare(tmp_path / "project", ', "level": int')
    with shop.opened(folder) as project:
        assert push(project, "much") == 0
        assert project.push("other", [{"site": "x", "at": project.clock.now_us()}]).accepted == 1
        project.retain()  # its table of record is made, of no rows
    declare(folder)
    with shop.opened(folder) as project:
        assert project.plan().refused == []
        assert push(project, 1.5) == 1
        project.retain()
    with shop.opened(folder) as project:
        project.history.refresh()
        assert project.history.frame("readings").columns["level"].to_list() == [1.5]


def test_a_column_is_noted_before_the_log_has_its_first_event(tmp_path: Path) -> None:
    with shop.opened(declare(tmp_path / "project")) as project:
        noted: list[tuple[bool, int]] = []
        note = project.layouts.note

        def seen(source: str) -> None:
            note(source)
            with shop.opened(tmp_path / "project") as other:
                noted.append((other.layouts.has_events(source), sum(other.state.events.positions().values())))

        project.layouts.note = seen  # type: ignore[method-assign]  # looked at on its way
        assert [push(project), push(project, 2.5)] == [1, 1]
        assert noted == [(True, 0)]
