"""The documents: every public name, setting and error is in the reference, and what they show runs."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

import forked
import tour
import trimtab
from trimtab.cli.group import trimtab as trimtab_command
from trimtab.core.config import Config, DemoSettings, ScenarioSettings
from trimtab.core.errors import TrimtabError

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "reference.md").read_text("utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STARTS_A_PROCESS = {"trimtab.cli.__main__"}
TRIMTAB = [sys.executable, "-m", "trimtab.cli"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[int, str, str]]:
    """Line, language and text of each fenced block."""
    text = document.read_text("utf-8")
    return [(text.count("\n", 0, m.start(2)) + 1, m[1], m[2]) for m in BLOCK.finditer(text)]


def run_blocks(document: Path, names: dict[str, Any], *, commands: bool = False) -> None:
    """Run the Python blocks of a document one after another, and the `trimtab` commands between them.

    Blocks with prompts are doctests; all share `names`.
    """
    for line, language, text in blocks(document):
        where = f"{document.name}, line {line}"
        if language == "python" and ">>> " in text:
            test = doctest.DocTestParser().get_doctest(text, names, where, str(document), line - 1)
            report: list[str] = []
            doctest.DocTestRunner(verbose=False).run(test, out=report.append, clear_globs=False)
            assert not report, "".join(report)
            names.update(test.globs)
        elif language == "python":
            code = compile("\n" * (line - 1) + text, str(document), "exec")
            exec(code, names)  # what the document says is what is tested
        elif language == "sh" and commands:
            for words in map(shlex.split, filter(None, text.splitlines())):
                if words[0] == "cd":
                    os.chdir(words[1])
                else:
                    assert words[0] == "trimtab", f"{where}: only trimtab commands can be run"
                    run_command(words[1:], where)


def run_command(words: list[str], where: str) -> None:
    """In this process: seven starts of Python would take longer than all the rest."""
    done = CliRunner().invoke(trimtab_command, words)
    assert done.exit_code == 0, f"{where}: trimtab {shlex.join(words)}\n{done.output}"


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}


@pytest.fixture(scope="module")
def tutorial_names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tutorial, done once in a folder of its own; what its blocks defined, and `__folder__`."""
    folder, before = tmp_path_factory.mktemp("tutorial"), Path.cwd()
    names: dict[str, Any] = {"__name__": "tutorial", "__folder__": folder}
    os.chdir(folder)
    try:
        run_blocks(ROOT / "docs" / "tutorial.md", names, commands=True)
    finally:
        os.chdir(before)
    return names


@pytest.fixture
def served(tutorial_names: dict[str, Any]) -> Iterator[str]:
    """The URL of the tutorial's project, served."""
    command = [*TRIMTAB, "--project", str(tutorial_names["__folder__"] / "orders"), "serve", "--port", "0"]
    server = forked.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        yield found[0]
    finally:
        server.terminate()
        assert server.wait(60) == 0
        server.stdout.close()


def test_the_reference_names_every_public_name_and_no_other():
    assert set(re.findall(r"`tt\.(\w+)", REFERENCE)) == set(trimtab.__all__)


def test_a_wrong_example_is_found(tmp_path: Path):
    document = tmp_path / "wrong.md"
    document.write_text("```python\n>>> 1 + 1\n3\n\n```\n")
    with pytest.raises(AssertionError, match="Expected"):
        run_blocks(document, {})


def test_every_method_of_a_project_is_in_the_reference():
    own = {name: value for kind in trimtab.Project.__mro__[:3] for name, value in vars(kind).items()}
    methods = [name for name, value in own.items() if callable(value) and name[0] != "_"]
    assert [name for name in methods if f"`project.{name}(" not in REFERENCE] == []


def test_every_method_of_an_expression_is_documented():
    from trimtab.core.expressions.nodes import Expression

    text = (ROOT / "docs" / "expressions.md").read_text("utf-8") + REFERENCE
    methods = [name for name, value in vars(Expression).items() if callable(value) and name[0] != "_"]
    assert [name for name in methods if f".{name}(" not in text] == []


def settings() -> list[str]:
    """Every setting as the reference writes it."""
    out = []
    for field in msgspec.structs.fields(Config):
        if field.name == "folder":
            continue  # where trimtab.toml stands, no setting
        kind = DemoSettings if field.name == "demo" else field.type
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            out += [f"{field.name}.{inner.name}" for inner in msgspec.structs.fields(kind)]
        else:
            out.append(field.name)
    return out + [f"demo.lines.{field.name}" for field in msgspec.structs.fields(ScenarioSettings)]


