"""Online features in a key-value store that has no files in the state folder, as on a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import shop

from trimtab.app.inspect.doctor import examine
from trimtab.core.errors import Misuse
from trimtab.features.online.read.entity_read import read_entity
from trimtab.store import opening
from trimtab.testing import MemoryKeyValue

URL = "shared://cache:6379/0"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryKeyValue]:
    """A backend of its own file and row, whose store outlives every project of this process."""
    store, module = MemoryKeyValue(), ModuleType("trimtab.store.shared")
    module.opened = lambda url, repair: store  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = opening._Backend(opens="shared:opened", example=URL, takes=("repair",), server=True)
    monkeypatch.setitem(opening._BACKENDS, ("shared", "kv"), row)
    return store


def test_a_backend_needs_its_own_file_and_its_row_to_keep_the_online_features_of_a_project(
    trained: Path, server: MemoryKeyValue, tmp_path: Path
) -> None:
    with shop.opened(trained) as project:
        views = list(project.views.views)
        project.views.catch_up()
        embedded = read_entity(project.state.online, views, ["north"], shop.NOW_US).views
    (trained / ".trimtab" / "online").rename(tmp_path / "online")
    with (trained / "trimtab.toml").open("a") as settings:
        settings.write(f'\n[store]\nonline = "{URL}"\n')
    with shop.opened(trained) as project:
        project.views.catch_up()
        assert read_entity(server, views, ["north"], shop.NOW_US).views == embedded
        server.write({next(server.scan(b""))[0]: b"damaged"})
        assert project.rebuild_all() > 0
        assert read_entity(server, views, ["north"], shop.NOW_US).views == embedded
        project.backup(tmp_path / "backup")
        assert project.status().red == []
    assert next(one for one in examine(trained, {}) if one.name == "state").state == "ok"
    assert not (trained / ".trimtab" / "online").exists()


def test_a_store_that_is_not_on_a_server_stays_in_the_state_folder(trained: Path) -> None:
    with (trained / "trimtab.toml").open("a") as settings:
        settings.write('\n[store]\nonline = "lmdb:///tmp/elsewhere"\n')
    with pytest.raises(Misuse, match=r"\[store\]: found 'lmdb:///tmp/elsewhere', needed the URL of a server"):
        shop.opened(trained)
