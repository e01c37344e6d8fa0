"""The feature definitions that versions were trained with, of a project whose file says something else by now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import shop

from trimtab.app.project import Project
from trimtab.app.state import live_definitions
from trimtab.store.ports import Blob


class Seen:
    """The blobs of a project; which of them its `LiveDefinitions` read."""

    def __init__(self, blob: Blob) -> None:
        self.read: list[str] = []
        self._blob = blob

    def get(self, digest: str) -> bytes:
        self.read.append(digest)
        return self._blob.get(digest)


@pytest.fixture
def changed(trained: Path) -> Iterator[Project]:
    (trained / "project.py").write_text(shop.PROJECT.replace('over="1d"', 'over="2d"'))
    with shop.opened(trained) as project:
        yield project


def test_the_definitions_of_a_version_that_is_loaded_are_not_read_once_more(
    changed: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, served = changed, changed.served("buyer")
    project.set_arm("buyer@1", "shadow", share=1.0)
    versions = [project.registry.get(name) for name in ("buyer@1", "buyer@2")]
    assert project.definitions.models["buyer"].features.hash not in {version.features for version in versions}
    project.live._of_version.clear()
    seen = Seen(project.state.blob)
    monkeypatch.setattr(project.live, "_blob", seen)
    loaded = served.refresh()
    project.live.views()
    assert not {version.artifact for version in versions} & set(seen.read)
    assert project.live.of(versions[1]) is served.answerers.features(loaded)
    assert served.answerers.features(loaded).hash == versions[1].features


def test_no_more_definitions_are_kept_than_have_room(changed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_definitions, "_MOST", 1)
    first, second = (changed.registry.get(name) for name in ("buyer@1", "buyer@2"))
    for version in (first, second, first):
        assert changed.live.of(version).hash == version.features
        assert list(changed.live._of_version) == [version.id]
