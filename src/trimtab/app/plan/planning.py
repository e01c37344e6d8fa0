"""Show what would change if the definitions in the project file were applied.  # D36"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from trimtab.app.state.applied import Applied, AppliedDefinitions
from trimtab.app.state.documents import Document, Kind, differences, documents, note_differences
from trimtab.app.system import System
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.shown import Shown, count_of
from trimtab.core.time import format_duration, format_time
from trimtab.events.layouts import retyped
from trimtab.features.definitions import View
from trimtab.features.feature_set import FeatureSet
from trimtab.features.online.packed.keys import cursor_name
from trimtab.registry import Version
from trimtab.registry.protection import CHAMPION

What = Literal["new", "changed", "removed", "noted", "unchanged"]
# the speed of filling a view, in events per second; the key: whether the view has other features than `latest`
_PER_S = {True: 40_000, False: 120_000}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The change of one definition."""

    kind: Kind
    name: str
    what: What
    version: int | None  # the number under which the definition was last applied; None: it never was
    changes: list[str]  # the changed fields, as text
    notes: list[str]  # changes of description, owner, tags, or rules of reading files, which affect no stored values


class Backfill(msgspec.Struct, frozen=True, kw_only=True):
    """A view whose online features must be filled from history."""

    view: str
    source: str
    events: int
    since: str | None  # the time of the oldest event in the history
    about_s: float


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of the changes on the deployed version of a model."""

    model: str
    version: str | None
    what: str


class Plan(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The project file compared with the applied definitions."""

    first: bool  # whether no definitions have been applied before
    changes: list[Change]
    backfills: list[Backfill] = []
    affected: list[Affected] = []
    dropped: list[str] = []  # views whose online features are no longer needed
    dangers: list[str]
    refused: list[str]  # reasons why the changes cannot be applied

    @property
    def changed(self) -> list[Change]:
        """The changes of definitions, except those that change only notes."""
        return [change for change in self.changes if change.what not in ("unchanged", "noted")]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        noted = any(change.what == "noted" for change in self.changes)
        return not (self.changed or noted or self.backfills or self.dropped or self.refused)

    def lines(self) -> list[str]:
        """The plan as lines of text."""
        out = ["Nothing was applied yet, so all definitions are new."] if self.first else []
        for sign, what in (("+", "new"), ("~", "changed"), ("-", "removed"), (" ", "noted")):
            for change in self.changes:
                if change.what == what:
                    version = f" (version {change.version})" if change.version is not None else ""
                    out.append(f"{sign} {change.kind} {change.name}{version}")
                    if what != "new":
                        out += [f"    {line}" for line in change.changes]
                    out += [f"    note: {line}" for line in change.notes] if what != "new" else []
        same = sum(change.what == "unchanged" for change in self.changes)
        out += [f"  {same} unchanged"] if same else []
        for fill in self.backfills:
            since = f" since {fill.since[:10]}" if fill.since else ""
            about = format_duration(max(1, round(fill.about_s)) * 1_000_000)
            out.append(
                f"fill      view {fill.view}: {count_of(fill.events, 'event')} of {fill.source}{since}, about {about}; "
                "the service keeps answering meanwhile"
            )
        out += [f"affected  {one.version or one.model}: {one.what}" for one in self.affected]
        out += [f"drop      online features of view {name}: nothing uses them" for name in self.dropped]
        out += [f"DANGER    {line}" for line in self.dangers]
        out += [f"REFUSED   {line}" for line in self.refused]
        done = "Nothing to do: all definitions in the project file are applied already."
        return out if out and not self.is_empty else [*out, done]


def plan_project(system: System) -> Plan:
    """Return what applying the project file would change; see `Project.plan`."""
    now, before = documents(system.declared), AppliedDefinitions(system.state.catalog).now()
    changes = [change_of(key, before.get(key), now.get(key)) for key in dict.fromkeys([*now, *before])]
    refused = refusals(system)
    dangers = [*_dangers(system, before), *_other_labels(now, before), *_renames(now, before)]
    plan = Plan(first=not before, changes=changes, dangers=dangers, refused=refused)
    if refused:
        return plan
    wanted = {name: one.model.features for name, one in system.definitions.deployments.items()}
    return msgspec.structs.replace(
        plan,
        backfills=list(_backfills(system, wanted)),
        affected=list(_affected(system, wanted, before)),
        dropped=_dropped(system, wanted),
    )


