"""keys and openapi as people call them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project.py").write_text("")
    (tmp_path / "trimtab.toml").write_text("")
    return tmp_path


def test_a_key_is_shown_once_listed_without_its_secret_and_removed(call: Run, project: Path) -> None:
    assert call("keys").stdout == "No key. Make one: trimtab keys add NAME --role predict\n"
    made = call("keys", "add", "shop", "--role", "predict", "--role", "read", "--rate", "5/s").stdout
    key = made.splitlines()[0]
    assert "cannot be shown again" in made
    assert "the first key" in made
    second = json.loads(call("keys", "add", "boss", "--role", "admin", "--json").stdout)
    assert second["key"].startswith("trimtab_")
    listed = call("keys").stdout
    assert "read, predict" in listed
    assert "5/s" in listed
    assert key not in listed
    rows = [json.loads(line) for line in call("keys", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == ["boss", "shop"]
    assert all("sha256" not in row for row in rows)
    assert call("keys", "remove", "shop").stdout == "Key 'shop' is removed; 1 key left.\n"
    assert call("keys", "remove", "boss").stdout == (
        "Key 'boss' is removed; no keys left.\n"
        "Every request is refused now: make a key (trimtab keys add NAME --role predict), "
        "or set serve.require_key = false.\n"
    )
    assert "Every request is refused now" in call("keys").stdout


def test_where_nobody_needs_a_key_removing_the_last_one_shuts_nobody_out(call: Run, project: Path) -> None:
    (project / "trimtab.toml").write_text("[serve]\nrequire_key = false\n")
    assert "from now on" not in call("keys", "add", "shop", "--role", "read").stdout
    assert call("keys", "remove", "shop").stdout == "Key 'shop' is removed; no keys left.\n"


def test_wrong_words_say_what_is_needed(call: Run, project: Path) -> None:
    assert call("keys", "add", "shop", "--role", "read").returncode == 0
    for words, status, said in (
        (("keys", "make", "x"), 2, "No such command 'make'"),
        (("keys", "add"), 2, "Missing argument 'NAME'"),
        (("keys", "add", "x"), 2, "no role"),
        (("keys", "add", "x", "--role", "root"), 2, "root"),
        (("keys", "add", "1 x", "--role", "read"), 2, "a name begins with a letter"),
        (("keys", "add", "x", "--role", "read", "--rate", "fast"), 2, "100/s"),
        (("keys", "add", "shop", "--role", "read"), 4, "a key of this name exists"),
        (("keys", "remove", "x"), 3, "There are: shop"),
        (("keys", "remove", "shop", "--rate", "1/s"), 2, "No such option '--rate'"),
    ):
        done = call(*words)
        assert (done.returncode, said in done.stderr) == (status, True), done.stderr


def test_the_document_is_printed_or_written(call: Run, project: Path) -> None:
    printed = json.loads(call("service", "openapi").stdout)
    assert printed["openapi"] == "3.1.0"
    assert "/health/ready" in printed["paths"]
    assert call("service", "openapi", "--out", "document.json").returncode == 0
    assert json.loads((project / "document.json").read_text()) == printed
    assert call("service", "openapi", "--out", "nowhere/document.json").returncode == 2
