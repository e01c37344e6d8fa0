"""The model card of a version, made from its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from trimtab.core.records import GateRecord
from trimtab.core.shown import format_bytes
from trimtab.core.time import format_duration, format_time
from trimtab.registry.describing.evaluation_document import add_evaluation
from trimtab.registry.describing.signature import Field, Signature, signature_of
from trimtab.registry.tags import Note, Tag
from trimtab.registry.versions import AliasMove, Version, possibly_seen
from trimtab.report import Document, Table
from trimtab.report.tables import written
from trimtab.store.ports import Blob
from trimtab.training.data.sets import ORIGINS, Manifest, load_manifest
from trimtab.training.fitting.artifact import Artifact, decode_artifact
from trimtab.training.fitting.path_choice import RowChoice
from trimtab.training.judge.evaluation import Evaluation
from trimtab.training.search import parameters_text


class About(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The records that a model card is made from."""

    version: Version
    artifact: Artifact
    manifest: Manifest
    evaluation: Evaluation | None
    judged: str  # the name of the version that `evaluation` belongs to
    gates: Sequence[GateRecord]  # the judgements of this version, and of the version that it refits
    moves: Sequence[AliasMove]  # the moves that pointed an alias to this version
    tags: Sequence[Tag]
    notes: Sequence[Note]
    relatives: Sequence[tuple[str, str]]  # names of other versions, and what this one does to them, such as "refits"
    # for each kind of machine, the code path that was chosen to score single rows
    row_choices: Sequence[RowChoice] = ()


def stored_parts(version: Version, blob: Blob) -> tuple[Artifact, Manifest]:
    """Read the artifact and the training set's manifest of a version.

    Raises:
        Corrupt: A stored part is damaged; the message names the blob.
    """
    return decode_artifact(blob.get(version.artifact)), load_manifest(version.training_set, blob)


def card_document(about: About) -> Document:
    """Make the card of a version."""
    card = Document(f"{about.version.name}: model card", "Made only from the records of the registry")
    _identity(card, about)
    _signature(card, signature_of(about.version, about.artifact))
    _training(card, about.version, about.manifest)
    _evaluation(card, about)
    _gates(card, about.gates)
    _moves(card, about.moves)
    _lineage(card, about)
    _remarks(card, about)
    _environment(card, about.version)
    return card


def _identity(card: Document, about: About) -> None:
    version, artifact = about.version, about.artifact
    text = (
        f"A {artifact.task} model: {artifact.kind} on {len(artifact.inputs)} features, judged by {version.metric}. "
        f"Made {format_time(version.made_at_us)[:19]} by {version.actor}."
    )
    if version.imported is not None:
        inputs = (
            "names its inputs, which match the features"
            if version.imported.inputs_named
            else "does not name its inputs, so only their number was compared with the features"
        )
        text += (
            f" It was imported from {version.imported.file} ({version.imported.kind}, SHA-256 "
            f"{version.imported.sha256}), and its predictions were checked on {version.imported.golden}. The file "
            f"{inputs}."
        )
    if version.refit_of:
        refitted = next((name for name, what in about.relatives if what == "refits"), version.refit_of)
        text += f" It is a refit of {refitted}: the same recipe, fitted on more data."
    if version.half_life_us is not None:
        text += f" In its fit, a row's weight was halved for each {format_duration(version.half_life_us)} of age."
    if version.trust:
        text += " Loading it runs code from the artifact (pickle), which was explicitly allowed."
    near = "equal to the bit" if artifact.row_exact else f"within {artifact.row_tolerance:.2g}"
    rows = [
        ("address", version.id),
        ("artifact", version.artifact),
        ("size of the estimator", format_bytes(len(artifact.estimator))),
        ("recipe", version.recipe),
        ("parameters", _parameters(version)),
        ("feature definitions", version.features),
        ("runtime", version.runtime),
        ("nulls", "kept" if artifact.step is None else "imputed by the mean; columns scaled"),
        ("calibration", "none" if artifact.recalibration is None else artifact.recalibration.kind),
        ("score of a row alone and in a batch", near),
        *(
            (f"time to score a single row on {one.machine}", f"{one.text}, measured on {one.rows} rows")
            for one in about.row_choices
        ),
    ]
    card.heading("What it is")
    card.paragraph(text)
    _add(card, ("what", "value"), rows)


def _parameters(version: Version) -> str:
    if version.chosen is None:
        return "not known" if version.imported is not None else "as declared with its estimator"
    found = version.chosen
    return f"{parameters_text(found.values)}: trial {found.trial} of search {found.search[:12]}"


def _signature(card: Document, signature: Signature) -> None:
    output = signature.output
    card.heading("Signature")
    card.paragraph(
        f"The model returns {output.meaning}" + (f" ({', '.join(output.classes)})." if output.classes else ".")
    )
    _add(card, ("request", "type", "null", "read by features"), [_field(f) for f in signature.request])
    inputs = [(f.name, f.type, f"{len(f.values)} categories" * (f.type == "category")) for f in signature.inputs]
    _add(card, ("input", "type", "values"), inputs)


