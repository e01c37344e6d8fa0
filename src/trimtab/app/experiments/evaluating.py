"""Features of exposed units as of past times, computed from the events that are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns, column
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.eligibility import entity_values
from trimtab.experiments.unit_values import Evaluate
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import REASONS, FeatureFrame

if TYPE_CHECKING:
    from trimtab.app.features.feature_runs import Run
    from trimtab.app.system import System


@contextmanager
def evaluating(system: System, features: FeatureSet | None, what: Sequence[Any]) -> Iterator[Evaluate]:
    """Yield a function that computes features from the events that are recorded now.

    Args:
        features: All features that are computed; None: no metric reads events.
        what: Everything else that determines the result. A stopped run is only resumed if this is unchanged.
    """
    if features is None:
        yield _without_features
        return
    from trimtab.app.features.feature_runs import opened_run  # imported here, because it loads DuckDB

    with opened_run(system, features, what, {}, None) as run:
        yield partial(_evaluate, run)


def with_past_features(
    system: System, definition: Experiment, rows: Sequence[Mapping[str, Any]], at_us: NDArray[Any]
) -> list[tuple[dict[str, Any], str]]:
    """Return rows of units with the features that an experiment reads, as of each row's time, computed from history.

    The text next to a row names the features that `where` needs and that have no value, with reasons.
    """
    features = system.live.eligibility(definition)
    if features is None:
        return [({**row}, "") for row in rows]
    kinds, typed = features.request.columns, [entity_values(features, row) for row in rows]
    requests = Columns(
        {name: column(kinds[name], [one[name] for one in typed]) for name in features.request_columns}
        | {features.request.time: Column("time", at_us)}
    )
    with evaluating(system, features, ["eligibility", definition.name, int(at_us.max()), len(rows)]) as evaluate:
        found = evaluate(features, requests, at_us, None)
    values, codes = [found.values[name].to_list() for name in features.names], found.codes(features.names).tolist()
    needed = set() if definition.where is None else definition.where.columns()
    known = []
    for row, of, why in zip(rows, zip(*values, strict=True), codes, strict=True):
        one = dict(zip(features.names, of, strict=True))
        lacking = [f"{name} ({REASONS[code]})" for name, code in zip(one, why, strict=True) if one[name] is None]
        known.append(({**row, **one}, ", ".join(text for text in lacking if text.partition(" ")[0] in needed)))
    return known


def _evaluate(
    run: Run, features: FeatureSet, requests: Columns, at_us: NDArray[Any], known_by_us: int | None
) -> FeatureFrame:
    run.begin(requests.rows, evaluations=1, columns=len(requests.names) + len(features.names), kept=True)
    return FeatureFrame.concat(
        [
            run.evaluate(features, requests.take(cut), at_us[cut], known_by_us=known_by_us)
            for cut in run.blocks(requests.rows)
        ]
    )


def _without_features(*given: object) -> FeatureFrame:
    raise AssertionError("no metric reads events")  # never called: `MetricFeatures.values` then computes no features
