"""The command `service rules`, which prints alerting rules for monitoring the service with Prometheus."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab.app.metrics.prometheus_rules import RULES, TESTS, rules_text
from trimtab.cli.options import command, manner
from trimtab.cli.output import show, show_json
from trimtab.cli.printed import Written
from trimtab.core.errors import Misuse
from trimtab.store.durable_files import write_durably


@command("rules")
@click.option("--docs", metavar="URL", help="The URL of the folder docs, for links to runbooks.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the rules to this folder, with their tests.",
)
def rules(docs: str | None, out: Path | None) -> None:
    """Print alerting rules for Prometheus, which use the metrics of a service's /metrics.

    With --out they are written to a folder, together with unit tests for promtool.

    \b
    Example:
      trimtab service rules > trimtab.rules.yml
      trimtab service rules --out /etc/prometheus/trimtab --docs https://wiki.example.com/trimtab/docs
    """
    if out is None:
        text = rules_text(docs=docs)
        show_json(Written(rules=text)) if manner().json else click.echo(text, nl=False)
        return
    written = [out / RULES, out / TESTS]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in written:
            write_durably(file, rules_text(file.name, docs=docs).encode())
    except OSError as error:
        raise Misuse(f"--out {out}: it cannot be written: {error}") from error
    show(
        Written(rules=str(written[0]), tests=str(written[1])),
        [f"rules: {written[0]}", f"tests: {written[1]} (promtool test rules {written[1]})"],
    )
