"""Find the finished steps that no run needs, because their runs did not succeed and ended long ago."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trimtab.run.runs import Run, step_key
from trimtab.run.steps import KIND, Step
from trimtab.store.ports import Catalog


def orphaned_steps(catalog: Catalog, runs: Iterable[Run], *, kind: str, before_us: int) -> list[Step]:
    """Return the finished steps of one kind of run that no run needs.

    A successful run needs its steps, because they save work in the next run. Other runs need theirs if they ended at or
    after `before_us`, because a new run may still resume them. While a run of this kind is running, no step is
    returned, because this run may reuse it.

    Args:
        runs: All runs, of every kind.
        kind: The kind of run, e.g. "train".
        before_us: Only steps that were finished before this time are returned, in UTC microseconds.
    """
    own = [run for run in runs if run.kind == kind]
    if not all(run.is_over for run in own):
        return []
    needing = [run for run in own if run.state == "done" or (run.ended_us or run.began_us) >= before_us]
    needed = {step_key(run, step) for run in needing for step in run.steps}
    found = ((record.key, msgspec.json.decode(record.body, type=Step)) for record in catalog.find(KIND, f"{kind}."))
    return [step for key, step in found if key not in needed and step.finished_at_us < before_us]
