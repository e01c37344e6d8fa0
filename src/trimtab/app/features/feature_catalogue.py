"""The feature catalogue: sources, entities, views and features, with their descriptions, recent values and users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np

from trimtab.app.features.feature_values import Values, sample_of, values_of
from trimtab.app.state.applied import AppliedDefinitions
from trimtab.app.state.documents import documents, expression_words, words_of
from trimtab.app.system import System
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.expressions.nodes import Expression
from trimtab.core.shown import Shown, count_of
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, SECOND_US, format_duration, format_time
from trimtab.events.about import NOTHING, About
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.aggregates import Aggregate
from trimtab.features.definitions import Join, View
from trimtab.features.feature_set import FeatureSet
from trimtab.registry import Version

EntryKind = Literal["source", "entity", "view", "feature"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A source, an entity, a view or a feature in the catalogue."""

    kind: EntryKind
    name: str  # features are named "view.feature", or "model:feature" if the model computes them
    dtype: str | None = None  # None unless the entry is a feature
    meaning: dict[str, str]  # the definition as text: columns, or the kind, window and hop of a feature
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    version: int | None = None  # the number under which this definition was applied; None: it is not applied
    hash: str | None = None  # the hash of the definition
    lineage: tuple[str, ...] = ()  # the columns from which the entry is computed, as `source.column`
    used_by: tuple[str, ...] = ()
    events: int | None = None  # the number of events of the source that are not deleted
    newest: str | None = None  # the latest event time
    known_ago: str | None = None  # the age of the latest known-at time, maybe of another event than `newest`
    values: dict[str, Values] = {}  # recent values, by model and the feature's name in that model
    others: tuple[Entry, ...] = ()  # other entries of the same name, set by `Catalogue.find`

    def lines(self) -> list[str]:
        """Return everything about the entry as lines of text."""
        version = "not applied" if self.version is None else f"version {self.version}"
        out = [f"{self.kind} {self.name}" + (f" ({self.dtype})" if self.dtype else "")]
        out += [f"  {self.description}"] if self.description else []
        out += [f"  owner {self.owner}"] if self.owner else []
        out += [f"  tags {', '.join(self.tags)}"] if self.tags else []
        out += [f"  {field} {words}".rstrip() for field, words in self.meaning.items()]
        out.append(f"  definition {version}" + (f", {self.hash[:12]}" if self.hash else ""))
        out += [f"  from {', '.join(self.lineage)}"] if self.lineage else []
        out.append(f"  used by {', '.join(self.used_by) or 'nothing'}")
        if self.events is not None:
            newest = f", latest event time {self.newest}" if self.newest else ""
            known = f"; latest known-at time {self.known_ago} ago" if self.known_ago else ""
            out.append(f"  {count_of(self.events, 'event')}{newest}{known}")
        for name, values in self.values.items():
            out += [f"  values in {name}:", *(f"    {line}" for line in values.lines())]
        return out + [line for other in self.others for line in other.lines()]

    def has(self, text: str) -> bool:
        """Return whether the name, description, owner, tags or columns contain a text, ignoring case."""
        own = [self.name, self.description, self.owner, *self.tags, *self.lineage]
        columns = [name.removeprefix("column ") for name in self.meaning if name.startswith("column ")]
        return any(text.casefold() in one.casefold() for one in [*own, *columns])


class Catalogue(Shown, msgspec.Struct, frozen=True):
    """The entries for all sources, entities, views and features."""

    entries: list[Entry]

    def find(self, name: str) -> Entry:
        """Return the entry with a name.

        If entries of several kinds have this name, such as an entity and a view, the others are in the field `others`
        of the result. In the name "model:feature", the model may be left out if only one model has such a feature.

        Raises:
            NotFound: No entry has this name.
            Misuse: Several models have a feature of this name, and the name does not say which model is meant.
        """
        found = [one for one in self.entries if one.name == name]
        found = found or [one for one in self.entries if one.name.partition(":")[2] == name]
        if not found:
            raise NotFound(f"features: there is no {name!r}. There are: {', '.join(one.name for one in self.entries)}.")
        if len(found) > 1 and len({one.name for one in found}) > 1:
            raise Misuse(f"features: {name!r} may be {' or '.join(one.name for one in found)}. Name one of them.")
        return msgspec.structs.replace(found[0], others=tuple(found[1:]))

    def lines(self) -> list[str]:
        """Return one line of text for each entry."""
        width = max((len(one.name) for one in self.entries), default=0)
        out = []
        for one in self.entries:
            named = {"kind": "", "is": ""}  # fields whose names are not shown
            meaning = " ".join(f"{named.get(field, field)} {words}".strip() for field, words in one.meaning.items())
            said = [*([one.dtype] if one.dtype else []), *([meaning] if one.kind == "feature" else [])]
            if one.kind in ("source", "view") and one.events is not None:
                said.append(f"{count_of(one.events, 'event')}" + (f", newest {one.newest[:16]}" if one.newest else ""))
            nulls = [values.null_share for values in one.values.values()]
            said += [f"{nulls[0]:.1%} null"] if nulls else []
            said += [one.description] if one.description else []
            out.append(f"{one.kind:7}  {one.name:{width}}  {'; '.join(said)}".rstrip())
        return out or ["Nothing is declared, or nothing contains that text."]


