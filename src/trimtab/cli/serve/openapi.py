"""The command `openapi`, which writes the OpenAPI document of the service."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from trimtab.cli.options import command, manner, opened_project
from trimtab.cli.output import show, show_json
from trimtab.cli.printed import Written
from trimtab.core.errors import Misuse
from trimtab.store.durable_files import write_durably


@command("openapi")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="The file to write (default: print the document)."
)
def openapi(out: Path | None) -> None:
    """Write the OpenAPI 3.1 document of the service, also served at /openapi.json.

    \b
    Example:
      trimtab service openapi --out openapi.json
    """
    from trimtab.app.serve.addresses import openapi_json

    with opened_project() as project:
        document = openapi_json(project)
    if out is None:
        show_json(msgspec.Raw(document)) if manner().json else click.echo(msgspec.json.format(document, indent=2))
        return
    try:
        write_durably(out, msgspec.json.format(document, indent=2) + b"\n")
    except OSError as error:
        raise Misuse(f"--out {out}: it cannot be written: {error}") from error
    show(Written(document=str(out)), [f"OpenAPI document: {out}"])
