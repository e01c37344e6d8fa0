"""Show the evaluation of a version as an HTML page, as Markdown and JSON files, and as text for a terminal."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trimtab.app.training.searches import Searched, search_of, trial_table
from trimtab.core.errors import NotFound, Unavailable
from trimtab.core.time import format_time
from trimtab.registry import Registry, Version
from trimtab.registry.describing.evaluation_document import add_evaluation
from trimtab.registry.versions import possibly_seen
from trimtab.report import Document, html_page, terminal_text
from trimtab.store.durable_files import write_durably
from trimtab.store.ports import Blob, Catalog
from trimtab.training.judge.evaluation import Evaluation, load_evaluation

_MOST_TRIALS = 30


def write_evaluation(registry: Registry, blob: Blob, catalog: Catalog, reference: str, to: Path) -> Path:
    """Write an HTML page about the evaluation of a version into the file or folder `to`.

    A summary (the card) is written next to it as Markdown, and the numbers as JSON.

    Raises:
        NotFound: Neither the version nor, for a refit, its candidate was evaluated.
        Unavailable: A file cannot be written, for lack of space or access. No incomplete file is left.
    """
    version = registry.get(reference)
    evaluation = evaluation_of(registry, blob, version)
    judged = registry.as_known(version if version.refit_of is None else registry.get(version.refit_of))
    file = to if to.suffix == ".html" else to / f"{version.name.replace('@', '-')}.html"
    searched = search_of(catalog, version.model, judged.chosen)
    numbers: dict[str, object] = {"version": version.name, "address": version.id, "judged": judged.name}
    numbers |= {"evaluation": evaluation} | ({} if searched is None else {"search": searched})
    contents = {
        ".html": evaluation_page(judged, evaluation, searched).encode(),
        ".md": registry.card(version).encode(),
        ".json": msgspec.json.format(msgspec.json.encode(numbers)),
    }
    path = file.parent
    try:
        path.mkdir(parents=True, exist_ok=True)
        for suffix, content in contents.items():
            path = file.with_suffix(suffix)
            write_durably(path, content)
    except OSError as error:
        again = f"Check free space and access, then run: trimtab versions report {version.name}"
        raise Unavailable(f"{path}: {error.strerror}. {again}") from error
    return file


def evaluation_of(registry: Registry, blob: Blob, version: Version) -> Evaluation:
    """Return the evaluation of a version or, if the version is a refit of a candidate, that of the candidate.

    Raises:
        NotFound: There is no such evaluation.
    """
    judged = version if version.refit_of is None else registry.get(version.refit_of)
    if judged.evaluation is None:
        raise NotFound(
            f"report of {version.name}: it was not evaluated. Train a version: trimtab train {version.model}"
        )
    return load_evaluation(judged.evaluation, blob)


def evaluation_page(version: Version, evaluation: Evaluation, searched: Searched | None = None) -> str:
    """Return a self-contained HTML page about the evaluation of a version."""
    page = Document(f"{version.name}: evaluation")
    add_evaluation(page, version.name, evaluation, seen=possibly_seen(version, evaluation.start_us))
    if searched is not None:
        _add_search(page, searched)
    page.heading("Version")
    page.facts(
        {
            "address": version.id[:16],
            "fitted on": f"{version.rows:,} labelled rows",
            "known until": format_time(version.cut_us)[:19],
            "training set": version.training_set[:16],
            "recipe": version.recipe[:16],
            "runtime": version.runtime,
            "calibration": evaluation.recalibration or "none",
        }
    )
    return html_page(page)


def evaluation_text(evaluation: Evaluation) -> str:
    """Return the summary of an evaluation for a terminal."""
    document = Document(f"{evaluation.model}: evaluation")
    add_evaluation(document, evaluation.model, evaluation)
    return terminal_text(document)


def _add_search(page: Document, searched: Searched) -> None:
    page.heading("Parameter search")
    about, used, *best = searched.lines(most=0)[: 2 + (searched.search.best is not None)]
    for text in (f"{about.partition(': ')[2]}; {used}", *best):
        page.paragraph(f"{text[:1].upper()}{text[1:]}.")
    page.paragraph("The value of the best of many trials is optimistic. No metric above uses the rows of the search.")
    page.table(trial_table(searched, most=_MOST_TRIALS))
