"""Write definitions as text, to store them in the catalogue, compare them, and show them to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from trimtab.app.state.definitions import Definitions
from trimtab.core.expressions.code import code_hash
from trimtab.core.expressions.nodes import Expression
from trimtab.core.hashing import content_hash
from trimtab.core.time import format_duration
from trimtab.events.about import About
from trimtab.events.definitions import Source
from trimtab.features.definitions import View
from trimtab.steering.causes import parts_of_trigger
from trimtab.steering.definitions import Deployment
from trimtab.training.definitions import Model

Kind = Literal["source", "entity", "view", "request", "model", "deployment"]
Part = dict[str, str]  # text by the name of a field; the name is "" for text that needs none
# fields that affect no stored values, so their changes are notes
_OF_MODEL = (
    "weights", "sample", "calibration", "rows", "allow_leakage", "trust", "slices", "costs", "group", "search",
)  # fmt: skip
_OF_DEPLOYMENT = ("rollout", "fits_per_day", "fits_per_week", "cache", "owner")
_FORMAT_OF, _READS = "time format of", "reading, "  # notes about how rows are read have names that begin with these


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A definition as text, part by part."""

    format: Literal[1] = 1
    kind: Kind
    name: str
    hash: str
    parts: dict[str, Part]  # by "feature late_rate_7d", for example; "": the fields of the definition itself
    notes: Part  # descriptions, and rules of reading, fits and rollouts; their changes affect no stored values

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"


def documents(definitions: Definitions) -> dict[str, Document]:
    """Return all definitions of a project except its experiments as documents, by `kind/name`."""
    found = [
        _document("source", source.name, source.hash, _source(source), source.about, _formats(source))
        for source in definitions.sources.values()
        if source.name not in definitions.requests
    ]
    for entity in definitions.entities.values():
        columns: dict[str, Part] = {f"column {name}": {"": dtype} for name, dtype in entity.columns.items()}
        found.append(_document("entity", entity.name, entity.hash, columns, entity.about))
    found += [_document("view", view.name, view.hash, _view(view), view.about) for view in definitions.views.values()]
    for request in definitions.requests.values():
        parts = _source(request.source)
        parts[""]["lead"] = format_duration(request.lead_us)
        found.append(_document("request", request.name, request.hash, parts, request.source.about))
    for model in definitions.models.values():
        parts = _model(model)
        found.append(_document("model", model.name, content_hash(parts), parts, About(), _given(model, _OF_MODEL)))
    for deployment in definitions.deployments.values():
        parts = {"": _deployment(deployment)}
        more = _given(deployment, _OF_DEPLOYMENT)
        if deployment.degrade is not None:
            more["degrade"] = f"rule {deployment.degrade.hash[:8]}"
        found.append(_document("deployment", deployment.name, content_hash(parts), parts, About(), more))
    return {document.key: document for document in found}


def definitions_hash(definitions: Definitions) -> str:
    """Return a hash of everything that a project file declares, except descriptions."""
    found = [[key, one.hash, formats_of(one)] for key, one in sorted(documents(definitions).items())]
    experiments = {name: [one.hash, one.overrides] for name, one in definitions.experiments.items()}
    models = {
        name: [one.hash, one.slices, one.costs, one.group, one.search] for name, one in definitions.models.items()
    }
    deployments = {
        name: [one.hash, None if one.degrade is None else one.degrade.hash, one.cache, one.owner]
        for name, one in definitions.deployments.items()
    }
    return content_hash([found, experiments, models, deployments])


def formats_of(document: Document) -> Part:
    """Return the notes about how a source's rows are read, which must be the same for all workers."""
    return {name: said for name, said in document.notes.items() if name.startswith((_FORMAT_OF, _READS))}


def differences(before: Document, now: Document) -> list[str]:
    """Return the changes between two documents, such as `feature late_rate_7d: over 7d -> 14d`.

    >>> old = Document(kind="view", name="v", hash="1", parts={"feature n": {"kind": "mean", "over": "7d"}}, notes={})
    >>> new = Document(kind="view", name="v", hash="2", parts={"feature n": {"kind": "mean", "over": "14d"}}, notes={})
    >>> differences(old, new)
    ['feature n: over 7d -> 14d']
    """
    out: list[str] = []
    for part in dict.fromkeys([*before.parts, *now.parts]):
        one, other = before.parts.get(part), now.parts.get(part)
        if one is None or other is None:
            there = phrase_of(one or other or {})
            out.append(f"{part}: {there} -> removed" if other is None else f"{part}: new, {there}")
        else:
            changed = list(part_differences(one, other))
            out += [f"{part}: {', '.join(changed)}"] if part and changed else changed
    return out


def note_differences(before: Document, now: Document) -> list[str]:
    """Return the changes of notes, such as descriptions, between two documents."""
    return list(part_differences(before.notes, now.notes))