def feature_catalogue(system: System, *, search: str | None = None) -> Catalogue:
    """Return the entries that contain a text, or all entries; see `Project.catalogue`."""
    system.history.refresh()
    entries = list(_Entries(system).all())
    return Catalogue([one for one in entries if search is None or one.has(search)])


class _Entries:
    def __init__(self, system: System) -> None:
        self._system = system
        self._definitions = system.definitions
        self._documents = documents(system.declared)
        self._applied = AppliedDefinitions(system.state.catalog).now()
        now_us = system.clock.now_us()
        self._events = {one.name: _events(system.history.frame(one.name), now_us) for one in system.sources}
        self._samples = {name: sample_of(system, name) for name in self._definitions.models}

    def all(self) -> Iterator[Entry]:
        definitions = self._definitions
        for source in definitions.sources.values():
            kind = "request" if source.name in definitions.requests else "source"
            users = [f"view {view.name}" for view in definitions.views.values() if view.source.name == source.name]
            users += [f"label of {m.name}" for m in definitions.models.values() if m.label.source.name == source.name]
            users += [f"model {m.name}" for m in definitions.models.values() if m.request.name == source.name]
            meaning = {"time": source.time, "key": source.key or "none", "delay": format_duration(source.delay_us)}
            meaning |= {f"column {name}": dtype for name, dtype in source.declared.items()}
            yield self._entry("source", source.name, f"{kind}/{source.name}", source.about, meaning, source.name, users)
        for entity in definitions.entities.values():
            users = [f"view {view.name}" for view in definitions.views.values() if view.entity == entity.name]
            meaning = {f"column {name}": dtype for name, dtype in entity.columns.items()}
            yield self._entry("entity", entity.name, f"entity/{entity.name}", entity.about, meaning, None, users)
        for view in definitions.views.values():
            users = list(dict.fromkeys(user for user, _ in self._users(view)))
            meaning = {"source": view.source.name, "by": ", ".join(view.by), "entity": view.entity}
            lineage = [f"{view.source.name}.{column}" for column in sorted(view.columns_read)]
            entry = self._entry("view", view.name, f"view/{view.name}", view.about, meaning, view.source.name, users)
            yield msgspec.structs.replace(entry, lineage=tuple(lineage))
            yield from self._features(view)
        for model in definitions.models.values():
            yield from self._computed(model.name, model.features)

    def _entry(
        self,
        kind: EntryKind,
        name: str,
        key: str,
        about: About,
        meaning: Mapping[str, str],
        source: str | None,
        users: Iterable[str],
    ) -> Entry:
        document, applied = self._documents.get(key), self._applied.get(key)
        same = document is not None and applied is not None and applied.document.hash == document.hash
        return Entry(
            kind=kind,
            name=name,
            meaning=dict(meaning),
            description=about.description,
            owner=about.owner,
            tags=about.tags,
            version=applied.version if same and applied is not None else None,
            hash=None if document is None else document.hash,
            used_by=tuple(users),
            **self._events.get(source or "", {}),
        )

    def _features(self, view: View) -> Iterator[Entry]:
        users = self._users(view)
        for name, aggregate in view.features.items():
            read = set().union(*(e.columns() for e in (aggregate.of, aggregate.where) if e is not None))
            values = {}
            for user, join in users:
                sample = self._samples.get(user.partition("@")[0])
                found = None if sample is None else values_of(sample, f"{join.name}.{name}")
                if sample is not None and found is not None:
                    values[f"{sample.model}, as {join.name}.{name}"] = found
            key = f"view/{view.name}"
            names = list(dict.fromkeys(user for user, _ in users))
            entry = self._entry(
                "feature", f"{view.name}.{name}", key, view.about, aggregate_words(view, name), None, names
            )
            yield msgspec.structs.replace(
                entry,
                dtype=aggregate.dtype(view.source.columns),
                lineage=tuple(f"{view.source.name}.{column}" for column in sorted(read)),
                values=values,
                **self._events[view.source.name],
            )

    def _computed(self, model: str, features: FeatureSet) -> Iterator[Entry]:
        sample = self._samples.get(model)
        for name, expression in features.transforms.items():
            found = None if sample is None else values_of(sample, name)
            meaning = {"is": expression_words(expression)}
            users = [model, *self._computing(model, name, expression)]
            entry = self._entry("feature", f"{model}:{name}", f"model/{model}", NOTHING, meaning, None, users)
            lineage = tuple(sorted(_lineage(features, expression.columns())))
            values = {} if sample is None or found is None else {f"{sample.model}, as {name}": found}
            dtype = features.dtypes.get(name) or features.known[name]
            yield msgspec.structs.replace(entry, dtype=dtype, lineage=lineage, values=values)

    def _users(self, view: View) -> list[tuple[str, Join]]:
        """Return the declared models and the registered versions that use a view, each with its join of the view."""
        found: list[tuple[str, Join]] = []
        for model in self._definitions.models.values():
            found += [(model.name, join) for join in model.features.joins if join.view.name == view.name]
        for name, features in self._versions:
            of_view = [join for join in features.joins if join.view.name == view.name]
            other = "" if all(join.view.hash == view.hash for join in of_view) else " (with a different definition)"
            found += [(f"{name}{other}", join) for join in of_view]
        return found

    def _computing(self, model: str, name: str, expression: Expression) -> Iterator[str]:
        """Yield the versions of a model in which a feature of this name is computed from other features or columns."""
        for version, features in self._versions:
            if version.partition("@")[0] == model and name in features.transforms:
                same = features.transforms[name].same_as(expression)
                yield version if same else f"{version} (with a different definition)"

    @cached_property
    def _versions(self) -> list[tuple[str, FeatureSet]]:
        """Return for each version its name with its aliases, such as "late@7 [champion]", and its features."""
        registry, known, found = self._system.registry, dict[str, FeatureSet | None](), []
        for model in [record.key for record in self._system.state.catalog.find("version_count")]:
            aliases: dict[str, list[str]] = {}
            for alias, move in registry.aliases(model).items():
                aliases.setdefault(move.version, []).append(alias)
            for version in registry.versions(model):
                if version.features not in known:
                    known[version.features] = self._definitions_of(version)
                features = known[version.features]
                if features is not None:
                    named = f" [{', '.join(aliases[version.id])}]" if version.id in aliases else ""
                    found.append((version.name + named, features))
        return found

    def _definitions_of(self, version: Version) -> FeatureSet | None:
        try:
            return self._system.live.of(version)
        except (Misuse, NotFound, Corrupt):  # erased or damaged, or a column has another type now
            return None


