"""A service that ever had API keys, and has lost them with its catalogue: it does not open by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import shop
from alias_moves import AS_OF

from trimtab.app.keep.backup import restore
from trimtab.core.errors import Corrupt
from trimtab.serving.access_keys import MARKER, KeyFollower

LOST = r"needed API keys .*keys\.json.*trimtab keys add"


def lose_catalogue(folder: Path) -> None:
    for path in (folder / ".trimtab").glob("catalog.db*"):
        path.unlink()


@pytest.fixture
def closed(trained: Path) -> Path:
    with shop.opened(trained) as project:
        assert not project.keys.ever()
        project.keys.add("shop", ["predict"])
    return trained


def test_a_service_whose_catalogue_was_lost_asks_for_a_key_as_before(closed: Path) -> None:
    lose_catalogue(closed)
    with shop.opened(closed) as project, pytest.raises(Corrupt, match=LOST):
        project.serve(port=0)
    with shop.opened(closed) as project:
        assert project.keys.ever()
        project.keys.add("again", ["write"])
    row = {"site": "east", "level": 1.0, "read_at": AS_OF}
    with shop.serving(closed, "--as-of", AS_OF) as (_, url):
        assert shop.call(f"{url}/v1/events/readings", row)[0] == 401


def test_the_settings_may_open_it_all_the_same(closed: Path) -> None:
    lose_catalogue(closed)
    (closed / "trimtab.toml").write_text("[serve]\nrequire_key = false\n")
    row = {"site": "east", "level": 1.0, "read_at": AS_OF}
    with shop.serving(closed, "--as-of", AS_OF) as (_, url):
        assert shop.call(f"{url}/v1/events/readings", row)[0] == 200


def test_a_backup_from_before_the_first_key_does_not_open_the_service(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained) as project:
        project.backup(tmp_path / "without")
        project.keys.add("shop", ["predict"])
        project.backup(tmp_path / "with")
    restore(tmp_path / "without", trained / ".trimtab", force=True)
    with shop.opened(trained) as project, pytest.raises(Corrupt, match=LOST):
        project.serve(port=0)
    other = shop.write_project(tmp_path / "other", online=True)
    restore(tmp_path / "with", other / ".trimtab")
    lose_catalogue(other)
    with shop.opened(other) as project, pytest.raises(Corrupt, match=LOST):
        project.serve(port=0)


def test_keys_of_an_older_version_are_marked_when_it_is_served(closed: Path) -> None:
    marker = closed / ".trimtab" / MARKER
    marker.unlink()
    told: list[bool] = []
    with shop.opened(closed) as project:
        with KeyFollower(project.keys, lambda keys, ever: told.append(ever)):
            assert marker.exists()
        project.keys.remove("shop")  # and a key is needed all the same
        assert (project.keys.ever(), project.keys.lost()) == (True, False)
    assert told[0]


def test_a_kill_between_marker_and_key_leaves_it_closed_and_the_key_can_be_made(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.keys.mark()
        assert project.keys.lost()
        project.keys.add("shop", ["predict"])
        assert not project.keys.lost()
