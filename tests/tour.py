"""The tables of docs/tour.md, from the first lines of docstrings. `python tests/tour.py` writes them into the document.

A room's table has one row per file, or per folder where the room has folders.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "trimtab"
TOUR = ROOT / "docs" / "tour.md"
_ROOM = re.compile(r"^## (\w+)$", re.MULTILINE)
_TABLE = re.compile(r"^\|.*\n(?:^\|.*\n)+", re.MULTILINE)


def first_line(file: Path) -> str:
    """The first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return re.sub(r"\s*# ?D\d+.*$", "", text.partition("\n")[0]).replace("|", r"\|").strip()


def table(room: Path) -> str:
    """The table of one room; empty where it has only its `__init__.py`."""
    rows = [f"| `{file.name}` | {first_line(file)} |" for file in _files(room)]
    for folder in sorted(path for path in room.rglob("*") if path.is_dir() and _files(path)):
        names = ", ".join(f"`{file.name}`" for file in _files(folder))
        rows.append(f"| `{folder.relative_to(room)}/` | {first_line(folder / '__init__.py')} {names} |")
    return "".join(f"{row}\n" for row in ["| file | purpose |", "|---|---|", *rows]) if rows else ""


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if file.name not in ("__init__.py", "__main__.py"))


def written(text: str) -> str:
    """The tour with the tables as they should be, each at the end of its room's section."""
    parts = _ROOM.split(text)
    for at in range(1, len(parts), 2):
        words = _TABLE.sub("", parts[at + 1]).strip()
        made = table(SOURCE / parts[at])
        parts[at + 1] = f"\n\n{words}\n\n" + (f"{made}\n" if made else "")
        parts[at] = f"## {parts[at]}"
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    TOUR.write_text(written(TOUR.read_text("utf-8")), "utf-8")