def unapplied(system: System) -> list[str]:
    """Return the names of definitions in the project file that differ from the applied definitions.

    If none have been applied yet, the result is empty.
    """
    before = AppliedDefinitions(system.state.catalog).now()
    now = documents(system.declared)
    changed = [key for key, one in now.items() if key not in before or before[key].document.hash != one.hash]
    removed = [key for key in before if key not in now]
    return [key.replace("/", " ") for key in [*changed, *removed]] if before else []


def change_of(key: str, before: Applied | None, now: Document | None) -> Change:
    """Return the change of one definition."""
    document = now or (before.document if before is not None else None)
    assert document is not None  # at least one of the two documents exists
    what: What = "new" if before is None else "removed" if now is None else "unchanged"
    changes: list[str] = []
    notes: list[str] = []
    if before is not None and now is not None and before.document != now:
        changes, notes = differences(before.document, now), note_differences(before.document, now)
        what = "changed" if before.document.hash != now.hash else "noted"
        if what == "changed" and not changes:
            changes = ["its source has another key or time, or a column that it reads has another type"]
    version = None if before is None else before.version
    return Change(kind=document.kind, name=document.name, what=what, version=version, changes=changes, notes=notes)


def refusals(system: System) -> list[str]:
    """Return the changes that cannot be applied, each with a suggestion what to do instead."""
    found = []
    for source in system.declared.sources.values():
        layout = system.layouts.kept(source.name)
        wrong = {} if layout is None else retyped(layout, source)
        if wrong and system.layouts.has_events(source.name):
            found += [
                f"source {source.name!r}: column {name!r} is declared {now}, but recorded events hold it as {old}. "
                f"Declare it {old} and convert it in features, or send the new values as a column of another name."
                for name, (old, now) in wrong.items()
            ]
    return found


def _dangers(system: System, before: Mapping[str, Applied]) -> Iterator[str]:
    read = _columns_in_use(system)
    for name, source in system.declared.sources.items():
        layout = system.layouts.kept(name)
        if layout is None:
            continue  # the source has no events yet
        removed = [c for c in layout.columns if c not in source.declared]
        old = before.get(f"source/{name}") or before.get(f"request/{name}")
        known = removed if old is None else [c for c in removed if f"column {c}" in old.document.parts]
        for column in known:
            users = read.get((name, column), [])
            said = f"; it is read by {', '.join(users)}" if users else ""
            yield f"column {name}.{column} is removed: recorded events keep it, in new events it is null{said}."
        if old is None:
            continue
        itself = old.document.parts[""]
        if itself["key"] != (source.key or "none"):
            yield (
                f"source {name}: its key is {source.key or 'none'} instead of {itself['key']}. Recorded events are "
                "identified by the old key, so they cannot be corrected any more. Declare a source of another name and "
                "record the events again."
            )
        if itself["time"] != source.time:
            yield (
                f"source {name}: its time is {source.time} instead of {itself['time']}. Recorded events keep the "
                "time of the old column."
            )


def _columns_in_use(system: System) -> dict[tuple[str, str], list[str]]:
    """Return for each source and column the names of the champions that read this column."""
    found: dict[tuple[str, str], list[str]] = {}
    try:
        models = list(system.definitions.deployments)
    except Misuse:  # a column has another type, which `refusals` reports
        return found
    for model in models:
        version = system.registry.alias(model, CHAMPION)
        if version is None:
            continue
        for view in _views_of(system, version):
            for column in view.columns_read:
                users = found.setdefault((view.source.name, column), [])
                if version.name not in users:
                    users.append(version.name)
    return found


