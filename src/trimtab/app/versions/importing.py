"""Models that were made elsewhere, as versions of a project: held against golden rows or a labelled window first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from trimtab.app.training.loops import Loops
from trimtab.app.versions.alias_moves import Ledgered
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import format_duration, format_time
from trimtab.registry import Version
from trimtab.registry.evidence import check_ungated
from trimtab.registry.protection import CHAMPION
from trimtab.registry.transfer.golden import First, GoldenRows, golden_matrix, golden_of, with_golden
from trimtab.registry.transfer.importing import (
    ModelProcess,
    check_same,
    find_model,
    imported_model,
    provenance,
    save_no_set,
)
from trimtab.training.judge.evaluation import Evaluation, evaluate, save_evaluation
from trimtab.training.runtimes.ports import Trust

if TYPE_CHECKING:
    from trimtab.app.system import System
    from trimtab.training.definitions import Model
    from trimtab.training.fitting.fitted import Fitted

ACT = "import"  # in the ledger: a model that was made elsewhere is the first champion


class Asked(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """How a model is to be imported."""

    golden: GoldenRows | None
    window_us: int | None
    categories: Mapping[str, Sequence[str]] | None
    trust: Trust | None
    first: bool
    why: str
    actor: str
    seen_until_us: int | None


def import_version(system: System, path: Path, name: str, asked: Asked) -> Version:
    """See `Project.import_model`."""
    model = system.definitions.models.get(name)
    if model is None:
        declared = ", ".join(system.definitions.models) or "none"
        raise NotFound(f"import {path.name}: model {name!r} is not declared. There are: {declared}.")
    if asked.first:
        check_ungated(f"import {path.name} as the first champion", None, asked.why)
    given = find_model(path)
    golden = asked.golden or golden_of(path)
    if golden is None and asked.window_us is None:
        raise Misuse(
            f"import {path.name}: nothing says that it answers as it should. Give golden rows (rows of its inputs with "
            'the scores that it must give), or window="14d" to score it on the newest labelled rows.'
        )
    cut_us = system.clock.now_us() if asked.seen_until_us is None else asked.seen_until_us
    told, found = [], None
    with ModelProcess(given) as process:
        fitted, named = imported_model(
            given, model, process=process, trust=asked.trust, categories=asked.categories, cut_us=cut_us
        )
        if golden is not None:
            fitted = with_golden(fitted, golden_matrix(fitted, golden, process.score))
            told.append(f"{len(golden.rows):,} golden rows")
        if asked.window_us is not None:
            fitted, found = _scored(system, path.name, model, fitted, asked.window_us, process.score)
    evaluation = None
    if found is not None:
        start, end = format_time(found.start_us)[:10], format_time(found.end_us)[:10]
        told.append(f"{found.rows:,} labelled rows from {start} to {end}")
        evaluation = save_evaluation(found, system.state.blob)
    version = system.registry.register(
        fitted,
        training_set=save_no_set(model, system.state.blob),
        evaluation=evaluation,
        imported=provenance(given, named=named, golden=" and ".join(told), window_us=asked.window_us),
        actor=asked.actor,
    )
    check_same(version, f"import {path.name}", seen_until_us=asked.seen_until_us, window_us=asked.window_us)
    if asked.first:
        _put_in_service(system, version, asked)
    return version


def _put_in_service(system: System, version: Version, asked: Asked) -> None:
    """Make it the first champion, and write down who did so: both or neither, and once is as good as twice."""
    system.registry.move(
        version.model,
        CHAMPION,
        version,
        first=True,
        why=asked.why,
        actor=asked.actor,
        together=Ledgered(system, ACT),
    )


def _scored(
    system: System, file: str, model: Model, fitted: Fitted, window_us: int, first: First
) -> tuple[Fitted, Evaluation]:
    """The model with golden predictions, of the window's rows where it has none, and its evaluation on them."""
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
