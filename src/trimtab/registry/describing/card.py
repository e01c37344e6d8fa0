"""The model card: what the records say about a version, as Markdown or as a page, with nothing typed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from trimtab.core.records import GateRecord
from trimtab.core.sizes import format_bytes
from trimtab.core.time import format_duration, format_time
from trimtab.registry.describing.signature import Field, Signature, signature_of
from trimtab.registry.tags import Note, Tag
from trimtab.registry.versions import AliasMove, Version, possibly_seen
from trimtab.report import Document, Table, html_page
from trimtab.report.tables import written
from trimtab.stats.interval import Interval
from trimtab.store.ports import Blob
from trimtab.training.data.sets import Manifest, load_manifest
from trimtab.training.fitting.artifact import Artifact, decode_artifact
from trimtab.training.fitting.path_choice import RowChoice
from trimtab.training.judge.evaluation import Evaluation
from trimtab.training.search import parameters_text

_MOST_FEATURES = 30  # rows of the importance table


class About(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The records that a card is made of."""

    version: Version
    artifact: Artifact
    manifest: Manifest
    evaluation: Evaluation | None
    judged: str  # the name of the version that the evaluation is about
    gates: Sequence[GateRecord]  # that speak about it
    moves: Sequence[AliasMove]  # that pointed to it
    tags: Sequence[Tag]
    notes: Sequence[Note]
    relatives: Sequence[tuple[str, str]]  # other versions by name, and what they have to do with it
    row_choices: Sequence[RowChoice] = ()  # which way one row takes, by kind of machine


class Section(msgspec.Struct, frozen=True):
    """A part of a card: sentences, then tables."""

    title: str
    said: list[str]
    tables: list[Table] = []


def stored_parts(version: Version, blob: Blob) -> tuple[Artifact, Manifest]:
    """What is kept of a version besides its record.

    Raises:
        Corrupt: A stored part is damaged; the message names the blob.
    """
    return decode_artifact(blob.get(version.artifact)), load_manifest(version.training_set, blob)


def card_markdown(about: About) -> str:
    """The card as Markdown."""
    parts = [f"# {about.version.name}"]
    for section in _sections(about):
        parts += [f"## {section.title}"] if section.title else []
        parts += section.said
        parts += [_markdown(table) for table in section.tables if table.rows]
    return "\n\n".join(parts) + "\n"


def card_page(about: About) -> str:
    """The card as a self-contained HTML page."""
    page = Document(f"{about.version.name}: model card", "Made from the records of the registry alone")
    for section in _sections(about):
        page.heading(section.title or "What it is")
        for line in section.said:
            page.paragraph(line)
        for table in section.tables:
            if table.rows:
                page.table(table)
    return html_page(page)


def _sections(about: About) -> Iterator[Section]:
    yield _identity(about)
    yield _signature(signature_of(about.version, about.artifact))
    yield _training(about.version, about.manifest)
    yield _learnt_from(about.evaluation)
    yield _judged(about)
    yield _gates(about.gates)
    yield _moves(about.moves)
    yield _lineage(about)
    yield _remarks(about)
    yield _environment(about.version)


def _identity(about: About) -> Section:
    version, artifact = about.version, about.artifact
    said = (
        f"A {artifact.task} model: {artifact.kind} on {len(artifact.inputs)} features, judged by {version.metric}. "
        f"Made {format_time(version.made_at_us)} by {version.actor}."
    )
    if version.imported is not None:
        told = "by name" if version.imported.inputs_named else "by their number alone"
        said += (
            f" It was imported from {version.imported.file} ({version.imported.kind}, SHA-256 "
            f"{version.imported.sha256}) and held against {version.imported.golden}; its inputs were compared {told}."
        )
    if version.refit_of:
        refitted = next((name for name, what in about.relatives if what == "refits"), version.refit_of)
        said += f" It refits the recipe of {refitted} on more data."
    if version.trust:
        said += " Loading it runs code from the artifact (pickle): somebody allowed that."
    near = "equal bits" if artifact.row_exact else f"within {artifact.row_tolerance:.2g}"
    rows = [
        ("address", version.id),
        ("artifact", version.artifact),
        ("size of the estimator", format_bytes(len(artifact.estimator))),
        ("recipe", version.recipe),
        ("parameters", _parameters(version)),
        ("feature definitions", version.features),
        ("runtime", version.runtime),
        ("nulls", "as they are" if artifact.step is None else "imputed by the mean; columns scaled"),
        ("calibration", "none" if artifact.recalibration is None else artifact.recalibration.kind),
        ("one row against a batch", near),
        *((f"one row on {one.machine}", f"{one.said}, tried on {one.rows} rows") for one in about.row_choices),
    ]
    return Section("", [said], [_of(("what", "value"), rows)])


