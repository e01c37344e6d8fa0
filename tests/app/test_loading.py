"""Files into the log: slice by slice, with every row counted and bad cells in quarantine."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
import shop

from trimtab.core.errors import Misuse, NotFound


@pytest.mark.fast
def test_mistyped_cells_go_to_quarantine_and_the_rest_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text(
        "site,level,read_at\nnorth,1.5,2024-03-01T00:00:00Z\nnorth,warm,2024-03-01T01:00:00Z\n"
        "north,2.5,never\nsouth,2.5,2024-03-01T03:00:00Z\nsouth,3.5,\n"
    )
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        seen: list[tuple[int, int]] = []
        pushed = project.ingest("readings", file, progress=lambda done, of: seen.append((done, of)))
        assert (pushed.accepted, pushed.quarantined) == (2, 3)
        assert [(p.row, p.field, p.found) for p in pushed.problems[:2]] == [
            (2, "level", "warm"),
            (3, "read_at", "never"),
        ]
        assert seen[0] == (0, 5)
        assert seen[-1] == (5, 5)
        counts = project.quarantine.counts()["readings"]
        assert sum(counts.values()) == 3
        project.history.refresh()
        assert project.history.frame("readings").columns["level"].to_list() == [1.5, 2.5]
        assert next(s for s in project.status().sources if s.name == "readings").quarantined == counts


def test_progress_is_told_slice_by_slice(tmp_path: Path) -> None:
    file = tmp_path / "readings.parquet"
    duckdb.sql(
        "SELECT 'north' AS site, i::DOUBLE AS level, TIMESTAMP '2024-03-01' + to_seconds(i) AS read_at "
        "FROM range(45000) t(i)"
    ).write_parquet(str(file))
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        seen: list[tuple[int, int]] = []
        pushed = project.ingest("readings", file, progress=lambda done, of: seen.append((done, of)))
        assert [done for done, _ in seen] == [0, 0, 20_000, 40_000, 45_000]
        assert (pushed.accepted, pushed.position) == (45_000, 45_000)
        assert project.ingest("readings", file).accepted == 45_000
        project.history.refresh()
        assert project.history.frame("readings").rows == 45_000


def test_what_is_no_table_of_the_source_is_refused_whole(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("site,level\nnorth,1.5\n")
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        with pytest.raises(Misuse, match="read_at"):
            project.ingest("readings", file)
        with pytest.raises(NotFound):
            project.ingest("nothing", file)
        assert project.state.events.positions() == {}
