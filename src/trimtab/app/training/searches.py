"""Store parameter searches with their trials in the catalogue, and give the next training the chosen parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import groupby
from typing import Literal

import msgspec

from trimtab.core.errors import NotFound
from trimtab.core.shown import Shown
from trimtab.core.time import format_time
from trimtab.report import Table, text_table
from trimtab.steering.definitions import Deployment
from trimtab.store.ports import Catalog, Remove
from trimtab.training.search import Chosen, Search, Trial, budget_text, parameters_text

KIND = "search"
TRIAL = "trial"


class SearchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A search with its data, budget and result."""

    format: Literal[1] = 1
    id: str  # a hash of everything that the trials depend on
    model: str
    metric: str
    made_by: str  # a hash of everything that the trials depend on, except the data
    search: Search  # the declared search, with the budget of the last call
    cut_us: int  # only data that was known by this time is used
    until_us: int  # only requests up to this time are used; candidates are judged on later days
    rows: int
    began_us: int
    ended_us: int | None = None  # None: the search runs, or was interrupted
    best: Trial | None = None


class Searched(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """A search together with its trials."""

    search: SearchRecord
    trials: tuple[Trial, ...]

    def lines(self, *, most: int | None = None) -> list[str]:
        """Return the search as lines of text, the best trials first.

        Args:
            most: The maximum number of trials in the table, or None for all.
        """
        found, took_s = self.search, sum(trial.took_s for trial in self.trials)
        how = "running or interrupted" if found.ended_us is None else "done"
        out = [
            f"{found.model}: search {found.id[:12]}, {how}: {len(self.trials)} of {budget_text(found.search)} in "
            f"{took_s:.1f} s, seed {found.search.seed}",
            f"used {found.rows:,} labelled rows, of requests up to {format_time(found.until_us)[:19]}; "
            "the gate judges on later ones",
        ]
        if found.best is not None:
            out.append(f"best: trial {found.best.number}, {found.metric} {found.best.value:.4f}: ")
            out[-1] += parameters_text(found.best.values)
        table = trial_table(self, most=most)
        return [*out, "", text_table(table.headers, table.rows, table.align)] if self.trials else out


def trial_table(searched: Searched, *, most: int | None = None) -> Table:
    """Return the trials of a search as a table, the best first, and pruned and failed trials last."""
    order = {"done": 0, "pruned": 1, "failed": 2}
    trials = sorted(searched.trials, key=lambda t: (order[t.state], t.value or 0.0, t.number))[:most]
    return Table(
        headers=("trial", "state", searched.search.metric, "by fold", "took", "parameters"),
        rows=tuple(
            (
                str(t.number),
                t.state,
                "–" if t.value is None else f"{t.value:.4f}",
                " ".join(f"{value:.4f}" for value in t.folds),
                f"{t.took_s:.1f} s",
                parameters_text(t.values) + (f" ({t.error[:80]})" if t.error else ""),
            )
            for t in trials
        ),
        align=("right", "left", "right", "left", "right", "left"),
    )


def searches(catalog: Catalog, model: str) -> list[SearchRecord]:
    """Return the searches of a model, oldest first."""
    found = [_decoded(one.body) for one in catalog.find(KIND, f"{model}/")]
    return sorted(found, key=lambda one: (one.began_us, one.id))


def searched(catalog: Catalog, record: SearchRecord) -> Searched:
    """Return a search with the trials that have ended so far."""
    trials = [msgspec.json.decode(one.body, type=Trial) for one in catalog.find(TRIAL, f"{record.id}/")]
    return Searched(search=record, trials=tuple(trials))


def newest_search(catalog: Catalog, model: str) -> Searched:
    """Return the newest search of a model with its trials.

    Raises:
        NotFound: The model has no search.
    """
    found = searches(catalog, model)
    if not found:
        raise NotFound(f"trials of {model!r}: nothing was searched yet. Search: trimtab search run {model}")
    return searched(catalog, found[-1])


def search_of(catalog: Catalog, model: str, chosen: Chosen | None) -> Searched | None:
    """Return the search that chose a version's parameters; None if no search did, or if it was removed."""
    record = None if chosen is None else catalog.get(KIND, f"{model}/{chosen.search}")
    return None if record is None else searched(catalog, _decoded(record.body))


def old_searches(catalog: Catalog, *, newest: int, keep: Collection[str], before_us: int) -> list[SearchRecord]:
    """Return the searches that may be removed.

    They were made before `before_us`, and are neither among the `newest` searches of their model nor in `keep`.
    """
    found = sorted((_decoded(one.body) for one in catalog.find(KIND)), key=lambda one: (one.model, -one.began_us))
    out: list[SearchRecord] = []
    for _, of_model in groupby(found, key=lambda one: one.model):
        out += [one for one in list(of_model)[newest:] if one.id not in keep and one.began_us < before_us]
    return out


def forget_searches(catalog: Catalog, records: Iterable[SearchRecord]) -> None:
    """Remove searches together with their trials."""
    for record in records:
        trials = (Remove(TRIAL, one.key) for one in catalog.find(TRIAL, f"{record.id}/"))
        catalog.write([Remove(KIND, f"{record.model}/{record.id}"), *trials])


def with_chosen(catalog: Catalog, deployment: Deployment) -> Deployment:
    """Return the deployment with the parameters that its newest finished search chose.

    Searches whose choice is no longer in the declared ranges are skipped. If none is left, the deployment is unchanged.
    """
    declared = deployment.model.search
    if declared is None:
        return deployment
    ended = [one for one in searches(catalog, deployment.name) if one.ended_us is not None]
    for one in sorted(ended, key=lambda one: -(one.ended_us or 0)):
        if one.best is not None and declared.holds(one.best.values):
            chosen = Chosen(values=one.best.values, search=one.id, trial=one.best.number, until_us=one.until_us)
            model = msgspec.structs.replace(deployment.model, chosen=chosen)
            return msgspec.structs.replace(deployment, model=model)
    return deployment


def _decoded(body: bytes) -> SearchRecord:
    return msgspec.json.decode(body, type=SearchRecord)