def _parameters(version: Version) -> str:
    if version.chosen is None:
        return "not known" if version.imported is not None else "those that its estimator was declared with"
    found = version.chosen
    return f"{parameters_text(found.values)}: trial {found.trial} of search {found.search[:12]}"


def _signature(signature: Signature) -> Section:
    output = signature.output
    said = f"Its output is {output.meaning}" + (f" ({', '.join(output.classes)})." if output.classes else ".")
    return Section(
        "Signature",
        [said] if signature.request else [said, "What a caller sends is not known: an earlier trimtab stored it."],
        [
            _of(("request", "type", "null", "read by features"), [_field(f) for f in signature.request]),
            _of(("input", "type", "values"), [(f.name, f.type, _values(f)) for f in signature.inputs]),
        ],
    )


def _training(version: Version, manifest: Manifest) -> Section:
    if version.imported is not None:
        return Section("Training data", ["Not known: it was not trained here."])
    states = ", ".join(f"{count:,} {state}" for state, count in manifest.by_state.items())
    said = (
        f"{version.rows:,} labelled rows were fitted, of a set of {manifest.rows:,} ({states}). Nothing that became "
        f"known after {format_time(manifest.cut_us)} was used; labels count as final after "
        f"{format_duration(manifest.wait_us)}. Log positions: "
        f"{', '.join(f'{name} {at}' for name, at in manifest.positions.items()) or 'none'}. "
        f"Manifest {version.training_set}, data {manifest.data_hash}."
    )
    told = [said]
    if manifest.origins:
        told.append(
            f"Rows by origin: {', '.join(f'{count:,} {origin}' for origin, count in manifest.origins.items())}."
        )
    for one in manifest.left_out or ():
        until = "the end" if one.end_us is None else format_time(one.end_us)[:16]
        told.append(
            f"Left out: {one.rows:,} labelled rows of {format_time(one.start_us)[:16]} to {until}, for {one.why}."
        )
    if manifest.lists is not msgspec.UNSET:
        lists = manifest.lists
        told.append(
            f"Lists by {lists.column!r}: {lists.lists:,}, of up to {lists.longest:,} rows; {lists.whole:,} have a "
            f"final label for each row, of which {lists.whole - lists.told:,} have rows that are all alike. "
            f"{lists.rows_without:,} rows belong to none."
        )
    reasons = [
        (name, *(f"{counts.get(reason, 0):,}" for reason in ("found", "no_entity", "not_yet")), f"{rest:,}")
        for name, counts in manifest.by_reason.items()
        for rest in [sum(n for reason, n in counts.items() if reason not in ("found", "no_entity", "not_yet"))]
    ]
    return Section("Training data", told, [_of(("feature", "found", "no entity", "not yet", "other"), reasons)])


def _learnt_from(evaluation: Evaluation | None) -> Section:
    """Class balance with the weights of the fit, and what looked like a leak."""
    title = "Classes, weights and leaks"
    if evaluation is None:
        return Section(title, ["Not known: it was not evaluated."])
    balance = [
        (one.name or f"{one.label:g}", f"{one.rows:,}", f"{one.kept:,}", f"{one.weight:.1%}", f"{one.holdout:,}")
        for one in evaluation.balance
    ]
    said = []
    if any(one.kept < one.rows for one in evaluation.balance):
        said.append("Rows were sampled; each that was kept counts for those that were not.")
    if evaluation.leaks is None:
        said.append("Nobody looked for leaks.")
    elif not evaluation.leaks:
        said.append("No leak was found.")
    for leak in evaluation.leaks or ():
        word = "Allowed" if leak.allowed else "Leak" if leak.severity == "error" else "Note"
        said.append(f"{word} ({leak.check}): {leak.found}" + ("" if leak.allowed else f" {leak.todo}"))
    return Section(
        title, said, [_of(("label", "rows to learn from", "fitted on", "share of weight", "rows judged"), balance)]
    )


