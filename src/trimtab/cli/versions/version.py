"""The commands `show`, `compare`, `card`, `export` and `import` below `versions`, for one or two versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.options import account, command, names, opened_project, refuse_given
from trimtab.cli.output import progress, show
from trimtab.cli.printed import Written
from trimtab.core.errors import Misuse
from trimtab.core.shown import count_of
from trimtab.core.time import format_time
from trimtab.store.durable_files import write_durably

if TYPE_CHECKING:
    from trimtab.registry.describing.signature import DescribedVersion


@command("compare")
@click.argument("one", shell_complete=names("version"))
@click.argument("other", shell_complete=names("version"))
@click.option(
    "--window", default="14d", show_default=True, metavar="DURATION", help="The period of labelled rows to compare on."
)
@click.option("--no-rows", is_flag=True, help="Compare records only; score no rows.")
@click.option("--moved", type=float, metavar="X", help="An answer counts as moved if it differs by more than this.")
@click.option("--html", type=click.Path(dir_okay=False), metavar="FILE", help="Write the comparison as a page, too.")
def compare(one: str, other: str, window: str, no_rows: bool, moved: float | None, html: str | None) -> None:
    """Show the differences between two versions, and their answers to the same rows.

    \b
    Example:
      trimtab versions compare late_flight@champion late_flight@9 --html compare.html
    """
    if no_rows:
        refuse_given("has no effect with --no-rows, which scores no rows.", "window", "moved")
    with opened_project() as project, progress("asking both versions"):
        found = project.compare(one, other, window=None if no_rows else window, moved=moved)
    from trimtab.registry.describing.compare_page import comparison_document
    from trimtab.report import html_page, terminal_text

    if html is not None:
        _write(Path(html), html_page(comparison_document(found)))
    show(found, [terminal_text(comparison_document(found)), *([f"page: {html}"] if html else [])])


@command("card")
@click.argument("version", shell_complete=names("version"))
@click.option("--html", type=click.Path(dir_okay=False), metavar="FILE", help="Write the card as a page instead.")
def card(version: str, html: str | None) -> None:
    """Show a version's model card as Markdown.

    \b
    Example:
      trimtab versions card late_flight@champion --html card.html
    """
    with opened_project() as project:
        text = project.card(version, html=html is not None)
    if html is not None:
        _write(Path(html), text)
    show(Written(page=html) if html else Written(markdown=text), [f"card: {html}"] if html else [text])


@command("export")
@click.argument("version", shell_complete=names("version"))
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--mlflow", is_flag=True, help="Write an MLflow model folder.")
@click.option("--trust", type=click.Choice(["pickle"]), help="Allow a version that is stored with pickle.")
def export(version: str, folder: str, mlflow: bool, trust: Any) -> None:
    """Write a version as a folder that runs without trimtab, or that MLflow reads.

    \b
    Example:
      trimtab versions export late_flight@champion out && python out/predict.py --check
    """
    with opened_project() as project:
        done = project.export(version, folder, mlflow=mlflow, trust=trust)
    show(
        done,
        [
            f"{done.version}: {len(done.files)} files in {done.folder}; they reproduce its {done.golden} golden "
            f"predictions within {done.difference:.2g} (allowed: {done.tolerance:.2g})",
            f"check it anywhere: python {Path(done.folder) / done.check} --check",
        ],
    )


@command("import", safe="Nothing was registered.")
@click.argument("path", type=click.Path())
@click.option("--model", required=True, shell_complete=names("model"), help="The declared model.")
@click.option(
    "--golden", type=click.Path(dir_okay=False), metavar="FILE", help="Rows with scores that the model must reproduce."
)
@click.option("--window", metavar="DURATION", help="Score the model on the labelled rows of the last DURATION.")
@click.option(
    "--category",
    multiple=True,
    metavar="NAME=A,B",
    help="A category's texts, in the order of their numbers in the model.",
)
@click.option("--seen-until", metavar="TIME", help="The end of the model's training data (default: now).")
@click.option("--trust", type=click.Choice(["pickle"]), help="Allow a pickle, which runs code.")
@click.option("--first", is_flag=True, help="Make it champion; allowed while there is no champion.")
@click.option("--why", default="", metavar="TEXT", help="Why it may answer without a gate; required with --first.")
def import_(path: str, model: str, category: tuple[str, ...], **given: Any) -> None:
    """Register a model file, an MLflow model folder or an exported folder as a version.

    Formats: LightGBM text, XGBoost JSON or UBJSON, CatBoost, ONNX, skops. The inputs must be the declared model's
    features, in their order. The model must reproduce golden scores, or is scored on labelled rows (--golden or
    --window).

    \b
    Example:
      trimtab versions import model.txt --model late_flight --window 14d --category carrier=AA,UA,DL
    """
    with opened_project() as project, progress("reading and scoring"):
        there = {one.id for one in project.registry.versions(model)}
        version = project.import_model(path, model, categories=_categories(category), actor=account(), **given)
        champion = project.registry.alias(model, "champion")
    assert version.imported is not None  # the version was just imported
    named = "matched by name" if version.imported.inputs_named else "only counted, because the file does not name them"
    lines = [
        f"{version.name} ({version.id[:12]}): {version.imported.kind}, checked on {version.imported.golden}; its "
        f"inputs were {named}"
    ]
    if version.id in there:
        lines = [f"Nothing is new: this content was imported as {version.name} on {_shown_time(version.made_at_us)}."]
    elif given["seen_until"] is None:
        lines.append(
            "Its training data are assumed to reach until now, so gates judge it on later days. If they ended earlier, "
            "import it with --seen-until TIME"
        )
    if champion is None or champion.id != version.id:
        lines.append(f"It serves nothing yet. Judge it and put it in service: trimtab promote {version.name}")
    show(version, lines)


def _shown_time(at_us: int) -> str:
    return format_time(at_us)[:19]


@command("show")
@click.argument("version", shell_complete=names("version"))
def show_one(version: str) -> None:
    """Show a version: its origin, its signature, and how a single row is scored.

    \b
    Example:
      trimtab versions show late_flight@champion
    """
    from trimtab.registry.describing.signature import DescribedVersion

    with opened_project() as project:
        registry = project.registry
        found, signature = registry.as_known(registry.get(version)), project.signature(version)
        tags = [tag.tag for tag in registry.tags(found)]
        aliases = [name for name, move in registry.aliases(found.model).items() if move.version == found.id]
        calls = [*registry.row_choices(found)]
    shown = DescribedVersion(version=found, signature=signature, tags=tags, aliases=aliases, row_calls=calls)
    show(shown, _version_lines(shown))


def _version_lines(shown: DescribedVersion) -> list[str]:
    from trimtab.report.tables import text_table

    version, signature = shown.version, shown.signature
    origin = f"trained on {count_of(version.rows, 'row')}"
    if version.imported is not None:
        until = f"training data may reach until {_shown_time(version.cut_us)}: metrics of earlier rows may be too good"
        origin = f"imported from {version.imported.file}, {until}"
    output = signature.output
    span = (
        "" if output.low is None else f", from {output.low:g}" + ("" if output.high is None else f" to {output.high:g}")
    )
    return [
        f"{version.name}  {version.id}",
        f"{version.runtime}, {origin}; made {_shown_time(version.made_at_us)} by {version.actor}",
        f"aliases: {', '.join(shown.aliases) or 'none'}; tags: {', '.join(shown.tags) or 'none'}",
        *(f"one row takes {one.text}; measured on {one.rows} rows, {one.machine}" for one in shown.row_calls),
        "",
        text_table(
            ["request", "type", "null", "read by features"],
            [[f.name, f.type, "allowed" if f.null else "no", "yes" if f.read else "no"] for f in signature.request],
        ),
        "",
        text_table(
            ["input of the estimator", "type", "values"],
            [[f.name, f.type, f"{len(f.values)} categories" if f.type == "category" else ""] for f in signature.inputs],
        ),
        "",
        f"output: {output.name}, {output.meaning}{span}" + (f": {', '.join(output.classes)}" if output.classes else ""),
    ]


def _categories(given: tuple[str, ...]) -> dict[str, list[str]] | None:
    found = {}
    for one in given:
        name, equals, values = one.partition("=")
        if not equals or not values:
            raise Misuse(
                f"--category {one!r}: write NAME=A,B,C, the values in the order in which the model numbers them."
            )
        found[name] = values.split(",")
    return found or None


def _write(file: Path, text: str) -> None:
    try:
        write_durably(file, text.encode())
    except OSError as error:
        raise Misuse(f"--html {file}: it cannot be written: {error}") from error
