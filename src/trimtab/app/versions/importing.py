"""Import model files as versions, and check them on stored predictions or on recent labelled requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from trimtab.app.system import System
from trimtab.app.versions.alias_moves import Ledgered
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import format_duration, format_time
from trimtab.registry import Version
from trimtab.registry.evidence import check_ungated
from trimtab.registry.protection import CHAMPION
from trimtab.registry.transfer.golden import First, golden_matrix, golden_of, read_golden, with_golden
from trimtab.registry.transfer.importing import (
    ModelProcess,
    check_same,
    find_model,
    imported_model,
    provenance,
    save_no_set,
)
from trimtab.run import ProcessExecutor
from trimtab.training.definitions import Model
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.runtimes.ports import Trust

if TYPE_CHECKING:
    from trimtab.training.judge.evaluation import Evaluation

ACT = "import"  # in the ledger of decisions, the import of a model as the first champion


class ImportRequest(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The options of an import."""

    golden: Path | None  # a file of golden rows
    window_us: int | None
    categories: Mapping[str, Sequence[str]] | None
    trust: Trust | None
    first: bool
    why: str
    actor: str
    seen_until_us: int | None


def import_version(
    system: System, path: Path, name: str, request: ImportRequest, *, executor: ProcessExecutor
) -> Version:
    """Import a model file as a version; see `Project.import_model`. A child process reads the file first."""
    model = system.definitions.models.get(name)
    if model is None:
        declared = ", ".join(system.definitions.models) or "none"
        raise NotFound(f"import {path.name}: model {name!r} is not declared. There are: {declared}.")
    if request.first:
        check_ungated(f"import {path.name} as the first champion", None, request.why)
    given = find_model(path)
    golden = golden_of(path) if request.golden is None else read_golden(request.golden, classes=model.label.class_names)
    if golden is None and request.window_us is None:
        raise Misuse(
            f"import {path.name}: there is nothing to check it with. Give golden rows (rows of its inputs with "
            "the expected scores), or a window (--window 14d) to score it on the newest labelled rows."
        )
    cut_us = system.clock.now_us() if request.seen_until_us is None else request.seen_until_us
    checked, found = [], None
    process = ModelProcess(given, executor)
    fitted, named = imported_model(
        given, model, process=process, trust=request.trust, categories=request.categories, cut_us=cut_us
    )
    if golden is not None:
        fitted = with_golden(fitted, golden_matrix(fitted, golden, process.score))
        checked.append(f"{len(golden.rows):,} golden rows")
    if request.window_us is not None:
        fitted, found = _scored(system, path.name, model, fitted, request.window_us, process.score)
    evaluation = None
    if found is not None:
        start, end = format_time(found.start_us)[:10], format_time(found.end_us)[:10]
        checked.append(f"{found.rows:,} labelled rows from {start} to {end}")
        from trimtab.training.judge.evaluation import save_evaluation

        evaluation = save_evaluation(found, system.state.blob)
    version = system.registry.register(
        fitted,
        training_set=save_no_set(model, system.state.blob),
        evaluation=evaluation,
        imported=provenance(given, named=named, golden=" and ".join(checked), window_us=request.window_us),
        actor=request.actor,
    )
    check_same(version, f"import {path.name}", seen_until_us=request.seen_until_us, window_us=request.window_us)
    if request.first:  # also if the file was imported before, so that a killed import may be repeated
        why, actor, together = request.why, request.actor, Ledgered(system, ACT)
        system.registry.move(version.model, CHAMPION, version, first=True, why=why, actor=actor, together=together)
    return version


def _scored(
    system: System, file: str, model: Model, fitted: Fitted, window_us: int, first: First
) -> tuple[Fitted, Evaluation]:
    """Return the model with golden predictions, by which later loads are checked, and its evaluation on a window.

    If the model has no golden predictions yet, they are made from the rows of the window.
    """
    from trimtab.app.training.loops import Loops
    from trimtab.training.judge.evaluation import evaluate

    plain = msgspec.structs.replace(model, rows="history")
    built = system.part(Loops).living_data().training_set(plain, cut_us=system.clock.now_us())
    if not built.usable.any():
        raise Misuse(
            f"import {file}: no request of {model.request.name!r} has a final label, so it cannot be scored. Ingest "
            "labels, or give golden rows."
        )
    start_us = int(built.begun_us[built.usable].max()) - window_us
    rows = built.usable & (built.begun_us > start_us)
    before = built.whole(built.usable & (built.at_us <= model.label.final_until(start_us)))
    if not before.any():
        raise Misuse(
            f"import {file}: there is no labelled row before the window of {format_duration(window_us)}, and baselines "
            "need some. Make the window smaller."
        )
    matrix = fitted.matrix(built.features.values.take(np.flatnonzero(rows)))
    first(fitted, np.vstack([matrix, np.full((1, matrix.shape[1]), np.nan)]))
    if not fitted.data:
        fitted = with_golden(fitted, matrix)
    return fitted, evaluate(model, fitted, built, rows=rows, train=before)
