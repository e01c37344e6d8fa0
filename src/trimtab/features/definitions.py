"""The declaration of entities, views, joins, requests, and labels with the wait after which they are final."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import Expression, col
from trimtab.core.hashing import content_hash
from trimtab.core.shown import shown
from trimtab.core.time import DAY_US, HOUR_US, duration_us
from trimtab.events.about import NOTHING, About, about
from trimtab.events.definitions import Source, check_name, declared_columns, source
from trimtab.features.aggregates import Aggregate, Several, check_aggregate, expanded, value_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Boundary = Literal["before", "inclusive"]
Us = TypeVar("Us", int, "NDArray[Any]")
KEYS: tuple[Dtype, ...] = ("str", "int")  # the types of columns that can identify an entity
_MOST_CLASSES = 100  # the largest number of classes, because each logged prediction has a probability for each class


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """What features are about (a customer, an airport): the columns that identify it. `entity()` makes one."""

    name: str
    columns: dict[str, Dtype]
    about: About = NOTHING

    @property
    def hash(self) -> str:
        """The hash that identifies this definition."""
        return content_hash([self.name, self.columns])


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Features of one kind of entity, computed from the events of one source. `view()` makes and checks one."""

    name: str
    source: Source
    by: tuple[str, ...]  # the source's columns that identify the entity
    features: dict[str, Aggregate]
    boundary: Boundary = "before"
    entity: str = ""  # the name of the entity, for people
    about: About = NOTHING

    @property
    def hash(self) -> str:
        """The hash that identifies this definition, including those parts of the source that the view reads. # D34"""
        content = self.source.content_of(sorted(self.columns_read))
        return content_hash([self.name, content, self.by, self.features, self.boundary])

    @property
    def columns_read(self) -> set[str]:
        """The source's columns that the view reads: those for features, and those that identify the entity."""
        return {*self.by}.union(*(_columns_read(aggregate) for aggregate in self.features.values()))

    def __getitem__(self, feature: str) -> Expression:
        """Return a feature as an expression, for use in other features or to look up another view.

        Raises:
            Misuse: The view has no such feature.
        """
        return self.join()[feature]

    def join(self, name: str | None = None, *, by: By | None = None, select: Sequence[str] | None = None) -> Join:
        """Return this view for a request: with another name, looked up by other columns, or with fewer features.

        Args:
            name: The prefix of the features' names; by default the name of the view.
            by: The columns of the request, or other features (`plane["model"]`), that identify the entity. By default,
                the request's columns with the same names as those in the view's own `by`.
            select: The features that the model gets; by default all. Expressions can also use the other features.

        Raises:
            Misuse: `by` has another number of columns than the view's own, or a feature does not exist.

        >>> from trimtab.features.aggregates import count
        >>> airport = view("airport", source=source("landings", time="at", columns={"dest": str}), by="dest",
        ...                features={"landings": count(over="1d")})
        >>> airport.join("origin", by="origin")["landings"]
        col('origin.landings')
        """
        what = f"view {self.name!r}, join"
        name = self.name if name is None else name
        check_name(name, "join")
        columns = self.by if by is None else _columns_of(by, what)
        if len(columns) != len(self.by):
            raise Misuse(
                f"{what} {name!r}: the view has by={', '.join(self.by)}, so by={', '.join(columns)} must name as many "
                "columns."
            )
        for feature in select or ():
            if feature not in self.features:
                raise Misuse(f"{what} {name!r}: no feature {feature!r} among {', '.join(self.features)}.")
        if isinstance(select, str):
            raise Misuse(f'{what} {name!r}: select={select!r} must be a list, such as ["{select}"].')
        return Join(name=name, view=self, by=columns, select=None if select is None else tuple(select))


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """A view as used by a request. `View.join()` makes one. A view without `join()` is joined under its own name."""

    name: str  # features are called `name.feature`
    view: View
    by: tuple[str, ...]  # columns of the request, or features, in the order of the view's own `by`
    select: tuple[str, ...] | None = None  # the features that the model gets; None: all

    def __getitem__(self, feature: str) -> Expression:
        """Return a feature as an expression, for use in other features or to look up another view."""
        if feature not in self.view.features:
            raise Misuse(f"view {self.view.name!r}: no feature {feature!r} among {', '.join(self.view.features)}.")
        return col(f"{self.name}.{feature}")

    @property
    def hash(self) -> str:
        """The hash that identifies this definition."""
        return content_hash([self.name, self.view.hash, self.by, self.select])


