"""Write snapshots from the code at hand: python tests/net/update.py NAME..."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from snapshots import FILES, differs


def main(names: list[str]) -> int:
    """Update the named snapshots, each by the `current` of its test; exit status 2 when a name is unknown."""
    unknown = [name for name in names if name not in FILES]
    if unknown or not names:
        print(f"unknown snapshot {unknown[0]!r}." if unknown else "no snapshot named.", file=sys.stderr)
        print(f"Name some of: {', '.join(FILES)}", file=sys.stderr)
        return 2
    for name in names:
        text = import_module(f"test_{name}").current()
        print(differs(name, text) or f"{name}: unchanged")
        FILES[name].write_text(text, "utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