def _other_labels(now: Mapping[str, Document], before: Mapping[str, Applied]) -> Iterator[str]:
    for key in (key for key, document in now.items() if document.kind == "model" and key in before):
        old, new = (one.parts[""]["label"].partition(", one of ")[0] for one in (before[key].document, now[key]))
        if old != new:
            yield (
                f"model {now[key].name}: its label is {new} instead of {old}. Answers of earlier versions are compared "
                "with the new label. If its meaning or unit is another one, give the model another name."
            )


def _renames(now: Mapping[str, Document], before: Mapping[str, Applied]) -> Iterator[str]:
    gone = {key: one.document for key, one in before.items() if key not in now}
    for key, document in now.items():
        if key in before:
            continue
        for old in gone.values():
            if old.kind == document.kind and old.kind != "model" and old.parts == document.parts:
                yield (
                    f"{old.kind} {old.name} -> {document.name} looks like a rename: it is a removal and a new "
                    f"{old.kind}. A model can use a view under another name without a rename: "
                    f"{old.name}.join({document.name!r})."
                    if old.kind == "view"
                    else f"{old.kind} {old.name} -> {document.name} looks like a rename: it is a removal and a new "
                    f"{old.kind}, and what was recorded stays under the old name."
                )


def _backfills(system: System, wanted: Mapping[str, FeatureSet]) -> Iterator[Backfill]:
    views = {view.hash: view for features in wanted.values() for view in features.views}
    lacking = [view for view in views.values() if not system.views.filled([view])]
    if lacking:
        system.history.refresh()
    for view in lacking:
        frame = system.history.frame(view.source.name)
        if not frame.rows:
            continue
        windowed = any(one.kind != "latest" for one in view.features.values())
        yield Backfill(
            view=view.name,
            source=view.source.name,
            events=frame.rows,
            since=format_time(int(frame.event_at_us.min())),
            about_s=frame.rows / _PER_S[windowed],
        )


def _affected(system: System, wanted: Mapping[str, FeatureSet], before: Mapping[str, Applied]) -> Iterator[Affected]:
    for model in dict.fromkeys([*wanted, *(one.document.name for one in before.values() if _deployed(one))]):
        version = system.registry.alias(model, CHAMPION)
        if version is None:
            continue
        if model not in wanted:
            what = "its deployment is removed; services that are started from now on do not serve this model"
            yield Affected(model=model, version=version.name, what=what)
        elif version.features != wanted[model].hash:
            changed = _changed_views(_views_of(system, version), wanted[model])
            what = (
                f"continues with the definitions that it was trained on{changed} until a version with the new "
                f"definitions is promoted; run: trimtab train {model}"
            )
            yield Affected(model=model, version=version.name, what=what)


def _deployed(one: Applied) -> bool:
    return one.document.kind == "deployment"


def _views_of(system: System, version: Version) -> tuple[View, ...]:
    try:
        return system.live.of(version).views
    except (Misuse, Corrupt):  # damaged, or a column has another type now
        return ()


def _changed_views(old: Sequence[View], new: FeatureSet) -> str:
    now = {view.hash for view in new.views}
    names = [view.name for view in old if view.hash not in now]
    return f" (with the old view {', '.join(names)})" if names else ""


def _dropped(system: System, wanted: Mapping[str, FeatureSet]) -> list[str]:
    """Return the stored views that nothing would need after the plan is applied."""
    needed = {view.hash for features in wanted.values() for view in features.views}
    for model in wanted:
        for version in system.live.versions(model):
            needed |= {view.hash for view in _views_of(system, version)}
    return named_views(system, system.views.unneeded(needed))


def named_views(system: System, gone: Sequence[str]) -> list[str]:
    """Return texts such as "carrier@5e8a01c2" for views, given prefixes of their hashes.

    "previous" stands for a name that is not known any more.
    """
    known = {
        cursor_name(digest): name for digest, name in AppliedDefinitions(system.state.catalog).view_names().items()
    }
    known |= {cursor_name(view.hash): view.name for view in system.views.views}
    return [f"{known.get(one, 'previous')}@{one[:8]}" for one in gone]