By: TypeAlias = str | Expression | Entity | Sequence[str | Expression]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of request for a prediction. `request()` makes and checks one."""

    source: Source  # a request is also a source, so that past requests can be ingested as events
    lead_us: int = 0  # how long before its own time (the time that it is about) the request is made

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def hash(self) -> str:
        """The hash that identifies this definition."""
        return content_hash([self.source.hash, self.lead_us])

    @property
    def key(self) -> str:
        assert self.source.key is not None  # `request()` makes sure of this
        return self.source.key

    @property
    def key_dtype(self) -> Literal["str", "int"]:
        return "int" if self.columns[self.key] == "int" else "str"

    @property
    def time(self) -> str:
        return self.source.time

    @property
    def columns(self) -> dict[str, Dtype]:
        return self.source.declared if self.source.hidden else self.source.columns


class LabelWait:
    """Computes when labels are final, from the field `wait_us` of the class that inherits from this."""

    __slots__ = ()
    wait_us: int

    def final_at(self, at_us: Us) -> Us:
        """Return the time at which the label of a request at `at_us` is final. Arrays are allowed."""
        return at_us + self.wait_us

    def final_until(self, now_us: int) -> int:
        """Return the latest time of a request whose label is final at `now_us`."""
        return now_us - self.wait_us

    def closed_until(self, now_us: int) -> int:
        """Return the latest midnight before which all requests have a final label at `now_us`.

        The days before this midnight are called closed.
        """
        return self.final_until(now_us) // DAY_US * DAY_US


class Label(LabelWait, msgspec.Struct, frozen=True, kw_only=True):
    """What a model predicts for a request: a value of a later event. `label()` makes and checks one."""

    source: Source
    key: str  # the column of `source` that has the key of the request
    value: Expression
    wait_us: int
    # the possible values in order; empty if the label is a number or a bool
    classes: tuple[str, ...] | tuple[int, ...] = ()
    # whether the source has one event for each request, with the request's time as event time; `model()` sets it # D206
    dated_by_request: bool = False
    # for how long after a request something happens that its label sums up, so that labels of requests that are closer
    # to each other overlap; 0: they do not
    span_us: int = 0

    @property
    def hash(self) -> str:
        """The hash that identifies this definition."""
        content = self.source.content_of(sorted({self.key} | self.value.columns()))
        parts: list[object] = [content, self.key, self.value, self.wait_us]
        parts += [["span", self.span_us]] if self.span_us else []
        return content_hash([*parts, self.classes] if self.classes else parts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as texts, which are their names in predictions. The label of a row is the index of its class."""
        return tuple(str(one) for one in self.classes)


def entity(
    name: str, columns: Mapping[str, type], *, description: str = "", owner: str = "", tags: Sequence[str] = ()
) -> Entity:
    """Declare an entity. This is only needed to give it a type, a description or several columns.

    Args:
        name: The name: lower case, and unique in the project.
        columns: The columns that together identify the entity, each str or int. Sources of views by this entity must
            have them.
        description: A text for people.
        owner: Who is responsible.
        tags: Labels for people, such as "pii".

    Raises:
        Misuse: There are no columns, or one has another type.

    >>> entity("route", {"origin": str, "dest": str}).columns
    {'origin': 'str', 'dest': 'str'}
    """
    what = f"entity {name!r}"
    check_name(name, "entity")
    dtypes = declared_columns(columns, what)
    wrong = {column: dtype for column, dtype in dtypes.items() if dtype not in KEYS}
    if wrong or not dtypes:
        raise Misuse(f"{what}: its columns must be str or int; found {wrong or 'none'}.")
    return Entity(name=name, columns=dtypes, about=about(description, owner, tags, what))


