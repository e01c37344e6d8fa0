"""The subject of an erasure: keys of an entity, the columns that hold them, and tests whether a row has one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from trimtab.app.state.definitions import Definitions
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Misuse, NotFound
from trimtab.events.definitions import Source
from trimtab.events.quarantine import line_texts
from trimtab.features.online.packed.keys import name_bytes

Names = tuple[str, ...]  # the columns that together hold one key
Key = tuple[str, ...]  # the parts of a key as text, one for each column
Fits = Callable[[Sequence[Any]], bool]  # a test whether a row (a list of values) has one of the keys

_KEYS: tuple[Dtype, ...] = ("str", "int")
_FEW = 20  # with more keys, it is cheaper to decode each record than to search its bytes
_ENDS: tuple[Literal["big", "little"], ...] = ("big", "little")
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_encode = msgspec.msgpack.Encoder().encode


class Subject:
    """An entity and some of its keys. `met` collects the keys that were found in data.

    Columns of the same name hold the same entity in every source. Columns of different names hold the same entity if
    they are joined: a label has a column with the key of its request, and the key columns of a view are looked up by
    columns of a request.

    Args:
        sources: The project's sources, with columns in the order of recorded events.
        entity: The name of an entity, or of a column of any source.
        keys: The keys, each with one text for each of the entity's columns.

    Raises:
        NotFound: No entity and no column has this name.
        Misuse: A key does not have one part for each of the entity's columns, or no column can hold it.
    """

    def __init__(self, definitions: Definitions, sources: Sequence[Source], entity: str, *keys: Sequence[str]) -> None:
        self.entity = entity
        self.keys: tuple[Key, ...] = tuple(dict.fromkeys(map(tuple, keys)))
        self.met: set[Key] = set()
        self.columns = columns_of(definitions, sources, entity)
        for key in self.keys:
            if len(key) != len(self.columns) or not all(key):
                raise Misuse(
                    f"forget: the key of {entity!r} is {', '.join(self.columns)}; found {len(key)} values. Give one "
                    "value for each of these columns, none of them empty."
                )
        self._sources = {source.name: source for source in sources}
        self._requests = {name: model.request for name, model in definitions.models.items()}
        self._places = _places(definitions, sources, self.columns)
        self.places = {
            source.name: sorted(
                names for name, names in self._places if name == source.name and self._wanted(source.columns, names)
            )
            for source in sources
        }
        self.places = {name: places for name, places in self.places.items() if places}
        for key in self.keys:
            if not any(self._value(s, names, key) for s, places in self.places.items() for names in places):
                dtypes = {name: dtype for source in sources for name, dtype in source.columns.items()}
                found = ", ".join(f"{name} ({dtypes[name]})" for name in self.columns)
                raise Misuse(f"forget: {', '.join(key)} cannot be a value of {found}. Give a whole number.")
        self._needles = [[[part.encode(), *map(_encode, _whole(part))] for part in key] for key in self.keys]

    @property
    def shown(self) -> str:
        """The entity with its key, or with the number of its keys, as text for messages."""
        if len(self.keys) > 1:
            return f"these {len(self.keys):,} keys of {self.entity}"
        return f"{self.entity} {', '.join(map(repr, self.keys[0]))}"

    def names(self, source: str, columns: Sequence[str]) -> list[str | int | tuple[str | int, ...]]:
        """Return the keys as stored by a view with these columns. Keys that the columns cannot hold are left out."""
        values = (self._value(source, tuple(columns), key) for key in self.keys)
        return [one if len(one) > 1 else one[0] for one in values if one is not None]

    def may_be_in(self, payload: bytes) -> bool:
        """Return False if an encoded record certainly has none of the keys. Nothing is decoded, so this is fast."""
        if len(self.keys) > _FEW:
            return True
        return any(all(any(needle in payload for needle in part) for part in key) for key in self._needles)

    def stored_as(self, least_bytes: int) -> list[bytes]:
        """Return the longest part of each key in all forms in which files may contain it.

        The forms are text and, for whole numbers, also MessagePack, eight bytes in either byte order (in tables and
        packed values), and the form in the keys of online features. Parts shorter than `least_bytes` are left out.
        """
        longest = [max(key, key=lambda part: len(part.encode())) for key in self.keys]
        parts = [part for part in longest if len(part.encode()) >= least_bytes]
        found = [part.encode() for part in parts]
        dtypes = {self._sources[s].columns[n] for s, places in self.places.items() for names in places for n in names}
        for number in (n for part in parts for n in _whole(part) if "int" in dtypes):
            found += [_encode(number), *(number.to_bytes(8, end, signed=True) for end in _ENDS), name_bytes(number)]
        return found

    def of_event(self, source: str) -> Fits:
        """Return a test for the events of a source. In an undeclared source, any value may be the key."""
        if source not in self._sources:
            return self._anywhere
        return self._fits(source, self._sources[source].columns)

    def of_request(self, model: str, fits: bool) -> Fits:
        """Return a test for the logged requests of a model. `fits` says whether they have the columns declared now."""
        if not fits or model not in self._requests:
            return self._anywhere
        return self._fits(self._requests[model].name, self._requests[model].columns)

    def of_table(self, source: str | None, rows: Columns) -> list[int]:
        """Return the indices of the rows that have a key.

        If `source` is None, or no column of it holds the entity, all columns are searched that hold the entity in any
        declared source.
        """
        known = self.places.get(source or "")
        every = {names for _, names in self._places} if known is None else set(known)
        found: set[int] = set()
        for names in every:
            wanted = self._wanted({n: c.dtype for n, c in rows.by_name.items()}, names)
            if not wanted:
                continue
            lists = zip(*(rows[name].to_list() for name in names), strict=True)
            here = {i: values for i, values in enumerate(lists) if values in wanted}
            self.met.update(wanted[values] for values in here.values())
            found.update(here)
        return sorted(found)

    def of_raw(self, source: str, row: Mapping[str, Any]) -> bool:
        """Return whether a row that could not become an event has a key, whatever the types of its values."""
        if "_line" in row:  # the row is one line of text that could not be parsed
            return self._mentioned(line_texts(row))
        known = self.places.get(source, [] if source in self._sources else [self.columns])
        for names in known:
            if all(name in row for name in names):
                texts = tuple(_shown(row[name]) for name in names)
                if texts in self.keys:
                    self.met.add(texts)
                    return True
            # a column is missing, perhaps because the line was not split into columns: search all texts
            elif self._mentioned(row.values()):
                return True
        return False

    def _mentioned(self, values: Iterable[Any]) -> bool:
        text = " ".join(map(_shown, values))
        found = {key for key in self.keys if all(part in text and _word(part).search(text) for part in key)}
        self.met |= found
        return bool(found)

    def _fits(self, source: str, columns: Mapping[str, Dtype]) -> Fits:
        order = list(columns)
        wanted = [(names, self._wanted(columns, names)) for names in self.places.get(source, [])]
        tests = [(tuple(map(order.index, names)), values) for names, values in wanted if values]
        if not tests:
            return lambda row: False

        def fits(row: Sequence[Any]) -> bool:
            for places, values in tests:
                if max(places) < len(row) and (key := values.get(tuple(row[place] for place in places))) is not None:
                    self.met.add(key)
                    return True
            return False

        return fits

    def _anywhere(self, row: Sequence[Any]) -> bool:
        texts = {str(value) for value in row if isinstance(value, str | int) and not isinstance(value, bool)}
        found = {key for key in self.keys if texts.issuperset(key)}
        self.met |= found
        return bool(found)

    def _wanted(self, dtypes: Mapping[str, Dtype], names: Names) -> dict[tuple[Any, ...], Key]:
        """Return a dict from the values of some columns to the key that they form. Impossible keys are left out."""
        values = ((_values(dtypes, names, key), key) for key in self.keys)
        return {found: key for found, key in values if found is not None}

    def _value(self, source: str, names: Names, key: Key) -> tuple[Any, ...] | None:
        return _values(self._sources[source].columns, names, key)


def columns_of(definitions: Definitions, sources: Sequence[Source], entity: str) -> Names:
    """Return the columns that identify an entity.

    Raises:
        NotFound: No entity and no column has this name.
        Misuse: The column holds neither text nor whole numbers.
    """
    entities = {view.entity: tuple(view.by) for view in definitions.views.values()}
    if entity in entities:
        return entities[entity]
    columns = {name: dtype for source in sources for name, dtype in source.columns.items()}
    if entity not in columns:
        usual = sorted({n for n, d in columns.items() if d in _KEYS} - entities.keys())
        raise NotFound(
            f"forget: no entity or column {entity!r}. Entities: {', '.join(sorted(entities)) or 'none'}; columns: "
            f"{', '.join(usual) or 'none'}."
        )
    if columns[entity] not in _KEYS:
        raise Misuse(f"forget: column {entity!r} is {columns[entity]}. Name a column of type str or int.")
    return (entity,)


def _places(definitions: Definitions, sources: Sequence[Source], columns: Names) -> set[tuple[str, Names]]:
    """Return pairs of a source and its columns that hold the entity, by their name or by a join."""
    links: list[tuple[tuple[str, Names], tuple[str, Names]]] = []
    for model in definitions.models.values():
        request, label = model.request, model.label
        links.append(((request.name, (request.key,)), (label.source.name, (label.key,))))
        joins = [join for join in model.features.joins if set(join.by) <= request.columns.keys()]
        links += [((request.name, tuple(j.by)), (j.view.source.name, tuple(j.view.by))) for j in joins]
    found: set[tuple[str, Names]] = set()
    names = {columns}
    while True:
        before = len(found)
        for source in sources:
            found |= {(source.name, some) for some in names if all(source.columns.get(n) in _KEYS for n in some)}
        for one, other in links:
            found |= {one, other} if {one, other} & found else set()
        names |= {some for _, some in found}
        if len(found) == before:
            return found


def _values(dtypes: Mapping[str, Dtype], names: Names, key: Key) -> tuple[Any, ...] | None:
    """Return the key as values of the columns; None if a column is missing or cannot hold its value."""
    values: list[Any] = []
    for name, part in zip(names, key, strict=True):
        dtype = dtypes.get(name)
        if dtype == "str":
            values.append(part)
        elif dtype == "int" and _whole(part):
            values += _whole(part)
        else:
            return None
    return tuple(values)


def _word(part: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(part)}(?![\w-])")


def _whole(key: str) -> list[int]:
    """Return a list with the whole number that a text stands for; empty if it is none, or exceeds 64 bits."""
    found = [int(key)] if _WHOLE.fullmatch(key) else []
    return [n for n in found if -(2**63) <= n < 2**63]


def _shown(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