def words_of(struct: msgspec.Struct) -> Part:
    """Return the fields of a definition as text. Fields with their default values are left out."""
    out: Part = {}
    for field in msgspec.structs.fields(type(struct)):
        value = getattr(struct, field.name)
        if field.default is msgspec.NODEFAULT or _other(value, field.default):
            out[field.name.removesuffix("_us").replace("_", " ")] = _words(field.name, value)
    return out


def expression_words(expression: Expression) -> str:
    """Return an expression as text. Python functions are shown by a prefix of the hash of their code."""
    codes = [f"code {code[:8]}" for code in _codes(expression)]
    return ", ".join([repr(expression), *codes])


def _document(
    kind: Kind, name: str, digest: str, parts: dict[str, Part], about: About, more: Part | None = None
) -> Document:
    return Document(kind=kind, name=name, hash=digest, parts=parts, notes=words_of(about) | (more or {}))


def _formats(source: Source) -> Part:
    """Return as text the rules by which a source's rows are read.

    A changed rule changes how new rows are read, but nothing that is stored.  # D0178, D0208
    """
    reading = source.reading
    rules = {f"number format of {name}": text for name, text in reading.number_formats.items()} | {
        "words for null": ", ".join(reading.nulls),
        "delimiter": repr(reading.delimiter) if reading.delimiter else "",
        "key made of": ", ".join(reading.key_of),
        "constants": ", ".join(f"{name} {value!r}" for name, value in reading.constants.items()),
        "known at": reading.known_at or "",
        "rows of history": "final ones" if reading.only_final else "",
    }
    times = {f"{_FORMAT_OF} {name}": written for name, written in source.declared_formats.items()}
    return times | {f"{_READS}{name}": text for name, text in rules.items() if text}


def _source(source: Source) -> dict[str, Part]:
    parts: dict[str, Part] = {
        "": {
            "time": source.time,
            "key": source.key or "none",
            "delay": format_duration(source.delay_us),
            "future tolerance": format_duration(source.future_tolerance_us),
        }
    }
    return parts | {f"column {name}": {"": dtype} for name, dtype in source.declared.items()}


def _view(view: View) -> dict[str, Part]:
    itself = {"source": view.source.name, "by": ", ".join(view.by), "boundary": view.boundary, "entity": view.entity}
    return {"": itself} | {f"feature {name}": words_of(one) for name, one in view.features.items()}


def _model(model: Model) -> dict[str, Part]:
    label = model.label
    parts: dict[str, Part] = {
        "": {
            "request": model.request.name,
            "label": f"{expression_words(label.value)} of {label.source.name} by {label.key}"
            + (f", one of {', '.join(label.class_names)}" if label.classes else ""),
            "wait": format_duration(label.wait_us),
            **({"span": format_duration(label.span_us)} if label.span_us else {}),
            "metric": model.metric,
            "estimator": f"code {code_hash(model.estimator)[:8]}",
        }
    }
    for join in model.features.joins:
        read = "all" if join.select is None else ", ".join(join.select) or "none"
        joined = {"by": ", ".join(join.by), "reads": read, "definition": join.view.hash[:8]}
        parts[f"view {join.name}"] = joined | ({} if join.name == join.view.name else {"of": join.view.name})
    for name, expression in model.features.transforms.items():
        parts[f"feature {name}"] = {"": expression_words(expression)}
    return parts


def _deployment(deployment: Deployment) -> Part:
    approval = {} if deployment.approval_us is None else {"approval": format_duration(deployment.approval_us)}
    rules = [
        " and ".join(f"{type(part).__name__} {phrase_of(words_of(part))}".strip() for part in parts_of_trigger(rule))
        for rule in deployment.retrain.any_of
    ]
    return {
        "retrain": " or ".join(rules) or "never",
        "gate": phrase_of(words_of(deployment.gate)) or "usual",
        "learn": deployment.learn,
        "cooldown": format_duration(deployment.cooldown_us),
        "settle": format_duration(deployment.settle_us),
        **approval,
    }


def _given(struct: msgspec.Struct, names: Sequence[str]) -> Part:
    """Return as text those of the named fields whose values are not the defaults."""
    said = words_of(struct)
    return {one: said[one] for name in names if (one := name.replace("_", " ")) in said}


def part_differences(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield the changed fields of one part as text, such as `over 7d -> 14d`."""
    for field in dict.fromkeys([*before, *now]):
        one, other = before.get(field, "none"), now.get(field, "none")
        if one != other:
            yield f"{field} {one} -> {other}".strip()


def phrase_of(part: Part) -> str:
    """Return a part of a document as one line of text."""
    return ", ".join(f"{field} {words}".strip() for field, words in part.items())


def _words(name: str, value: Any) -> str:
    if isinstance(value, Expression):
        return expression_words(value)
    if name.endswith("_us") and isinstance(value, int):
        return format_duration(value)
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, msgspec.Struct):
        return phrase_of(words_of(value)) or "declared"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _other(value: Any, default: Any) -> bool:
    return isinstance(value, Expression) or value != default


def _codes(expression: Expression) -> Iterator[str]:
    if expression.op == "python":
        yield str(expression.params[3])
    for arg in expression.args:
        yield from _codes(arg)