def view(
    name: str,
    *,
    source: Source,
    by: By,
    features: Mapping[str, Aggregate | Several],
    boundary: Boundary = "before",
    description: str = "",
    owner: str = "",
    tags: Sequence[str] = (),
) -> View:
    """Declare features of an entity that are computed from the events of a source.

    Args:
        name: The name: lower case, and unique in the project. Features are called `name.feature`.
        source: Where the events come from.
        by: The source's columns (str or int) that identify the entity: a name, a list of names, or an `entity()`.
        features: The aggregates, by name of the feature.
        boundary: For which requests an event counts. "before": for requests after the event's time, so that an event
            never counts for a request at the same time. "inclusive": also for requests at the event's time.
        description: A text for people.
        owner: Who is responsible.
        tags: Labels for people, such as "pii".

    Raises:
        Misuse: A column does not exist or has the wrong type, or the definition is empty or impossible.
    """
    what = f"view {name!r}"
    check_name(name, "view")
    _check_source(what, source)
    columns = _columns_of(by, what)
    for column in columns:
        _check_key(what, column, source, by.columns.get(column) if isinstance(by, Entity) else None)
    if not features:
        raise Misuse(f"{what}: no features. Give at least one aggregate.")
    if not isinstance(features, Mapping):
        raise Misuse(f'{what}: features={shown(features)[:100]} is not a mapping. Name each: {{"visits": tt.count()}}.')
    if boundary not in ("before", "inclusive"):
        raise Misuse(f'{what}: boundary={boundary!r} is neither "before" nor "inclusive".')
    declared = expanded(what, features)
    for feature, aggregate in declared.items():
        check_name(feature, f"{what}: feature")
        check_aggregate(f"{what}, feature {feature!r}", aggregate, source)
    return View(
        name=name,
        source=source,
        by=columns,
        features=declared,
        boundary=boundary,
        entity=by.name if isinstance(by, Entity) else "_".join(columns),
        about=about(description, owner, tags, what),
    )


def request(
    name: str,
    *,
    key: str,
    time: str,
    columns: Mapping[str, type],
    lead: str | int = 0,
    time_format: str | Mapping[str, str] | None = None,
    number_format: Mapping[str, str] | None = None,
    nulls: Sequence[str] = (),
    delimiter: str | None = None,
    key_of: Sequence[str] = (),
    constants: Mapping[str, str] | None = None,
    description: str = "",
    owner: str = "",
    tags: Sequence[str] = (),
) -> Request:
    """Declare a kind of request: its key, its time and its columns. A request is made `lead` before its time.

    The formats, `nulls`, `delimiter`, `key_of` and `constants` are as in `source()`. `delimiter` only applies to files.
    The others also apply to pushed rows and to rows sent for a prediction: `key_of` and `constants` fill in a key and
    columns that such rows lack.

    Raises:
        Misuse: As for `source()`.
    """
    declared = source(
        name,
        key=key,
        time=time,
        columns=columns,
        time_format=time_format,
        number_format=number_format,
        nulls=nulls,
        delimiter=delimiter,
        key_of=key_of,
        constants=constants,
        description=description,
        owner=owner,
        tags=tags,
    )
    return Request(source=declared, lead_us=duration_us(lead))


def label(
    source: Source,
    *,
    key: str,
    value: Expression | str,
    wait: str | int,
    classes: Sequence[str] | Sequence[int] | None = None,
    span: str | int = 0,
) -> Label:
    """Declare the label of a request: a value in the event of `source` whose column `key` has the request's key.

    From the request's time plus `wait` on, the label is final.

    Args:
        source: The source with the events that have the labels.
        key: The column of `source` that has the key of the request.
        value: The value: a number or a bool. With `classes`, a text or a whole number.
        wait: How long after a request to wait for its label.
        classes: The possible values, 3 to 100. All versions give probabilities in this order. A row with another value
            is called `unlisted`, and is not used for training.
        span: For how long after a request something happens that its label sums up, such as "14d" for the sales of two
            weeks. Labels of neighbouring days then overlap. So a candidate for a change of the data is judged on days
            that are further than this from the days that it has learnt from. By default, labels do not overlap.

    Raises:
        Misuse: A column does not exist, the value has another type, the classes are not a list of distinct values, or
            `span` is longer than `wait`.
    """
    _check_source("label", source)
    if key not in source.columns:
        raise Misuse(f"label: key={key!r} is not a column of {source.name!r}. Columns: {', '.join(source.columns)}.")
    value = value_of(value)
    if not isinstance(value, Expression):
        raise Misuse(
            f"label from {source.name!r}: value={shown(value)[:100]} is neither a column's name nor an expression."
        )
    dtype = value.dtype(source.columns, f"label from {source.name!r}")
    named = () if classes is None else _checked_classes(f"label from {source.name!r}", classes, dtype)
    if classes is None and dtype not in ("float", "int", "bool"):
        raise Misuse(
            f"label from {source.name!r}: its value is of type {dtype}. Give a number or a comparison"
            + (', or list the values that it can have: classes=["...", ...].' if dtype == "str" else ".")
        )
    wait_us, span_us = duration_us(wait), duration_us(span)
    if 0 < span_us < HOUR_US:
        raise Misuse(f'label from {source.name!r}: span={span!r} is less than an hour. Give it with a unit: "3d".')
    if span_us > wait_us:
        raise Misuse(
            f"label from {source.name!r}: span={span!r} is longer than wait={wait!r}, so labels would count as final "
            "before everything has happened that they sum up. Make wait at least as long as span."
        )
    return Label(source=source, key=key, value=value, wait_us=wait_us, classes=named, span_us=span_us)


