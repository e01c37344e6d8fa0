"""The model card: what the records say about a version, in Markdown, with nothing typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trimtab.core.records import GateRecord
from trimtab.core.time import format_duration, format_moment
from trimtab.registry.versions import AliasMove, Version
from trimtab.stats.interval import Interval
from trimtab.store.ports import Blob
from trimtab.training.artifact import Artifact, decode_artifact
from trimtab.training.evaluation import Evaluation, load_evaluation
from trimtab.training.sets import Manifest, load_manifest

_MOST_FEATURES = 30  # rows of the importance table


def model_card(version: Version, blob: Blob, *, gates: Sequence[GateRecord], moves: Sequence[AliasMove]) -> str:
    """The card of one version.

    Args:
        version: What it is about.
        blob: Where its artifact, manifest and evaluation are.
        gates: The gate records that speak about it.
        moves: The alias moves that pointed to it.

    Raises:
        Corrupt: A stored part is damaged; the message names the blob.
    """
    artifact = decode_artifact(blob.get(version.artifact))
    manifest = load_manifest(version.training_set, blob)
    evaluation = None if version.evaluation is None else load_evaluation(version.evaluation, blob)
    parts = [
        f"# {version.name}",
        _identity(version, artifact),
        "## Training data",
        _training(version, manifest),
        "## Evaluation",
        "Not evaluated." if evaluation is None else _judged(evaluation),
        "## Gate",
        _gates(gates),
        "## Where it served",
        _moves(moves),
        "## Environment",
        _environment(version),
    ]
    return "\n\n".join(parts) + "\n"


def _identity(version: Version, artifact: Artifact) -> str:
    trust = " Loading it runs code from the artifact (pickle): somebody allowed that." if version.trust else ""
    origin = f" It refits the recipe of {version.refit_of} on more data." if version.refit_of else ""
    return (
        f"A {artifact.task} model: {artifact.kind} on {len(artifact.inputs)} features, judged by {version.metric}. "
        f"Made {format_moment(version.made_at_us)} by {version.actor}.{origin}{trust}\n\n"
        + _table(
            ("what", "value"),
            [
                ("address", version.id),
                ("artifact", version.artifact),
                ("recipe", version.recipe),
                ("feature definitions", version.features),
                ("runtime", version.runtime),
                (
                    "one row against a batch",
                    "equal bits" if artifact.row_exact else f"within {artifact.row_tolerance:.2g}",
                ),
                ("decision", "none" if version.decision is None else f"ledger row {version.decision}"),
            ],
        )
    )


def _training(version: Version, manifest: Manifest) -> str:
    states = ", ".join(f"{count:,} {state}" for state, count in manifest.by_state.items())
    said = (
        f"{version.rows:,} labelled rows were fitted, of a set of {manifest.rows:,} ({states}). Nothing that became "
        f"known after {format_moment(manifest.cut_us)} was used; labels count as final after "
        f"{format_duration(manifest.wait_us)}. Log positions: "
        f"{', '.join(f'{name} {at}' for name, at in manifest.positions.items()) or 'none'}. "
        f"Manifest {version.training_set}, data {manifest.data_hash}."
    )
    reasons = [
        (name, *(f"{counts.get(reason, 0):,}" for reason in ("found", "no_entity", "not_yet")), f"{rest:,}")
        for name, counts in manifest.by_reason.items()
        for rest in [sum(n for reason, n in counts.items() if reason not in ("found", "no_entity", "not_yet"))]
    ]
    return f"{said}\n\n{_table(('feature', 'found', 'no entity', 'not yet', 'other'), reasons)}" if reasons else said


def _judged(evaluation: Evaluation) -> str:
    rows: list[tuple[str, str, str]] = [(evaluation.metric, f"{evaluation.value:.4f}", _interval(evaluation.interval))]
    if evaluation.auc is not None:
        rows.append(("AUC", f"{evaluation.auc:.4f}", _interval(evaluation.auc_interval)))
    if evaluation.calibration_error is not None:
        rows.append(("calibration error", f"{evaluation.calibration_error:.4f}", ""))
    rows += [
        (f"{evaluation.metric} of baseline {name}", "none" if value is None else f"{value:.4f}", "")
        for name, value in evaluation.baselines.items()
    ]
    months = [
        (
            m.month,
            f"{m.rows:,}",
            f"{m.value:.4f}",
            "" if m.auc is None else f"{m.auc:.4f}",
            f"{m.mean_score:.4f}",
            f"{m.mean_label:.4f}",
        )
        for m in evaluation.months
    ]
    weights = sorted(evaluation.importance.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_FEATURES]
    return "\n\n".join(
        [
            f"On {evaluation.rows:,} rows from {format_moment(evaluation.start_us)} to "
            f"{format_moment(evaluation.end_us)}; intervals by {evaluation.block}; less {evaluation.metric} is better.",
            _table(("figure", "value", "interval"), rows),
            _table(("month", "rows", evaluation.metric, "AUC", "mean score", "mean label"), months),
            _table(("feature", f"importance ({evaluation.importance_kind})"), [(n, f"{w:.4f}") for n, w in weights]),
        ]
    )


def _gates(gates: Sequence[GateRecord]) -> str:
    if not gates:
        return "No gate record."
    rows = [
        (
            gate.id,
            format_moment(gate.judged_at_us),
            gate.candidate[:12],
            (gate.champion or "nobody")[:12],
            f"{gate.candidate_metric:.4f}",
            "" if gate.champion_metric is None else f"{gate.champion_metric:.4f}",
            "passed" if gate.passed else "refused",
            gate.reason,
        )
        for gate in gates
    ]
    return _table(("gate", "when", "judged", "against", "metric", "champion's", "verdict", "reason"), rows)


def _moves(moves: Sequence[AliasMove]) -> str:
    if not moves:
        return "No alias ever pointed to it."
    rows = [(m.alias, format_moment(m.at_us), m.act, m.actor, (m.previous or "nobody")[:12], m.why) for m in moves]
    return _table(("alias", "since", "act", "by", "replaced", "why"), rows)


def _environment(version: Version) -> str:
    environment = version.environment
    packages = ", ".join(f"{name} {number}" for name, number in sorted(environment.packages.items()))
    return (
        f"Python {environment.python}, {packages}; processor {environment.cpu}; commit {environment.commit or 'none'}."
    )


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f} ({interval.level:.0%})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