@pytest.mark.parametrize("document", ["reference.md", "settings.md"])
def test_every_setting_is_documented(document: str):
    text = (ROOT / "docs" / document).read_text("utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \|", text, flags=re.MULTILINE)
    known = rows if document == "reference.md" else [f".{row}" for row in rows]
    wanted = settings() if document == "reference.md" else [f".{name.rpartition('.')[2]}" for name in settings()]
    assert [name for name in wanted if name not in known] == []


def test_every_policy_of_a_line_that_the_settings_name_exists():
    row = re.search(r"^\| `policy` \|.*$", (ROOT / "docs" / "settings.md").read_text("utf-8"), flags=re.MULTILINE)
    assert row is not None
    named = set(re.findall(r'"(\w+)"', row[0]))
    (kind,) = (field.type for field in msgspec.structs.fields(ScenarioSettings) if field.name == "policy")
    assert named == set(kind.__args__)


def errors() -> list[type[TrimtabError]]:
    for module in pkgutil.walk_packages(trimtab.__path__, "trimtab."):
        if module.name not in STARTS_A_PROCESS:
            importlib.import_module(module.name)
    found, new = [], [TrimtabError]
    while new:
        found += new
        new = [kind for parent in new for kind in parent.__subclasses__() if kind.__module__.startswith("trimtab.")]
    return found


def test_every_error_class_is_in_the_reference():
    assert [kind.__name__ for kind in errors() if f"`{kind.__name__}`" not in REFERENCE] == []


def test_the_status_of_every_error_is_in_the_reference():
    from trimtab.cli.exits import STATUS_BY_ERROR as EXITS
    from trimtab.serving.problems import STATUS_BY_ERROR as HTTP

    lines = [f"| `{kind.__name__}` | {HTTP[kind]} | {EXITS[kind]} |" for kind in HTTP]
    assert [line for line in lines if line not in REFERENCE] == []


def test_the_files_in_which_the_tour_lets_changes_begin_exist():
    (section,) = re.findall(r"^## Where a change begins\n(.*?)^## ", tour.TOUR.read_text("utf-8"), re.M | re.S)
    named = [name for name in re.findall(r"`([\w/.*]+)`", section) if "/" in name]
    assert len(named) > 15
    assert not [name for name in named if not [*tour.SOURCE.glob(name)]]


def test_the_tables_of_the_tour_show_every_file():
    text = tour.TOUR.read_text("utf-8")
    assert text == tour.written(text), "docs/tour.md is out of date: python tests/tour.py"
    rooms = {path.name for path in tour.SOURCE.iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^## (\w+)$", text, flags=re.MULTILINE)) == rooms


def test_the_http_document_names_every_status():
    from trimtab.serving.problems import _SLUGS

    text = (ROOT / "docs" / "http.md").read_text("utf-8")
    assert [status for status in _SLUGS if f"| {status} |" not in text] == []


def test_the_table_of_acts_names_every_act_that_the_ledger_is_given():
    given = re.compile(
        r'(?:\._?entry(?:_about)?|_by_hand|edgered|write_row|\._write)\([^"()]*"(\w+)"|\bact="(\w+)"|^ACT = "(\w+)"',
        flags=re.MULTILINE,
    )
    files = [file for room in ("app", "steering") for file in (ROOT / "src" / "trimtab" / room).rglob("*.py")]
    writers = [text for file in files if "ledger" in (text := file.read_text("utf-8"))]
    acts = {"".join(found) for text in writers for found in given.findall(text)}
    table = (ROOT / "docs" / "loop.md").read_text("utf-8").partition("| act | when |\n")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[1:]]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == acts


def test_the_tutorial_runs(tutorial_names: dict[str, Any]):
    assert (tutorial_names["__folder__"] / "shop" / ".trimtab").is_dir()


def test_the_http_document_runs_against_the_tutorials_project(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("http", "inference"):
        run_blocks(ROOT / "docs" / f"{name}.md", {"url": served, "__name__": name})


RUN_APART = {"tutorial.md", "http.md", "inference.md"}


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name not in RUN_APART], ids=lambda d: d.name)
def test_the_python_of_a_document_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(document, {"__name__": document.stem})
