"""Finished steps that no run needs any more, because their run did not finish and was never resumed."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trimtab.run.runs import Run, step_key
from trimtab.run.steps import KIND, Step
from trimtab.store.ports import Catalog


def orphaned_steps(catalog: Catalog, runs: Iterable[Run], *, kind: str, before_us: int) -> list[Step]:
    """Return the steps of a kind of run that were finished before a time and that no run needs.

    Runs that are done need their steps, because the steps save the next run a fit. Every run that ended since that time
    needs its steps, too. While a run of the kind is running, no step is orphaned, because the run may be about to reuse
    it.

    Args:
        catalog: The catalogue that holds the finished steps.
        runs: All runs, of every kind.
        kind: The kind of run, e.g. "train".
        before_us: UTC microseconds.
    """
    own = [run for run in runs if run.kind == kind]
    if not all(run.is_over for run in own):
        return []
    needing = [run for run in own if run.state == "done" or (run.ended_us or run.began_us) >= before_us]
    needed = {step_key(run, step) for run in needing for step in run.steps}
    found = ((record.key, msgspec.json.decode(record.body, type=Step)) for record in catalog.find(KIND, f"{kind}."))
    return [step for key, step in found if key not in needed and step.finished_at_us < before_us]
