"""A file comes again after its source's columns changed: it counts once, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import trimtab as tt
from trimtab.core.errors import Misuse

FILE = "customer,at,page,n\nc-1,2026-03-01T00:00:00Z,a,1\nc-2,2026-03-01T00:00:01Z,b,2\n"


def declare(folder: Path, columns: str) -> Path:
    (folder / "trimtab.toml").write_text("")
    text = f'import trimtab as tt\nvisits = tt.source("visits", time="at", columns={{"customer": str{columns}}})\n'
    (folder / "project.py").write_text(text)
    return folder


def counts(folder: Path, file: str, *, absent_ok: bool = False) -> int:
    (folder / "visits.csv").write_text(file)
    with tt.open(folder) as project:
        project.ingest("visits", folder / "visits.csv", absent_ok=absent_ok)
        project.history.refresh()
        return project.history.frame("visits").rows


@pytest.mark.parametrize("retained", [False, True])
def test_values_of_an_added_column_for_events_that_are_recorded_are_refused(tmp_path: Path, retained: bool) -> None:
    declare(tmp_path, "")
    assert counts(tmp_path, FILE) == 2
    if retained:
        with tt.open(tmp_path) as project:
            project.retain()
    declare(tmp_path, ', "page": str')
    with pytest.raises(Misuse, match=r"2 of 2 rows are recorded already, without page.*no key"):
        counts(tmp_path, FILE)
    assert counts(tmp_path, "customer,at\nc-1,2026-03-01T00:00:00Z\n", absent_ok=True) == 2
    new = "customer,at,page\nc-3,2026-03-01T00:00:00Z,a\n"
    assert counts(tmp_path, new) == 3
    assert counts(tmp_path, new) == 3
    assert counts(tmp_path, "_id,customer,at,page\nother,c-1,2026-03-01T00:00:00Z,a\n") == 4
    declare(tmp_path, ', "page": str, "n": int')
    with pytest.raises(Misuse, match=r"2 of 3 rows are recorded already, without page, n"):
        counts(tmp_path, FILE + "c-9,2026-03-01T00:00:00Z,a,1\n")


def test_a_column_that_the_file_still_has_and_the_source_has_not_is_refused(tmp_path: Path) -> None:
    declare(tmp_path, ', "page": str')
    assert counts(tmp_path, FILE) == 2
    declare(tmp_path, "")
    with pytest.raises(Misuse, match=r"2 of 2 rows are recorded already, with page"):
        counts(tmp_path, FILE)
    assert counts(tmp_path, FILE.replace("c-", "d-")) == 4
    assert counts(tmp_path, FILE.replace("c-", "d-")) == 4