def _judged(about: About) -> Section:
    evaluation = about.evaluation
    if evaluation is None:
        return Section("Evaluation", ["Not evaluated."])
    rows: list[tuple[str, ...]] = [
        (f.name.replace("_", " "), "none" if f.value is None else f"{f.value:.4f}", _interval(f.interval))
        for f in evaluation.figures
    ] or [(evaluation.metric, f"{evaluation.value:.4f}", _interval(evaluation.interval))]
    if evaluation.calibration_error is not None and not evaluation.figures:
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
    classes = [
        (
            c.name,
            f"{c.rows:,}",
            f"{c.share:.4f}",
            f"{c.mean_score:.4f}",
            "" if c.auc is None else f"{c.auc:.4f}",
            _interval(c.auc_interval),
        )
        for c in evaluation.classes
    ]
    slices = [(s.column, s.holds, f"{s.rows:,}", f"{s.value:.4f}", _interval(s.interval)) for s in evaluation.slices]
    weights = sorted(evaluation.importance.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_FEATURES]
    said = [
        f"On {evaluation.rows:,} rows from {format_time(evaluation.start_us)} to "
        f"{format_time(evaluation.end_us)}; intervals by {evaluation.block}; less {evaluation.metric} is better."
    ]
    if told := possibly_seen(about.version, evaluation.start_us):
        said.append(told)
    if about.judged != about.version.name:
        said.append(f"It is the evaluation of {about.judged}, whose recipe this one refits.")
    return Section(
        "Evaluation",
        said,
        [
            _of(("figure", "value", "interval"), rows),
            _of(("class", "rows", "share", "mean score", "AUC", "interval"), classes),
            _of(("month", "rows", evaluation.metric, "AUC", "mean score", "mean label"), months),
            _of(("column", "holds", "rows", evaluation.metric, "interval"), slices),
            _of(("feature", f"importance ({evaluation.importance_kind})"), [(n, f"{w:.4f}") for n, w in weights]),
        ],
    )


def _gates(gates: Sequence[GateRecord]) -> Section:
    if not gates:
        return Section("Gate", ["No gate record."])
    named = ("gate",) if len(gates) > 1 else ()  # of one alone the sentence above says it
    rows = [
        (
            *(gate.id for _ in named),
            f"{format_time(gate.judged_at_us)[:19]}Z",
            gate.candidate[:12],
            (gate.champion or "nobody")[:12],
            f"{gate.candidate_metric:.4f}",
            "" if gate.champion_metric is None else f"{gate.champion_metric:.4f}",
            "passed" if gate.passed else "refused",
        )
        for gate in gates
    ]
    checks = [(*(gate.id for _ in named), *one) for gate in gates for one in _checks(gate)]
    return Section(
        "Gate",
        [f"{gate.id}: {gate.reason}" for gate in gates],
        [
            _of((*named, "when", "judged", "against", "metric", "champion's", "verdict"), rows),
            _of((*named, "check", "verdict", "figure", "bound", "reason"), checks),
        ],
    )


def _checks(gate: GateRecord) -> Iterator[tuple[str, ...]]:
    for one in gate.findings:
        figure, bound = (written(value) for value in (one.figure, one.bound))
        yield one.name, one.verdict, figure, bound, one.reason
    if not gate.findings:
        yield from ((name, "held" if held else "failed", "–", "–", "") for name, held in gate.checks.items())


def _moves(moves: Sequence[AliasMove]) -> Section:
    title = "Where it served"
    if not moves:
        return Section(title, ["No alias ever pointed to it."])
    rows = [(m.alias, format_time(m.at_us), m.act, m.actor, (m.previous or "nobody")[:12], m.why) for m in moves]
    return Section(title, [], [_of(("alias", "since", "act", "by", "replaced", "why"), rows)])


def _lineage(about: About) -> Section:
    version = about.version
    rows = [
        ("code", version.environment.commit or "no commit"),
        ("feature definitions", version.features),
        ("training set", version.training_set),
        *((what, name) for name, what in about.relatives),
    ]
    return Section("Lineage", [], [_of(("what", "which"), rows)])


def _remarks(about: About) -> Section:
    said = [] if about.tags or about.notes else ["None."]
    tags = [(tag.tag, format_time(tag.at_us), tag.actor) for tag in about.tags]
    notes = [(note.text, format_time(note.at_us), note.actor) for note in about.notes]
    return Section("Tags and notes", said, [_of(("tag", "since", "by"), tags), _of(("note", "when", "by"), notes)])


def _environment(version: Version) -> Section:
    environment = version.environment
    packages = ", ".join(f"{name} {number}" for name, number in sorted(environment.packages.items()))
    where = f"{environment.system} {environment.architecture}".strip()
    return Section(
        "Environment",
        [
            f"Python {environment.python}, {packages}; processor {environment.cpu}"
            + (f", {where}" if where else "")
            + f"; commit {environment.commit or 'none'}."
        ],
    )


def _field(field: Field) -> tuple[str, ...]:
    return field.name, field.type, "allowed" if field.null else "no", "yes" if field.read else "no"


def _values(field: Field) -> str:
    return f"{len(field.values)} categories" if field.type == "category" else ""


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f} ({interval.level:.0%})"


def _of(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(headers=headers, rows=tuple(rows))


def _markdown(table: Table) -> str:
    lines = [table.headers, ["---"] * len(table.headers), *([written(cell) for cell in row] for row in table.rows)]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
