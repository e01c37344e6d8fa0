"""The commands `keys list`, `keys add` and `keys remove`, for the API keys of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trimtab.cli.options import account, command, names, opened_project
from trimtab.cli.output import show, show_each
from trimtab.cli.printed import ListedKey, NewKey, RemovedKey
from trimtab.core.time import format_time

if TYPE_CHECKING:
    from trimtab.app.project import Project
    from trimtab.serving.access_keys import AccessKey, Role

_SHUT = (
    "Every request is refused now: make a key (trimtab keys add NAME --role predict), or set serve.require_key = false."
)


@command("list")
def list_() -> None:
    """List the API keys of the service: their names, roles and rates.

    \b
    Example:
      trimtab keys list
    """
    with opened_project() as project:
        found, shut = project.keys.all(), _is_closed(project)
    none = _SHUT if shut else "No key. Make one: trimtab keys add NAME --role predict"
    shown = [ListedKey(**{name: getattr(key, name) for name in ListedKey.__struct_fields__}) for key in found]
    show_each(shown, _table(found) if found else [none])


@command("add")
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["read", "predict", "write", "admin"]),
    help="What the key may do; may be repeated. admin includes the others.",
)
@click.option("--rate", metavar="RATE", help="Limit of requests: 100/s, 600/min or 1000/h.")
def add(name: str, roles: tuple[Role, ...], rate: str | None) -> None:
    """Make an API key.

    The key is shown once, and only its hash is stored. After the first key was made, requests without a key are
    refused, unless the setting serve.require_key is false. Running services follow within two seconds.

    \b
    Example:
      trimtab keys add shop --role predict --rate 100/s
    """
    with opened_project() as project:
        first = not project.keys.ever() and project.config.serve.require_key is None
        key = project.keys.add(name, roles, rate=rate, actor=account())
    closes = [
        "This is the first key: from now on requests without a key are refused. With a new state folder they would be "
        "answered again, unless you set serve.require_key = true."
    ]
    lines = [key, "", "Keep it now: it is not stored, and cannot be shown again.", *(closes if first else [])]
    show(NewKey(name=name, roles=roles, rate=rate, key=key), lines)


@command("remove")
@click.argument("name", shell_complete=names("access_key"))
def remove(name: str) -> None:
    """Remove an API key. Running services refuse it within two seconds.

    \b
    Example:
      trimtab keys remove shop
    """
    with opened_project() as project:
        project.keys.remove(name, actor=account())
        left, shut = len(project.keys.all()), _is_closed(project)
    show(
        RemovedKey(removed=name, left=left),
        [f"Key {name!r} is removed; {left or 'no'} key{'s' * (left != 1)} left.", *([_SHUT] if shut else [])],
    )


def _is_closed(project: Project) -> bool:
    required = project.config.serve.require_key
    return not project.keys.all() and (required or (required is None and project.keys.ever()))


def _table(found: list[AccessKey]) -> list[str]:
    from trimtab.report.tables import text_table

    rows = [[k.name, k.id, ", ".join(k.roles), k.rate or "", format_time(k.made_at_us)[:19], k.actor] for k in found]
    return [text_table(["name", "id", "roles", "rate", "made at", "by"], rows)]