def _training(card: Document, version: Version, manifest: Manifest) -> None:
    card.heading("Training data")
    if version.imported is not None:
        card.paragraph("Not known, because the version was not trained here.")
        return
    states = ", ".join(f"{count:,} {state}" for state, count in manifest.by_state.items())
    card.paragraph(
        f"The model was fitted on {version.rows:,} labelled rows of a training set of {manifest.rows:,} ({states}). "
        f"Nothing that became known after {format_time(manifest.cut_us)} was used; a label counts as final "
        f"{format_duration(manifest.wait_us)} after its request. Log positions: "
        f"{', '.join(f'{name} {at}' for name, at in manifest.positions.items()) or 'none'}. Manifest "
        f"{version.training_set}, data {manifest.data_hash}."
    )
    if manifest.origins:
        found = (f"{n:,} {ORIGINS.get(origin, origin)}" for origin, n in manifest.origins.items() if n)
        card.paragraph(f"Rows by origin: {'; '.join(found)}.")
    for one in [one for one in manifest.left_out or () if one.rows]:
        until = "the end" if one.end_us is None else format_time(one.end_us)[:16]
        card.paragraph(
            f"Left out: {one.rows:,} labelled rows from {format_time(one.start_us)[:16]} to {until} ({one.why})."
        )
    if manifest.lists is not msgspec.UNSET:
        lists = manifest.lists
        card.paragraph(
            f"Lists by {lists.column!r}: {lists.lists:,}, of up to {lists.longest:,} rows; {lists.whole:,} have a "
            f"final label for each row; in {lists.whole - lists.told:,} of these, all labels are equal. "
            f"Rows in no list: {lists.rows_without:,}."
        )
    reasons = [
        (name, *(f"{counts.get(reason, 0):,}" for reason in ("found", "no_entity", "not_yet")), f"{rest:,}")
        for name, counts in manifest.by_reason.items()
        for rest in [sum(n for reason, n in counts.items() if reason not in ("found", "no_entity", "not_yet"))]
    ]
    _add(card, ("feature", "found", "no entity", "not yet", "other"), reasons)


def _evaluation(card: Document, about: About) -> None:
    if about.evaluation is None:
        card.heading("Evaluation")
        card.paragraph("Not evaluated.")
        return
    if about.judged != about.version.name:
        card.paragraph(
            f"The following sections evaluate {about.judged}, whose recipe was fitted again for this version."
        )
    seen = possibly_seen(about.version, about.evaluation.start_us)
    add_evaluation(card, about.judged, about.evaluation, seen=seen)


def _gates(card: Document, gates: Sequence[GateRecord]) -> None:
    card.heading("Gate")
    for gate in gates:
        card.paragraph(f"{gate.id}: {gate.reason}")
    if not gates:
        card.paragraph("No gate record.")
    named = ("gate",) if len(gates) > 1 else ()  # the sentence above already names a single record
    rows = [
        (
            *(gate.id for _ in named),
            f"{format_time(gate.judged_at_us)[:19]}Z",
            gate.candidate[:12],
            (gate.champion or "none")[:12],
            f"{gate.candidate_metric:.4f}",
            "" if gate.champion_metric is None else f"{gate.champion_metric:.4f}",
            "passed" if gate.passed else "refused",
        )
        for gate in gates
    ]
    checks = [(*(gate.id for _ in named), *one) for gate in gates for one in _checks(gate)]
    _add(card, (*named, "when", "judged", "against", "metric", "champion's", "verdict"), rows)
    _add(card, (*named, "check", "verdict", "value", "bound", "reason"), checks)


def _checks(gate: GateRecord) -> Iterator[tuple[str, ...]]:
    for one in gate.findings:
        figure, bound = (written(value) for value in (one.figure, one.bound))
        yield one.name, one.verdict, figure, bound, one.reason


def _moves(card: Document, moves: Sequence[AliasMove]) -> None:
    card.heading("Where it served")
    if not moves:
        card.paragraph("No alias has ever pointed to this version.")
    rows = [(m.alias, format_time(m.at_us)[:19], m.act, m.actor, (m.previous or "none")[:12], m.why) for m in moves]
    _add(card, ("alias", "since", "act", "by", "replaced", "why"), rows)


def _lineage(card: Document, about: About) -> None:
    version = about.version
    rows = [
        ("code", version.environment.commit or "no commit"),
        ("feature definitions", version.features),
        ("training set", version.training_set),
        *((what, name) for name, what in about.relatives),
    ]
    card.heading("Lineage")
    _add(card, ("what", "value"), rows)


def _remarks(card: Document, about: About) -> None:
    card.heading("Tags and notes")
    if not about.tags and not about.notes:
        card.paragraph("None.")
    _add(card, ("tag", "since", "by"), [(tag.tag, format_time(tag.at_us)[:19], tag.actor) for tag in about.tags])
    _add(card, ("note", "when", "by"), [(note.text, format_time(note.at_us)[:19], note.actor) for note in about.notes])


def _environment(card: Document, version: Version) -> None:
    environment = version.environment
    packages = ", ".join(f"{name} {number}" for name, number in sorted(environment.packages.items()))
    where = f"{environment.system} {environment.architecture}".strip()
    card.heading("Environment")
    card.paragraph(
        f"Python {environment.python}, {packages}; processor {environment.cpu}"
        + (f", {where}" if where else "")
        + f"; commit {environment.commit or 'none'}."
    )


def _field(field: Field) -> tuple[str, ...]:
    return field.name, field.type, "allowed" if field.null else "no", "yes" if field.read else "no"


def _add(card: Document, headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    card.table(Table(headers=headers, rows=tuple(rows)))
