"""Finished steps that no run needs any more: of runs that did not come to their end, and were never gone on with."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trimtab.run.runs import Run, step_key
from trimtab.run.steps import KIND, Step
from trimtab.store.ports import Catalog


def orphaned_steps(catalog: Catalog, runs: Iterable[Run], *, kind: str, before_us: int) -> list[Step]:
    """The steps of a kind of run that were finished before a moment, and that no run needs.

    Needed are those of runs that are done, which save the next one a fit, and of all that ended since that moment.
    While a run of the kind is under way none is forsaken: it may be about to go on from one.

    Args:
        catalog: Where finished steps are.
        runs: All runs, of every kind.
        kind: Of which kind of run, e.g. "train".
        before_us: UTC microseconds.
    """
    own = [run for run in runs if run.kind == kind]
    if not all(run.is_over for run in own):
        return []
    needing = [run for run in own if run.state == "done" or (run.ended_us or run.began_us) >= before_us]
    needed = {step_key(run, step) for run in needing for step in run.steps}
    found = ((record.key, msgspec.json.decode(record.body, type=Step)) for record in catalog.find(KIND, f"{kind}."))
    return [step for key, step in found if key not in needed and step.finished_at_us < before_us]