def _checked_classes(
    what: str, given: Sequence[str] | Sequence[int], dtype: Dtype
) -> tuple[str, ...] | tuple[int, ...]:
    """Return the classes of a label, after a check that they are distinct and have the label's type."""
    needed = f"{what}: classes={given!r}. Needed: a list of 3 to {_MOST_CLASSES} different "
    if dtype not in ("str", "int"):
        raise Misuse(f"{what}: classes= needs a value that is a text or a whole number; found {dtype}.")
    kind = str if dtype == "str" else int
    listed = [] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    if not listed or any(type(one) is not kind or one == "" for one in listed):
        raise Misuse(f"{needed}{'texts' if kind is str else 'whole numbers'}, as the label's value is {dtype}.")
    if len(listed) == 2:
        raise Misuse(
            f"{needed}values. For two classes, leave classes out, and compare: value=tt.col(...) == {listed[1]!r}."
        )
    if len(set(listed)) < len(listed) or not 3 <= len(listed) <= _MOST_CLASSES:
        twice = next((f"; {one!r} is listed twice" for one in listed if listed.count(one) > 1), "")
        raise Misuse(f"{needed}values; found {len(listed)}{twice}.")
    return tuple(listed)  # type: ignore[return-value]  # all of one type, as checked above


def _columns_of(by: By, what: str) -> tuple[str, ...]:
    if isinstance(by, Entity):
        return tuple(by.columns)
    if not isinstance(by, str | Expression | Sequence):
        raise Misuse(
            f"{what}: by={shown(by)[:100]} is neither a column nor a feature. Give a name, or a list of names."
        )
    parts = [by] if isinstance(by, str | Expression) else list(by)
    names: list[str] = []
    for part in parts:
        if isinstance(part, Expression) and part.op == "col":
            part = str(part.params[0])
        if not isinstance(part, str) or not part:
            raise Misuse(f"{what}: by={part!r} is neither a column nor a feature. Give a name, or a list of names.")
        names.append(part)
    if not names or len(set(names)) < len(names):
        raise Misuse(f"{what}: by={', '.join(names) or 'nothing'}. Name each column of the entity once.")
    return tuple(names)


def _check_source(what: str, given: object) -> None:
    if not isinstance(given, Source):
        raise Misuse(f"{what}: source={shown(given)[:100]} is not a source. Give what tt.source(...) returned.")


def _columns_read(aggregate: Aggregate) -> set[str]:
    found = [getattr(aggregate, field) for field in aggregate.__struct_fields__]
    return set[str]().union(*(value.columns() for value in found if isinstance(value, Expression)))


def _check_key(what: str, column: str, source: Source, needed: Dtype | None) -> None:
    found = source.columns.get(column)
    if found not in KEYS:
        there = found or f"missing among {', '.join(source.columns)}"
        raise Misuse(f"{what}: by={column!r} must be a column of {source.name!r} of type str or int; it is {there}.")
    if needed is not None and found != needed:
        raise Misuse(f"{what}: its entity's column {column!r} is {needed}; in source {source.name!r} it is {found}.")
