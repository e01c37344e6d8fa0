"""The help of every verb: names, options, defaults, texts."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from snapshots import check

from trimtab.cli import exits
from trimtab.cli.group import trimtab

pytestmark = pytest.mark.fast
ENVIRONMENT = {"NO_COLOR": "1", "TERM": "dumb", "LANG": "C.UTF-8"}  # CliRunner has a width of 80


def verbs(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command below one, itself first."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in sorted(command.list_commands(context)):
            below = command.get_command(context, name)
            assert below is not None
            yield from verbs(below, (*path, name))


def current() -> str:
    """The help of all commands, one after the other."""
    out = []
    for words in verbs(trimtab):
        shown = CliRunner(env=ENVIRONMENT).invoke(trimtab, [*words, "--help"], prog_name="trimtab", color=False)
        assert shown.exit_code == 0, shown.output
        lines = [line.rstrip() for line in shown.output.strip().splitlines()]
        out.append("\n".join([f"=== {' '.join(['trimtab', *words])}", *lines]))
    return "\n\n".join(out) + "\n"


def test_the_help_of_every_verb_is_as_before() -> None:
    check("cli_help", current())


def test_exit_statuses_are_as_before() -> None:
    """Which errors lead to them is tested in `tests/cli`; scripts of users compare the numbers."""
    statuses = {kind.__name__: status for kind, status in exits.STATUS_BY_ERROR.items()}
    assert statuses == {"Misuse": 2, "NotFound": 3, "Conflict": 4, "Unavailable": 5, "Corrupt": 6}
    others = (exits.FAILED, exits.UNEXPECTED, exits.INTERRUPTED, exits.TERMINATED, exits.BROKEN_PIPE)
    assert others == (1, 70, 130, 143, 141)
