"""What holds for the repository as a whole: light imports, documented names, one order of rooms, an honest lock."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = sorted(path.parent.name for path in (ROOT / "src" / "trimtab").glob("*/__init__.py"))
LOCKS = ["requirements.lock", "requirements-demo.lock", "requirements-data.lock"]
HEAVY = {
    *("alembic", "arro3", "deltalake", "duckdb", "lightgbm", "lmdb", "numpy", "pandas", "pyarrow", "rich"),
    *("scipy", "skops", "sklearn", "sqlalchemy", "urllib3", "uvicorn"),
}
HOSTS = ["pypi" + ".org", "python" + "hosted.org", "npmjs" + ".org", "crates" + ".io"]

pytestmark = pytest.mark.fast


def loaded_by(code: str) -> set[str]:
    """The top-level modules in a fresh interpreter after `code`."""
    code += "\nimport json, sys\nprint('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def tracked() -> list[Path]:
    """The files that git knows."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("changes/*.md")]


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in requirements}


def declared() -> set[str]:
    """The name of every dependency in pyproject.toml, extras included."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    return requirement_names(PROJECT["project"]["dependencies"] + [line for extra in extras for line in extra])


def pins() -> dict[str, str]:
    """Each pin of the lock files, `name==version`, and the text that follows it."""
    text = "\n".join((ROOT / lock).read_text() for lock in LOCKS)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    blocks = re.split(r"^(?=\S)", "\n".join(lines), flags=re.MULTILINE)
    return {block.split()[0]: block for block in blocks if block.strip()}


def test_import_trimtab_loads_no_heavy_module():
    assert loaded_by("import trimtab") & HEAVY == set()


def test_help_loads_no_heavy_module():
    run_help = "import sys\nfrom trimtab.cli import main\nsys.argv = ['trimtab', '--help']\ntry:\n    main()\n"
    assert loaded_by(run_help + "except SystemExit as done:\n    assert not done.code") & HEAVY == set()


def test_what_serves_is_loaded_without_what_computes_columns():
    """A service is ready before it needs them.  # D92"""
    serving = "import trimtab.app.project, trimtab.app.serve.service, trimtab.app.system, trimtab.cli.start.replaying"
    assert loaded_by(serving) & (HEAVY - {"lmdb", "uvicorn"}) == set()


def test_duckdb_is_opened_in_one_place_so_that_no_progress_bar_stands_between_the_lines_of_an_answer():
    sources = sorted((ROOT / "src").rglob("*.py"))
    opening = [path.name for path in sources if re.search(r"duckdb\.(connect|sql|query)\(", path.read_text("utf-8"))]
    assert opening == ["duckdb_opening.py"]


@pytest.mark.parametrize("room", ["trimtab", *(f"trimtab.{room}" for room in sorted(ROOMS))])
def test_every_public_name_exists_and_has_a_docstring(room: str):
    module = importlib.import_module(room)
    assert module.__doc__
    without = [name for name in getattr(module, "__all__", []) if not documented(getattr(module, name))]
    assert without == []


def documented(thing: Any) -> bool:
    """Constants and type aliases need no docstring; classes need one of their own."""
    if inspect.isclass(thing):
        return bool(vars(thing).get("__doc__"))
    return bool(thing.__doc__) if inspect.isroutine(thing) or inspect.ismodule(thing) else True


def test_tests_wait_for_what_they_need_and_not_for_a_time():
    """Sleeps of 0.2 s and more are for soak tests; longer than 5 s they stand for work that never ends."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text("utf-8")
        if "sleep" not in text:
            continue
        tree = ast.parse(text)
        soak = {id(node) for top in ast.walk(tree) if _is_soak(top) for node in ast.walk(top)}
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and id(node) not in soak and 0.2 <= _slept_s(node) <= 5.0
        ]
    assert found == []


def _is_soak(node: ast.AST) -> bool:
    marked = isinstance(node, ast.FunctionDef) and any("soak" in ast.unparse(one) for one in node.decorator_list)
    return marked or (isinstance(node, ast.ClassDef) and "Campaign" in node.name)


def _slept_s(call: ast.Call) -> float:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    value = call.args[0].value if name == "sleep" and call.args and isinstance(call.args[0], ast.Constant) else 0.0
    return float(value) if isinstance(value, int | float) else 0.0


def test_layers_are_the_rooms_in_the_order_that_the_decision_and_the_tour_tell():
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]
    rooms = contract["layers"][::-1]
    assert contract["type"] == "layers"
    assert contract["exhaustive"]
    assert sorted(rooms) == sorted(ROOMS)
    decision = (ROOT / "docs/decisions/D0002-layout.md").read_text()
    assert " < ".join(rooms) in decision
    tour = (ROOT / "docs/tour.md").read_text()
    assert re.findall(r"^## (\w+)$", tour, flags=re.MULTILINE) == rooms


def test_every_pin_of_the_lock_has_a_hash():
    assert len(pins()) > 50
    for pin, block in pins().items():
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.]+", pin), pin
        assert re.search(r"--hash=sha256:[0-9a-f]{64}(\s|$)", block), pin


def test_every_dependency_is_locked_and_explained():
    locked = {pin.partition("==")[0] for pin in pins()}
    # The tests have xgboost-cpu, the same without 300 MB for GPUs; torch would be 3 GB for them.
    assert declared() - locked == {"torch", "xgboost"}
    decision = (ROOT / "docs/decisions/D0001-dependencies.md").read_text()
    assert {name for name in declared() if f"| {name} |" not in decision} == set()


def test_no_file_names_a_package_registry():
    assert [path.name for path in tracked() if path.name in {"uv.lock", ".python-version"}] == []
    texts = {path: path.read_text(errors="replace") for path in tracked()}
    assert [(path.name, host) for path, text in texts.items() for host in HOSTS if host in text] == []


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_local_link_in_a_document_leads_somewhere(document: Path):
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_decision_is_in_the_index_once_and_names_what_changed_it():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    rows = re.findall(r"^\| \[D\d+\]\((.+?)\) \| .+? \| (.*)\|$", index, flags=re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(path.name for path in folder.glob("D*.md"))
    for name, changed in rows:
        record = (folder / name).read_text()
        assert [later for later in re.findall(r"\((D.+?)\)", changed) if f"({later})" not in record] == [], name
        assert ("\n\n*Superseded by [D" in record) == changed.startswith("superseded"), name
