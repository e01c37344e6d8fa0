"""Complete names in a shell, from the project's catalogue and file, without running the project's code."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from trimtab.core.config import load_config

_DECLARED = re.compile(r"""\b(source|view|request|model|experiment)\(\s*["']([^"'\\]+)["']""")
_STORED = ("access_key", "alias", "definition", "experiment", "run", "version_number")


def completed(
    folder: Path, ctx: click.Context, parameter: click.Parameter, incomplete: str, kinds: tuple[str, ...]
) -> list[CompletionItem]:
    """Return the names of these kinds that begin with what was typed, except those given already."""
    given = ctx.params.get(parameter.name or "")
    known = {name for kind, name in _known(folder) if kind in kinds and name.startswith(incomplete)}
    return [CompletionItem(name) for name in sorted(known.difference(given if isinstance(given, tuple) else ()))]


def _known(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of everything that the project file declares or that the catalogue has."""
    config = load_config(folder, os.environ)
    if config.project_file.is_file():
        yield from _DECLARED.findall(config.project_file.read_text("utf-8", "replace"))
    file = config.state_folder / "catalog.db"
    if not file.is_file():
        return
    uri, marks = f"{file.absolute().as_uri()}?mode=ro", ", ".join("?" * len(_STORED))
    # the command itself will say that the file is damaged or busy
    with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True, timeout=0.2)) as catalog:
        for kind, key in catalog.execute(f"SELECT kind, key FROM record WHERE kind IN ({marks})", _STORED):
            name, _, rest = key.partition("/")
            if kind == "definition":
                yield name, rest
            elif kind == "version_number":
                yield "version", f"{name}@{rest.lstrip('0')}"
            elif kind == "alias":
                yield from (("version", f"{name}@{rest}"), ("alias", rest))
            else:
                yield kind, key


class _Bash(BashComplete):
    """Completion for Bash, which takes `late@7` for three words, and only replaces the last."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        for word in (*args, incomplete):
            if words and (word == "@" or words[-1].endswith("@")):
                words[-1] += word
            else:
                words.append(word)
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem) -> str:
        name, at, _ = self.get_completion_args()[1].rpartition("@")
        return f"{item.type},{item.value.removeprefix(name + at)}"


add_completion_class(_Bash)
