"""A trained project, made once and copied for each test; and the folder of `shop` on the path."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import shop

import forked
from trimtab.serving.workers import worker


@pytest.fixture(autouse=True)
def quick_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the workers of a service that runs in this process."""
    monkeypatch.setattr(worker, "subprocess", forked.LIKE_SUBPROCESS)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shop.write_project(tmp_path_factory.mktemp("shop") / "trained", online=True)
    with shop.opened(folder) as project:
        shop.load(project)
        for name in project.definitions.deployments:
            assert [d.act for d in project.train(name)][-1] == "promote"
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """Return a copy of the project with two deployments, which the test may change."""
    return Path(shutil.copytree(trained_once, tmp_path / "project"))
