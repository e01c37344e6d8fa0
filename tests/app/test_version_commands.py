from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shop
from click.testing import CliRunner

from trimtab.cli.group import trimtab


def run(folder: Path, *words: str, status: int = 0) -> str:
    done = CliRunner().invoke(trimtab, ["--project", str(folder), *words])
    assert done.exit_code == status, done.output
    return done.output


@pytest.fixture(scope="module")
def folder(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    return Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("commands") / "project"))


def test_one_version_is_shown_with_its_signature(folder: Path) -> None:
    text = run(folder, "versions", "show", "buyer@champion")
    for said in (
        "buyer@2",
        "aliases: champion",
        "visit_id  str",
        "site.level_1d",
        "the probability of the positive class",
    ):
        assert said in text
    document = json.loads(run(folder, "--json", "versions", "show", "buyer@2"))
    assert [field["name"] for field in document["signature"]["request"]] == ["visit_id", "site", "at", "x"]
    run(folder, "versions", "show", "buyer@9", status=3)


def test_two_versions_are_compared_and_a_page_is_written(folder: Path, tmp_path: Path) -> None:
    text = run(
        folder, "versions", "compare", "buyer@1", "buyer@2", "--window", "5d", "--html", str(tmp_path / "c.html")
    )
    assert "Predictions for the same rows" in text
    assert (tmp_path / "c.html").read_text("utf-8").startswith("<!doctype html>")
    document: dict[str, Any] = json.loads(
        run(folder, "--json", "versions", "compare", "buyer@1", "buyer@2", "--no-rows")
    )
    assert document["predictions"] is None
    run(folder, "versions", "compare", "buyer@1", "learner@1", "--no-rows", status=2)
    missing = str(tmp_path / "absent" / "c.html")
    assert "cannot be written" in run(
        folder, "versions", "compare", "buyer@1", "buyer@2", "--no-rows", "--html", missing, status=2
    )


def test_a_card_is_shown_or_written(folder: Path, tmp_path: Path) -> None:
    assert run(folder, "versions", "card", "buyer@2").startswith("# buyer@2")
    run(folder, "versions", "card", "buyer@2", "--html", str(tmp_path / "card.html"))
    assert "model card" in (tmp_path / "card.html").read_text("utf-8")
    assert json.loads(run(folder, "--json", "versions", "card", "buyer@2"))["markdown"].startswith("# buyer@2")


def test_a_version_leaves_and_comes_back(folder: Path, tmp_path: Path) -> None:
    assert "predict.py --check" in run(folder, "versions", "export", "buyer@2", str(tmp_path / "out"))
    run(folder, "versions", "export", "buyer@2", str(tmp_path / "out"), status=4)
    text = run(folder, "versions", "import", str(tmp_path / "out"), "--model", "buyer")
    assert "checked on 9 golden rows" in text
    assert "It serves nothing yet" in text
    run(folder, "versions", "import", str(tmp_path / "absent"), "--model", "buyer", status=3)
    said = run(folder, "versions", "import", str(tmp_path / "out"), "--model", "buyer", "--category", "site", status=2)
    assert "--category 'site'" in said
    with shop.opened(folder) as project:
        assert "It was imported from out" in project.card("buyer@3")
        assert "not trained here" in project.card("buyer@3", html=True)
