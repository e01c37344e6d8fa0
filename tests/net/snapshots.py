"""Compare what the code at hand gives with a snapshot file; `update.py` writes those files."""

from __future__ import annotations

import difflib
from pathlib import Path

HERE = Path(__file__).parent
FILES = {
    "python_names": HERE / "python_names.txt",
    "cli_help": HERE / "cli_help.txt",
    "openapi": HERE / "openapi.json",
    "hashes": HERE / "hashes.txt",
    "old_state": HERE / "old_state.json",
}
MOST_LINES = 120  # of a difference that is shown
LONG = 200  # characters: a longer line is compared part by part


def check(name: str, current: str) -> None:
    """Fail with a readable difference unless the snapshot holds exactly `current`."""
    difference = differs(name, current)
    assert not difference, difference


def differs(name: str, current: str) -> str:
    """The difference between a snapshot and `current`, with the command that accepts it; "" if there is none."""
    file = FILES[name]
    stored = file.read_text("utf-8") if file.exists() else ""
    if stored == current:
        return ""
    lines = list(
        difflib.unified_diff(
            _pieces(stored), _pieces(current), f"{file.name} (before)", f"{file.name} (now)", lineterm="", n=2
        )
    )
    cut = [f"... and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return "\n".join(
        [
            f"{name}: what users have has changed.",
            *lines[:MOST_LINES],
            *cut,
            "Undo the change. If users are meant to see it, accept it and say so in changes/:",
            f"  python tests/net/update.py {name}",
        ]
    )


def _pieces(text: str) -> list[str]:
    """The lines of a text, long ones taken apart after their commas."""
    return [
        piece
        for line in text.splitlines()
        for piece in (line.replace(", ", ",\n    ").split("\n") if len(line) > LONG else [line])
    ]