def aggregate_words(view: View, name: str) -> dict[str, str]:
    """Describe how a feature of a view is computed: its kind, such as `last_n(x, 3), place 2`, and its arguments.

    >>> from trimtab import features as f
    >>> from trimtab.events import source
    >>> landings = source("landings", time="at", columns={"carrier": str, "dest": str})
    >>> view = f.view("v", source=landings, by="carrier", features={"to": f.top_k("dest", 2, over="7d")})
    >>> aggregate_words(view, "to_2")
    {'kind': 'top_k(dest, 2), place 2', 'over': '7d', 'hop': '1h'}
    """
    aggregate = view.features[name]
    words = words_of(aggregate)
    for inner, written in (("max age", "max_age"), ("half life", "half_life"), ("keep", "k")):
        words = {written if field == inner else field: said for field, said in words.items()}
    stem = name.removesuffix(f"_{aggregate.place}")
    alike = [
        a.place
        for n, a in view.features.items()
        if n == f"{stem}_{a.place}" and _at_place_1(a) == _at_place_1(aggregate)
    ]
    call = aggregate.traits.places
    if aggregate.kind == "top" or (call and max(alike, default=1) > 1):
        words.pop("place", None)
        of, given = aggregate.of, words.pop("of")
        column = str(of.params[0]) if of is not None and of.op == "col" else given
        words["kind"] = f"{call}({column}, {max(alike, default=aggregate.place)}), place {aggregate.place}"
    return words


def _at_place_1(aggregate: Aggregate) -> Aggregate:
    return msgspec.structs.replace(aggregate, place=1)


def _lineage(features: FeatureSet, names: Iterable[str]) -> set[str]:
    """Return the columns from which features are computed: columns of the request, and all that the views read."""
    found: set[str] = set()
    joins = {join.name: join for join in features.joins}
    for name in names:
        join, _, feature = name.partition(".")
        if name in features.request.columns:
            found.add(f"{features.request.name}.{name}")
        elif name in features.transforms:
            found |= _lineage(features, features.transforms[name].columns())
        elif join in joins and feature in joins[join].view.features:
            view = joins[join].view
            found |= {f"{view.source.name}.{column}" for column in view.columns_read}
    return found


def _events(frame: EventFrame, now_us: int) -> dict[str, Any]:
    """Return how many events a source has, and its newest times, as fields of an `Entry`."""
    known, there = frame.known_at_us <= now_us, ~frame.deleted
    times = frame.event_at_us[known & there & (frame.event_at_us <= now_us)]
    return {
        "events": int(np.count_nonzero(there & (frame.superseded_at_us == NEVER_US))),
        "newest": format_time(int(times.max())) if len(times) else None,
        "known_ago": _ago(now_us - int(frame.known_at_us[known].max())) if known.any() else None,
    }


def _ago(age_us: int) -> str:
    if age_us < SECOND_US:
        return "less than 1s"
    step_us = next((step for step in (DAY_US, HOUR_US, MINUTE_US) if age_us >= 2 * step), SECOND_US)
    return format_duration(age_us // step_us * step_us)
