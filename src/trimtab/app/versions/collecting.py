"""Remove versions, parameter searches and run steps that nothing needs any more (`trimtab storage gc`)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from trimtab.app.training.searches import forget_searches, old_searches, with_chosen
from trimtab.core.errors import Misuse
from trimtab.experiments.days import unit_blobs
from trimtab.experiments.records import running_experiments
from trimtab.run import forget_step, orphaned_steps
from trimtab.steering.ledger import Ledger

if TYPE_CHECKING:
    from trimtab.app.system import System
    from trimtab.registry.collecting.collector import Collection, Keep, Reason

_ADDRESS_DIGITS = 64


def collect_garbage(system: System, *, dry_run: bool, keep: Keep, searches: int, why: str, actor: str) -> Collection:
    """Remove what nothing needs. With `dry_run`, list what would be removed and kept, with reasons.

    Searches and finished run steps are removed first, so that their blobs are garbage when blobs are removed. # D59

    Raises:
        Conflict: Another process is collecting garbage.
        Misuse: `searches` would not even keep the newest search.
    """
    from trimtab.registry.collecting.collector import Collector, Forgotten

    if searches < 1:
        raise Misuse(f"collection: searches={searches}. At least the newest search of a model is kept: give 1 or more.")
    catalog, before_us = system.state.catalog, system.clock.now_us() - keep.youngest_us
    old = old_searches(catalog, newest=searches, keep=_searches_in_use(system), before_us=before_us)
    steps = orphaned_steps(catalog, system.recorded.all(), kind="train", before_us=before_us)
    forgotten = [Forgotten("search", f"{one.model}/{one.id}", one.ended_us or one.began_us) for one in old]
    forgotten += [Forgotten("step", f"{one.name}/{one.inputs_hash}", one.finished_at_us) for one in steps]
    needs = _of_ledger(system, keep), _of_predictions(system), _of_experiments(system)
    collector = Collector(
        system.state.catalog,
        system.state.blob,
        clock=system.clock,
        actor=actor,
        keep=keep,
        also={version: [one[version] for one in needs if version in one] for version in set().union(*needs)},
        forgotten=forgotten,
        needed=unit_blobs(catalog),
    )
    if dry_run:
        return collector.look()
    forget_searches(catalog, old)
    for one in steps:
        forget_step(catalog, one.name, one.inputs_hash)
    return collector.collect(why=why)


def _searches_in_use(system: System) -> set[str]:
    """Return the searches whose parameters a version uses, or the next training would use."""
    registry = system.registry
    chosen = [version.chosen for model in registry.models() for version in registry.versions(model)]
    deployments = system.definitions.deployments.values()
    chosen += [with_chosen(system.state.catalog, one).model.chosen for one in deployments]
    return {one.search for one in chosen if one is not None}


def _of_ledger(system: System, keep: Keep) -> dict[str, Reason]:
    """Return a reason to keep each version that the ledger of decisions names: the newest row that names it."""
    from trimtab.registry.collecting.collector import Reason

    now_us, found = system.clock.now_us(), {}
    for row in Ledger(system.state.catalog).rows():
        if keep.evidence_us is not None and now_us - row.at_us > keep.evidence_us:
            continue
        for named in (row.version, row.replaced, *row.evidence.values()):
            if isinstance(named, str) and len(named) == _ADDRESS_DIGITS:
                said = f"ledger row {row.sequence} ({row.act}) names it"
                found[named] = Reason(said, "", evidence_us=now_us - row.at_us)
    return found


def _of_experiments(system: System) -> dict[str, Reason]:
    """Return a reason to keep each version that a running experiment compares: the experiment."""
    from trimtab.registry.collecting.collector import Reason

    return {
        version: Reason(f"the experiment {one.name} compares it", f"trimtab experiment stop {one.name} --why TEXT")
        for one in running_experiments(system.state.catalog)
        for version in one.versions.values()
    }


def _of_predictions(system: System) -> dict[str, Reason]:
    """Return a reason to keep each version that has logged predictions: their number."""
    from trimtab.registry.collecting.collector import Reason

    counts: Counter[str] = Counter()
    for block in system.predictions.scan():
        counts.update(prediction.version for prediction in block)
    frees = "trimtab storage prune, with a shorter [retention] predictions"
    return {
        version: Reason(
            f"{count:,} logged prediction{' is' if count == 1 else 's are'} its answer{'s' * (count > 1)}", frees
        )
        for version, count in counts.items()
    }
