"""The size of the house: no file, class, constructor or folder grows beyond `budget.toml`."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "trimtab"
BUDGET = tomllib.loads((ROOT / "budget.toml").read_text())


@cache
def measured() -> dict[str, dict[str, int]]:
    """Return what each limit of the budget measures, by limit and by the name of what is measured."""
    found: dict[str, dict[str, int]] = {name: {} for name in BUDGET["most"]}
    folders: Counter[str] = Counter()
    for path in sorted(SOURCE.rglob("*.py")):
        text, name = path.read_text(), str(path.relative_to(SOURCE))
        found["file_lines"][name] = text.count("\n")
        folders[str(path.parent.relative_to(SOURCE))] += 1
        for node in statements(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                add_class(found, f"{name}:{node.name}", node)
    found["folder_files"] = dict(folders)
    found["all_lines"] = {"src": sum(found["file_lines"].values())}
    return found


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements in a node at any depth; their expressions, which are most of a tree, are not looked at."""
    for field in ("body", "orelse", "handlers", "finalbody", "cases"):
        for inner in getattr(node, field, ()):
            if isinstance(inner, ast.stmt):
                yield inner
            yield from statements(inner)


def add_class(found: dict[str, dict[str, int]], name: str, node: ast.ClassDef) -> None:
    assert node.end_lineno is not None
    found["class_lines"][name] = node.end_lineno - node.lineno + 1
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            found["init_arguments"][name] = len(method.args.args) + len(method.args.kwonlyargs) - 1
            found["init_attributes"][name] = len({
                part.attr for part in ast.walk(method)
                if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
                and isinstance(part.value, ast.Name) and part.value.id == "self"
            })  # fmt: skip


@pytest.mark.fast
@pytest.mark.parametrize("limit", BUDGET["most"])
def test_nothing_is_larger_than_the_budget(limit: str) -> None:
    most, larger = BUDGET["most"][limit], BUDGET.get("larger", {}).get(limit, {})
    over = {name: size for name, size in measured()[limit].items() if size > larger.get(name, most)}
    assert over == {}, f"{limit} above the budget of {most}: split or delete. What is larger today is in budget.toml."


@pytest.mark.fast
@pytest.mark.parametrize("limit", BUDGET["most"])
def test_what_became_smaller_stays_so(limit: str) -> None:
    most, larger = BUDGET["most"][limit], BUDGET.get("larger", {}).get(limit, {})
    now = {name: size for name, size in measured()[limit].items() if size > most}
    loose = {name: now.get(name) for name, size in larger.items() if now.get(name) != size}
    assert loose == {}, f"budget.toml, [larger.{limit}]: set these to what they are now, or remove those within {most}."


def test_the_table_of_rooms(capsys: pytest.CaptureFixture[str]) -> None:
    rooms: Counter[str] = Counter()
    for name, lines in measured()["file_lines"].items():
        rooms[name.split("/")[0] if "/" in name else "trimtab"] += lines
    with capsys.disabled():
        print("\nroom          lines")
        for room, lines in rooms.most_common():
            print(f"{room:12}  {lines:7,}")
        print(f"{'all':12}  {sum(rooms.values()):7,}  of {BUDGET['most']['all_lines']:,}")
    assert sum(rooms.values()) == measured()["all_lines"]["src"]
